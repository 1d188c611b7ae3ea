//! Delivery of the event feed on one server: one reader of the table, and any number of watchers.
//!
//! The reader polls for new events when it is notified of a commit, and broadcasts them to all watchers. A watcher that
//! is behind, because it starts in the past or consumes slowly, reads the table itself until it has caught up. No event
//! is skipped: sequences have no gaps, and each broadcast chunk names the event that it follows, so a watcher that has
//! not reached that event detects it.

mod cursor;
mod list;
mod reader;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::cursor::Horizon;
pub use self::cursor::{Cursor, FeedError};
pub use self::list::Page;
use self::reader::{FAILURE_TIMEOUT, Reader, Update};
use self::watcher::Start;
pub use self::watcher::{Message, Watcher};
use crate::domain::caller::Caller;
use crate::domain::epoch::Epoch;
use crate::domain::event::Event;
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice, Recorded};
use crate::domain::selection::Selection;
use crate::domain::view::{Viewer, visible_event};
use crate::metrics::Metrics;
use crate::metrics::feed::Feed as FeedMetrics;
use crate::store::{Store, StoreError};
use crate::task::persistent;

/// The maximum number of events per read of the table.
const EVENTS_PER_READ: usize = 512;
/// The number of updates that are buffered for watchers that are slightly behind.
///
/// Together with [`EVENTS_PER_READ`] this limits the memory for slow watchers to some 7 MB, however many there are.
const UPDATES_BUFFERED: usize = 128;
/// How many watchers read the table concurrently; the others wait for a permit.
///
/// Watchers share a connection with the reader. The limit keeps the reader from queueing behind many of them.
const CONCURRENT_READS: usize = 2;

/// A handle to the feed. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    updates: broadcast::Sender<Update>,
    watched: Arc<Notify>,
    watcher_permits: Arc<Semaphore>,
    read_permits: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
    metrics: Arc<FeedMetrics>,
}

impl Feed {
    /// Starts the reader task. It is idle while there are no watchers.
    ///
    /// The task and all watchers end when `stopped` becomes true.
    pub fn start(
        store: Arc<dyn Store>,
        policy: Arc<Policy>,
        max_watchers: usize,
        metrics: &Metrics,
        stopped: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>) {
        let updates = broadcast::Sender::new(UPDATES_BUFFERED);
        let watched = Arc::new(Notify::new());
        let metrics = Arc::clone(&metrics.feed);
        let reader = Reader::new(Arc::clone(&store), updates.clone(), Arc::clone(&watched), Arc::clone(&metrics));
        let reader = Arc::new(reader);
        let stop = stopped.clone();
        let task = tokio::spawn(persistent("feed reader", move || Arc::clone(&reader).run(stop.clone())));
        let watcher_permits = Arc::new(Semaphore::new(max_watchers));
        let read_permits = Arc::new(Semaphore::new(CONCURRENT_READS));
        (Self { store, policy, updates, watched, watcher_permits, read_permits, stopped, metrics }, task)
    }

