//! The feed as one server tells it: one reader of the table, and as many watchers as there are.
//!
//! The reader reads what is new as soon as it hears of a commit, and hands it to all watchers at once. A watcher that
//! is behind, since it begins in the past or reads slowly, reads the table itself until it is not. Nothing is ever
//! skipped: the feed has no gaps, so each part says after which event it begins, and who is not there yet knows it.

mod list;
mod place;
mod reader;
mod watcher;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

pub use self::list::Page;
pub use self::place::{Lost, Place};
use self::reader::{News, PATIENCE, Reader};
pub use self::watcher::{Message, Watcher};
use crate::domain::event::Event;
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice, Recorded};
use crate::domain::selection::Selection;
use crate::store::{Store, StoreError};

/// How many events are read at once.
const SLICE: usize = 512;
/// How many parts of the feed are held for watchers that are a little behind: with the size of a part, this bounds what
/// slow watchers cost, however many they are, to some 7 MB.
const PARTS_HELD: usize = 128;
/// How many watchers read the table at the same time; the others wait. However many begin at once or are behind, the
/// reader hardly waits for them at the connection that they share.
const TURNS: usize = 2;

/// The way to the feed. Cheap to clone.
#[derive(Clone)]
pub struct Feed {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    news: broadcast::Sender<News>,
    watched: Arc<Notify>,
    seats: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Feed {
    /// Starts the reader. It rests while nobody watches, and ends, as all watchers do, when `stopped` turns true.
    pub fn start(
        store: Arc<dyn Store>,
        policy: Arc<Policy>,
        max_watchers: usize,
        stopped: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>) {
        let news = broadcast::Sender::new(PARTS_HELD);
        let watched = Arc::new(Notify::new());
        let reader = Reader::new(Arc::clone(&store), news.clone(), Arc::clone(&watched));
        let task = tokio::spawn(reader.run(stopped.clone()));
        let (seats, turns) = (Arc::new(Semaphore::new(max_watchers)), Arc::new(Semaphore::new(TURNS)));
        (Self { store, policy, news, watched, seats, turns, stopped }, task)
    }

    /// Watches the feed from a place on; after each `heartbeat` without a message there is one without events.
    pub async fn watch(&self, selection: Selection, place: Place, heartbeat: Duration) -> Result<Watcher, Lost> {
        let seat = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| Lost::TooMany)?;
        // Before the feed is asked for its end: what comes later is heard of.
        let news = self.news.subscribe();
        self.watched.notify_one();
        let bounds = self.read_in_turn(EventFilter::All, Sequence::MAX, 0).await?;
        let start = place.find(&bounds)?;
        Ok(Watcher::new(self.clone(), selection, heartbeat, news, seat, start, bounds))
    }

    /// Reads the table for one watcher. A database that does not answer is waited for as long as one that fails is.
    ///
    /// In a task of its own: a stream whose caller does not read is not polled, whatever it is about to do. It would
    /// keep its turn, and its place at a connection, for as long as the caller likes.
    async fn read_in_turn(&self, filter: EventFilter, after: Sequence, limit: i64) -> Result<FeedSlice, Lost> {
        let (store, turns) = (Arc::clone(&self.store), Arc::clone(&self.turns));
        let query = EventQuery { filter, after, limit, consumer: Consumer::Watchers };
        // Ended when this is dropped.
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            // The semaphore is never closed; without a turn, the read only comes sooner.
            let _turn = turns.acquire().await;
            timeout(PATIENCE, store.events(query)).await
        });
        match reading.join_next().await {
            Some(Ok(Ok(slice))) => Ok(slice?),
            Some(Ok(Err(_elapsed))) => Err(Lost::Silent),
            Some(Err(panic)) => Err(StoreError::Internal(panic.into()).into()),
            None => Err(StoreError::Internal("a read was not begun".into()).into()),
        }
    }
}

/// An event, and whether it is the last of its commit that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    event: Event,
    ends: bool,
}

/// At most `limit` events of the slice with the ends of their commits marked, and whether these were all. The slice was
/// read with a limit of one more, to know whether the last commit goes on.
fn told(mut events: Vec<Recorded>, limit: usize) -> (Vec<Told>, bool) {
    let all = events.len() <= limit;
    let beyond = events.get(limit).map(|recorded| recorded.commit);
    events.truncate(limit);
    let mut commits: Vec<_> = events.iter().skip(1).map(|recorded| Some(recorded.commit)).collect();
    commits.push(beyond);
    let mark = |(Recorded { commit, event }, next)| Told { event, ends: next != Some(commit) };
    (events.into_iter().zip(commits).map(mark).collect(), all)
}

/// Whether all that follows `after` was read. Commits are serial, so a gap is a fault, and is told as one.
fn unbroken(slice: &FeedSlice, after: Sequence) -> Result<(), StoreError> {
    match hole(slice, after) {
        None => Ok(()),
        Some(last) => Err(StoreError::Corrupt { column: "events.sequence", value: format!("a gap after {last}") }),
    }
}

/// The event after which the feed has a hole, if it has one in what was read after `after`.
fn hole(slice: &FeedSlice, after: Sequence) -> Option<Sequence> {
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
        };
        Recorded { commit, event }
    }

    fn ends(commits: &[i64], limit: usize) -> (Vec<bool>, bool) {
        let events = commits.iter().zip(1..).map(|(commit, sequence)| recorded(sequence, *commit)).collect();
        let (events, all) = told(events, limit);
        (events.into_iter().map(|told| told.ends).collect(), all)
    }

    #[test]
    fn the_last_event_of_each_commit_is_marked() {
        assert_eq!(ends(&[], 3), (vec![], true));
        assert_eq!(ends(&[7, 7, 8], 3), (vec![false, true, true], true));
        assert_eq!(ends(&[7, 8, 8, 8], 3), (vec![true, false, false], false), "the commit goes on");
        assert_eq!(ends(&[7, 8, 8, 9], 3), (vec![true, false, true], false), "the next is another commit's");
    }

    #[test]
    fn a_hole_is_seen_wherever_it_is() {
        let slice = |sequences: &[i64]| FeedSlice {
            epoch: String::new(),
            last: Sequence::new(9),
            oldest: Sequence::new(1),
            events: sequences.iter().map(|sequence| recorded(*sequence, 1)).collect(),
        };
        let after = Sequence::new(3);
        assert_eq!(hole(&slice(&[]), after), None);
        assert_eq!(hole(&slice(&[4, 5, 6]), after), None);
        assert_eq!(hole(&slice(&[5, 6]), after), Some(after), "the first is missing");
        assert_eq!(hole(&slice(&[4, 6]), after), Some(Sequence::new(4)));
        assert_eq!(hole(&slice(&[4, 4]), after), Some(Sequence::new(4)), "twice");
    }
}
