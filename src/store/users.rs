//! Users kept in memory, and how a read knows that what is kept is true.
//!
//! The head of the feed says when a user was last changed or deleted. Each read asks for the head first, so it learns
//! without a question of its own whether all that is kept still holds; if not, the events in between name the users
//! that do not. A commit of this server tells here what it changed. So an answer is the same with and without what is
//! kept: a user as they were at the answer's revision or later.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Users;
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::{Changes, Head};
use crate::domain::user::User;

/// The most events that are looked through for changed users; after more of them, all users are read anew.
pub(super) const EVENTS_MAX: i64 = 10_000;
/// About what a user with short texts takes, with its place in the map.
const TYPICAL: u64 = 1_024;

/// How far the feed was when something was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: String,
    pub(super) revision: Sequence,
    /// The newest event that changed or deleted a user.
    pub(super) users_changed: Sequence,
}

/// The users that were read last, as many as fit.
pub(super) struct KeptUsers {
    users: Cache<UserId, Arc<User>, Weight>,
    /// Of which feed, and as of which of its events that changed or deleted a user, everything that is kept is true.
    /// Whoever puts something in, or makes this another, does it under the lock.
    state: RwLock<State>,
    enabled: bool,
}

type State = (String, Sequence);

#[derive(Clone)]
struct Weight;

impl Weighter<UserId, Arc<User>> for Weight {
    fn weight(&self, _: &UserId, user: &Arc<User>) -> u64 {
        // The texts twice: as they are, and encoded.
        512 + 2 * user.text_len() as u64
    }
}

impl KeptUsers {
    /// At most about so many bytes; 0: nothing is kept.
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

    /// After which event, and up to which, those that changed users are to be [told](Self::catch_up) before what is
    /// kept can be used at this mark.
    pub(super) fn behind(&self, mark: &Mark) -> Option<(Sequence, Sequence)> {
        let state = self.state();
        let behind = self.enabled && (state.0 != mark.epoch || state.1 < mark.users_changed);
        behind.then_some((state.1, mark.users_changed))
    }

    /// Forgets the users that were changed since `after`; all of them where that is not known.
    pub(super) fn catch_up(&self, mark: &Mark, after: Sequence, changed: Option<Vec<UserId>>) {
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

    /// Those of the users that are kept and true at this mark, or later; and who is not.
    pub(super) fn find(&self, ids: impl IntoIterator<Item = UserId>, mark: &Mark) -> (Users, Vec<UserId>) {
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

    /// Keeps users that were read after this mark was.
    pub(super) fn keep(&self, users: &Users, mark: &Mark) {
        let state = self.state();
        // Somebody may have changed one of them after they were read.
        if self.enabled && state.0 == mark.epoch && state.1 == mark.users_changed {
            users.iter().for_each(|(id, user)| self.users.insert(*id, Arc::clone(user)));
        }
    }

    /// A commit of this server changed users: what is kept is true after it, if it was before.
    pub(super) fn committed(&self, before: &Head, changes: &Changes) {
        if !self.enabled || before.users_changed == changes.head.users_changed {
            return;
        }
        let mut state = self.state_mut();
        if state.1 == before.users_changed {
            let updated = changes.users_updated.iter().chain(changes.users_created.iter().map(|(user, _)| user));
            changes.users_deleted.iter().for_each(|id| _ = self.users.remove(id));
            updated.for_each(|user| self.users.insert(user.id, Arc::clone(user)));
            state.1 = changes.head.users_changed;
        }
    }
}

#[cfg(test)]
mod tests;
