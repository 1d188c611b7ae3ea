//! Counts that the writer keeps between its commits.
//!
//! As long as nobody else commits, the writer knows what its own commits made of the counts. The head of the feed, which
//! it loads first, tells: it is what the writer's own last commit left, or somebody else was there, and all is read
//! anew. (Who mends counts changes the head too.)

use std::sync::{Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

use super::row::{CountsRow, FeedHead};
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::id::UserId;
use crate::domain::ledger::{Changes, CountsChange};

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

pub(super) struct KeptCounts {
    counted: Cache<UserId, Counted>,
    /// As of which head all of them are true; not known at the start, and after what [was forgotten](Self::forget).
    at: Mutex<Option<FeedHead>>,
    enabled: bool,
}

impl KeptCounts {
    /// For about as many users as are kept themselves in so many bytes; each takes some 150 more.
    pub(super) fn new(bytes: u64) -> Self {
        let most = usize::try_from(bytes / BYTES_OF_A_USER).unwrap_or(usize::MAX);
        Self { counted: Cache::new(most), at: Mutex::default(), enabled: bytes > 0 }
    }

    fn at(&self) -> MutexGuard<'_, Option<FeedHead>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the users that are not kept.
    pub(super) fn absent(&self, ids: impl IntoIterator<Item = UserId>) -> Vec<UserId> {
        ids.into_iter().filter(|id| self.counted.peek(id).is_none()).collect()
    }

    /// Under the head's lock: forgets all unless the last commit was our own. Answers whether it was another server's.
    pub(super) fn check(&self, head: &FeedHead) -> bool {
        let mut at = self.at();
        if at.as_ref() == Some(head) {
            return false;
        }
        self.counted.clear();
        at.replace(head.clone()).is_some()
    }

    /// As of which head all of them are true, where that is known. Never if none are kept.
    pub(super) fn head(&self) -> Option<FeedHead> {
        self.at().clone().filter(|_| self.enabled)
    }

    /// Takes what was read as of the same head; but not of users of whom a batch that is being saved is kept already.
    pub(super) fn keep(&self, read: impl IntoIterator<Item = (UserId, Counted)>, saving: Option<&Changes>) {
        if self.enabled {
            let is_kept = |id: UserId| saving.is_some_and(|saving| saving.counts_of(id).is_some());
            let read = read.into_iter().filter(|(id, _)| !is_kept(*id));
            read.for_each(|(id, counted)| self.counted.insert(id, counted));
        }
    }

    pub(super) fn get(&self, id: UserId) -> Option<Counted> {
        self.counted.get(&id)
    }

    /// What a batch of ours makes of the counts: it is committed, or about to be. Should that fail, all is to be
    /// [forgotten](Self::forget).
    pub(super) fn change(&self, changes: &Changes, batch_id: i64) {
        for CountsChange { user, change, sends, after } in &changes.counts {
            match (after, self.get(*user)) {
                (Some((counts, sends)), _) if self.enabled => {
                    self.counted.insert(*user, Counted { counts: *counts, sends: *sends });
                }
                (None, Some(mut counted)) => {
                    counted.counts += *change;
                    counted.sends = sends.unwrap_or(counted.sends);
                    self.counted.insert(*user, counted);
                }
                (_, _) => {}
            }
        }
        changes.users_deleted.iter().for_each(|id| _ = self.counted.remove(id));
        self.at().iter_mut().for_each(|at| (at.head, at.batch_id) = (changes.head, batch_id));
    }

    /// It is not known what became of a commit.
    pub(super) fn forget(&self) {
        self.counted.clear();
        *self.at() = None;
    }
}
