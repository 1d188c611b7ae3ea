//! A watcher: receives updates from the reader, or reads the table while it is behind.
//!
//! Its position only moves forward.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::cursor::{FeedError, check_readable};
use super::reader::{FAILURE_TIMEOUT, Update, read_limit};
use super::{EVENTS_PER_READ, Feed, MarkedEvent, check_no_gap, mark_commit_ends};
use crate::domain::event::Event;
use crate::domain::id::Sequence;
use crate::domain::query::{EventFilter, FeedSlice};
use crate::domain::selection::Selection;
use crate::domain::view::visible_event;
use crate::metrics::feed::Watching;
use crate::store::StoreError;

/// The pause before a failed read of the table is retried.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The selected events of one commit; empty in a heartbeat.
    pub events: Vec<Event>,
    /// All selected events up to this sequence have been sent.
    pub revision: Sequence,
    /// Whether the commit continues in a later message.
    pub continues: bool,
}

/// A stream of messages. Dropping it ends the watch.
pub struct Watcher {
    feed: Feed,
    selection: Selection,
    heartbeat: Duration,
    epoch: Arc<str>,
    updates: Receiver<Update>,
    stopped: watch::Receiver<bool>,
    /// Counts this watcher against the limit of the server.
    _permit: OwnedSemaphorePermit,
    /// All events up to this one were examined.
    position: Sequence,
    /// Shows the position in the metrics.
    watching: Watching,
    /// For a user who calls, the newest examined event that they may see, or where they started. Messages report it
    /// instead of the position, which shows every change of the service.
    visible: Option<Sequence>,
    /// Whether there may be events after `position` that the updates do not contain.
    behind: bool,
    ready: VecDeque<Message>,
    /// Whether the last message was marked as continued.
    continues: bool,
    last_message: Instant,
    /// The time of the first of the consecutive failed reads of the table.
    failing_since: Option<Instant>,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The event to start after.
    pub(super) start: Sequence,
    /// What a user who calls may know of it.
    pub(super) visible: Option<Sequence>,
}

impl Watcher {
    pub(super) fn new(
        feed: Feed,
        selection: Selection,
        heartbeat: Duration,
        updates: Receiver<Update>,
        permit: OwnedSemaphorePermit,
        Start { start, visible }: Start,
        bounds: FeedSlice,
    ) -> Self {
        let (stopped, watching) = (feed.stopped.clone(), feed.metrics.watch(start.get()));
        let mut watcher = Self {
            feed,
            selection,
            heartbeat,
            epoch: bounds.epoch.into(),
            updates,
            stopped,
            _permit: permit,
            position: start,
            watching,
            visible,
            behind: start < bounds.last,
            ready: VecDeque::new(),
            continues: false,
            last_message: Instant::now(),
            failing_since: None,
        };
        // The first message comes immediately and has the start position.
        watcher.push_heartbeat();
        watcher
    }

