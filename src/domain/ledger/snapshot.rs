//! What a batch is decided from, and what it changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Time;
use crate::domain::command::{IdempotentResponse, Member};
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::event::Event;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::pair::{Block, Pair, Request};
use crate::domain::user::User;

/// The head of the feed: the one row that every batch moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the newest event.
    pub sequence: Sequence,
    /// The time of the newest event.
    pub time: Time,
    /// The largest id that any user ever had.
    pub last_user: UserId,
    /// The sequence of the newest event that changed or deleted a user.
    pub users_changed: Sequence,
    /// No open request has this id or a smaller one, except those that are marked as out of order: the sweep for
    /// expired requests starts after it.
    pub swept: RequestId,
}

/// What was loaded for a batch: see [`Needs`](crate::domain::command::Needs).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The head.
    pub head: Head,
    /// The users that exist.
    pub members: Vec<Member>,
    /// The pairs that have something between them.
    pub pairs: HashMap<PairKey, Pair>,
    /// The answers that were kept.
    pub responses: Vec<IdempotentResponse>,
    /// What a sweep may delete.
    pub sweep: SweepStep,
}

/// What a sweep may expire or delete: a bounded number of rows of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepStep {
    /// All open requests after [`Head::swept`] and up to this one are loaded, except those out of order. `None`: no
    /// request is to be swept.
    pub open_until: Option<RequestId>,
    /// The newest of the events whose retention is over.
    pub events_until: Option<Sequence>,
    /// How many such events there are.
    pub events: i64,
    /// How many stored responses have expired.
    pub responses: i64,
}

impl Snapshot {
    /// Adds everything that is between two users.
    pub fn add(&mut self, pair: Pair) {
        self.pairs.insert(pair.key, pair);
    }

    /// Adds a request that was loaded.
    pub fn add_request(&mut self, request: Request) {
        if let Some(key) = request.key() {
            self.pair(key).request = Some(request);
        }
    }

    /// Adds a block that was loaded.
    pub fn add_block(&mut self, user: UserId, other: UserId, block: Block) {
        if let Some(key) = PairKey::of(user, other) {
            *self.pair(key).block_by_mut(user) = Some(block);
        }
    }

    fn pair(&mut self, key: PairKey) -> &mut Pair {
        self.pairs.entry(key).or_insert(Pair::empty(key))
    }
}

/// What to add to a user's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountsChange {
    /// Whose counts.
    pub user: UserId,
    /// What to add.
    pub change: Counts,
    /// The sends of the running hour, if they changed.
    pub sends: Option<SendWindow>,
}

/// What a batch changes. Saved as it is, in one transaction; empty when nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The head after the batch.
    pub head: Head,
    /// Users to delete, with their counts; before the creations.
    pub users_deleted: Vec<UserId>,
    /// Users to insert, with empty counts, and the event that created each.
    pub users_created: Vec<(Arc<User>, Sequence)>,
    /// Users to replace.
    pub users_updated: Vec<Arc<User>>,
    /// Requests of pairs that had none.
    pub requests_created: Vec<Request>,
    /// New requests in the place of what their pairs had.
    pub requests_replaced: Vec<Request>,
    /// Requests that came into another state, or into the same anew.
    pub requests_updated: Vec<Request>,
    /// Requests of which nothing changed but that they were viewed.
    pub requests_viewed: Vec<Request>,
    /// Pairs whose request is to be deleted.
    pub requests_deleted: Vec<PairKey>,
    /// Blocks to insert: who, whom.
    pub blocks_put: Vec<(UserId, UserId, Block)>,
    /// Blocks to delete: who, whom.
    pub blocks_deleted: Vec<(UserId, UserId)>,
    /// What to add to users' counts, in the order of their ids.
    pub counts: Vec<CountsChange>,
    /// The users of whom the batch changed anything and whom it had loaded, as they are after it. Not saved: the writer
    /// caches them.
    pub members: Vec<Member>,
    /// Requests that the sweep found out of order, to be marked.
    pub requests_out_of_order: Vec<RequestId>,
    /// The events.
    pub events: Vec<Event>,
    /// Answers to keep.
    pub responses: Vec<IdempotentResponse>,
    /// Answers given before this time are no longer needed.
    pub responses_deleted: Option<Time>,
    /// Events up to this one are to be deleted.
    pub events_deleted: Option<Sequence>,
}

impl Changes {
    /// Whether there is nothing to save, in a batch that was decided at this head.
    pub fn is_empty(&self, before: &Head) -> bool {
        let Self {
            head,
            events,
            events_deleted,
            responses,
            responses_deleted,
            requests_deleted,
            // All of these come with an event, or with a change of the head.
            users_deleted: _,
            users_created: _,
            users_updated: _,
            requests_created: _,
            requests_replaced: _,
            requests_updated: _,
            requests_viewed: _,
            requests_out_of_order: _,
            blocks_put: _,
            blocks_deleted: _,
            counts: _,
            members: _,
        } = self;
        head == before
            && events.is_empty()
            && events_deleted.is_none()
            && responses.is_empty()
            && responses_deleted.is_none()
            && requests_deleted.is_empty()
    }
}
