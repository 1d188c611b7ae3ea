//! The commit on PostgreSQL: two flights for a batch of any size.
//!
//! The first loads, and the second saves: one statement that commits by itself, and that saves nothing if the head of
//! the feed is no longer what the batch was decided from. So nothing is locked while a batch is decided. Statements work
//! on arrays, so that their text never depends on how much a batch holds and they stay prepared. A flight between the
//! two loads what only few batches need: users that are not kept, and what may be due of senders at their limit. And
//! a send by itself needs only the second flight, where what would be loaded can be guessed.
//!
//! The next batch is loaded on a connection of its own while this one is saved. What this one changes is laid over what
//! the next one loads, and its save follows on the wire without waiting: PostgreSQL goes from one to the other without a
//! pause. If this one fails, so does the next, since the head does not bear this one's mark.
//!
//! Where that does not do, the head is locked before anything is loaded: while another server commits too, and for what
//! takes several statements to save.

mod guess;
mod load;
mod locked;
mod save;

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::poll;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::unconstrained;

use self::load::How;
use self::locked::COMMIT;
use self::save::Saves;
use super::open;
use crate::domain::command::{Batch, Needs, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger::{self, Changes, Head};
use crate::store::counts::KeptCounts;
use crate::store::feed::new_batch_id;
use crate::store::row::FeedHead;
use crate::store::schema::events;
use crate::store::tls::PostgresConfig;
use crate::store::users::KeptUsers;
use crate::store::{StoreError, Turn};

type Replies = Vec<Result<Reply, Rejection>>;

/// Begins, and locks the head.
pub(in crate::store) const LOCK: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT 1 FROM feed WHERE id = 1 FOR UPDATE;";

/// Makes the head another one although nothing was changed: as if by a batch that nobody knows.
pub(in crate::store) const TOUCH: &str =
    "UPDATE feed SET last_batch_id = hashtextextended(gen_random_uuid()::text, 0);";

/// What the writer has beyond every connection's settings: it waits for the head as long as another server may hold
/// it, and no longer; what it acknowledges is on disk; and when its server stands still within a transaction, the
/// database ends that, before the callers of the other servers have lost their patience.
pub(in crate::store) const WRITER: &str = "SET lock_timeout = '15s'; SET synchronous_commit = on; \
                      SET idle_in_transaction_session_timeout = '5s';";

/// How many batches follow each other without a pause. PostgreSQL gives a free lock to who asks at that moment, and not
/// to who waits for it: in the pause another server gets it.
const WITHOUT_PAUSE: u32 = 32;
/// How many batches lock the head first after another server has committed.
const LOCKED: u32 = 64;

/// The one connection that writes, and the one that loads meanwhile. Each is made when needed, and dropped when in doubt.
pub(super) struct Writer {
    config: Arc<PostgresConfig>,
    kept: Kept,
    /// Held until all of a batch is on the wire: the next one's statements follow it there.
    line: Mutex<Line>,
    /// Held from when a batch is on the wire until it is known what became of it.
    settled: Mutex<()>,
}

/// Where the next batch goes on.
#[derive(Default)]
struct Line {
    wire: Option<Arc<Wire>>,
    loader: Option<AsyncPgConnection>,
    /// The batch that was put on the wire last, if what the next one loads can do without it.
    saving: Option<Arc<Saving>>,
    /// How many batches are still to lock the head first.
    to_lock: u32,
    without_pause: u32,
}

/// What need not be read again.
struct Kept {
    users: Arc<KeptUsers>,
    counts: KeptCounts,
}

/// The connection, and whether something is wrong with it.
struct Wire {
    conn: AsyncPgConnection,
    lost: AtomicBool,
}

/// A batch on the wire.
struct Saving {
    before: FeedHead,
    changes: Changes,
    batch_id: i64,
    failed: AtomicBool,
}

/// Marks the connection as lost unless told that all is well: also when its future is dropped.
struct UnderWay<'a>(Option<&'a AtomicBool>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(|lost| lost.store(true, Ordering::Release));
    }
}

enum NotSaved {
    /// Nothing was stored, since the head is not what it was taken for, or what was guessed is not so.
    Stale,
    /// Nothing was stored.
    Refused(StoreError),
    /// It is not known.
    Lost(StoreError),
}

