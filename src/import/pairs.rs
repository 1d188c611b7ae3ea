//! The second step of an import: settles all rows about each pair.

use std::io;

use super::record::{PairRecord, RelationRecord, RowRecord, StepRecord, micros};
use super::refused::Refusals;
use super::report::{Place, reason_of};
use super::sorter::{Sorter, ordered};
use super::users::Assigned;
use super::{SORTED, rows_done};
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::import::{Action, Effect, Fact, Relation, Settled, settle, steps};
use crate::domain::pair::Pair;
use crate::progress::Progress;
use crate::transfer::Kind;

/// What the pairs become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Steps, for an empty database.
    Steps {
        /// Whether each step has its event.
        events: bool,
        /// Whether ids and positions are kept.
        keep_ids: bool,
    },
    /// Pairs, for a database in which some may be stored.
    Pairs,
}

/// The settled pairs.
pub(super) struct Pairs {
    /// What follows, in the order of its dates.
    pub(super) sorter: Sorter,
    /// The number of pairs.
    pub(super) pairs: u64,
    /// The largest id or position that is kept.
    pub(super) largest: i64,
}

/// Settles the rows of each pair, and orders the result by date.
pub(super) fn settle_all(
    relations: Sorter,
    assigned: &Assigned,
    target: Target,
    refusals: &mut Refusals,
    progress: &Progress,
) -> io::Result<Pairs> {
    let total = relations.len();
    let mut sorted = relations.sorted()?;
    let mut all = All { refusals, target, found: Pairs { sorter: Sorter::new(SORTED), pairs: 0, largest: 0 } };
    let (mut group, mut of, mut done) = (Vec::new(), None, 0);
    while let Some(([low, high, _], record)) = sorted.next::<RelationRecord>()? {
        if of != Some((low, high)) {
            all.pair(std::mem::take(&mut group), assigned)?;
            of = Some((low, high));
        }
        group.push(record);
        done += 1;
        rows_done(progress, "settling", done, total);
    }
    all.pair(group, assigned)?;
    Ok(all.found)
}

struct All<'a> {
    refusals: &'a mut Refusals,
    target: Target,
    found: Pairs,
}

impl All<'_> {
    fn pair(&mut self, records: Vec<RelationRecord>, assigned: &Assigned) -> io::Result<()> {
        let rows: Vec<_> = records.iter().map(|record| (Place(record.place), record.kind(), record.sent)).collect();
        let users = |record: &RelationRecord| (assigned.id(record.from), assigned.id(record.to));
        let Some(key) = records.first().map(users).and_then(|(one, other)| PairKey::of(one, other)) else {
            return Ok(());
        };
        let relations = records.into_iter().map(|record| {
            let (from, to) = users(&record);
            record.relation(from, to)
        });
        let Settled { pair, rows: effective, lost } = settle(key, relations.collect());
        for (row, loss) in lost {
            let (place, kind, _) = rows[row];
            self.refusals.refuse_late(kind, place, reason_of(loss));
        }
        let of_request = effective.iter().find(|(_, fact)| *fact == Fact::Request);
        let sent = of_request.map_or(0, |(row, _)| rows[*row].2);
        match self.target {
            Target::Steps { events, keep_ids } => {
                for (row, _) in effective {
                    self.refusals.report.count(rows[row].1, Effect::Created);
                }
                self.steps(&pair, sent, events, keep_ids)?;
            }
            Target::Pairs => {
                let rows = effective.into_iter().map(|(row, fact)| {
                    let (place, kind, _) = rows[row];
                    RowRecord::new(place, kind, fact)
                });
                let date = steps(&pair).last().map_or(0, |step| micros(step.time));
                let record = PairRecord { relations: relations_of(&pair), rows: rows.collect() };
                self.found.sorter.push([ordered(date), ordered(sent), self.found.pairs], &record)?;
            }
        }
        self.found.pairs += 1;
        Ok(())
    }

    fn steps(&mut self, pair: &Pair, sent: i64, events: bool, keep_ids: bool) -> io::Result<()> {
        let steps = steps(pair);
        // Views change no position, and a view is no last step of a state.
        let last = steps.iter().rposition(|step| step.action.user().is_none() && step.action != Action::View);
        for (number, step) in steps.iter().enumerate() {
            if step.action == Action::View && !events {
                continue;
            }
            let mut record = StepRecord { pair: self.found.pairs, ..StepRecord::of(step.action) };
            let (mut id, mut position) = (0, 0);
            let stored = match (step.action.user(), &pair.request) {
                (Some(user), _) => {
                    (record.user, record.other) = (user.get(), pair.key.other_than(user).get());
                    let stored = of_user(pair, user, step.action);
                    if let Some(Relation::Block { block, .. }) = &stored {
                        position = block.position.get();
                    }
                    stored
                }
                (None, Some(request)) => {
                    (record.user, record.other) = (request.from.get(), request.to.get());
                    id = request.id.get();
                    position = if last == Some(number) { request.position.get() } else { id };
                    Some(Relation::Request(request.clone())).filter(|_| last == Some(number))
                }
                (None, None) => None,
            };
            record.id = id;
            record.stored =
                stored.map(|relation| RelationRecord::new(&relation, Kind::Connection, Place::default(), 0));
            self.found.largest = self.found.largest.max(id).max(position);
            let tie = if keep_ids { position } else { sent };
            let order = self.found.pairs << 4 | number as u64;
            self.found.sorter.push([ordered(micros(step.time)), ordered(tie), order], &record)?;
        }
        Ok(())
    }
}

/// Returns what a user has done to the other.
fn of_user(pair: &Pair, user: UserId, action: Action) -> Option<Relation> {
    let (side, other) = (pair.side(user), pair.key.other_than(user));
    if let Action::Block(_) = action {
        side.block.map(|block| Relation::Block { user, other, block })
    } else {
        side.cooldown.map(|since| Relation::Cooldown { from: user, to: other, since })
    }
}

/// Returns what a pair consists of.
fn relations_of(pair: &Pair) -> Vec<RelationRecord> {
    let request = pair.request.clone().map(Relation::Request);
    let sides = [pair.key.low(), pair.key.high()].into_iter().flat_map(|user| {
        let cooldown = of_user(pair, user, Action::Cool(user));
        [of_user(pair, user, Action::Block(user)), cooldown]
    });
    let all = request.into_iter().chain(sides.flatten());
    all.map(|relation| RelationRecord::new(&relation, Kind::Connection, Place::default(), 0)).collect()
}

/// Returns the pair of these relations. Their ids and positions do not matter.
pub(super) fn pair_of(relations: Vec<RelationRecord>) -> Option<Pair> {
    let first = relations.first()?;
    let mut pair = Pair::empty(PairKey::of(UserId::new(first.from), UserId::new(first.to))?);
    for record in relations {
        let (from, to) = (UserId::new(record.from), UserId::new(record.to));
        match record.relation(from, to) {
            Relation::Request(mut request) => {
                (request.id, request.position) = (RequestId::default(), Sequence::default());
                pair.request = Some(request);
            }
            Relation::Cooldown { from, to: _, since } => pair.side_mut(from).cooldown = Some(since),
            Relation::Block { user, other: _, block } => pair.side_mut(user).block = Some(block),
        }
    }
    Some(pair)
}
