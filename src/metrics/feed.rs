//! The event feed: how far it is, and how far its watchers are.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;

use super::Area;
use super::families::Families;

/// The position of a reader that is idle.
const IDLE: i64 = -1;

/// Follows the feed and its watchers.
#[derive(Debug)]
pub struct Feed {
    /// The newest revision that was read from the database.
    newest: AtomicI64,
    /// The newest revision that a commit of this server left.
    committed: AtomicI64,
    /// The position of the reader that serves the watchers. [`IDLE`] without any.
    reader: AtomicI64,
    /// Events that were sent to watchers.
    pub events_sent: Counter,
    last_watcher: AtomicU64,
    watchers: Mutex<HashMap<u64, Arc<AtomicI64>>>,
}

/// A watcher that is open. It is counted until this is dropped.
#[derive(Debug)]
pub struct Watching {
    feed: Arc<Feed>,
    number: u64,
    position: Arc<AtomicI64>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            newest: AtomicI64::new(0),
            committed: AtomicI64::new(0),
            reader: AtomicI64::new(IDLE),
            events_sent: Counter::default(),
            last_watcher: AtomicU64::new(0),
            watchers: Mutex::default(),
        }
    }
}

impl Feed {
    /// Records a revision that was read from the database. It may be lower than before, after a restore.
    pub fn read(&self, revision: i64) {
        self.newest.store(revision, Ordering::Relaxed);
    }

    /// Records the revision that a commit of this server left.
    pub fn committed(&self, revision: i64) {
        self.committed.store(revision, Ordering::Relaxed);
    }

    /// Records the position of the reader that serves the watchers.
    pub fn reader_at(&self, revision: i64) {
        self.reader.store(revision, Ordering::Relaxed);
    }

    /// Records that there are no watchers to serve.
    pub fn reader_idle(&self) {
        self.reader.store(IDLE, Ordering::Relaxed);
    }

    /// Counts a watcher that starts at this revision.
    pub fn watch(self: &Arc<Self>, revision: i64) -> Watching {
        let number = self.last_watcher.fetch_add(1, Ordering::Relaxed);
        let position = Arc::new(AtomicI64::new(revision));
        self.positions().insert(number, Arc::clone(&position));
        Watching { feed: Arc::clone(self), number, position }
    }

    fn positions(&self) -> MutexGuard<'_, HashMap<u64, Arc<AtomicI64>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the newest revision that watchers could have received: the reader's, or without watchers the newest that
    /// was read.
    fn revision(&self) -> i64 {
        match self.reader.load(Ordering::Relaxed) {
            IDLE => self.newest.load(Ordering::Relaxed),
            position => position,
        }
    }

    /// Returns the number of watchers, and the number of events by which the slowest is behind the newest known one.
    fn watchers(&self) -> (usize, i64) {
        let watchers = self.positions();
        let slowest = watchers.values().map(|position| position.load(Ordering::Relaxed)).min();
        let newest = [&self.newest, &self.committed, &self.reader].map(|revision| revision.load(Ordering::Relaxed));
        let newest = newest.into_iter().max().unwrap_or_default();
        (watchers.len(), slowest.map_or(0, |slowest| newest.saturating_sub(slowest).max(0)))
    }
}

impl Watching {
    /// Records that the watcher has examined all events up to this one.
    pub fn reached(&self, revision: i64) {
        self.position.store(revision, Ordering::Relaxed);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.feed.positions().remove(&self.number);
    }
}

impl Area for Feed {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let (watchers, lag) = self.watchers();
        let help = "Newest event that watchers of this server could have received.";
        families.gauge("kith_feed_revision", help)?.value(&[], self.revision())?;
        let help = "Newest event of this server's own commits.";
        families.gauge("kith_committed_revision", help)?.value(&[], self.committed.load(Ordering::Relaxed))?;
        families.gauge("kith_feed_watchers", "Open watches of events.")?.value(&[], watchers)?;
        let help = "Events by which the slowest watcher is behind the newest one that this server knows.";
        families.gauge("kith_feed_lag_events", help)?.value(&[], lag)?;
        families
            .counter("kith_feed_events_sent_total", "Events that were sent to watchers.")?
            .count(&[], self.events_sent.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_that_of_the_slowest_watcher() {
        let feed = Arc::new(Feed::default());
        assert_eq!((feed.revision(), feed.watchers()), (0, (0, 0)));
        feed.read(10);
        assert_eq!((feed.revision(), feed.watchers()), (10, (0, 0)));
        let (one, other) = (feed.watch(10), feed.watch(4));
        feed.reader_at(9);
        assert_eq!((feed.revision(), feed.watchers()), (9, (2, 6)));
        feed.committed(12);
        other.reached(11);
        assert_eq!(feed.watchers(), (2, 2));
        drop(one);
        assert_eq!(feed.watchers(), (1, 1));
        other.reached(15);
        assert_eq!(feed.watchers(), (1, 0), "a watcher may be ahead of what else was read");
        feed.reader_idle();
        assert_eq!(feed.revision(), 10);
        drop(other);
        assert_eq!(feed.watchers(), (0, 0));
    }
}
