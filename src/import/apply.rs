//! The last step of an import into a database that is not empty: the ledger decides about each user and each pair.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::pairs::{Pairs, pair_of};
use super::record::{PairRecord, RowRecord, UserRecord};
use super::refused::Refusals;
use super::report::Place;
use super::sorter::Sorter;
use super::users::Assigned;
use super::{ImportError, rows_done};
use crate::domain::caller::Caller;
use crate::domain::command::{Batch, Command, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::import::{Effect, OnConflict};
use crate::domain::outcome::{Imported, Outcome};
use crate::domain::policy::Policy;
use crate::progress::Progress;
use crate::store::Bulk;
use crate::transfer::{Kind, Reason};

/// The commands that are decided together.
const BATCH: usize = 512;

/// A command, and the rows that it stands for.
pub(super) enum Work {
    User(Place, Command),
    Pair(Vec<RowRecord>, Command),
}

/// Makes a command of each user and each pair, and sends them in batches. Ends early if nobody receives them.
pub(super) fn commands(
    (users, pairs): (Sorter, Pairs),
    assigned: &Assigned,
    on_conflict: OnConflict,
    sender: &mpsc::Sender<Vec<Work>>,
    progress: &Progress,
) -> io::Result<()> {
    let total = users.len() + pairs.sorter.len();
    let mut batches = Batches { batch: Vec::new(), done: 0, total, sender, progress };
    let mut users = users.sorted()?;
    while let Some((_, record)) = users.next::<UserRecord>()? {
        let (id, place) = (assigned.id(record.id), Place(record.place));
        let command = Command::ImportUser(Box::new(record.profile(id)));
        if !batches.add(Work::User(place, command)) {
            return Ok(());
        }
    }
    // A pair's users must be there.
    batches.send();
    let mut pairs = pairs.sorter.sorted()?;
    while let Some((_, PairRecord { relations, rows })) = pairs.next::<PairRecord>()? {
        let Some(pair) = pair_of(relations) else { continue };
        if !batches.add(Work::Pair(rows, Command::ImportPair(Box::new(pair), on_conflict))) {
            return Ok(());
        }
    }
    batches.send();
    Ok(())
}

struct Batches<'a> {
    batch: Vec<Work>,
    done: u64,
    total: u64,
    sender: &'a mpsc::Sender<Vec<Work>>,
    progress: &'a Progress,
}

impl Batches<'_> {
    /// Adds a command. Returns whether it is received.
    fn add(&mut self, work: Work) -> bool {
        self.batch.push(work);
        self.done += 1;
        rows_done(self.progress, "writing", self.done, self.total);
        self.batch.len() < BATCH || self.send()
    }

    fn send(&mut self) -> bool {
        self.sender.blocking_send(std::mem::take(&mut self.batch)).is_ok()
    }
}

/// Decides a batch, and counts what became of its rows. Returns whether a row met another state of the database.
pub(super) async fn apply(
    bulk: &mut Bulk,
    policy: &Arc<Policy>,
    work: Vec<Work>,
    refusals: &mut Refusals,
) -> Result<bool, ImportError> {
    let (mut rows, mut submissions) = (Vec::with_capacity(work.len()), Vec::with_capacity(work.len()));
    for work in work {
        let (row, command) = match work {
            Work::User(place, command) => (Rows::User(place), command),
            Work::Pair(rows, command) => (Rows::Pair(rows), command),
        };
        rows.push(row);
        submissions.push(Submission { caller: Caller::Operator, command, idempotency: None });
    }
    let replies = bulk.run(Batch { submissions, policy: Arc::clone(policy) }).await?;
    let mut has_conflict = false;
    for (row, reply) in rows.into_iter().zip(replies) {
        let outcome = match reply {
            Ok(Reply::Fresh(executed)) => Ok(executed.outcome),
            Ok(Reply::Stored(_)) => continue,
            Err(rejection) => Err(rejection),
        };
        match row {
            Rows::User(place) => count_user(refusals, place, outcome),
            Rows::Pair(rows) => has_conflict |= count_pair(refusals, rows, outcome),
        }
    }
    Ok(has_conflict)
}

enum Rows {
    User(Place),
    Pair(Vec<RowRecord>),
}

fn count_user(refusals: &mut Refusals, place: Place, outcome: Result<Outcome, Rejection>) {
    let effect = match outcome {
        Ok(Outcome::UserImported(_, Imported::Created)) => Effect::Created,
        Ok(Outcome::UserImported(_, Imported::Updated)) => Effect::Replaced,
        Ok(_) => Effect::Unchanged,
        Err(Rejection::ExternalIdExists { .. }) => {
            return refusals.refuse_late(Kind::User, place, Reason::ExternalIdTaken);
        }
        // The user has another one.
        Err(Rejection::ExternalIdFixed(_)) => return refusals.refuse_late(Kind::User, place, Reason::UserExists),
        // Nothing else is refused of a valid user.
        Err(_) => return refusals.refuse_late(Kind::User, place, Reason::UsernameTaken),
    };
    refusals.report.count(Kind::User, effect);
}

fn count_pair(refusals: &mut Refusals, rows: Vec<RowRecord>, outcome: Result<Outcome, Rejection>) -> bool {
    let effects = match outcome {
        // The report finds users above a limit by itself.
        Ok(Outcome::PairImported { effects, is_above_limit: _ }) => effects,
        // A user of the pair was refused.
        Ok(_) | Err(_) => {
            for row in rows {
                refusals.refuse_late(row.kind(), Place(row.place), Reason::UserNotFound);
            }
            return false;
        }
    };
    let mut has_conflict = false;
    for row in rows {
        let (kind, place, fact) = (row.kind(), Place(row.place), row.fact());
        let effect = effects.iter().find(|(of, _)| *of == fact).map_or(Effect::Unchanged, |(_, effect)| *effect);
        match effect {
            Effect::Conflict => {
                has_conflict = true;
                refusals.refuse_late(kind, place, Reason::ConflictingState);
            }
            Effect::Blocked => refusals.refuse_late(kind, place, Reason::Blocked),
            Effect::Created | Effect::Unchanged | Effect::Replaced => refusals.report.count(kind, effect),
        }
    }
    has_conflict
}
