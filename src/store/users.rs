//! The user cache, and its validation by the head of the feed.
//!
//! The head of the feed stores the sequence of the last event that changed or deleted a user. Each read loads the head
//! first, so it needs no further query to validate the cache. If the cache is outdated, the events since its last
//! validation name the users to remove. Commits of this server update the cache directly. A result is the same with and
//! without the cache: a user as of the result's revision or later.
//!
//! The primary and its replicas share the cache. A replica that is behind may be given users that are newer than its mark.
//! What it reads is cached unless a user changed since its mark; so the last changes are remembered. A mark of another
//! epoch says nothing of these users, whether it is earlier or later.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

use crate::domain::epoch::Epoch;
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::Changes;
use crate::domain::query::Read;
use crate::domain::user::User;
use crate::metrics::caches::{Cache as CacheMetrics, Counting, Size};
use crate::store::row::FeedHead;

/// The maximum number of events that are searched for changed users.
///
/// After more events the cache is cleared.
pub(super) const EVENTS_MAX: i64 = 10_000;
/// The maximum number of changes of users that are remembered.
const CHANGES_MAX: usize = 10_000;
/// The approximate size of a user with short texts in the cache, in bytes.
const TYPICAL: u64 = 1_024;

/// The state of the feed at a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: Epoch,
    pub(super) revision: Sequence,
    /// The newest event that changed or deleted a user.
    pub(super) users_changed: Sequence,
}

impl Mark {
    /// Returns what was read at this mark.
    pub(super) fn read<T>(self, value: T) -> Read<T> {
        let Self { epoch, revision, users_changed: _ } = self;
        Read { revision, epoch, value }
    }

    /// Whether no user was changed or deleted between the two.
    pub(super) fn has_users_of(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.users_changed == other.users_changed
    }
}

/// A user as reads return it, with its encoding.
///
/// The user is encoded once, on first use. All copies share the encoding.
#[derive(Clone, Debug)]
pub struct CachedUser(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    user: Arc<User>,
    encoded: OnceLock<Bytes>,
}

impl CachedUser {
    /// The user itself.
    pub(super) fn shared(&self) -> Arc<User> {
        Arc::clone(&self.0.user)
    }

    /// Returns the encoded user. `encode` runs only on the first call.
    pub fn encoded(&self, encode: impl FnOnce(&User) -> Bytes) -> Bytes {
        self.0.encoded.get_or_init(|| encode(&self.0.user)).clone()
    }
}

impl From<Arc<User>> for CachedUser {
    fn from(user: Arc<User>) -> Self {
        Self(Arc::new(Shared { user, encoded: OnceLock::new() }))
    }
}

impl From<User> for CachedUser {
    fn from(user: User) -> Self {
        Arc::new(user).into()
    }
}

impl Deref for CachedUser {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0.user
    }
}

impl PartialEq for CachedUser {
    fn eq(&self, other: &Self) -> bool {
        self.0.user == other.0.user
    }
}

impl Eq for CachedUser {}

/// Users by id.
pub type Users = HashMap<UserId, CachedUser>;

/// A cache of recently read users, limited by size.
pub(super) struct UserCache {
    users: Arc<CachedUsers>,
    metrics: Arc<CacheMetrics>,
    /// The epoch and the newest change of a user as of which all cached users are valid.
    ///
    /// Inserting a user requires a read lock, changing the state a write lock.
    state: RwLock<State>,
    enabled: bool,
}

type CachedUsers =
    Cache<UserId, CachedUser, Weight, DefaultHashBuilder, Counting<DefaultLifecycle<UserId, CachedUser>>>;

#[derive(Default)]
struct State {
    epoch: Epoch,
    /// The newest change of a user.
    users_changed: Sequence,
    /// The changes before it.
    changes: LastChanges,
}

/// The users that changed last.
#[derive(Default)]
struct LastChanges {
    /// All changes after this one are remembered.
    since: Sequence,
    /// The newest change of each user, or a later one.
    by_user: HashMap<UserId, Sequence>,
    in_order: VecDeque<(UserId, Sequence)>,
}

impl LastChanges {
    /// Forgets all changes until `since`.
    fn restart(&mut self, since: Sequence) {
        *self = Self { since, ..Self::default() };
    }

    /// Remembers users that changed after all those before, at `at` or earlier.
    fn add(&mut self, users: impl IntoIterator<Item = UserId>, at: Sequence) {
        for user in users {
            self.by_user.insert(user, at);
            self.in_order.push_back((user, at));
        }
        while self.in_order.len() > CHANGES_MAX {
            let Some((user, at)) = self.in_order.pop_front() else { return };
            self.since = self.since.max(at);
            if self.by_user.get(&user) == Some(&at) {
                self.by_user.remove(&user);
            }
        }
    }

    /// Whether it is known that a user did not change after `at`.
    fn is_unchanged(&self, user: UserId, at: Sequence) -> bool {
        at >= self.since && self.by_user.get(&user).is_none_or(|changed| *changed <= at)
    }
}

/// Where a mark is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The database that commits. A mark that is behind the cache may be all that a failover left of the feed.
    Primary,
    /// A replica, which is always a little behind.
    Replica,
}

impl State {
    /// Whether the users are valid at this mark: those of the same feed, at the mark or later.
    fn is_valid_at(&self, mark: &Mark) -> bool {
        self.epoch == mark.epoch && self.users_changed >= mark.users_changed
    }