    /// Watches the feed from a cursor on.
    ///
    /// For a user who calls, the revisions of its messages are those of events that they may see.
    ///
    /// The watcher returns a message without events whenever no other message was sent for the time of `heartbeat`.
    ///
    /// # Errors
    ///
    /// [`FeedError::TooManyWatchers`] at the limit. [`FeedError::Unresponsive`] if the database does not respond within
    /// 5 s, however many wait for it. Any error of resolving the cursor or reading the table.
    pub async fn watch(
        &self,
        caller: &Caller,
        selection: Selection,
        cursor: Cursor,
        heartbeat: Duration,
    ) -> Result<Watcher, FeedError> {
        let permit = Arc::clone(&self.watcher_permits).try_acquire_owned().map_err(|_| FeedError::TooManyWatchers)?;
        // Subscribes before reading the feed's end, so that no commit in between is missed.
        let updates = self.updates.subscribe();
        self.watched.notify_one();
        let bounds =
            timeout(FAILURE_TIMEOUT, self.read_table(EventFilter::All, (Sequence::MAX, &cursor.epoch), 0)).await;
        let bounds = match bounds.unwrap_or(Err(FeedError::Unresponsive)) {
            // Only watchers and the reader use this connection, so it is the database that lets them wait.
            Err(FeedError::Store(StoreError::Overloaded)) => Err(FeedError::Unresponsive),
            bounds => bounds,
        }?;
        let (start, visible) = match self.horizon(&*self.store, caller, &cursor, Consumer::Watchers).await? {
            Some(horizon) => {
                let (start, visible) = cursor.resolve_within(&bounds, horizon)?;
                (start, Some(visible))
            }
            None => (cursor.resolve(&bounds)?, None),
        };
        let start = since_viewer(&*self.store, &selection, start, bounds.last).await?;
        Ok(Watcher::new(self.clone(), selection, heartbeat, updates, permit, Start { start, visible }, bounds))
    }

    /// Returns what a user who calls may know of the feed; `None` for other callers, who may know everything.
    async fn horizon(
        &self,
        store: &dyn Store,
        caller: &Caller,
        cursor: &Cursor,
        consumer: Consumer,
    ) -> Result<Option<Horizon>, StoreError> {
        let Some(user) = caller.user() else { return Ok(None) };
        let newest_visible = store.newest_visible(user).await?.unwrap_or_default();
        let mut sees_cursor = false;
        if let Some(after) = cursor.after.filter(|after| *after > newest_visible) {
            let epoch = Epoch::default();
            let query = EventQuery { filter: EventFilter::All, after: after.previous(), limit: 1, consumer, epoch };
            let found = store.events(query).await?.events;
            let is_seen = |event: &Event| {
                event.sequence == after && visible_event(event, Viewer::User(user), &self.policy).is_some()
            };
            sees_cursor = found.first().is_some_and(|found| is_seen(&found.event));
        }
        Ok(Some(Horizon { newest_visible, sees_cursor }))
    }

    /// Reads the table for one watcher, with a limit on concurrent reads and a timeout.
    ///
    /// Runs in its own task: the stream of a client that does not read is not polled, and would otherwise hold its
    /// permit and its slot of the connection until the client reads again.
    async fn read_table(
        &self,
        filter: EventFilter,
        (after, epoch): (Sequence, &Epoch),
        limit: i64,
    ) -> Result<FeedSlice, FeedError> {
        let (store, read_permits) = (Arc::clone(&self.store), Arc::clone(&self.read_permits));
        let query = EventQuery { filter, after, limit, consumer: Consumer::Watchers, epoch: epoch.clone() };
        // Dropping the set aborts the task.
        let mut read = JoinSet::new();
        read.spawn(async move {
            // The semaphore is never closed. If it were, the read would merely not wait.
            let _permit = read_permits.acquire().await;
            timeout(FAILURE_TIMEOUT, store.events(query)).await
        });
        match read.join_next().await {
            Some(Ok(Ok(slice))) => Ok(slice?),
            Some(Ok(Err(_elapsed))) => Err(FeedError::Unresponsive),
            Some(Err(panic)) => Err(StoreError::Internal(panic.into()).into()),
            None => Err(StoreError::Internal("a read of the feed was not started".into()).into()),
        }
    }
}

/// Returns the event to start after: not before the creation of the viewer.
///
/// An id may be used again after its user was deleted. The new user must not see the events of the old one.
async fn since_viewer(
    store: &dyn Store,
    selection: &Selection,
    start: Sequence,
    last: Sequence,
) -> Result<Sequence, StoreError> {
    let Viewer::User(viewer) = selection.viewer else { return Ok(start) };
    let created = store.user_position(viewer).await?;
    Ok(created.map_or(start, |created| start.max(created.previous().min(last))))
}

