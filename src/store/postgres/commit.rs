//! The commit on PostgreSQL: one transaction for each batch, in two round trips.
//!
//! ```text
//! 1  BEGIN, lock the head of the feed and read the clock, load what the batch needs     pipelined
//!    decide, in memory
//! 2  save, COMMIT                                                                       pipelined
//! ```
//!
//! **What is locked.** The head of the feed, one row (`SELECT … FOR UPDATE`). Every writer of every server takes it
//! first, so one batch at a time is decided and saved in the whole cluster. At READ COMMITTED each statement after the
//! lock sees everything that earlier batches committed. Nothing deadlocks, since nobody locks anything before the head.
//! The statement that locks the head also reads the database's clock, once it holds the lock. All servers decide by this
//! time (ADR 10).
//!
//! **What is checked.** Users and counts that the writer caches ([`WriterState`]) are valid only if the locked head is
//! the one that this writer's last commit left; no two batches leave the same head, since each writes a random batch
//! id. Otherwise they are loaded again. The update of the head fails, and the transaction with it, if the head is not the
//! one that was locked: should the lock be lost, for whatever reason, nothing is saved.
//!
//! **What begins an epoch.** The head names the newest epoch and the lineage that it began with. A commit on a connection
//! of another lineage, as after a failover, begins a new epoch: its name is saved with the batch, so of two servers that
//! find the failover at the same time, one begins it, and the other reads it in the head.
//!
//! **What a call's time shows.** The number of round trips and of statements depends on the kinds of commands in the
//! batch and on what is cached, never on what a caller must not know: a send takes the same two round trips into
//! nothing, into a block, within a cooldown, and when it is refused. That is why nothing is guessed and saved on
//! condition, and why an empty statement replaces the save when nothing changed. Two cases take a third round
//! trip: users whom only the first one names (a request's other user who is not cached), and senders at their limit.
//!
//! **What a lost connection means.** Before `COMMIT` is sent, nothing was stored: PostgreSQL rolls back when it notices
//! the end of the connection, or after `idle_in_transaction_session_timeout`. After it was sent, the outcome is unknown
//! until a new connection has locked the head: the lost transaction has ended by then, one way or the other, and the
//! head or the batch's first event bears its batch id if it was committed. If that cannot be found out either, the
//! caller receives `OUTCOME_UNKNOWN`.
//!
//! Statements work on arrays, so that their text does not depend on the size of a batch and they stay prepared. Counts
//! are saved with each batch; writing them once for many batches would go into `save` and [`WriterState`].

mod bulk;
mod load;
mod save;

use std::sync::Arc;

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Mutex;

pub(in crate::store) use self::bulk::PostgresBulk;
use self::save::NotSaved;
use super::config::{PostgresConfig, SharedConnection};
use super::kind::warn_if_unknown;
use super::role::{Role, open_shared};
use crate::causes::Causes;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger;
use crate::metrics::database::{Database, Pool, PoolState};
use crate::store::StoreError;
use crate::store::clock::DatabaseClock;
use crate::store::feed::new_batch_id;
use crate::store::query;
use crate::store::row::{FeedHead, FeedRow};
use crate::store::schema::events;
use crate::store::statement::PgStatement;
use crate::store::writer::{Loaded, WriterState};
use crate::traces::statements;

type Replies = Vec<Result<Reply, Rejection>>;

/// Begins, and locks the head.
pub(in crate::store) const LOCK: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT 1 FROM feed WHERE id = 1 FOR UPDATE;";

/// Replaces the batch id of the head, so that no writer takes its cache for valid.
pub(in crate::store) const TOUCH: &str =
    "UPDATE feed SET last_batch_id = hashtextextended(gen_random_uuid()::text, 0);";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// Replaces the save of a batch without changes, and the beginning of a transaction that has begun.
///
/// It makes the round trip the same as with changes: see the [module](self).
const NOTHING: &str = "SELECT";