    /// Whether a read at this mark may be given the users. On the primary, exactly those of the mark: until the first commit
    /// after a failover begins an epoch, changes that were lost seem to be newer ones.
    fn serves(&self, mark: &Mark, source: Source) -> bool {
        self.is_valid_at(mark) && (source == Source::Replica || self.users_changed == mark.users_changed)
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<UserId, CachedUser> for Weight {
    fn weight(&self, _: &UserId, user: &CachedUser) -> u64 {
        // Texts count twice: once in the user, once in the encoding.
        512 + 2 * user.text_len() as u64
    }
}

impl UserCache {
    /// Creates a cache of at most about `bytes`. 0 turns it off.
    pub(super) fn new(bytes: u64, metrics: &Arc<CacheMetrics>) -> Self {
        let typical = usize::try_from(bytes / TYPICAL).unwrap_or(usize::MAX);
        let hasher = DefaultHashBuilder::default();
        let users = Arc::new(Cache::with(typical, bytes, Weight, hasher, metrics.counting()));
        let measured = Arc::downgrade(&users);
        let size = |users: Arc<CachedUsers>| Size {
            entries: users.len() as u64,
            bytes: Some((users.weight(), users.capacity())),
        };
        metrics.size.set(move || measured.upgrade().map(size));
        Self { users, metrics: Arc::clone(metrics), state: RwLock::default(), enabled: bytes > 0 }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the range of events to search for changed users before the cache is valid at this mark.
    ///
    /// The range excludes the first sequence. The changed users must be [invalidated](Self::invalidate). `None` if the
    /// cache is valid already.
    pub(super) fn outdated(&self, mark: &Mark) -> Option<(Sequence, Sequence)> {
        let state = self.state();
        let outdated = self.enabled && !state.is_valid_at(mark);
        outdated.then_some((state.users_changed, mark.users_changed))
    }

    /// Removes the users that were changed since `after`; all users if `changed` is `None`.
    pub(super) fn invalidate(&self, mark: &Mark, after: Sequence, changed: Option<Vec<UserId>>) {
        let state = &mut *self.state_mut();
        if state.is_valid_at(mark) {
            // Another read was faster.
            return;
        }
        match changed {
            Some(changed) if state.epoch == mark.epoch && state.users_changed >= after => {
                changed.iter().for_each(|id| _ = self.users.remove(id));
                state.users_changed = mark.users_changed;
                state.changes.add(changed, mark.users_changed);
            }
            Some(_) | None => {
                self.users.clear();
                state.epoch.clone_from(&mark.epoch);
                state.users_changed = mark.users_changed;
                state.changes.restart(mark.users_changed);
            }
        }
    }

    /// Returns the cached users, valid at this mark or later (on a replica), and the ids of those that are not cached.
    pub(super) fn get(
        &self,
        ids: impl IntoIterator<Item = UserId>,
        mark: &Mark,
        source: Source,
    ) -> (Users, Vec<UserId>) {
        let state = self.state();
        let usable = self.enabled && state.serves(mark, source);
        let (mut found, mut missing) = (Users::new(), Vec::new());
        for id in ids {
            match self.users.get(&id).filter(|_| usable) {
                Some(user) => _ = found.insert(id, user),
                None => missing.push(id),
            }
        }
        self.metrics.looked_up(found.len(), missing.len());
        (found, missing)
    }

    /// Inserts users that were read after this mark.
    pub(super) fn insert(&self, users: impl IntoIterator<Item = CachedUser>, mark: &Mark) {
        let state = self.state();
        if self.enabled && state.is_valid_at(mark) {
            // A commit may have changed one of them since they were read.
            let unchanged = |user: &CachedUser| state.changes.is_unchanged(user.id, mark.users_changed);
            users.into_iter().filter(unchanged).for_each(|user| self.users.insert(user.id, user));
        }
    }

    /// Whether the user is in memory, even if outdated.
    #[cfg(test)]
    pub(super) fn holds(&self, id: UserId) -> bool {
        self.users.peek(&id).is_some()
    }

    /// Applies the changes of a commit of this server. The cache stays valid if it was valid before.
    pub(super) fn committed(&self, before: &FeedHead, changes: &Changes) {
        let epoch = before.epoch_after(changes.epoch.as_ref());
        let (old, new) = (before.head.users_changed, changes.head.users_changed);
        if !self.enabled || (old == new && *epoch == before.epoch) {
            return;
        }
        let state = &mut *self.state_mut();
        if state.epoch == before.epoch && state.users_changed == old {
            let updated = || changes.users_updated.iter().chain(changes.users_created.iter().map(|(user, _)| user));
            if *epoch != before.epoch {
                // Some may be from a commit that was lost.
                self.users.clear();
            }
            changes.users_deleted.iter().for_each(|id| _ = self.users.remove(id));
            updated().for_each(|user| self.users.insert(user.id, Arc::clone(user).into()));
            if *epoch == before.epoch {
                let changed = changes.users_deleted.iter().copied().chain(updated().map(|user| user.id));
                state.changes.add(changed, new);
            } else {
                // Marks of the epoch before say nothing of this one.
                state.epoch = epoch.clone();
                state.changes.restart(new);
            }
            state.users_changed = new;
        }
    }
}

#[cfg(test)]
mod tests;
