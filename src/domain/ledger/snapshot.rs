//! The data that a batch is decided from, and the changes that it makes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Time;
use crate::domain::command::{IdempotentResponse, Member};
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::epoch::{Epoch, EpochChange};
use crate::domain::event::Event;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::pair::{Block, Ended, Pair, Request, Side};
use crate::domain::policy::Policy;
use crate::domain::totals::Totals;
use crate::domain::user::User;

/// The head of the feed: the row that every batch locks and updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the newest event.
    pub sequence: Sequence,
    /// The time of the newest event.
    pub time: Time,
    /// The last user id that was assigned. Ids that callers named do not count.
    pub last_assigned: UserId,
    /// The sequence of the newest event that changed or deleted a user.
    pub users_changed: Sequence,
    /// The request after which the next sweep for expired requests starts.
    ///
    /// All open requests up to this one are marked as out of order.
    pub swept: RequestId,
    /// No event up to this one names a user whom an event up to this one deleted.
    pub forgotten: Sequence,
    /// No event up to this one names the user of the next deletion after [`forgotten`](Self::forgotten).
    ///
    /// 0 if none is being forgotten.
    pub forgetting: Sequence,
    /// The totals of the database.
    pub totals: Totals,
}

/// The data loaded for a batch, as listed by its [`Needs`](crate::domain::command::Needs).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The time of the database's clock at which the batch is decided.
    pub now: Time,
    /// The head of the feed before the batch.
    pub head: Head,
    /// The epoch of the batch's events and responses.
    pub epoch: Epoch,
    /// How the batch changes the newest epoch.
    pub epoch_change: Option<EpochChange>,
    /// The needed users that exist.
    pub members: Vec<Member>,
    /// Ids that no user has, in the order in which they are assigned.
    pub free_ids: Vec<UserId>,
    /// The needed pairs that have a request, a connection or a block.
    pub pairs: HashMap<PairKey, Pair>,
    /// The needed responses that are stored.
    pub responses: Vec<IdempotentResponse>,
    /// The rows that a sweep covers.
    pub sweep: SweepStep,
}

/// The rows that one step of the sweep covers: a bounded number of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepStep {
    /// The last open request that the step covers. `None`: it covers no requests.
    ///
    /// All open requests after [`Head::swept`] up to this one are loaded, except those out of order.
    pub open_until: Option<RequestId>,
    /// The newest of the events whose retention has ended.
    pub events_until: Option<Sequence>,
    /// The number of cooldowns and of numbers of ended requests whose time is over.
    pub cooled: i64,
    /// The number of cooldowns and of numbers of ended requests that begin in the future, by an error of the clock.
    pub ahead: i64,
    /// The number of events whose retention has ended.
    pub events: i64,
    /// The number of stored responses that have expired.
    pub responses: i64,
    /// The step towards forgetting deleted users. `None`: there is nothing to forget.
    pub forget: Option<ForgetStep>,
}

/// A step towards forgetting deleted users: what was found after [`Head::forgotten`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForgetStep {
    /// The next events are no deletions.
    Passed {
        /// The last of these events.
        until: Sequence,
        /// Whether the one after it is a deletion whose time has not come.
        waits: bool,
    },
    /// The next deletion whose time has come, and some of the events that name its user.
    Deletion {
        /// The event of the deletion.
        event: Sequence,
        /// The deleted user.
        user: UserId,
        /// The events that name the user, after [`Head::forgetting`] and up to `searched` and the deletion.
        named: Vec<Sequence>,
        /// The end of the search.
        searched: Sequence,
    },
}

impl CountsChange {
    /// Returns a change of nothing.
    pub fn none(user: UserId) -> Self {
        Self { user, change: Counts::default(), sends: None, last_visible: None }
    }

    /// Whether the counts stay as they are.
    pub fn is_zero(&self) -> bool {
        let Self { user: _, change, sends, last_visible } = *self;
        change == Counts::default() && sends.is_none() && last_visible.is_none()
    }
}

impl Snapshot {
    /// Adds a loaded pair.
    pub fn add(&mut self, pair: Pair) {
        self.pairs.insert(pair.key, pair);
    }

    /// Adds a loaded request to its pair.
    pub fn add_request(&mut self, request: Request) {
        if let Some(key) = request.key() {
            self.pair(key).request = Some(request);
        }
    }

    /// Adds a loaded part of what `user` has done to `other` to their pair.
    pub fn add_side(&mut self, user: UserId, other: UserId, side: Side) {
        if let Some(key) = PairKey::of(user, other) {
            let Side { block, cooldown, ended } = side;
            let known = self.pair(key).side_mut(user);
            known.block = block.or(known.block);
            known.cooldown = cooldown.or(known.cooldown);
            known.ended = ended.or(known.ended);
        }
    }

