//! A connection of either engine that runs plain SQL, for the commands of operators.
//!
//! Both engines run the same text. That matters more than speed here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::connect::{DatabaseUrl, Engine, blocking};
use super::engine::SharedQuery;
use super::postgres::{self, PostgresConfig, SERVING};
use super::sqlite::{self, SqliteFile};
use super::{ConnectError, StoreError};
use crate::clock::Clock;
use crate::domain::epoch::Lineage;

/// Begins one snapshot for all queries. They read whole tables, so they have no time limit. PostgreSQL plans them freely,
/// but without nested loops: without statistics, as after a restore, it underestimates their cost and would scan one
/// table for each row of another. A join with the head cannot do without one. Its cost then seems so high that
/// PostgreSQL would compile the statement (`jit`), for half a second on any database.
const READ: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET timezone = 'UTC'; \
                    SET enable_nestloop = off; SET jit = off; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";

/// For reads of a page after a key.
const BY_INDEX: &str = "SET enable_nestloop = on; SET enable_seqscan = off; SET enable_bitmapscan = off; \
                        SET enable_hashjoin = off; SET enable_mergejoin = off;";

/// Attempts to find no server, and the pause after each: one that was just stopped may still be connected.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// The sessions of servers: each holds a lock as long as it is connected.
const SERVERS: &str = "SELECT CAST(pid AS bigint) AS number, 'process ' || pid || coalesce(' from ' || host(client_addr), '') \
                       || coalesce(' since ' || date_trunc('second', backend_start), '') AS said, count(*) OVER () AS total \
                       FROM pg_locks LEFT JOIN pg_stat_activity USING (pid) \
                       WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND classid = 0 \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// A connection. Dropping it rolls back what was not committed.
pub(super) enum Session {
    // Shared with the thread that waits for it.
    Sqlite(Arc<Mutex<SqliteConnection>>),
    Postgres {
        conn: Box<AsyncPgConnection>,
        /// The lineage of the primary, if the session may change it and its role may read that.
        lineage: Option<Lineage>,
    },
}

/// A row of a query's result. The query names its columns accordingly and casts its numbers to `bigint`.
#[derive(Debug, QueryableByName)]
pub(super) struct ResultRow {
    /// The id of what the row describes.
    #[diesel(sql_type = BigInt)]
    pub(super) number: i64,
    /// The description.
    #[diesel(sql_type = Text)]
    pub(super) said: String,
    /// The total number of rows.
    #[diesel(sql_type = BigInt)]
    pub(super) total: i64,
}

impl Session {
    /// Opens a read-only snapshot.
    pub(super) async fn read(url: &DatabaseUrl) -> Result<Self, ConnectError> {
        match url.0.clone() {
            Engine::Sqlite(file) => Self::read_file(file).await,
            Engine::Postgres { config, .. } => Self::read_server(&config).await,
        }
    }

    /// Opens a read-only snapshot of a file.
    pub(super) async fn read_file(file: SqliteFile) -> Result<Self, ConnectError> {
        let conn = blocking(move || Ok(sqlite::open(&sqlite::for_reads(&file)?)?)).await?;
        let mut session = Self::Sqlite(Arc::new(Mutex::new(conn)));
        session.execute("PRAGMA query_only = ON; BEGIN;".to_owned()).await?;
        Ok(session)
    }

    /// Opens a read-only snapshot on a server.
    pub(super) async fn read_server(config: &PostgresConfig) -> Result<Self, ConnectError> {
        let conn = Box::new(config.connect().await.map_err(StoreError::Unavailable)?);
        let mut session = Self::Postgres { conn, lineage: None };
        session.execute(READ.to_owned()).await?;
        Ok(session)
    }