impl From<DieselError> for NotSaved {
    fn from(error: DieselError) -> Self {
        let error = StoreError::from(error);
        if matches!(error, StoreError::Refused(_)) { Self::Refused(error) } else { Self::Lost(error) }
    }
}

/// How a transaction failed.
enum Failure {
    /// Nothing was stored.
    Before(StoreError),
    /// The commit was sent, and it is not known what became of it. The head before it, and the batch's mark on its
    /// events.
    During { error: StoreError, before: Head, batch_id: i64, replies: Replies },
}

/// What is to become of a batch.
struct Decided {
    before: FeedHead,
    replies: Replies,
    changes: Changes,
}

impl Kept {
    /// Keeps what was saved of a batch that no other followed. Answers nothing if nothing was stored.
    fn conclude(
        &self,
        outcome: Result<(), NotSaved>,
        decided: Decided,
        batch_id: i64,
    ) -> Result<Option<Replies>, Failure> {
        let Decided { before, replies, changes } = decided;
        match outcome {
            Ok(()) => {
                self.users.committed(&before.head, &changes);
                self.counts.change(&changes, batch_id);
                Ok(Some(replies))
            }
            Err(NotSaved::Stale) => Ok(None),
            Err(NotSaved::Refused(error)) => Err(Failure::Before(error)),
            Err(NotSaved::Lost(error)) => {
                self.counts.forget();
                Err(Failure::During { error, before: before.head, batch_id, replies })
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Before(error)
    }
}

impl Writer {
    pub(super) fn new(config: Arc<PostgresConfig>, users: Arc<KeptUsers>, counts: KeptCounts) -> Self {
        Self { config, kept: Kept { users, counts }, line: Mutex::default(), settled: Mutex::default() }
    }

    pub(super) async fn commit(&self, batch: &Batch, turn: &Turn) -> Result<Replies, StoreError> {
        match self.transact(batch, turn).await {
            Ok(replies) => Ok(replies),
            Err(Failure::Before(error)) => Err(error),
            Err(Failure::During { error, before, batch_id, replies }) => {
                tracing::warn!(error = &error as &dyn Error, "a commit was not answered; asking the database again");
                self.settle(before, batch_id).await.map_or_else(
                    |unsettled| Err(StoreError::OutcomeUnknown(unsettled.into())),
                    |committed| if committed { Ok(replies) } else { Err(error) },
                )
            }
        }
    }

    async fn transact(&self, batch: &Batch, turn: &Turn) -> Result<Replies, Failure> {
        let needs = Needs::of(batch);
        let mut line = self.line.lock().await;
        if batch.is_about_pairs() && line.to_lock == 0 {
            if let Some(replies) = self.guess(&mut line, &needs, batch).await? {
                return Ok(replies);
            }
            if let Some(replies) = self.without_lock(line, &needs, batch, turn).await? {
                return Ok(replies);
            }
            line = self.line.lock().await;
            line.to_lock = line.to_lock.max(1);
        }
        self.with_lock(line, &needs, batch).await
    }

    /// Commits a batch if the head stays what it is taken for; otherwise nothing is changed, and nothing answered.
    async fn without_lock(
        &self,
        mut line: MutexGuard<'_, Line>,
        needs: &Needs,
        batch: &Batch,
        turn: &Turn,
    ) -> Result<Option<Replies>, Failure> {
        let saving = line.saving.clone().filter(|saving| !AtomicBool::load(&saving.failed, Ordering::Acquire));
        let how = How::AsItIs(saving.as_ref().map(|saving| &saving.changes));
        let loader = match line.loader.take() {
            Some(loader) => loader,
            None => open(&self.config).await?,
        };
        let loaded = load::begin(&loader, &self.kept, how, needs, batch).await?;
        let expected = self.kept.counts.head();
        let is_before_saving = saving.as_ref().is_some_and(|saving| saving.before == loaded.head);
        if expected.as_ref() != Some(&loaded.head) && !is_before_saving {
            line.loader = Some(loader);
            line.to_lock = if expected.is_some() { LOCKED } else { 1 };
            return Ok(None);
        }
        let mut before = loaded.head.clone();
        let snapshot = load::finish(&loader, &self.kept, how, needs, batch, loaded).await?;
        if let Some(saving) = saving.filter(|_| is_before_saving) {
            (before.head, before.batch_id) = (snapshot.head, saving.batch_id);
        }
        let (replies, changes) = ledger::run(batch, snapshot);
        if changes.is_empty() {
            // No save that could be refused: the head is asked for once more.
            let _settled = self.settled.lock().await;
            let now = load::head(&loader).await?;
            line.loader = Some(loader);
            return Ok((now == before).then_some(replies));
        }
        line.loader = Some(loader);
        let wire = self.wire(&mut line).await?;
        let batch_id = new_batch_id();
        let saving = Arc::new(Saving { before, changes, batch_id, failed: AtomicBool::new(false) });
        match self.save(line, &wire, &saving, turn).await {
            Ok(()) => Ok(Some(replies)),
            Err(NotSaved::Stale) => {
                self.line.lock().await.to_lock = LOCKED;
                Ok(None)
            }
            Err(NotSaved::Refused(error)) => Err(Failure::Before(error)),
            Err(NotSaved::Lost(error)) => Err(Failure::During { error, before: saving.before.head, batch_id, replies }),
        }
    }

    /// Saves a batch by one statement; passes the turn on as soon as that is on the wire and the batch before is settled.
    async fn save(
        &self,
        mut line: MutexGuard<'_, Line>,
        wire: &Wire,
        saving: &Arc<Saving>,
        turn: &Turn,
    ) -> Result<(), NotSaved> {
        self.kept.counts.change(&saving.changes, saving.batch_id);
        line.saving = saving.changes.can_be_laid_over().then(|| Arc::clone(saving));
        let mut under_way = UnderWay(Some(&wire.lost));
        let saves = Saves::new(&saving.before, &saving.changes, saving.batch_id);
        // Once it was polled it has its place on the wire, and what comes next cannot overtake it: without the runtime's
        // limit on what a task does at once.
        let mut flight = pin!(unconstrained(saves.save(&wire.conn)));
        let sent = poll!(&mut flight);
        let _settled = self.settled.lock().await;
        let early = line.saving.is_some() && line.without_pause < WITHOUT_PAUSE;
        line.without_pause = if early { line.without_pause + 1 } else { 0 };
        let held = if early {
            drop(line);
            turn.pass();
            None
        } else {
            Some(line)
        };
        let outcome = match sent {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => flight.await,
        };
        drop(held);
        match &outcome {
            Ok(()) => under_way.0 = None,
            Err(error) => {
                saving.failed.store(true, Ordering::Release);
                self.kept.counts.forget();
                if !matches!(error, NotSaved::Lost(_)) {
                    under_way.0 = None;
                }
            }
        }
        outcome
    }

    /// The connection that writes, made anew if something is wrong with it.
    async fn wire(&self, line: &mut Line) -> Result<Arc<Wire>, StoreError> {
        if let Some(wire) = line.wire.as_ref().filter(|wire| !AtomicBool::load(&wire.lost, Ordering::Acquire)) {
            return Ok(Arc::clone(wire));
        }
        let wire = Wire { conn: self.connect().await?, lost: AtomicBool::new(false) };
        Ok(Arc::clone(line.wire.insert(Arc::new(wire))))
    }

    async fn connect(&self) -> Result<AsyncPgConnection, StoreError> {
        let mut conn = open(&self.config).await?;
        conn.batch_execute(WRITER).await?;
        Ok(conn)
    }

    /// Whether a commit that was not answered took place: whether the first event after `before` bears its mark. If it did
    /// not it cannot any more, wherever it is under way: the head that it, or one that it follows, would leave is none that
    /// anybody can leave any more.
    async fn settle(&self, before: Head, batch_id: i64) -> Result<bool, StoreError> {
        let conn = self.connect().await?;
        // The lock waits until the lost transaction has ended one way or the other.
        (&conn).batch_execute(LOCK).await?;
        let first = events::table.find(before.sequence.next().get()).select(events::batch_id);
        let found: Option<i64> = first.first(&mut &conn).await.optional()?;
        let committed = found == Some(batch_id);
        if !committed {
            (&conn).batch_execute(TOUCH).await?;
        }
        (&conn).batch_execute(COMMIT).await?;
        Ok(committed)
    }
}
