//! What a connection to PostgreSQL is for, and the settings that follow from it.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use crate::store::StoreError;
use crate::store::tls::PostgresConfig;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Role {
    /// Reads that find a few rows by an index.
    ShortReads,
    /// Reads that may take long.
    LongReads,
    /// Reads for the watchers of the feed.
    Feed,
    /// Commits batches.
    Writer,
    /// Waits for notifications.
    Listener,
    /// Applies migrations.
    Migration,
    /// Changes what an operator asks for, in plain SQL.
    Repair,
}

/// A statement that was compiled (`jit`) is never worth it here, and one that runs for a caller who is gone must end.
const EVERY: &str = "SET jit = off; SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'; \
                     SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC';";

/// For statements that stay prepared. Plans are made once: planning again costs more than most of the statements. They
/// may be made while the tables are empty, so only indexes may be chosen, which every statement has.
const PREPARED: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                        SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
                        SET enable_material = off;";

/// For reads.
const READ_ONLY: &str = "SET default_transaction_read_only = on;";

/// For changes. They wait for the head as long as another server may hold it, and no longer; what is acknowledged is on
/// disk; and if the server stops within a transaction, PostgreSQL ends it before callers of other servers time out.
const CHANGES: &str = "SET lock_timeout = '15s'; SET synchronous_commit = on; \
                       SET idle_in_transaction_session_timeout = '5s';";

impl Role {
    /// The settings of the role, in the order in which they are made.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::ShortReads | Self::LongReads | Self::Feed => &[EVERY, PREPARED, READ_ONLY],
            Self::Writer => &[EVERY, PREPARED, CHANGES],
            Self::Repair => &[EVERY, CHANGES],
            Self::Listener | Self::Migration => &[EVERY],
        }
    }

    /// Makes the settings on a new connection.
    pub(super) async fn set_up(self, mut conn: &AsyncPgConnection) -> Result<(), StoreError> {
        Ok(conn.batch_execute(&self.settings().concat()).await?)
    }
}

/// Opens a connection for a role.
pub(in crate::store) async fn open(config: &PostgresConfig, role: Role) -> Result<AsyncPgConnection, StoreError> {
    let conn = config.connect().await.map_err(StoreError::Unavailable)?;
    role.set_up(&conn).await?;
    Ok(conn)
}
