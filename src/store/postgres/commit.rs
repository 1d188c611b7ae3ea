//! The commit on PostgreSQL: two flights for a batch of any size.
//!
//! The first begins, locks the head and loads; the second saves and commits. Statements work on arrays, so that their
//! text never depends on how much a batch holds and they stay prepared. A third flight, between the two, loads what
//! only few batches need: users that are not kept, and what may be due of senders at their limit.
//!
//! The first flight of the next batch follows the second of this one on the same connection, without waiting for its
//! answer: PostgreSQL goes from one to the other without a pause. If this one fails, so does the next.

mod load;
mod save;

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::poll;
use tokio::join;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::unconstrained;
use uuid::Uuid;

use self::load::Loaded;
use super::open;
use crate::domain::command::{Batch, Needs, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger::{self, Changes, Head};
use crate::store::counts::KeptCounts;
use crate::store::schema::events;
use crate::store::statement::Statement;
use crate::store::tls::PostgresConfig;
use crate::store::users::KeptUsers;
use crate::store::{StoreError, Turn};

type Replies = Vec<Result<Reply, Rejection>>;

/// Begins a transaction in which the head is locked before anything else is read. At READ COMMITTED each statement that
/// follows the lock sees what the batch before committed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// Begins, and locks the head.
pub(in crate::store) const LOCK: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT 1 FROM feed WHERE id = 1 FOR UPDATE;";

/// What the writer has beyond every connection's settings: it waits for the head as long as another server may hold
/// it, and no longer; what it acknowledges is on disk; and when its server stands still within a transaction, the
/// database ends that, before the callers of the other servers have lost their patience.
pub(in crate::store) const WRITER: &str = "SET lock_timeout = '15s'; SET synchronous_commit = on; \
                      SET idle_in_transaction_session_timeout = '5s';";

/// How many batches follow each other without a pause. PostgreSQL gives a free lock to who asks at that moment, and not
/// to who waits for it: in the pause another server gets it.
const WITHOUT_PAUSE: u32 = 32;
/// How many batches are handed over with a pause each after another server has committed.
const WITH_PAUSE: u32 = 64;

/// The one connection that writes. It is made when needed, and dropped when in doubt.
pub(super) struct Writer {
    config: Arc<PostgresConfig>,
    kept: Kept,
    /// Held until all of a batch is on the wire: the next one's statements follow it there.
    line: Mutex<Line>,
    /// Held from when a batch is loaded until it is known what became of it.
    settled: Mutex<Pace>,
}

/// Where the next batch goes on.
#[derive(Default)]
struct Line {
    wire: Option<Arc<Wire>>,
    /// The batch that passed its turn on before it was known what becomes of it, and whether it failed.
    before: Option<(Arc<Batch>, Arc<AtomicBool>)>,
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

/// Whether the next batch may follow without a pause.
#[derive(Default)]
struct Pace {
    without_pause: u32,
    with_pause: u32,
}

impl Pace {
    fn pauses(&mut self, others_commit: bool) -> bool {
        if others_commit {
            self.with_pause = WITH_PAUSE;
        }
        if self.with_pause > 0 || self.without_pause == WITHOUT_PAUSE {
            (self.with_pause, self.without_pause) = (self.with_pause.saturating_sub(1), 0);
            return true;
        }
        self.without_pause += 1;
        false
    }
}

/// What is to become of a batch.
struct Decided {
    /// Whether the head was not where this server left it.
    others_commit: bool,
    before: Head,
    replies: Replies,
    changes: Changes,
}

/// Marks the connection as lost unless told that all is well: also when its future is dropped.
struct UnderWay<'a>(Option<&'a AtomicBool>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(|lost| lost.store(true, Ordering::Release));
    }
}

enum NotSaved {
    /// Nothing was stored.
    Refused(StoreError),
    /// It is not known.
    Lost(StoreError),
}

/// How a transaction failed.
enum Failure {
    /// Nothing was stored.
    Before(StoreError),
    /// The commit was sent, and it is not known what became of it. The head before it, and the batch's mark on its
    /// events.
    During { error: StoreError, before: Head, batch_id: i64, replies: Replies },
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