/// Commits batches, one at a time.
pub(super) struct Writer {
    config: Arc<PostgresConfig>,
    clock: Arc<DatabaseClock>,
    session: Arc<Mutex<Session>>,
    /// Counts connections that replace one that was lost.
    reconnects: Counter,
}

struct Session {
    /// Taken out during a commit, and put back if it succeeds.
    ///
    /// An error, a panic or a dropped future therefore closes the connection, and PostgreSQL rolls back.
    conn: Option<SharedConnection>,
    /// Whether there was a connection before.
    connected: bool,
    state: WriterState,
}

impl Writer {
    pub(super) fn new(
        config: Arc<PostgresConfig>,
        clock: Arc<DatabaseClock>,
        state: WriterState,
        metrics: &Database,
    ) -> Self {
        let session = Arc::new(Mutex::new(Session { conn: None, connected: false, state }));
        let measured = Arc::downgrade(&session);
        metrics.pool(Pool::Writer).set(move || {
            let session = measured.upgrade()?;
            // It is locked during a commit.
            let (idle, busy) = session.try_lock().map_or((0, 1), |session| (usize::from(session.conn.is_some()), 0));
            Some(PoolState { idle, busy, max: 1, waiting: 0 })
        });
        Self { config, clock, session, reconnects: metrics.reconnects(Pool::Writer).clone() }
    }

    pub(super) async fn commit(&self, batch: &Batch) -> Result<Replies, StoreError> {
        self.config.ready().await?;
        let Session { conn: idle, connected, state } = &mut *self.session.lock().await;
        let conn = match idle.take().filter(|conn| !conn.is_closed()) {
            Some(conn) => conn,
            None => {
                let conn = self.connect().await?;
                warn_if_unknown(conn.lineage);
                if std::mem::replace(connected, true) {
                    self.reconnects.inc();
                }
                conn
            }
        };
        let Loaded { before, snapshot } =
            statements("load", load::lock_and_load((&conn.conn, conn.lineage), state, &self.clock, batch)).await?;
        let (replies, changes) = ledger::run(batch, snapshot);
        let batch_id = new_batch_id();
        match statements("save", save::save_and_commit(&conn.conn, &before, &changes, batch_id)).await {
            Ok(()) => *idle = Some(conn),
            Err(NotSaved::RolledBack(error)) => {
                *idle = Some(conn);
                return Err(error);
            }
            Err(NotSaved::Unknown(error)) => {
                drop(conn);
                if !self.is_committed(&before, batch_id, &error).await? {
                    return Err(error);
                }
            }
        }
        state.committed(&before, &changes, batch_id);
        Ok(replies)
    }

    async fn connect(&self) -> Result<SharedConnection, StoreError> {
        open_shared(&self.config, Role::Writer).await
    }

    /// Whether a batch was committed whose connection was lost during its commit.
    async fn is_committed(&self, before: &FeedHead, batch_id: i64, lost: &StoreError) -> Result<bool, StoreError> {
        tracing::warn!(error = %Causes(lost), "the connection was lost during a commit; looking up its outcome");
        let look_up = async {
            let shared = self.connect().await?;
            let mut conn = &shared.conn;
            // Waits until the lost transaction has ended.
            conn.batch_execute(LOCK).await?;
            let head = query::head().first::<FeedRow>(&mut conn).await?.head();
            let first = events::table.find(before.head.sequence.next().get()).select(events::batch_id);
            let first: Option<i64> = first.first(&mut conn).await.optional()?;
            conn.batch_execute(ROLLBACK).await?;
            Ok::<_, StoreError>(head.batch_id == batch_id || first == Some(batch_id))
        };
        look_up.await.map_err(|unsettled| StoreError::OutcomeUnknown(unsettled.into()))
    }
}

/// Executes a statement that begins or ends a transaction.
///
/// It is a prepared statement like all others, because these are sent in the order in which they are first polled.
/// `batch_execute` would overtake those that are not prepared yet.
async fn control(mut conn: &AsyncPgConnection, text: &'static str) -> Result<(), StoreError> {
    PgStatement::<()>::new(text).execute(&mut conn).await?;
    Ok(())
}
