//! The task that polls the table for new events and broadcasts them to all watchers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, timeout};

use super::cursor::{FeedError, check_readable};
use super::{EVENTS_PER_READ, MarkedEvent, check_no_gap, mark_commit_ends};
use crate::causes::Causes;
use crate::domain::epoch::{Epoch, History};
use crate::domain::id::Sequence;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice};
use crate::metrics::feed::Feed;
use crate::store::{Store, StoreError};

/// The minimum pause between two reads.
///
/// Under load, one read covers many commits, and wakes the watchers once.
const PAUSE: Duration = Duration::from_millis(5);
/// The interval of polling when no notification arrives.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long reads may fail or not return before watches end with an error.
///
/// Clients then connect to another server, which may still reach the database.
pub(super) const FAILURE_TIMEOUT: Duration = Duration::from_secs(5);

/// A message from the reader to all watchers.
#[derive(Clone, Debug)]
pub(super) enum Update {
    /// The reader starts here: the events that follow are of this epoch and come after this one.
    ///
    /// It starts again where a new epoch begins, or where the feed ends if it is shorter than it was.
    Start {
        /// The epoch of the feed.
        epoch: Epoch,
        /// The event that the next one follows.
        last: Sequence,
        /// The epochs up to this one, if the reader was in an earlier one. Otherwise empty.
        history: History,
    },
    /// New events.
    Events(Arc<Chunk>),
    /// The database has not responded for some time.
    Unresponsive,
}

/// All events in the range from `after` (exclusive) to `until` (inclusive).
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) epoch: Epoch,
    pub(super) after: Sequence,
    pub(super) until: Sequence,
    pub(super) events: Vec<MarkedEvent>,
}

pub(super) struct Reader {
    store: Arc<dyn Store>,
    updates: broadcast::Sender<Update>,
    /// Notified when a watcher subscribes.
    watched: Arc<Notify>,
    metrics: Arc<Feed>,
}

/// The last event that the reader has broadcast.
struct Position {
    epoch: Epoch,
    until: Sequence,
}

impl Reader {
    pub(super) fn new(
        store: Arc<dyn Store>,
        updates: broadcast::Sender<Update>,
        watched: Arc<Notify>,
        metrics: Arc<Feed>,
    ) -> Self {
        Self { store, updates, watched, metrics }
    }

    /// Runs until `stopped` becomes true.
    pub(super) async fn run(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.read() => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn read(&self) {
        loop {
            // After a panic there may be watchers who subscribed to the reader before.
            if self.updates.receiver_count() == 0 {
                self.watched.notified().await;
            }
            self.read_while_watched().await;
            self.metrics.reader_idle();
        }
    }

    async fn read_while_watched(&self) {
        let mut changes = self.store.changes();
        let mut position = None;
        let mut failing_since: Option<Instant> = None;
        while self.updates.receiver_count() > 0 {
            changes.mark_unchanged();
            let started = Instant::now();
            let step = timeout(FAILURE_TIMEOUT, self.step(&mut position)).await;
            match step.unwrap_or_else(|_| Err(StoreError::Unavailable("the database does not respond".into()))) {
                Ok(has_more) => {
                    failing_since = None;
                    if has_more {
                        continue;
                    }
                }
                Err(error) => {
                    if failing_since.is_none() {
                        tracing::error!(error = %Causes(&error), "cannot read the feed; retrying");
                    }
                    if failing_since.get_or_insert(started).elapsed() >= FAILURE_TIMEOUT {
                        self.broadcast(Update::Unresponsive);
                    }
                }
            }
            sleep(PAUSE).await;
            // After a timeout, or if the sender is gone, the table is polled all the same.
            let _notified = timeout(POLL_INTERVAL, changes.changed()).await;
        }
    }

    /// Reads new events and broadcasts them. Returns whether there may be more.
    async fn step(&self, position: &mut Option<Position>) -> Result<bool, StoreError> {
        let Some(Position { epoch, until }) = position else {
            let FeedSlice { epoch, last, .. } = self.events((Sequence::MAX, &Epoch::default()), 0).await?;
            *position = Some(self.start(epoch, last, History::default()));
            return Ok(false);
        };
        let slice = self.events((*until, epoch), read_limit()).await?;
        let starts = match check_readable(*until, epoch, &slice) {
            Ok(()) if slice.epoch == *epoch => None,
            // A new epoch began after what was read. Nothing of that was lost.
            Ok(()) => Some(Some((slice.epoch.clone(), *until))),
            Err(FeedError::WrongEpoch { epoch, common: Some(common) }) => Some(Some((epoch, common))),
            // The feed was replaced, or the next events were deleted already.
            Err(_) => Some(None),
        };
        if let Some(start) = starts {
            *position = start.map(|(epoch, last)| self.start(epoch, last, slice.history));
            return Ok(true);
        }
        check_no_gap(&slice, *until)?;
        let (events, all) = mark_commit_ends(slice.events, EVENTS_PER_READ);
        if let Some(last) = events.last() {
            let (after, last) = (*until, last.event.sequence);
            *until = last;
            self.metrics.reader_at(last.get());
            let epoch = epoch.clone();
            self.broadcast(Update::Events(Arc::new(Chunk { epoch, after, until: last, events })));
        }
        Ok(!all)
    }

    /// Begins to broadcast the events of an epoch that follow this one.
    fn start(&self, epoch: Epoch, last: Sequence, history: History) -> Position {
        self.metrics.reader_at(last.get());
        self.broadcast(Update::Start { epoch: epoch.clone(), last, history });
        Position { epoch, until: last }
    }

    async fn events(&self, (after, epoch): (Sequence, &Epoch), limit: i64) -> Result<FeedSlice, StoreError> {
        let (filter, consumer) = (EventFilter::All, Consumer::Watchers);
        self.store.events(EventQuery { filter, after, limit, consumer, epoch: epoch.clone() }).await
    }

    fn broadcast(&self, update: Update) {
        // An error means that there are no watchers.
        let _no_watchers = self.updates.send(update);
    }
}

/// One more than [`EVENTS_PER_READ`]: the extra event shows whether the last commit continues.
pub(super) fn read_limit() -> i64 {
    i64::try_from(EVENTS_PER_READ + 1).unwrap_or(i64::MAX)
}
