//! Counts that the writer keeps between its commits.
//!
//! As long as nobody else commits, the writer knows what its own commits made of the counts. The head of the feed, which
//! it locks first, tells: its last sequence and time are those of the writer's own last commit, or somebody else was
//! there, and all is read anew. (Who mends counts changes the time.)

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

use super::row::{CountsRow, FeedRow};
use crate::domain::Time;
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::Changes;

/// About how much is spent on users for each whose counts are kept.
const BYTES_OF_A_USER: u64 = 2_048;

/// A user's counts and sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) counts: Counts,
    pub(super) sends: SendWindow,
}

impl From<&CountsRow> for Counted {
    fn from(row: &CountsRow) -> Self {
        let sends = SendWindow { since: row.sends_since.map(|stamp| stamp.0), count: row.sends };
        Self { counts: row.counts(), sends }
    }
}

/// What tells one head from another: the feed's epoch, its last sequence and its last time.
type At = (String, Sequence, Time);

pub(super) struct KeptCounts {
    counted: Cache<UserId, Counted>,
    /// As of which head all of them are true.
    at: Mutex<At>,
    enabled: bool,
}

impl KeptCounts {
    /// For about as many users as are kept themselves in so many bytes; each takes some 150 more.
    pub(super) fn new(bytes: u64) -> Self {
        let most = usize::try_from(bytes / BYTES_OF_A_USER).unwrap_or(usize::MAX);
        Self { counted: Cache::new(most), at: Mutex::default(), enabled: bytes > 0 }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the users that are not kept.
    pub(super) fn absent(&self, ids: impl IntoIterator<Item = UserId>) -> Vec<UserId> {
        ids.into_iter().filter(|id| self.counted.peek(id).is_none()).collect()
    }

    /// Under the head's lock: forgets all unless the last commit was our own. Answers whether it was another server's.
    pub(super) fn check(&self, head: &FeedRow) -> bool {
        let mut at = self.at();
        let now = (head.epoch.clone(), Sequence::new(head.last_sequence), head.last_time.0);
        if *at == now {
            return false;
        }
        self.counted.clear();
        !std::mem::replace(&mut *at, now).0.is_empty()
    }

    /// Takes what was read under the same lock.
    pub(super) fn keep(&self, read: &HashMap<UserId, Counted>) {
        if self.enabled {
            read.iter().for_each(|(id, counted)| self.counted.insert(*id, *counted));
        }
    }

    pub(super) fn get(&self, id: UserId) -> Option<Counted> {
        self.counted.get(&id)
    }

    /// What was changed under the lock is committed.
    pub(super) fn committed(&self, changes: &Changes) {
        for (id, change, sends) in &changes.counts {
            if let Some(mut counted) = self.get(*id) {
                counted.counts += *change;
                counted.sends = sends.unwrap_or(counted.sends);
                self.counted.insert(*id, counted);
            }
        }
        changes.users_deleted.iter().for_each(|id| _ = self.counted.remove(id));
        let mut at = self.at();
        (at.1, at.2) = (changes.head.sequence, changes.head.time);
    }

    /// It is not known what became of a commit.
    pub(super) fn forget(&self) {
        self.counted.clear();
        *self.at() = Default::default();
    }
}