    /// Returns the sender and the receiver of each loaded request that expires now, and counts among those that ended.
    ///
    /// The number of those that ended before must be loaded too.
    pub fn counted_when_expired(&self, policy: &Policy) -> Vec<(UserId, UserId)> {
        let counts = |request: &&Request| {
            let ended = Ended { since: request.created, count: 1 };
            request.state.is_open()
                && policy.has_expired(request.created, self.now)
                && policy.still_counted(Some(ended), self.now).is_some()
        };
        let requests = self.pairs.values().filter_map(|pair| pair.request.as_ref());
        requests.filter(counts).map(|request| (request.from, request.to)).collect()
    }

    fn pair(&mut self, key: PairKey) -> &mut Pair {
        self.pairs.entry(key).or_insert(Pair::empty(key))
    }
}

/// A change of a user's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountsChange {
    /// The user.
    pub user: UserId,
    /// The difference to add to the counts.
    pub change: Counts,
    /// The sends of the current hour, if they changed.
    pub sends: Option<SendWindow>,
    /// The newest event of the batch about the user and another one that the user may see, if there is one.
    pub last_visible: Option<Sequence>,
}

/// The changes that a batch makes, to be saved in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The head of the feed after the batch.
    pub head: Head,
    /// How the newest epoch changes, before all else.
    pub epoch: Option<EpochChange>,
    /// Users to delete with their counts, the responses to their calls, and their profiles in other responses, before
    /// others are inserted.
    pub users_deleted: Vec<UserId>,
    /// Users to insert with zero counts, each with the sequence of the event of its creation.
    pub users_created: Vec<(Arc<User>, Sequence)>,
    /// Users to update.
    pub users_updated: Vec<Arc<User>>,
    /// Those of the users to update whose username changes. One may take the name of another.
    pub users_renamed: Vec<UserId>,
    /// Requests to insert, of pairs that had none.
    pub requests_created: Vec<Request>,
    /// New requests that replace others of the same pairs.
    pub requests_replaced: Vec<Request>,
    /// Requests to update: those that have a new position.
    pub requests_updated: Vec<Request>,
    /// Requests of which only the time of the first view changed.
    pub requests_viewed: Vec<Request>,
    /// Pairs whose request or connection is to be deleted.
    pub requests_deleted: Vec<PairKey>,
    /// Blocks to insert or replace: the blocking user, the blocked user, the block.
    pub blocks_put: Vec<(UserId, UserId, Block)>,
    /// Blocks to delete: the blocking user, the blocked user.
    pub blocks_deleted: Vec<(UserId, UserId)>,
    /// Cooldowns to insert or replace: the sender, the receiver, the time of the rejection.
    pub cooldowns_put: Vec<(UserId, UserId, Time)>,
    /// Cooldowns to delete: the sender, the receiver.
    pub cooldowns_deleted: Vec<(UserId, UserId)>,
    /// Numbers of ended requests to insert or replace: the sender, the receiver, the number.
    pub ended_put: Vec<(UserId, UserId, Ended)>,
    /// Numbers of ended requests to delete: the sender, the receiver.
    pub ended_deleted: Vec<(UserId, UserId)>,
    /// The latest start of the cooldowns and numbers of ended requests to delete, with all earlier ones.
    pub cooled: Option<Time>,
    /// The time at which cooldowns and numbers of ended requests shall begin that begin well after it.
    pub ahead: Option<Time>,
    /// Changes of counts, ordered by user id. Some are zero, and written so that the time of a commit reveals nothing.
    pub counts: Vec<CountsChange>,
    /// Users after the batch, if the batch changed or created them. Not saved, but cached by the writer.
    pub members: Vec<Member>,
    /// Requests to mark as out of order for the sweep.
    pub requests_out_of_order: Vec<RequestId>,
    /// Events to insert.
    pub events: Vec<Event>,
    /// Responses to store.
    pub responses: Vec<IdempotentResponse>,
    /// The time of the newest stored responses to delete, with all older ones.
    pub responses_deleted: Option<Time>,
    /// The newest event to delete, with all older ones.
    pub events_deleted: Option<Sequence>,
    /// A deleted user, and the events in which 0 replaces their id.
    pub forgotten: Option<(UserId, Vec<Sequence>)>,
    /// Whether to write the head even if nothing else is to be saved.
    pub probed: bool,
}

