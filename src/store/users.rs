//! The user cache, and how a read knows that a cached user is still valid.
//!
//! The head of the feed says when a user was last changed or deleted. Each read asks for the head first, so it learns
//! without another query whether everything in the cache is still valid. If not, the events since then name the users
//! that are not. A commit of this server updates the cache itself. So a result is the same with and without the
//! cache: a user as of the result's revision or later.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::{Changes, Head};
use crate::domain::user::User;

/// The maximum number of events that are searched for changed users. After more of them, all users are read again.
pub(super) const EVENTS_MAX: i64 = 10_000;
/// About how many bytes a user with short texts takes, with its entry in the map.
const TYPICAL: u64 = 1_024;

/// The state of the feed when something was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: String,
    pub(super) revision: Sequence,
    /// The newest event that changed or deleted a user.
    pub(super) users_changed: Sequence,
}

/// A user as reads return them: with room for their encoding, which is made once and shared by all copies.
#[derive(Clone, Debug)]
pub struct CachedUser(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    user: Arc<User>,
    encoded: OnceLock<Bytes>,
}

impl CachedUser {
    /// The encoding; `encode` runs only the first time.
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

/// The users that were read last, as many as fit.
pub(super) struct UserCache {
    users: Cache<UserId, CachedUser, Weight>,
    /// The epoch of the feed, and its newest change of a user, as of which all cached users are valid. To insert a user
    /// takes a read lock, to change the state a write lock.
    state: RwLock<State>,
    enabled: bool,
}

type State = (String, Sequence);

#[derive(Clone)]
struct Weight;

impl Weighter<UserId, CachedUser> for Weight {
    fn weight(&self, _: &UserId, user: &CachedUser) -> u64 {
        // The texts twice: as they are, and encoded.
        512 + 2 * user.text_len() as u64
    }
}

impl UserCache {
    /// A cache of at most about so many bytes; 0: nothing is cached.
    pub(super) fn new(bytes: u64) -> Self {
        let typical = usize::try_from(bytes / TYPICAL).unwrap_or(usize::MAX);
        Self { users: Cache::with_weighter(typical, bytes, Weight), state: RwLock::default(), enabled: bytes > 0 }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events, after the first sequence and up to the second, whose changed users must be
    /// [invalidated](Self::invalidate) before the cache can be used at this mark. `None` if it can be used now.
    pub(super) fn outdated(&self, mark: &Mark) -> Option<(Sequence, Sequence)> {
        let state = self.state();
        let outdated = self.enabled && (state.0 != mark.epoch || state.1 < mark.users_changed);
        outdated.then_some((state.1, mark.users_changed))
    }

    /// Removes the users that were changed since `after`, or all users if it is not known which.
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

    /// The cached users, valid at this mark or later, and the ids of the others.
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
        (found, missing)
    }

    /// Inserts users that were read after this mark was.
    pub(super) fn insert(&self, users: impl IntoIterator<Item = CachedUser>, mark: &Mark) {
        let state = self.state();
        // Otherwise one of them may have been changed after they were read.
        if self.enabled && state.0 == mark.epoch && state.1 == mark.users_changed {
            users.into_iter().for_each(|user| self.users.insert(user.id, user));
        }
    }

    /// Takes over what a commit of this server changed. The cache is valid after it if it was before.
    pub(super) fn committed(&self, before: &Head, changes: &Changes) {
        if !self.enabled || before.users_changed == changes.head.users_changed {
            return;
        }
        let mut state = self.state_mut();
        if state.1 == before.users_changed {
            let updated = changes.users_updated.iter().chain(changes.users_created.iter().map(|(user, _)| user));
            changes.users_deleted.iter().for_each(|id| _ = self.users.remove(id));
            updated.for_each(|user| self.users.insert(user.id, Arc::clone(user).into()));
            state.1 = changes.head.users_changed;
        }
    }
}

#[cfg(test)]
mod tests;
