//! What a batch is decided from, and what it changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Time;
use crate::domain::command::{Member, Replay};
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::event::Event;
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::pair::{Block, Pair, Request};
use crate::domain::user::User;

/// The head of the feed: the one row that every writer locks first.
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
}

/// What was loaded for a batch: see [`Needs`](crate::domain::command::Needs).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The head, locked.
    pub head: Head,
    /// The users that exist.
    pub members: Vec<Member>,
    /// The pairs that have something between them.
    pub pairs: HashMap<PairKey, Pair>,
    /// The answers that were kept.
    pub replays: Vec<Replay>,
    /// What a sweep may delete.
    pub due: Due,
}

/// What nobody needs any more, as far as one sweep deletes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Events up to this one are kept no longer.
    pub events_until: Option<Sequence>,
    /// How many events that is.
    pub events: i64,
    /// How many kept answers have had their time.
    pub replays: i64,
}

impl Snapshot {
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
    pub requests_answered: Vec<Request>,
    /// Requests of which nothing changed but that they were viewed.
    pub requests_viewed: Vec<Request>,
    /// Pairs whose request is to be deleted.
    pub requests_deleted: Vec<PairKey>,
    /// Blocks to insert: who, whom.
    pub blocks_put: Vec<(UserId, UserId, Block)>,
    /// Blocks to delete: who, whom.
    pub blocks_deleted: Vec<(UserId, UserId)>,
    /// What to add to users' counts, and their sends where these changed.
    pub counts: Vec<(UserId, Counts, Option<SendWindow>)>,
    /// The events.
    pub events: Vec<Event>,
    /// Answers to keep.
    pub replays: Vec<Replay>,
    /// Answers given before this time are no longer needed.
    pub replays_end: Option<Time>,
    /// Events up to this one are to be deleted.
    pub events_deleted: Option<Sequence>,
}

impl Changes {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        // Every change of a row but two has an event: a lazily removed withdrawn request, and a kept answer.
        self.events.is_empty()
            && self.replays.is_empty()
            && self.replays_end.is_none()
            && self.requests_deleted.is_empty()
    }
}
