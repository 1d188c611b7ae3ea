//! Decides a batch of commands in memory.
//!
//! The input is a snapshot of the data that the batch needs. The output is a reply to each command and the changes to
//! save.
//!
//! The store locks the head of the feed from loading to saving. No other batch can commit in between, so the snapshot is
//! current.

mod assign;
mod close;
mod exchange;
mod forget;
mod import;
mod pair;
mod snapshot;
mod sweep;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use self::assign::{candidates, free_ids};
pub use self::snapshot::{Changes, CountsChange, ForgetStep, Head, Snapshot, SweepStep};
use super::Time;
use super::caller::Caller;
use super::command::{Batch, Command, IdempotencyKey, IdempotentResponse, Member, Reply, Submission};
use super::counts::{Counts, SendWindow};
use super::decide::{Moment, Party, Rejection};
use super::epoch::Epoch;
use super::event::PrincipalKind;
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::outcome::{Executed, Outcome};
use super::pair::Pair;
use super::policy::Policy;
use super::text::ExternalId;

/// Decides the commands of a batch in order. Returns the reply to each, and the changes to save.
pub fn run(batch: &Batch, snapshot: Snapshot) -> (Vec<Result<Reply, Rejection>>, Changes) {
    let mut ledger = Ledger::open(snapshot, Arc::clone(&batch.policy));
    let replies = batch.submissions.iter().map(|submission| ledger.submit(submission)).collect();
    (replies, ledger.close())
}

struct Ledger {
    policy: Arc<Policy>,
    time: Time,
    head: Head,
    /// The epoch of the responses.
    epoch: Epoch,
    /// The kind of principal of the command that is executed.
    principal: PrincipalKind,
    users: HashMap<UserId, Tracked<Option<Member>>>,
    names: HashMap<String, UserId>,
    external_ids: HashMap<ExternalId, UserId>,
    free_ids: std::vec::IntoIter<UserId>,
    /// The users that the batch creates, each with the sequence of the event of its creation.
    created: HashMap<UserId, Sequence>,
    // Ordered, so that a command on many pairs writes its events in the same order with every engine.
    pairs: BTreeMap<PairKey, Tracked<Pair>>,
    requests: HashMap<RequestId, PairKey>,
    responses: HashMap<IdempotencyKey, IdempotentResponse>,
    sweep: SweepStep,
    /// The changes of the rows of counts.
    counts: BTreeMap<UserId, CountsChange>,
    changes: Changes,
}

/// A value as it was loaded and as the batch has changed it so far.
struct Tracked<T> {
    before: T,
    now: T,
}

impl<T: Clone> Tracked<T> {
    fn new(value: T) -> Self {
        Self { before: value.clone(), now: value }
    }
}

impl Ledger {
    fn open(snapshot: Snapshot, policy: Arc<Policy>) -> Self {
        let Snapshot { now: time, head, epoch, epoch_change, members, free_ids, pairs, responses, sweep } = snapshot;
        let users = || members.iter().map(|member| &member.user);
        let names = users().filter_map(|user| Some((user.username.key()?, user.id))).collect();
        let external_ids = users().filter_map(|user| Some((user.external_id.clone()?, user.id))).collect();
        let requests = pairs.values().filter_map(|pair| Some((pair.request.as_ref()?.id, pair.key))).collect();
        Self {
            policy,
            time,
            head,
            epoch,
            principal: PrincipalKind::System,
            names,
            external_ids,
            free_ids: free_ids.into_iter(),
            created: HashMap::new(),
            requests,
            sweep,
            users: members.into_iter().map(|member| (member.user.id, Tracked::new(Some(member)))).collect(),
            pairs: pairs.into_iter().map(|(key, pair)| (key, Tracked::new(pair))).collect(),
            responses: responses
                .into_iter()
                .filter(|response| response.is_current(time))
                .map(|response| (response.key.clone(), response))
                .collect(),
            counts: BTreeMap::new(),
            changes: Changes { epoch: epoch_change, ..Changes::default() },
        }
    }