impl Changes {
    /// Returns whether there is nothing to save for a batch that was decided at this head.
    pub fn is_empty(&self, before: &Head) -> bool {
        let Self {
            head,
            epoch,
            events,
            events_deleted,
            responses,
            responses_deleted,
            cooled,
            ahead,
            probed,
            // A change of one of these comes with an event or with a change of the head.
            users_deleted: _,
            users_created: _,
            users_updated: _,
            users_renamed: _,
            requests_created: _,
            requests_replaced: _,
            requests_updated: _,
            requests_viewed: _,
            requests_out_of_order: _,
            blocks_put: _,
            requests_deleted: _,
            blocks_deleted: _,
            cooldowns_put: _,
            cooldowns_deleted: _,
            ended_put: _,
            ended_deleted: _,
            counts: _,
            members: _,
            forgotten: _,
        } = self;
        head == before
            && epoch.is_none()
            && events.is_empty()
            && events_deleted.is_none()
            && responses.is_empty()
            && responses_deleted.is_none()
            && cooled.is_none()
            && ahead.is_none()
            && !probed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::{EncodedResponse, IdempotencyKey};
    use crate::domain::epoch::Lineage;
    use crate::domain::ledger::tests::{ANN, BOB, day, key, nth, request, run, send, snapshot};
    use crate::domain::pair::RequestState;

    #[test]
    fn loaded_rows_come_together_as_one_pair() {
        let request = request(7, BOB, ANN, RequestState::Silenced);
        let block = Block { created: day(-1), position: nth(0) };
        let ended = Ended { since: day(-3), count: 2 };
        let mut snapshot = Snapshot::default();
        snapshot.add_request(request.clone());
        snapshot.add_side(ANN, BOB, Side { block: Some(block), ..Side::default() });
        snapshot.add_side(BOB, ANN, Side { ended: Some(ended), ..Side::default() });
        snapshot.add_side(BOB, ANN, Side { cooldown: Some(day(-2)), ..Side::default() });
        let expected = Pair {
            request: Some(request),
            low: Side { block: Some(block), ..Side::default() },
            high: Side { cooldown: Some(day(-2)), ended: Some(ended), ..Side::default() },
            ..Pair::empty(key(ANN, BOB))
        };
        assert_eq!(snapshot.pairs, HashMap::from([(expected.key, expected.clone())]));
        let mut loaded = Snapshot::default();
        loaded.add(expected);
        assert_eq!(loaded.pairs, snapshot.pairs);
    }

    #[test]
    fn a_request_that_expires_counts_if_it_was_sent_within_the_time_of_a_cooldown() {
        let policy = Policy { lifetime: Some(chrono::TimeDelta::days(10)), ..Policy::default() };
        for (state, created, counts) in [
            (RequestState::Pending, day(-9), false),
            (RequestState::Pending, day(-10), true),
            (RequestState::Rejected, day(-29), true),
            (RequestState::Pending, day(-30), false),
            (RequestState::Connected, day(-10), false),
        ] {
            let loaded = snapshot(&[Request { created, ..request(7, BOB, ANN, state) }]);
            let expected = if counts { vec![(BOB, ANN)] } else { vec![] };
            assert_eq!(loaded.counted_when_expired(&policy), expected, "{state:?}, {created}");
        }
    }

    #[test]
    fn a_change_of_counts_is_zero_without_a_change_of_the_window() {
        let (zero, one) = (Counts::default(), Counts { connections: 1, ..Counts::default() });
        let sends = Some(SendWindow::default());
        for (change, sends, is_zero) in
            [(zero, None, true), (one, None, false), (zero, sends, false), (one, sends, false)]
        {
            let change = CountsChange { change, sends, ..CountsChange::none(ANN) };
            assert_eq!(change.is_zero(), is_zero, "{change:?}");
        }
        let seen = CountsChange { last_visible: Some(nth(1)), ..CountsChange::none(ANN) };
        assert!(!seen.is_zero());
    }

    #[test]
    fn each_change_that_comes_alone_is_something_to_save() {
        let head = Head { sequence: nth(0), ..Head::default() };
        let nothing = || Changes { head, ..Changes::default() };
        let lineage = Lineage { system_identifier: None, timeline: 1 };
        let (_, sent) = run(snapshot(&[]), [send(ANN, BOB)]);
        let response = IdempotentResponse {
            key: IdempotencyKey { caller: "operator".to_owned(), id: uuid::Uuid::nil() },
            fingerprint: [0; 32],
            encoded: EncodedResponse { response: vec![], without_profiles: vec![] },
            created: day(0),
            actor: None,
            users: (None, None),
        };
        assert!(nothing().is_empty(&head));
        for changes in [
            Changes { head: Head { swept: RequestId::new(7), ..head }, ..nothing() },
            Changes { head: Head { forgotten: nth(0), ..head }, ..nothing() },
            Changes { head: Head { forgetting: nth(0), ..head }, ..nothing() },
            Changes { epoch: Some(EpochChange::Adopted(lineage)), ..nothing() },
            Changes { events: sent.events, ..nothing() },
            Changes { events_deleted: Some(nth(0)), ..nothing() },
            Changes { responses: vec![response], ..nothing() },
            Changes { responses_deleted: Some(day(-1)), ..nothing() },
            Changes { cooled: Some(day(-30)), ..nothing() },
            Changes { ahead: Some(day(0)), ..nothing() },
        ] {
            assert!(!changes.is_empty(&head), "{changes:?}");
        }
    }
}
