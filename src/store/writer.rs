//! The state that the writer of an engine caches between batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, UnitWeighter};

use super::row::FeedHead;
use super::seen::LastSeen;
use super::users::{Mark, UserCache};
use crate::domain::command::Member;
use crate::domain::id::UserId;
use crate::domain::ledger::{Changes, Snapshot};
use crate::metrics::caches::{Cache as CacheMetrics, Counting, Size};

/// The number of bytes of the user cache for each user that the writer caches.
///
/// The entry itself takes about 150 bytes, because it shares the profile with the user cache.
const BYTES_PER_USER: u64 = 2_048;
/// The minimum number of users that the writer caches.
///
/// It is not 0, so that the size of the user cache never changes how a batch is committed.
const USERS_MIN: u64 = 1_024;

/// Users by id, with their counts.
pub(super) type Members = HashMap<UserId, Member>;

/// The rows that a batch is decided from.
pub(super) struct Loaded {
    /// The head that was locked.
    pub(super) before: FeedHead,
    pub(super) snapshot: Snapshot,
}

/// Users and their counts as the writer's last commit left them, and the user cache that it shares with reads.
///
/// They are valid as long as nobody else commits. Each batch finds that out when it locks the head of the feed: if that
/// is not the head that this writer left, another server or an operator was there, and everything is dropped.
pub(super) struct WriterState {
    head: Option<FeedHead>,
    members: CachedMembers,
    pub(super) profiles: Arc<UserCache>,
    seen: Arc<LastSeen>,
    metrics: Arc<CacheMetrics>,
    /// The number of cached users, for the metrics: only the writer can ask the cache.
    entries: Arc<AtomicU64>,
}

type CachedMembers =
    Cache<UserId, Member, UnitWeighter, DefaultHashBuilder, Counting<DefaultLifecycle<UserId, Member>>>;

impl WriterState {
    /// For a user cache of so many bytes.
    pub(super) fn new(bytes: u64, profiles: Arc<UserCache>, seen: Arc<LastSeen>, metrics: &Arc<CacheMetrics>) -> Self {
        let most = (bytes / BYTES_PER_USER).max(USERS_MIN);
        let expected = usize::try_from(most).unwrap_or(usize::MAX);
        let hasher = DefaultHashBuilder::default();
        let members = Cache::with(expected, most, UnitWeighter, hasher, metrics.counting());
        let entries = Arc::<AtomicU64>::default();
        let measured = Arc::clone(&entries);
        metrics.size.set(move || Some(Size { entries: measured.load(Ordering::Relaxed), bytes: None }));
        Self { head: None, members, profiles, seen, metrics: Arc::clone(metrics), entries }
    }

    /// The mark of the last head.
    pub(super) fn mark(&self) -> Mark {
        self.head.as_ref().map(FeedHead::mark).unwrap_or_default()
    }

    /// The users that are cached, and the others. Valid once [`validate`](Self::validate) says so.
    pub(super) fn find(&self, ids: impl IntoIterator<Item = UserId>) -> (Members, Vec<UserId>) {
        let (mut found, mut missing) = (Members::new(), Vec::new());
        for id in ids {
            match self.members.get(&id) {
                Some(member) => _ = found.insert(id, member.clone()),
                None => missing.push(id),
            }
        }
        self.metrics.looked_up(found.len(), missing.len());
        (found, missing)
    }

    /// Returns whether the cache is valid at the locked head. If not, clears it and makes it valid at this head.
    pub(super) fn validate(&mut self, locked: &FeedHead) -> bool {
        let valid = self.head.as_ref() == Some(locked);
        if !valid {
            self.members.clear();
            self.head = Some(locked.clone());
            self.seen.note(locked);
        }
        self.measure();
        valid
    }

    /// Caches users that were read while the head was locked.
    pub(super) fn insert(&mut self, members: &Members) {
        members.iter().for_each(|(id, member)| self.members.insert(*id, member.clone()));
        self.measure();
    }

    /// Shows the metrics how many users are cached.
    fn measure(&self) {
        self.entries.store(self.members.len() as u64, Ordering::Relaxed);
    }

    /// Applies the changes of a committed batch of this writer, which locked the head `before`.
    ///
    /// After a failed commit nothing needs to be done: the next head shows whether the cache is still valid.
    pub(super) fn committed(&mut self, before: &FeedHead, changes: &Changes, batch_id: i64) {
        if changes.is_empty(&before.head) {
            return;
        }
        self.profiles.committed(before, changes);
        let Changes {
            head: after,
            epoch,
            users_deleted,
            counts,
            members,
            // Users' profiles are among the members.
            users_created: _,
            users_updated: _,
            users_renamed: _,
            // Not cached.
            requests_deleted: _,
            requests_created: _,
            requests_replaced: _,
            requests_updated: _,
            requests_viewed: _,
            requests_out_of_order: _,
            blocks_put: _,
            blocks_deleted: _,
            cooldowns_put: _,
            cooldowns_deleted: _,
            ended_put: _,
            ended_deleted: _,
            cooled: _,
            ahead: _,
            probed: _,
            events: _,
            events_deleted: _,
            forgotten: _,
            responses: _,
            responses_deleted: _,
        } = changes;
        users_deleted.iter().for_each(|id| _ = self.members.remove(id));
        // Those that were not loaded for the batch are not among its members.
        let changed = counts.iter().filter(|counts| !counts.is_zero());
        changed.for_each(|counts| _ = self.members.remove(&counts.user));
        members.iter().for_each(|member| self.members.insert(member.user.id, member.clone()));
        self.measure();
        if let Some(head) = &mut self.head {
            epoch.iter().for_each(|change| head.change_epoch(change));
            (head.head, head.batch_id) = (*after, batch_id);
            self.seen.note(head);
        }
    }
}
