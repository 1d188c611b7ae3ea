//! Counts that the writer keeps between its commits.
//!
//! As long as nobody else commits, the writer knows what its own commits made of the counts. The head of the feed, which
//! it loads first, tells: its last sequence and time are those of the writer's own last commit, or somebody else was
//! there, and all is read anew. (Who mends counts changes the time.)

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

use super::row::{CountsRow, FeedRow};
use crate::domain::Time;
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::id::{Sequence, UserId};
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

    /// Whether this is the head as of which all of them are true. Never if none are kept.
    pub(super) fn are_of(&self, head: &FeedRow) -> bool {
        let at = self.at();
        self.enabled && at.0 == head.epoch && at.1.get() == head.last_sequence && at.2 == head.last_time.0
    }

    /// Whether it is not known as of which head they are true: at the start, and after what [was forgotten](Self::forget).
    pub(super) fn are_forgotten(&self) -> bool {
        self.at().0.is_empty()
    }

    /// Takes what was read as of the same head; but not of users of whom a batch that is being saved is kept already.
    pub(super) fn keep(&self, read: &HashMap<UserId, Counted>, saving: Option<&Changes>) {
        if self.enabled {
            let is_kept = |id: &UserId| saving.is_some_and(|saving| saving.counts_of(*id).is_some());
            let read = read.iter().filter(|(id, _)| !is_kept(id));
            read.for_each(|(id, counted)| self.counted.insert(*id, *counted));
        }
    }

    pub(super) fn get(&self, id: UserId) -> Option<Counted> {
        self.counted.get(&id)
    }

    /// What a batch of ours makes of the counts: it is committed, or about to be. Should that fail, all is to be
    /// [forgotten](Self::forget).
    pub(super) fn change(&self, changes: &Changes) {
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
        let mut at = self.at();
        (at.1, at.2) = (changes.head.sequence, changes.head.time);
    }

    /// It is not known what became of a commit.
    pub(super) fn forget(&self) {
        self.counted.clear();
        *self.at() = Default::default();
    }
}
