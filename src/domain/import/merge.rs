//! What an imported pair does to the stored one.

use super::settle::Fact;
use super::steps::{Action, cooldown_alone, events, of_request};
use crate::domain::decide::{Decision, Moment};
use crate::domain::event::{Actor, Cause, EventKind};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::{Block, Pair, Request, RequestState};

/// What to do with two users who are in another state in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// The database keeps its state.
    #[default]
    Skip,
    /// The imported state replaces it. No block is removed.
    Replace,
}

/// What an imported fact did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The database had it already.
    Unchanged,
    /// It is new.
    Created,
    /// It replaced another state.
    Replaced,
    /// The database has another state, which stays.
    Conflict,
    /// One of the two users blocks the other.
    Blocked,
}

/// The decision about an imported pair, and what each of its facts did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The pair afterwards, and its events.
    pub decision: Decision,
    /// The facts of the imported pair.
    pub effects: Vec<(Fact, Effect)>,
}

/// Decides what an imported pair does to the stored one, from which expired requests were removed.
///
/// A pair is imported by its state: a request in the same state from the same user is unchanged, whatever its dates and
/// texts are, and so is any connection. So an import can be repeated.
pub fn merge(stored: &Pair, imported: &Pair, on_conflict: OnConflict, moment: Moment) -> Merged {
    let decision = Decision { pair: stored.clone(), events: Vec::new(), sent: false };
    let mut merge = Merge { decision, on_conflict, moment, effects: Vec::new() };
    for (user, side) in imported.sides() {
        if let Some(block) = side.block {
            let effect = merge.block(user, block);
            merge.effects.push((Fact::Block(user), effect));
        }
    }
    for (user, _) in imported.sides() {
        if let Some(since) = cooldown_alone(imported, user) {
            let effect = merge.cool(user, since);
            merge.effects.push((Fact::Cooldown(user), effect));
        }
    }
    if let Some(request) = &imported.request {
        let effect = merge.request(request, imported);
        merge.effects.push((Fact::Request, effect));
    }
    Merged { decision: merge.decision, effects: merge.effects }
}

struct Merge {
    decision: Decision,
    on_conflict: OnConflict,
    moment: Moment,
    effects: Vec<(Fact, Effect)>,
}

impl Merge {
    fn next(&self) -> Sequence {
        self.decision.events.last().map_or(self.moment.next, |event| event.sequence.next())
    }

    /// Records the events of an action. Returns the sequence of the first.
    fn record(&mut self, action: Action, users: (UserId, UserId), request: Option<RequestId>) -> Sequence {
        let first = self.next();
        self.decision.events.extend(events(action, users, request, first, self.moment.time));
        first
    }

    fn block(&mut self, user: UserId, block: Block) -> Effect {
        if self.decision.pair.side(user).block.is_some() {
            return Effect::Unchanged;
        }
        let ended = self.decision.pair.request.clone().filter(|request| is_ended_by_block(request, user));
        if ended.is_some() && self.on_conflict == OnConflict::Skip {
            return Effect::Conflict;
        }
        if let Some(request) = &ended {
            self.end(request);
        }
        let other = self.decision.pair.key.other_than(user);
        let position = self.record(Action::Block(user), (user, other), None);
        self.decision.pair.side_mut(user).block = Some(Block { position, ..block });
        if ended.is_some() { Effect::Replaced } else { Effect::Created }
    }

    fn cool(&mut self, from: UserId, since: crate::domain::Time) -> Effect {
        let pair = &self.decision.pair;
        match (pair.side(from).cooldown, &pair.request) {
            (Some(stored), _) if stored >= since => Effect::Unchanged,
            // Its events would be between those of a request that lives.
            (_, Some(_)) => Effect::Conflict,
            (_, None) => {
                let other = pair.key.other_than(from);
                self.record(Action::Cool(from), (from, other), None);
                self.decision.pair.side_mut(from).cooldown = Some(since);
                Effect::Created
            }
        }
    }

