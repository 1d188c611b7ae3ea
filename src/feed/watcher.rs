//! A watcher: receives updates from the reader, or reads the table while it is behind.
//!
//! Its position only moves forward, unless events are lost that it has examined and not sent.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::cursor::{FeedError, check_readable};
use super::reader::{FAILURE_TIMEOUT, Update, read_limit};
use super::{EVENTS_PER_READ, Feed, MarkedEvent, check_no_gap, mark_commit_ends};
use crate::domain::epoch::{Epoch, History, Verdict};
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
    /// The epoch that the revision belongs to.
    pub epoch: Epoch,
    /// Whether the commit continues in a later message.
    pub continues: bool,
}

/// A stream of messages. Dropping it ends the watch.
pub struct Watcher {
    feed: Feed,
    selection: Selection,
    heartbeat: Duration,
    epoch: Epoch,
    updates: Receiver<Update>,
    stopped: watch::Receiver<bool>,
    /// Counts this watcher against the limit of the server.
    _permit: OwnedSemaphorePermit,
    /// All events up to this one were examined.
    position: Sequence,
    /// The revision of the last message that was returned. What was examined after it may still turn out to be lost.
    told: Sequence,
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
            epoch: bounds.epoch,
            updates,
            stopped,
            _permit: permit,
            position: start,
            told: visible.unwrap_or(start),
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