    pub(super) async fn commit(&self, batch: &Arc<Batch>, turn: &Turn) -> Result<Replies, StoreError> {
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

    async fn transact(&self, batch: &Arc<Batch>, turn: &Turn) -> Result<Replies, Failure> {
        let mut line = self.line.lock().await;
        // Taken out, so that a future that is dropped half-way drops it with its transaction.
        let wire = match line.wire.take().filter(|wire| !is_set(&wire.lost)) {
            Some(wire) => wire,
            None => Arc::new(Wire { conn: self.connect().await?, lost: AtomicBool::new(false) }),
        };
        let (needs, before) = (Needs::of(batch), line.before.take());
        let loading = load::begin(&wire.conn, &self.kept, &needs, batch).await;
        // From here on it is known what became of the batch before.
        let mut pace = self.settled.lock().await;
        let loaded = loading.and_then(|loaded| match before {
            Some((other, failed)) if is_set(&failed) && !Arc::ptr_eq(&other, batch) => {
                Err(StoreError::Unavailable("the batch before this one failed".into()))
            }
            Some(_) | None => Ok(loaded),
        });
        let decided = self.decide(&wire.conn, &needs, batch, loaded).await;
        let Decided { others_commit, before, replies, changes } = match decided {
            Ok(decided) if !decided.changes.is_empty() => decided,
            // Nothing to make durable. What cannot be rolled back is dropped, and the database rolls it back.
            ended => {
                if order(&wire.conn, ROLLBACK).await.is_ok() {
                    line.wire = Some(wire);
                }
                return ended.map(|decided| decided.replies).map_err(Failure::Before);
            }
        };
        let batch_id = Uuid::new_v4().as_u64_pair().0.cast_signed();
        let failed = Arc::new(AtomicBool::new(false));
        let early = if pace.pauses(others_commit) {
            None
        } else {
            line.before = Some((Arc::clone(batch), Arc::clone(&failed)));
            Some(turn)
        };
        let failure = match save_and_commit(line, wire, &changes, batch_id, early).await {
            Ok(()) => {
                self.kept.users.committed(&before, &changes);
                self.kept.counts.committed(&changes);
                return Ok(replies);
            }
            Err(NotSaved::Refused(error)) => Failure::Before(error),
            Err(NotSaved::Lost(error)) => {
                self.kept.counts.forget();
                Failure::During { error, before, batch_id, replies }
            }
        };
        failed.store(true, Ordering::Release);
        Err(failure)
    }

    async fn decide(
        &self,
        conn: &AsyncPgConnection,
        needs: &Needs,
        batch: &Batch,
        loaded: Result<Loaded, StoreError>,
    ) -> Result<Decided, StoreError> {
        let loaded = loaded?;
        let others_commit = self.kept.counts.check(&loaded.head);
        let snapshot = load::finish(conn, &self.kept, needs, batch, loaded).await?;
        let before = snapshot.head;
        let (replies, changes) = ledger::run(batch, snapshot);
        Ok(Decided { others_commit, before, replies, changes })
    }

    async fn connect(&self) -> Result<AsyncPgConnection, StoreError> {
        let mut conn = open(&self.config).await?;
        conn.batch_execute(WRITER).await?;
        Ok(conn)
    }

    /// Whether a commit that was not answered took place: whether the first event after `before` bears its mark.
    async fn settle(&self, before: Head, batch_id: i64) -> Result<bool, StoreError> {
        let conn = self.connect().await?;
        // The lock waits until the lost transaction has ended one way or the other.
        (&conn).batch_execute(LOCK).await?;
        let first = events::table.find(before.sequence.next().get()).select(events::batch_id);
        let found: Option<i64> = first.first(&mut &conn).await.optional()?;
        (&conn).batch_execute("ROLLBACK").await?;
        Ok(found == Some(batch_id))
    }
}

/// Saves and commits; passes the turn on, if there is one, as soon as all of it is on the wire.
async fn save_and_commit(
    mut line: MutexGuard<'_, Line>,
    wire: Arc<Wire>,
    changes: &Changes,
    batch_id: i64,
    early: Option<&Turn>,
) -> Result<(), NotSaved> {
    let mut under_way = UnderWay(Some(&wire.lost));
    // The commit goes out with what it commits. If one of the saves is refused it is a rollback, and says nothing.
    let flight = async { join!(biased; save::save(&wire.conn, changes, batch_id), order(&wire.conn, COMMIT)) };
    // Without the runtime's limit on what a task does at once, each statement has its place in the line once it was
    // polled, and what comes next cannot overtake it.
    let mut flight = pin!(unconstrained(flight));
    let sent = poll!(&mut flight);
    line.wire = Some(Arc::clone(&wire));
    let held = early.is_none().then_some(line);
    early.into_iter().for_each(Turn::pass);
    let outcomes = match sent {
        Poll::Ready(outcomes) => outcomes,
        Poll::Pending => flight.await,
    };
    let outcome = match outcomes {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Ok(())) | (Ok(()), Err(error @ StoreError::Refused(_))) => Err(NotSaved::Refused(error)),
        (Ok(()), Err(error)) | (Err(error), Err(_)) => Err(NotSaved::Lost(error)),
    };
    if !matches!(outcome, Err(NotSaved::Lost(_))) {
        under_way.0 = None;
    }
    drop(held);
    outcome
}

fn is_set(flag: &AtomicBool) -> bool {
    AtomicBool::load(flag, Ordering::Acquire)
}

/// Begins or ends the transaction. Not by `batch_execute`, which would overtake what is not prepared yet: all that is
/// [kept prepared](Statement) waits for its turn at the cache of prepared statements, in the order in which it was
/// first polled.
async fn order(mut conn: &AsyncPgConnection, text: &'static str) -> Result<(), StoreError> {
    Statement::<Pg>::new(text).execute(&mut conn).await?;
    Ok(())
}