    /// Returns the stored response, or executes the command and stores its response.
    ///
    /// Rejections are not stored, so a caller that corrects its request can reuse the `request_id`.
    fn submit(&mut self, submission: &Submission) -> Result<Reply, Rejection> {
        let Submission { caller, command, idempotency } = submission;
        let Some(call) = idempotency else {
            return self.execute(caller, command).map(|executed| Reply::Fresh(Box::new(executed)));
        };
        let key = IdempotencyKey::new(caller, call.id);
        if let Some(stored) = self.responses.get(&key) {
            return if stored.fingerprint == call.fingerprint {
                Ok(Reply::Stored(stored.encoded.response.clone()))
            } else {
                Err(Rejection::RequestIdReused(call.id))
            };
        }
        let executed = self.execute(caller, command)?;
        // If there is no encoding, the outcome belongs to another kind of command, which is a bug. There is nothing to
        // store then. The service reports the bug when it creates the response.
        if let Some(encoded) = (call.encode)(&executed) {
            let (fingerprint, created) = (call.fingerprint, self.time);
            let actor = command.actor();
            let users = executed.outcome.users(actor);
            let stored = IdempotentResponse { key: key.clone(), fingerprint, encoded, created, actor, users };
            self.responses.insert(key, stored.clone());
            self.changes.responses.push(stored);
        }
        Ok(Reply::Fresh(Box::new(executed)))
    }

    fn execute(&mut self, caller: &Caller, command: &Command) -> Result<Executed, Rejection> {
        self.principal = caller.kind();
        let actor = caller.actor();
        let outcome = match command {
            Command::CreateUser(profile) => self.create_user(actor, profile)?,
            Command::ImportUser(profile) => self.import_user(actor, profile)?,
            Command::ImportTogether(rows) => self.import_together(actor, rows),
            Command::FinishImport(summary) => Outcome::ImportFinished(summary.clone()),
            Command::ImportPair(pair, on_conflict) => self.import_pair(pair, *on_conflict)?,
            Command::LookAtPair(key) => self.look_at_pair(*key)?,
            Command::UpdateUser(update) => self.update_user(actor, update)?,
            Command::DeleteUser(id) => self.delete_user(actor, *id)?,
            Command::Send { from, to, message } => self.send(*from, *to, message)?,
            Command::ActOnRequest(id, user, action) => self.act_on_request(*id, *user, action)?,
            Command::MarkAllViewed(user) => self.mark_all_viewed(*user)?,
            Command::ActOnUser(user, other, action) => self.act_on_user(*user, *other, *action)?,
            Command::Sweep => self.sweep(),
            Command::Probe => {
                self.changes.probed = true;
                Outcome::Probed
            }
        };
        Ok(Executed { revision: self.revision(caller), epoch: self.epoch.clone(), outcome })
    }

    /// Returns the revision for a caller: for a user that of the newest event that they may see, else the newest one.
    ///
    /// A user who is no longer there has none.
    fn revision(&self, caller: &Caller) -> Sequence {
        match caller.user() {
            Some(user) => self.member(user).map(Member::newest_visible).unwrap_or_default(),
            None => self.head.sequence,
        }
    }

    fn moment(&self) -> Moment {
        Moment { time: self.time, next: self.head.sequence.next() }
    }

    fn pair(&self, key: PairKey) -> Pair {
        self.pairs.get(&key).map_or(Pair::empty(key), |pair| pair.now.clone())
    }

    fn member(&self, id: UserId) -> Option<&Member> {
        self.users.get(&id)?.now.as_ref()
    }

    fn member_mut(&mut self, id: UserId) -> Option<&mut Member> {
        self.users.get_mut(&id)?.now.as_mut()
    }

    fn party(&self, id: UserId) -> Party {
        match self.member(id) {
            Some(Member { user, counts, sends, last_visible: _ }) => {
                Party { id, status: Some(user.status), counts: *counts, sends: *sends }
            }
            None => Party { id, status: None, counts: Counts::default(), sends: SendWindow::default() },
        }
    }
}

#[cfg(test)]
mod tests;
