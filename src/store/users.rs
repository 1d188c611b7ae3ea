//! The user cache, and its validation by the head of the feed.
//!
//! The head of the feed stores the sequence of the last event that changed or deleted a user. Each read loads the head
//! first, so it needs no further query to validate the cache. If the cache is outdated, the events since its last
//! validation name the users to remove. Commits of this server update the cache directly. A result is the same with and
//! without the cache: a user as of the result's revision or later.

use std::collections::HashMap;
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

type State = (Epoch, Sequence);

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
        let outdated = self.enabled && (state.0 != mark.epoch || state.1 < mark.users_changed);
        outdated.then_some((state.1, mark.users_changed))
    }

    /// Removes the users that were changed since `after`; all users if `changed` is `None`.
    pub(super) fn invalidate(&self, mark: &Mark, after: Sequence, changed: Option<Vec<UserId>>) {
        let mut state = self.state_mut();
        match changed {
            Some(changed) if state.0 == mark.epoch && state.1 >= after => {
                changed.iter().for_each(|id| _ = self.users.remove(id));
                state.1 = state.1.max(mark.users_changed);
            }
            Some(_) | None => {
                self.users.clear();
                *state = (mark.epoch.clone(), mark.users_changed);
            }
        }
    }

    /// Returns the cached users, valid at this mark or later, and the ids of those that are not cached.
    pub(super) fn get(&self, ids: impl IntoIterator<Item = UserId>, mark: &Mark) -> (Users, Vec<UserId>) {
        let state = self.state();
        let usable = self.enabled && state.0 == mark.epoch && state.1 == mark.users_changed;
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
        // Otherwise a commit may have changed one of them since they were read.
        if self.enabled && state.0 == mark.epoch && state.1 == mark.users_changed {
            users.into_iter().for_each(|user| self.users.insert(user.id, user));
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
        let mut state = self.state_mut();
        if state.0 == before.epoch && state.1 == old {
            let updated = changes.users_updated.iter().chain(changes.users_created.iter().map(|(user, _)| user));
            changes.users_deleted.iter().for_each(|id| _ = self.users.remove(id));
            updated.for_each(|user| self.users.insert(user.id, Arc::clone(user).into()));
            *state = (epoch.clone(), new);
        }
    }
}

#[cfg(test)]
mod tests;
