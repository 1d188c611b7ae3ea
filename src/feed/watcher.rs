//! One watcher: a cursor that only moves on, fed by the reader's news or, when it is behind, from the table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::place::{Lost, still_there};
use super::reader::{News, PATIENCE, limit};
use super::{Feed, SLICE, Told, told, unbroken};
use crate::domain::event::Event;
use crate::domain::id::Sequence;
use crate::domain::query::{EventFilter, FeedSlice};
use crate::domain::selection::Selection;
use crate::store::StoreError;

/// The pause before the table is read again, when that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What a watcher is told at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Those of one commit that it selects; none in a heartbeat.
    pub events: Vec<Event>,
    /// Everything up to here has been told.
    pub revision: Sequence,
    /// Whether the next message has more of the commit, or ends it.
    pub continues: bool,
}

/// A stream of messages. Dropping it ends the watch.
pub struct Watcher {
    feed: Feed,
    selection: Selection,
    heartbeat: Duration,
    epoch: Arc<str>,
    news: Receiver<News>,
    stopped: watch::Receiver<bool>,
    _seat: OwnedSemaphorePermit,
    /// Everything up to here was looked at.
    cursor: Sequence,
    /// Whether there may be events after the cursor that the news do not have.
    behind: bool,
    ready: VecDeque<Message>,
    /// Whether the last message said that its commit continues.
    continues: bool,
    last_message: Instant,
    /// Since when the table cannot be read.
    failing: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(
        feed: Feed,
        selection: Selection,
        heartbeat: Duration,
        news: Receiver<News>,
        seat: OwnedSemaphorePermit,
        start: Sequence,
        bounds: FeedSlice,
    ) -> Self {
        let stopped = feed.stopped.clone();
        let mut watcher = Self {
            feed,
            selection,
            heartbeat,
            epoch: bounds.epoch.into(),
            news,
            stopped,
            _seat: seat,
            cursor: start,
            behind: start < bounds.last,
            ready: VecDeque::new(),
            continues: false,
            last_message: Instant::now(),
            failing: None,
        };
        // At once: the caller learns where it is.
        watcher.beat();
        watcher
    }

    /// The epoch of the feed that is watched.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The next message. After an error there is none.
    pub async fn next(&mut self) -> Result<Message, Lost> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.last_message = Instant::now();
                return Ok(message);
            }
            let mut stopped = self.stopped.clone();
            tokio::select! {
                read = self.read() => read?,
                _ = stopped.wait_for(|stopped| *stopped) => return Err(Lost::ShuttingDown),
            }
        }
    }

    /// Waits for whatever comes next. May be dropped half-way: the cursor moves with what was gathered, not before.
    async fn read(&mut self) -> Result<(), Lost> {
        if self.behind {
            return self.read_table().await;
        }
        let news = tokio::select! {
            news = self.news.recv() => news,
            () = sleep_until(self.last_message + self.heartbeat) => {
                self.beat();
                return Ok(());
            }
        };
        match news {
            Ok(News::Part(part)) if part.after > self.cursor => self.behind = true,
            Ok(News::Part(part)) if part.until > self.cursor => self.gather(&part.events, part.until),
            // It was told from the table.
            Ok(News::Part(_)) => {}
            Ok(News::Replaced { epoch }) if *epoch != *self.epoch => return Err(Lost::WrongEpoch { epoch }),
            // It began in the new feed before the reader did; or the feed is shorter now, and the table tells by how
            // much.
            Ok(News::Replaced { .. }) => self.behind = true,
            Ok(News::Silent) | Err(RecvError::Closed) => return Err(Lost::Silent),
            Err(RecvError::Lagged(_)) => {
                // Nothing is held for who is this slow.
                self.news = self.news.resubscribe();
                self.behind = true;
            }
        }
        Ok(())
    }

    async fn read_table(&mut self) -> Result<(), Lost> {
        // Who was told a part of a commit is told its end, which only all of its events show.
        let subject = self.selection.subject().filter(|_| !self.continues);
        let which = subject.map_or(EventFilter::All, EventFilter::Of);
        let Some(slice) = self.slice(which).await? else { return Ok(()) };
        still_there(self.cursor, &self.epoch, &slice)?;
        if which == EventFilter::All {
            unbroken(&slice, self.cursor)?;
        }
        let end = slice.last;
        let (events, all) = told(slice.events, SLICE);
        let last = events.last().map_or(self.cursor, |told| told.event.sequence);
        self.behind = !all;
        self.gather(&events, if all { last.max(end) } else { last });
        if self.ready.is_empty() && self.last_message.elapsed() >= self.heartbeat {
            self.beat();
        }
        Ok(())
    }

    /// What follows in the table; nothing, after a pause, where that cannot be read now.
    async fn slice(&mut self, which: EventFilter) -> Result<Option<FeedSlice>, Lost> {
        let begun = Instant::now();
        match self.feed.read_in_turn(which, self.cursor, limit()).await {
            Ok(slice) => {
                self.failing = None;
                return Ok(Some(slice));
            }
            // All connections are busy with calls.
            Err(Lost::Store(StoreError::Overloaded)) => {}
            // The reader logs what is wrong.
            Err(Lost::Store(StoreError::Unavailable(_) | StoreError::Refused(_))) => {
                if self.failing.get_or_insert(begun).elapsed() >= PATIENCE {
                    return Err(Lost::Silent);
                }
            }
            Err(lost) => return Err(lost),
        }
        sleep(PAUSE).await;
        Ok(None)
    }

    /// Makes messages of what is selected, and moves the cursor. What was told before is left out.
    fn gather(&mut self, events: &[Told], until: Sequence) {
        let cursor = self.cursor;
        let mut selected = Vec::new();
        for Told { event, ends } in events.iter().filter(|told| told.event.sequence > cursor) {
            selected.extend(self.selection.told(event, &self.feed.policy));
            if *ends {
                self.close(std::mem::take(&mut selected), event.sequence, false);
            }
        }
        self.cursor = until;
        if !selected.is_empty() {
            self.close(selected, until, true);
        }
    }

    /// Ends a message, if there is something to tell.
    fn close(&mut self, events: Vec<Event>, at: Sequence, continues: bool) {
        if events.is_empty() && !self.continues {
            return;
        }
        // Not the end of the commit: that could tell a viewer of events that they may not see.
        let revision = events.last().map_or(at, |event| event.sequence);
        self.ready.push_back(Message { events, revision, continues });
        self.continues = continues;
    }

    /// Tells how far the feed was read. What is ready tells it better.
    fn beat(&mut self) {
        self.ready.push_back(Message { events: Vec::new(), revision: self.cursor, continues: self.continues });
    }
}
