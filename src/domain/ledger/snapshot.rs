//! What a batch is decided from, and what it changes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Time;
use crate::domain::command::{IdempotentResponse, Member};
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::event::Event;
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::pair::{Block, Pair, Request};
use crate::domain::user::User;

/// The head of the feed: the one row that every batch moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the newest event.
    pub sequence: Sequence,
    /// The time of the newest event, or a little later: what is saved without an event moves it by the least there is.
    pub time: Time,
    /// The largest id that any user ever had.
    pub last_user: UserId,
    /// The sequence of the newest event that changed or deleted a user.
    pub users_changed: Sequence,
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
    pub replays: Vec<IdempotentResponse>,
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

    /// Makes of what was loaded before this batch was saved, or while it was, what it is afterwards. Of a batch that
    /// [can be laid over](Changes::can_be_laid_over).
    pub fn lay_over(&mut self, batch: &Changes) {
        self.head = batch.head;
        for key in &batch.requests_deleted {
            self.pair(*key).request = None;
        }
        let Changes { requests_created, requests_replaced, requests_answered, requests_viewed, .. } = batch;
        for request in [requests_created, requests_replaced, requests_answered, requests_viewed].into_iter().flatten() {
            self.add_request(request.clone());
        }
        for (user, other) in &batch.blocks_deleted {
            if let Some(key) = PairKey::of(*user, *other) {
                *self.pair(key).block_by_mut(*user) = None;
            }
        }
        for (user, other, block) in &batch.blocks_put {
            self.add_block(*user, *other, *block);
        }
        for member in &mut self.members {
            if let Some(after) = batch.counts_of(member.user.id).and_then(|counts| counts.after) {
                (member.counts, member.sends) = after;
            }
        }
        let replayed = |replay: &IdempotentResponse| batch.replays.iter().any(|kept| kept.key == replay.key);
        self.replays.retain(|replay| !replayed(replay));
        self.replays.extend(batch.replays.iter().cloned());
    }

    fn pair(&mut self, key: PairKey) -> &mut Pair {
        self.pairs.entry(key).or_insert(Pair::empty(key))
    }
}

/// What becomes of a user's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountsChange {
    /// Whose.
    pub user: UserId,
    /// What to add to them.
    pub change: Counts,
    /// The sends, where these changed.
    pub sends: Option<SendWindow>,
    /// The counts and sends after that, where the batch had them loaded.
    pub after: Option<(Counts, SendWindow)>,
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
    /// What becomes of users' counts, in the order of their ids.
    pub counts: Vec<CountsChange>,
    /// The events.
    pub events: Vec<Event>,
    /// Answers to keep.
    pub replays: Vec<IdempotentResponse>,
    /// Answers given before this time are no longer needed.
    pub replays_end: Option<Time>,
    /// Events up to this one are to be deleted.
    pub events_deleted: Option<Sequence>,
}

impl Changes {
    /// Whether what was loaded before this batch was saved can be made what it is afterwards, without loading it anew.
    pub fn can_be_laid_over(&self) -> bool {
        self.users_deleted.is_empty()
            && self.users_created.is_empty()
            && self.users_updated.is_empty()
            && self.replays_end.is_none()
            && self.events_deleted.is_none()
            && self.counts.iter().all(|change| change.after.is_some())
    }

    /// What becomes of this user's counts, if anything.
    pub fn counts_of(&self, user: UserId) -> Option<&CountsChange> {
        let found = self.counts.binary_search_by_key(&user, |counts| counts.user);
        found.ok().and_then(|place| self.counts.get(place))
    }

    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        // Every other change of a row has an event.
        self.events.is_empty()
            && self.events_deleted.is_none()
            && self.replays.is_empty()
            && self.replays_end.is_none()
            && self.requests_deleted.is_empty()
    }
}