    /// The epoch that the watcher has reached.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Returns the next message. Not to be called again after an error.
    pub async fn next(&mut self) -> Result<Message, FeedError> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.last_message = Instant::now();
                self.told = message.revision;
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
            // Events in between are not sent. If this is before the position, the feed may have become shorter.
            Ok(Update::Start { epoch, last, .. }) if epoch == self.epoch => self.behind = last != self.position,
            // An update that does not know this watcher's epoch was sent before it began, or after a replacement: the
            // table says which.
            Ok(Update::Start { history, .. }) if history.judge(&self.epoch, self.told) == Verdict::Unknown => {
                self.behind = true;
            }
            Ok(Update::Start { epoch, last, history }) => {
                self.enter(epoch, &history, last)?;
                self.behind |= last != self.position;
            }
            Ok(Update::Events(chunk)) if chunk.epoch != self.epoch || chunk.after > self.position => {
                self.behind = true;
            }
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
        let position = self.position;
        self.enter(slice.epoch.clone(), &slice.history, slice.last)?;
        if self.position != position {
            // The slice follows an event that was lost.
            return Ok(());
        }
        check_readable(self.position, &self.epoch, &slice).map_err(|error| match self.visible {
            Some(visible) => error.within(visible),
            None => error,
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

    /// Goes on in the epoch that was found, which ends at `last` or later. `history` leads to it from this watcher's epoch.
    ///
    /// If the client received events that were lost, the watch ends. Otherwise the watcher forgets lost events that it
    /// only examined, and reads the others instead.
    fn enter(&mut self, epoch: Epoch, history: &History, last: Sequence) -> Result<(), FeedError> {
        let judge = |sequence| match () {
            () if epoch != self.epoch => history.judge(&self.epoch, sequence),
            () if sequence > last => Verdict::Wrong { common: last },
            () => Verdict::Good,
        };
        let common = match (judge(self.told), judge(self.position)) {
            (Verdict::Good, Verdict::Good) => None,
            (Verdict::Good, Verdict::Wrong { common }) => Some(common),
            (Verdict::Wrong { common }, _) => return Err(self.lost(epoch, Some(common))),
            (Verdict::Unknown, _) | (_, Verdict::Unknown) => return Err(self.lost(epoch, None)),
        };
        self.epoch = epoch;
        if let Some(common) = common {
            self.position = common;
            self.visible = self.visible.map(|_| self.told);
            self.behind = true;
        }
        Ok(())
    }

    fn lost(&self, epoch: Epoch, common: Option<Sequence>) -> FeedError {
        let error = FeedError::WrongEpoch { epoch, common };
        match self.visible {
            Some(visible) => error.within(visible),
            None => error,
        }
    }

    /// Reads the next events from the table. Returns `None` after a pause if the read should be retried.
    async fn slice(&mut self, which: EventFilter) -> Result<Option<FeedSlice>, FeedError> {
        let started = Instant::now();
        match self.feed.read_table(which, (self.position, &self.epoch), read_limit()).await {
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
        self.ready.push_back(Message { events, revision, epoch: self.epoch.clone(), continues });
        self.continues = continues;
    }

    /// Queues a message without events, which reports the position.
    fn push_heartbeat(&mut self) {
        let revision = self.visible.unwrap_or(self.position);
        let (epoch, continues) = (self.epoch.clone(), self.continues);
        self.ready.push_back(Message { events: Vec::new(), revision, epoch, continues });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use tokio::sync::{Notify, Semaphore, broadcast};

    use super::*;
    use crate::domain::epoch::EpochStart;
    use crate::domain::policy::Policy;
    use crate::domain::view::Viewer;
    use crate::feed::reader::Chunk;
    use crate::store::{Options, connect};

    /// Sends the updates to a watcher that has reached event 7 of the epoch `here`. Returns what follows its first
    /// message. The table is empty and of another epoch: a read of it ends the watch without a common event.
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
        let (epoch, history) = ("here".into(), History::default());
        let bounds = FeedSlice { epoch, history, last: start, oldest, events: Vec::new() };
        let heartbeat = Duration::from_secs(3_600);
        let mut watcher =
            Watcher::new(feed, everything, heartbeat, receiver, permit, Start { start, visible: None }, bounds);
        assert!(matches!(watcher.next().await, Ok(Message { revision, .. }) if revision == start));
        updates.iter().for_each(|update| _ = sender.send(update.clone()).unwrap());
        watcher.next().await
    }

    /// The reader starts after `last` in this epoch; it knows that `there` followed `here` with the event `first`.
    fn starts(epoch: &str, last: i64, first: Option<i64>) -> Update {
        let start = |(epoch, first): (&str, i64)| EpochStart { epoch: epoch.into(), first: Sequence::new(first) };
        let starts = first.into_iter().flat_map(|first| [("here", 1), ("there", first)]).map(start).collect();
        let (epoch, last) = (epoch.into(), Sequence::new(last));
        Update::Start { history: History::until(starts, &epoch), epoch, last }
    }

    fn events(epoch: &str, after: i64) -> Update {
        let (after, until) = (Sequence::new(after), Sequence::new(after + 1));
        Update::Events(Arc::new(Chunk { epoch: epoch.into(), after, until, events: Vec::new() }))
    }

    /// The database may be replaced after the watcher has started and before the reader has.
    #[tokio::test]
    async fn a_watcher_goes_on_where_nothing_was_lost_and_ends_otherwise() {
        let (goes_on, read) = ("goes on", "reads the table");
        for (updates, expected) in [
            (vec![starts("here", 7, None)], goes_on),
            // The table is read only by a watcher that is not at this event.
            (vec![starts("here", 6, None)], read),
            (vec![starts("here", 8, None)], read),
            (vec![starts("there", 7, None)], read),
            // Nothing up to event 7 was lost.
            (vec![starts("there", 7, Some(8))], goes_on),
            (vec![starts("there", 9, Some(8))], read),
            (vec![starts("there", 6, Some(7))], "lost after 6"),
            (vec![starts("there", 7, Some(3))], "lost after 2"),
            // Events of another epoch are not taken for those of this one, whichever is the newer one.
            (vec![events("here", 7)], goes_on),
            (vec![events("here", 8)], read),
            (vec![events("there", 7)], read),
            (vec![starts("there", 7, Some(8)), events("there", 7)], goes_on),
            (vec![starts("there", 7, Some(8)), events("here", 7)], read),
        ] {
            let ended = after(&[&updates[..], &[Update::Unresponsive]].concat()).await;
            let found = match &ended {
                Err(FeedError::Unresponsive) => goes_on.to_owned(),
                Err(FeedError::WrongEpoch { common: None, .. }) => read.to_owned(),
                Err(FeedError::WrongEpoch { common: Some(common), .. }) => format!("lost after {common}"),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{updates:?}");
        }
    }
}
