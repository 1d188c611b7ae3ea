//! The one reader of the table.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, timeout};

use super::place::{Lost, still_there};
use super::{SLICE, Told, told, unbroken};
use crate::domain::id::Sequence;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice};
use crate::store::{Store, StoreError};

/// The shortest time between two reads: under load, many commits make one read, and wake the watchers once.
const PAUSE: Duration = Duration::from_millis(5);
/// How often the database is asked although it told of nothing.
const POLL: Duration = Duration::from_secs(1);
/// How long the database may fail, or not answer at all, before watchers are sent to another server, which may still
/// reach it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What the reader tells all watchers.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// The feed goes on.
    Part(Arc<Part>),
    /// It is another feed now: the database was restored.
    Replaced {
        /// The epoch of the new one.
        epoch: String,
    },
    /// The database has not answered for some time.
    Silent,
}

/// The events after one up to another: all of them.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) after: Sequence,
    pub(super) until: Sequence,
    pub(super) events: Vec<Told>,
}

pub(super) struct Reader {
    store: Arc<dyn Store>,
    news: broadcast::Sender<News>,
    watched: Arc<Notify>,
}

/// How far the reader is.
struct Position {
    epoch: String,
    until: Sequence,
}

impl Reader {
    pub(super) fn new(store: Arc<dyn Store>, news: broadcast::Sender<News>, watched: Arc<Notify>) -> Self {
        Self { store, news, watched }
    }

    pub(super) async fn run(self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.read() => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn read(&self) {
        loop {
            self.watched.notified().await;
            self.read_while_watched().await;
        }
    }

    async fn read_while_watched(&self) {
        let mut changes = self.store.changes();
        let mut position = None;
        let mut failing: Option<Instant> = None;
        while self.news.receiver_count() > 0 {
            changes.mark_unchanged();
            let begun = Instant::now();
            let step = timeout(PATIENCE, self.step(&mut position)).await;
            match step.unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".into()))) {
                Ok(more) => {
                    failing = None;
                    if more {
                        continue;
                    }
                }
                Err(error) => {
                    if failing.is_none() {
                        tracing::error!(error = &error as &dyn Error, "the feed cannot be read");
                    }
                    if failing.get_or_insert(begun).elapsed() >= PATIENCE {
                        self.tell(News::Silent);
                    }
                }
            }
            sleep(PAUSE).await;
            // A time-out is no news, and so is a sender that is gone: the database is asked all the same.
            let _news = timeout(POLL, changes.changed()).await;
        }
    }

    /// Reads what is new and tells it; answers whether there may be more.
    async fn step(&self, position: &mut Option<Position>) -> Result<bool, StoreError> {
        let Some(Position { epoch, until }) = position else {
            let bounds = self.events(Sequence::MAX, 0).await?;
            // Who is not there yet reads the table first.
            self.tell(News::Part(Arc::new(Part { after: bounds.last, until: bounds.last, events: Vec::new() })));
            *position = Some(Position { epoch: bounds.epoch, until: bounds.last });
            return Ok(false);
        };
        let slice = self.events(*until, limit()).await?;
        if let Err(lost) = still_there(*until, epoch, &slice) {
            if let Lost::WrongEpoch { epoch } = lost {
                self.tell(News::Replaced { epoch });
            }
            // Or so far behind that what follows is deleted: the watchers read the table, and are told the same there.
            *position = None;
            return Ok(true);
        }
        unbroken(&slice, *until)?;
        let (events, all) = told(slice.events, SLICE);
        if let Some(last) = events.last() {
            let (after, last) = (*until, last.event.sequence);
            *until = last;
            self.tell(News::Part(Arc::new(Part { after, until: last, events })));
        }
        Ok(!all)
    }

    async fn events(&self, after: Sequence, limit: i64) -> Result<FeedSlice, StoreError> {
        let consumer = Consumer::Watchers;
        self.store.events(EventQuery { filter: EventFilter::All, after, limit, consumer }).await
    }

    fn tell(&self, news: News) {
        // An error means that nobody watches any more.
        let _nobody = self.news.send(news);
    }
}

/// One more than is told, to know whether the last commit goes on.
pub(super) fn limit() -> i64 {
    i64::try_from(SLICE + 1).unwrap_or(i64::MAX)
}