/// An event, and whether it is the last one of its commit among the events that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MarkedEvent {
    event: Event,
    ends_commit: bool,
}

/// Marks the last event of each commit.
///
/// Returns at most `limit` events, and whether these are all of `events`. The events were read with a limit of one
/// more, which shows whether the last commit continues.
fn mark_commit_ends(mut events: Vec<Recorded>, limit: usize) -> (Vec<MarkedEvent>, bool) {
    let all = events.len() <= limit;
    let beyond = events.get(limit).map(|recorded| recorded.commit);
    events.truncate(limit);
    let mut commits: Vec<_> = events.iter().skip(1).map(|recorded| Some(recorded.commit)).collect();
    commits.push(beyond);
    let mark = |(Recorded { commit, event }, next)| MarkedEvent { event, ends_commit: next != Some(commit) };
    (events.into_iter().zip(commits).map(mark).collect(), all)
}

/// Returns an error if the events that follow `after` have a gap.
///
/// Commits are serial and sequences have no gaps, so a gap means that the table is corrupt.
fn check_no_gap(slice: &FeedSlice, after: Sequence) -> Result<(), StoreError> {
    match find_gap(slice, after) {
        None => Ok(()),
        Some(last) => Err(StoreError::Corrupt { column: "events.sequence", detail: format!("a gap after {last}") }),
    }
}

/// The sequence after which an event is missing or repeated, if any. The slice was read after `after`.
fn find_gap(slice: &FeedSlice, after: Sequence) -> Option<Sequence> {
    let mut last = after;
    for recorded in &slice.events {
        if recorded.event.sequence != last.next() {
            return Some(last);
        }
        last = recorded.event.sequence;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::epoch::History;
    use crate::domain::event::{Actor, EventKind};
    use crate::domain::id::UserId;

    fn recorded(sequence: i64, commit: i64) -> Recorded {
        let event = Event {
            sequence: Sequence::new(sequence),
            time: Time::UNIX_EPOCH,
            kind: EventKind::UserCreated,
            cause: None,
            actor: Actor::Operator,
            user: UserId::new(1),
            other: None,
            request: None,
            silenced: false,
            principal: None,
        };
        Recorded { commit, event }
    }

    fn ends(commits: &[i64], limit: usize) -> (Vec<bool>, bool) {
        let events = commits.iter().zip(1..).map(|(commit, sequence)| recorded(sequence, *commit)).collect();
        let (events, all) = mark_commit_ends(events, limit);
        (events.into_iter().map(|marked| marked.ends_commit).collect(), all)
    }

    #[test]
    fn the_last_event_of_each_commit_is_marked() {
        assert_eq!(ends(&[], 3), (vec![], true));
        assert_eq!(ends(&[7, 7, 8], 3), (vec![false, true, true], true));
        assert_eq!(ends(&[7, 8, 8, 8], 3), (vec![true, false, false], false), "the commit continues");
        assert_eq!(ends(&[7, 8, 8, 9], 3), (vec![true, false, true], false), "the next is another commit's");
    }

    #[test]
    fn a_gap_is_found_wherever_it_is() {
        let slice = |sequences: &[i64]| FeedSlice {
            epoch: Epoch::default(),
            history: History::default(),
            last: Sequence::new(9),
            oldest: Sequence::new(1),
            events: sequences.iter().map(|sequence| recorded(*sequence, 1)).collect(),
        };
        let after = Sequence::new(3);
        assert_eq!(find_gap(&slice(&[]), after), None);
        assert_eq!(find_gap(&slice(&[4, 5, 6]), after), None);
        assert_eq!(find_gap(&slice(&[5, 6]), after), Some(after), "the first is missing");
        assert_eq!(find_gap(&slice(&[4, 6]), after), Some(Sequence::new(4)));
        assert_eq!(find_gap(&slice(&[4, 4]), after), Some(Sequence::new(4)), "twice");
    }
}