    fn request(&mut self, request: &Request, imported: &Pair) -> Effect {
        let stored = self.decision.pair.request.clone();
        if stored.as_ref().is_some_and(|stored| is_same(stored, request)) {
            return Effect::Unchanged;
        }
        let pair = &self.decision.pair;
        let sides = [&pair.low, &pair.high];
        let is_blocked = match request.state {
            RequestState::Connected | RequestState::Pending => sides.iter().any(|side| side.block.is_some()),
            RequestState::Silenced | RequestState::Rejected => pair.side(request.from).block.is_some(),
        };
        if is_blocked {
            return Effect::Blocked;
        }
        let effect = match &stored {
            None => Effect::Created,
            Some(_) if self.on_conflict == OnConflict::Skip => return Effect::Conflict,
            Some(stored) => {
                self.end(stored);
                Effect::Replaced
            }
        };
        self.create(request);
        if request.state == RequestState::Connected {
            (self.decision.pair.low.cooldown, self.decision.pair.high.cooldown) = (None, None);
        } else if request.state == RequestState::Rejected {
            self.decision.pair.side_mut(request.from).cooldown = imported.side(request.from).cooldown;
        }
        effect
    }

    fn create(&mut self, request: &Request) {
        let id = RequestId::new(self.next().get());
        let mut request = Request { id, ..request.clone() };
        for step in of_request(&Request { id: RequestId::default(), position: Sequence::default(), ..request.clone() })
        {
            let sequence = self.record(step.action, (request.from, request.to), Some(id));
            if step.action != Action::View {
                request.position = sequence;
            }
        }
        self.decision.pair.request = Some(request);
    }

    /// Ends the stored request or connection.
    fn end(&mut self, request: &Request) {
        let kind = match request.state {
            RequestState::Connected => EventKind::ConnectionRemoved,
            RequestState::Pending | RequestState::Silenced | RequestState::Rejected => EventKind::RequestCancelled,
        };
        self.decision.record(self.moment, Actor::Operator, kind, Some(Cause::Imported), request);
        self.decision.pair.request = None;
    }
}

/// Whether a block by this user ends the request. Kith itself would silence a pending one of the other user.
fn is_ended_by_block(request: &Request, user: UserId) -> bool {
    match request.state {
        RequestState::Connected | RequestState::Pending => true,
        RequestState::Silenced | RequestState::Rejected => request.from == user,
    }
}