    /// The epoch of the watched feed.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Returns the next message. Not to be called again after an error.
    pub async fn next(&mut self) -> Result<Message, FeedError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.last_message = Instant::now();
                self.feed.metrics.events_sent.inc_by(message.events.len() as u64);
                return Ok(message);
            }
            let mut stopped = self.stopped.clone();
            tokio::select! {
                read = self.read() => read?,
                _ = stopped.wait_for(|stopped| *stopped) => return Err(FeedError::ShuttingDown),
            }
        }
    }

    /// Waits for the next update, read of the table or heartbeat.
    ///
    /// Cancel safe: the position moves in the same step in which messages become ready.
    async fn read(&mut self) -> Result<(), FeedError> {
        if self.behind {
            return self.read_table().await;
        }
        let update = tokio::select! {
            update = self.updates.recv() => update,
            () = sleep_until(self.last_message + self.heartbeat) => {
                self.push_heartbeat();
                return Ok(());
            }
        };
        match update {
            Ok(Update::Start { epoch, .. }) if *epoch != *self.epoch => return Err(FeedError::WrongEpoch { epoch }),
            // Events in between are not sent. If this is before the position, the feed may have become shorter.
            Ok(Update::Start { last, .. }) => self.behind = last != self.position,
            Ok(Update::Events(chunk)) if chunk.after > self.position => self.behind = true,
            Ok(Update::Events(chunk)) if chunk.until > self.position => self.advance(&chunk.events, chunk.until),
            // Already read from the table.
            Ok(Update::Events(_)) => {}
            Ok(Update::Unresponsive) | Err(RecvError::Closed) => return Err(FeedError::Unresponsive),
            Err(RecvError::Lagged(_)) => {
                // The buffer has overwritten updates that this watcher did not receive.
                self.updates = self.updates.resubscribe();
                self.behind = true;
            }
        }
        Ok(())
    }

    async fn read_table(&mut self) -> Result<(), FeedError> {
        // Within a commit, events of all users are read: the client must receive the commit's end, which may be another
        // user's event.
        let which = if self.continues { EventFilter::All } else { self.selection.filter(&self.feed.policy) };
        let Some(slice) = self.slice(which).await? else { return Ok(()) };
        check_readable(self.position, &self.epoch, &slice).map_err(|error| match (error, self.visible) {
            (FeedError::Expired { oldest: _ }, Some(_)) => FeedError::Expired { oldest: None },
            (error, _) => error,
        })?;
        if which == EventFilter::All {
            check_no_gap(&slice, self.position)?;
        }
        let end = slice.last;
        let (events, all) = mark_commit_ends(slice.events, EVENTS_PER_READ);
        let last = events.last().map_or(self.position, |marked| marked.event.sequence);
        self.behind = !all;
        self.advance(&events, if all { last.max(end) } else { last });
        if self.ready.is_empty() && self.last_message.elapsed() >= self.heartbeat {
            self.push_heartbeat();
        }
        Ok(())
    }

    /// Reads the next events from the table. Returns `None` after a pause if the read should be retried.
    async fn slice(&mut self, which: EventFilter) -> Result<Option<FeedSlice>, FeedError> {
        let started = Instant::now();
        match self.feed.read_table(which, self.position, read_limit()).await {
            Ok(slice) => {
                self.failing_since = None;
                return Ok(Some(slice));
            }
            // The queue of reads is full.
            Err(FeedError::Store(StoreError::Overloaded)) => {}
            // Not logged here: the reader logs the same error.
            Err(FeedError::Store(StoreError::Unavailable(_) | StoreError::Away(_) | StoreError::Refused(_))) => {
                if self.failing_since.get_or_insert(started).elapsed() >= FAILURE_TIMEOUT {
                    return Err(FeedError::Unresponsive);
                }
            }
            Err(error) => return Err(error),
        }
        sleep(RETRY_PAUSE).await;
        Ok(None)
    }

    /// Moves the position to `until`, and queues messages with the selected events.
    ///
    /// Events up to the old position are skipped.
    fn advance(&mut self, events: &[MarkedEvent], until: Sequence) {
        let position = self.position;
        let mut selected = Vec::new();
        for MarkedEvent { event, ends_commit } in events.iter().filter(|marked| marked.event.sequence > position) {
            if let Some(visible) = &mut self.visible
                && visible_event(event, self.selection.viewer, &self.feed.policy).is_some()
            {
                *visible = event.sequence;
            }
            selected.extend(self.selection.select(event, &self.feed.policy));
            if *ends_commit {
                self.push_message(std::mem::take(&mut selected), event.sequence, false);
            }
        }
        self.position = until;
        self.watching.reached(until.get());
        if !selected.is_empty() {
            self.push_message(selected, until, true);
        }
    }

    /// Queues a message.
    ///
    /// One without events is queued only if it ends a commit that an earlier message began.
    fn push_message(&mut self, events: Vec<Event>, at: Sequence, continues: bool) {
        if events.is_empty() && !self.continues {
            return;
        }
        // The sequence of the last selected event, not of the commit's end: that would reveal the existence of events
        // that the viewer may not see.
        let revision = events.last().map_or(self.visible.unwrap_or(at), |event| event.sequence);
        self.ready.push_back(Message { events, revision, continues });
        self.continues = continues;
    }

    /// Queues a message without events, which reports the position.
    fn push_heartbeat(&mut self) {
        let revision = self.visible.unwrap_or(self.position);
        self.ready.push_back(Message { events: Vec::new(), revision, continues: self.continues });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use tokio::sync::{Notify, Semaphore, broadcast};

    use super::*;
    use crate::domain::policy::Policy;
    use crate::domain::view::Viewer;
    use crate::store::{Options, connect};

    /// Sends the updates to a watcher that has reached event 7 of the epoch `here`. Returns what follows its first
    /// message.
    async fn after(updates: &[Update]) -> Result<Message, FeedError> {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("kith.db").display()).parse().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let feed = Feed {
            store: connect(&url, Options::default()).await.unwrap(),
            policy: Arc::new(Policy::default()),
            updates: broadcast::Sender::new(8),
            watched: Arc::new(Notify::new()),
            watcher_permits: Arc::new(Semaphore::new(1)),
            read_permits: Arc::new(Semaphore::new(1)),
            stopped,
            metrics: Arc::default(),
        };
        let everything =
            Selection { viewer: Viewer::Operator, users: HashSet::new(), kinds: HashSet::new(), pair: None };
        let (receiver, sender) = (feed.updates.subscribe(), feed.updates.clone());
        let permit = Arc::clone(&feed.watcher_permits).try_acquire_owned().unwrap();
        let (start, oldest) = (Sequence::new(7), Sequence::new(1));
        let bounds = FeedSlice { epoch: "here".to_owned(), last: start, oldest, events: Vec::new() };
        let heartbeat = Duration::from_secs(3_600);
        let mut watcher =
            Watcher::new(feed, everything, heartbeat, receiver, permit, Start { start, visible: None }, bounds);
        assert!(matches!(watcher.next().await, Ok(Message { revision, .. }) if revision == start));
        updates.iter().for_each(|update| _ = sender.send(update.clone()).unwrap());
        watcher.next().await
    }

    fn starts(epoch: &str, last: i64) -> Update {
        Update::Start { epoch: epoch.to_owned(), last: Sequence::new(last) }
    }

    /// The database may be replaced after the watcher has started and before the reader has.
    #[tokio::test]
    async fn a_watcher_learns_that_the_reader_starts_in_another_feed() {
        let ended = after(&[starts("there", 7), Update::Unresponsive]).await;
        assert!(matches!(&ended, Err(FeedError::WrongEpoch { epoch }) if epoch == "there"), "{ended:?}");
        // The table, which is empty and of another epoch, is read only by who is not at this event.
        let ended = after(&[starts("here", 7), Update::Unresponsive]).await;
        assert!(matches!(ended, Err(FeedError::Unresponsive)), "{ended:?}");
        for last in [6, 8] {
            let ended = after(&[starts("here", last), Update::Unresponsive]).await;
            assert!(matches!(ended, Err(FeedError::WrongEpoch { .. })), "{last}: {ended:?}");
        }
    }
}