    /// Makes PostgreSQL find the rows of a page by an index, also while it has no statistics of a table.
    pub(super) async fn use_indexes(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres { conn, .. } => {
                conn.batch_execute(BY_INDEX).await?;
                Ok(conn.batch_execute(postgres::GENERIC_PLANS).await?)
            }
        }
    }

    /// Runs a query that both engines have.
    ///
    /// The future is boxed: the compiler cannot tell otherwise that a task may run it.
    pub(super) fn load<R: Send + 'static>(
        &mut self,
        query: impl SharedQuery<R>,
    ) -> BoxFuture<'_, Result<Vec<R>, StoreError>> {
        match self {
            Self::Sqlite(conn) => {
                let conn = Arc::clone(conn);
                let load = move || Ok(query.load(&mut *conn.lock().unwrap_or_else(PoisonError::into_inner))?);
                Box::pin(async {
                    spawn_blocking(load).await.unwrap_or_else(|error| Err(StoreError::Internal(error.into())))
                })
            }
            Self::Postgres { conn, .. } => {
                let conn: &AsyncPgConnection = conn;
                Box::pin(async move { Ok(diesel_async::RunQueryDsl::load(query, &mut &*conn).await?) })
            }
        }
    }

    /// Opens a connection for changes, each between [`lock`](Self::lock) and [`commit`](Self::commit).
    pub(super) async fn write(url: &DatabaseUrl) -> Result<Self, ConnectError> {
        match url.0.clone() {
            Engine::Sqlite(file) => {
                let conn = blocking(move || Ok(sqlite::open(&file)?)).await?;
                Ok(Self::Sqlite(Arc::new(Mutex::new(conn))))
            }
            Engine::Postgres { config, .. } => {
                let (conn, lineage) = postgres::open_primary(&config, postgres::Role::Repair).await?;
                Ok(Self::Postgres { conn: Box::new(conn), lineage })
            }
        }
    }

    /// The same if no server uses the database. None can begin to until the session ends.
    ///
    /// # Errors
    ///
    /// [`ConnectError::InUse`] with those that do, as far as this user may see them.
    pub(super) async fn without_servers(url: &DatabaseUrl) -> Result<Self, ConnectError> {
        if let Engine::Sqlite(file) = url.0.clone() {
            let shown = file.to_string();
            let conn = blocking(move || Ok(sqlite::open_alone(&file)?)).await?;
            let in_use = || format!("another process has the file open; `fuser {shown}` shows which");
            let conn = conn.ok_or_else(|| ConnectError::InUse(in_use()))?;
            return Ok(Self::Sqlite(Arc::new(Mutex::new(conn))));
        }
        let mut session = Self::write(url).await?;
        let lock = format!(
            "SELECT CAST(0 AS bigint) AS number, '' AS said, pg_try_advisory_lock({SERVING})::int::bigint AS total"
        );
        for _ in 0..ATTEMPTS {
            if session.ask(lock.clone()).await?.first().is_some_and(|row| row.total == 1) {
                return Ok(session);
            }
            sleep(PAUSE).await;
        }
        let servers = session.ask(format!("{SERVERS} AND objid = {SERVING}")).await?;
        let servers: Vec<_> = servers.into_iter().map(|row| row.said).collect();
        let query =
            "SELECT * FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";
        Err(ConnectError::InUse(format!("servers are connected ({}; `{query}` shows more)", servers.join("; "))))
    }

    /// Returns the time that lies `by` later than now, as SQL.
    ///
    /// On PostgreSQL, the system's clock stands for that of the database.
    pub(super) fn later_than(&self, clock: &Clock, by: TimeDelta) -> String {
        let later = clock.now() + by;
        match self {
            Self::Sqlite(_) => later.timestamp_micros().to_string(),
            Self::Postgres { .. } if clock.is_system() => {
                format!("(clock_timestamp() + interval '{} seconds')", by.num_seconds())
            }
            Self::Postgres { .. } => format!("TIMESTAMPTZ '{}'", later.to_rfc3339()),
        }
    }

    /// Returns the lineage of the database that this session may change; `None` for a file, or if the role may not read it.
    pub(super) fn lineage(&self) -> Option<Lineage> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres { lineage, .. } => {
                postgres::warn_if_unknown(*lineage);
                *lineage
            }
        }
    }

    /// Begins a change and locks the head of the feed: until it is committed, no server commits a batch.
    pub(super) async fn lock(&mut self) -> Result<(), ConnectError> {
        let begin = match self {
            Self::Sqlite(_) => "BEGIN IMMEDIATE;",
            Self::Postgres { .. } => postgres::LOCK,
        };
        self.execute(begin.to_owned()).await
    }

    /// Replaces the head of the feed, so that writers drop their cached counts.
    pub(super) async fn touch(&mut self) -> Result<(), ConnectError> {
        let touch = match self {
            Self::Sqlite(_) => "UPDATE feed SET last_batch_id = random();",
            Self::Postgres { .. } => postgres::TOUCH,
        };
        self.execute(touch.to_owned()).await
    }

    pub(super) async fn commit(&mut self) -> Result<(), ConnectError> {
        self.execute("COMMIT;".to_owned()).await
    }

    /// Runs statements without a result.
    pub(super) async fn execute(&mut self, sql: String) -> Result<(), ConnectError> {
        match self {
            Self::Sqlite(conn) => {
                let conn = Arc::clone(conn);
                blocking(move || Ok(conn.lock().unwrap_or_else(PoisonError::into_inner).batch_execute(&sql)?)).await
            }
            Self::Postgres { conn, .. } => Ok(conn.batch_execute(&sql).await?),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "asked once each")]
    pub(super) async fn ask(&mut self, sql: String) -> Result<Vec<ResultRow>, ConnectError> {
        match self {
            Self::Sqlite(conn) => {
                let conn = Arc::clone(conn);
                blocking(move || {
                    let mut conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
                    Ok(diesel::sql_query(sql).load(&mut *conn)?)
                })
                .await
            }
            Self::Postgres { conn, .. } => {
                Ok(diesel_async::RunQueryDsl::load(diesel::sql_query(sql), conn.as_mut()).await?)
            }
        }
    }
}