fn is_same(stored: &Request, imported: &Request) -> bool {
    stored.state == imported.state && (stored.state == RequestState::Connected || stored.from == imported.from)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::Time;
    use crate::domain::id::PairKey;
    use crate::domain::pair::{Message, Side};

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn day(day: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
    }

    fn nothing() -> Pair {
        Pair::empty(PairKey::of(ANN, BOB).expect("two users"))
    }

    fn of(from: UserId, state: RequestState) -> Pair {
        let mut pair = nothing();
        let to = pair.key.other_than(from);
        let rejected = Some(day(2)).filter(|_| state == RequestState::Rejected);
        let accepted = Some(day(2)).filter(|_| state == RequestState::Connected);
        pair.side_mut(from).cooldown = rejected;
        pair.request = Some(Request {
            id: RequestId::new(7),
            from,
            to,
            state,
            position: Sequence::new(8),
            message: Message::default(),
            created: day(1),
            viewed: rejected.or(accepted),
            rejected,
            accepted,
            reply: Message::default(),
        });
        pair
    }

    fn blocked(user: UserId, mut pair: Pair) -> Pair {
        pair.side_mut(user).block = Some(Block { created: day(1), position: Sequence::new(9) });
        pair
    }

    fn cooled(from: UserId, since: i64, mut pair: Pair) -> Pair {
        *pair.side_mut(from) = Side { cooldown: Some(day(since)), ..*pair.side(from) };
        pair
    }

    fn merged(stored: &Pair, imported: &Pair, on_conflict: OnConflict) -> Merged {
        merge(stored, imported, on_conflict, Moment { time: day(100), next: Sequence::new(50) })
    }

    use Effect::{Blocked, Conflict, Created, Replaced, Unchanged};
    use RequestState::{Connected, Pending, Rejected, Silenced};

    #[test]
    fn an_imported_pair_meets_the_stored_one() {
        let block = |user| blocked(user, nothing());
        // The effects when the database keeps its state, and when it is replaced.
        for (stored, imported, skip, replace) in [
            (nothing(), of(ANN, Pending), vec![Created], vec![Created]),
            (of(ANN, Pending), of(ANN, Pending), vec![Unchanged], vec![Unchanged]),
            (of(BOB, Connected), of(ANN, Connected), vec![Unchanged], vec![Unchanged]),
            (of(BOB, Pending), of(ANN, Pending), vec![Conflict], vec![Replaced]),
            (of(BOB, Connected), of(ANN, Pending), vec![Conflict], vec![Replaced]),
            (of(ANN, Rejected), of(ANN, Connected), vec![Conflict], vec![Replaced]),
            (of(ANN, Rejected), of(ANN, Rejected), vec![Unchanged], vec![Unchanged]),
            // A block in the database always stays.
            (block(ANN), of(ANN, Connected), vec![Blocked], vec![Blocked]),
            (block(BOB), of(ANN, Pending), vec![Blocked], vec![Blocked]),
            (block(BOB), of(ANN, Silenced), vec![Created], vec![Created]),
            (block(ANN), of(ANN, Rejected), vec![Blocked], vec![Blocked]),
            (block(ANN), block(ANN), vec![Unchanged], vec![Unchanged]),
            (block(ANN), block(BOB), vec![Created], vec![Created]),
            (of(BOB, Connected), block(ANN), vec![Conflict], vec![Replaced]),
            (of(BOB, Silenced), block(ANN), vec![Created], vec![Created]),
            (of(ANN, Silenced), block(ANN), vec![Conflict], vec![Replaced]),
            // A silenced request beside the block that silences it.
            (nothing(), blocked(BOB, of(ANN, Silenced)), vec![Created, Created], vec![Created, Created]),
            (blocked(BOB, of(ANN, Silenced)), blocked(BOB, of(ANN, Silenced)), vec![Unchanged; 2], vec![Unchanged; 2]),
            (nothing(), cooled(ANN, 3, nothing()), vec![Created], vec![Created]),
            (cooled(ANN, 3, nothing()), cooled(ANN, 3, nothing()), vec![Unchanged], vec![Unchanged]),
            (cooled(ANN, 3, nothing()), cooled(ANN, 4, nothing()), vec![Created], vec![Created]),
            (of(BOB, Pending), cooled(ANN, 3, nothing()), vec![Conflict], vec![Conflict]),
            (nothing(), cooled(BOB, 3, of(ANN, Pending)), vec![Created, Created], vec![Created, Created]),
        ] {
            for (on_conflict, expected) in [(OnConflict::Skip, skip), (OnConflict::Replace, replace)] {
                let Merged { decision, effects } = merged(&stored, &imported, on_conflict);
                let found: Vec<_> = effects.iter().map(|(_, effect)| *effect).collect();
                assert_eq!(found, expected, "{imported:?} into {stored:?}, {on_conflict:?}");
                let changes = found.iter().any(|effect| matches!(effect, Created | Replaced));
                assert_eq!(decision.pair != stored, changes);
                assert_eq!(!decision.events.is_empty(), changes);
                let sequences: Vec<_> = decision.events.iter().map(|event| event.sequence.get()).collect();
                assert_eq!(sequences, (50..).take(sequences.len()).collect::<Vec<_>>());
                // Once more, it changes nothing.
                let again = merged(&decision.pair, &imported, on_conflict);
                assert_eq!(again.decision.events, [], "{imported:?} into {stored:?} twice, {on_conflict:?}");
            }
        }
    }

    #[test]
    fn an_imported_request_keeps_its_dates_and_gets_the_numbers_of_its_events() {
        let Merged { decision, effects: _ } = merged(&nothing(), &of(ANN, Rejected), OnConflict::Skip);
        let expected = of(ANN, Rejected).request.map(|request| Request {
            id: RequestId::new(50),
            position: Sequence::new(52),
            ..request
        });
        assert_eq!(decision.pair.request, expected);
        assert_eq!(decision.pair.low.cooldown, Some(day(2)));
        let kinds: Vec<_> = decision.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::RequestCreated, EventKind::RequestViewed, EventKind::RequestRejected]);
        assert!(
            decision.events.iter().all(|event| event.time == day(100) && event.request == Some(RequestId::new(50)))
        );
        let connected = merged(&cooled(BOB, 3, nothing()), &of(ANN, Connected), OnConflict::Skip).decision.pair;
        assert_eq!((connected.low.cooldown, connected.high.cooldown), (None, None));
    }

    #[test]
    fn what_is_replaced_ends_with_an_event() {
        let kinds = |stored, imported| -> Vec<_> {
            let decision = merged(&stored, &imported, OnConflict::Replace).decision;
            decision.events.iter().map(|event| (event.kind, event.request.map(RequestId::get))).collect()
        };
        assert_eq!(
            kinds(of(BOB, Connected), of(ANN, Pending)),
            [(EventKind::ConnectionRemoved, Some(7)), (EventKind::RequestCreated, Some(51))]
        );
        assert_eq!(
            kinds(of(BOB, Pending), blocked(ANN, nothing())),
            [(EventKind::RequestCancelled, Some(7)), (EventKind::UserBlocked, None)]
        );
    }
}
