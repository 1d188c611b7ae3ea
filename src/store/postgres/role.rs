//! Roles of connections to PostgreSQL, and their settings.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use super::config::{PostgresConfig, SharedConnection};
use crate::domain::epoch::Lineage;
use crate::store::StoreError;

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Role {
    /// Reads that find a few rows by an index.
    ShortReads,
    /// Reads that may take long.
    LongReads,
    /// Reads for the watchers of the feed.
    Feed,
    /// Reads on a replica.
    ReplicaReads,
    /// Commits batches.
    Writer,
    /// Waits for notifications.
    Listener,
    /// Applies migrations.
    Migration,
    /// Changes that operators make with commands, in plain SQL.
    Repair,
}

/// Settings of all connections.
///
/// Compiling a statement (`jit`) never pays off here. The timeouts end statements and transactions whose caller no
/// longer waits.
const EVERY: &str = "SET jit = off; SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'; \
                     SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC';";

/// Settings for statements that stay prepared.
///
/// Each statement is planned once, because planning costs more than executing most of them. That may happen while the
/// tables are empty, when PostgreSQL prefers scans. Every statement has an index, so only index scans are allowed.
const PREPARED: &str = "SET enable_seqscan = off; \
                        SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
                        SET enable_material = off;";

/// Plans each statement once. Not where Citus is installed, which cannot execute such plans.
pub(in crate::store) const GENERIC_PLANS: &str = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false) \
     WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus');";

/// Settings of connections that only read.
const READ_ONLY: &str = "SET default_transaction_read_only = on;";

/// Settings of reads on a replica.
///
/// What a migration locked on the primary, the replica locks too, for as long as it replays the migration. A read that
/// waits for that can run on the primary instead.
const REPLICA: &str = "SET lock_timeout = '250ms';";

/// Settings of connections that write.
///
/// `lock_timeout` is as long as another server may hold the head. `synchronous_commit` ensures that acknowledged
/// changes are on disk. If the server stops inside a transaction, PostgreSQL ends it before calls to other servers time out.
const CHANGES: &str = "SET lock_timeout = '15s'; SET synchronous_commit = on; \
                       SET idle_in_transaction_session_timeout = '5s';";

impl Role {
    /// The settings of the role, in order: later ones override earlier ones.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::ShortReads | Self::LongReads | Self::Feed => &[EVERY, PREPARED, GENERIC_PLANS, READ_ONLY],
            Self::ReplicaReads => &[EVERY, PREPARED, GENERIC_PLANS, READ_ONLY, REPLICA],
            Self::Writer => &[EVERY, PREPARED, GENERIC_PLANS, CHANGES],
            Self::Repair => &[EVERY, CHANGES],
            Self::Listener | Self::Migration => &[EVERY],
        }
    }

    /// Applies the settings to a new connection.
    async fn set_up(self, mut conn: &AsyncPgConnection) -> Result<(), StoreError> {
        Ok(conn.batch_execute(&self.settings().concat()).await?)
    }
}

/// Opens a connection for a role that ends when another server is the primary.
pub(super) async fn open_shared(config: &PostgresConfig, role: Role) -> Result<SharedConnection, StoreError> {
    let shared = config.connect_shared().await.map_err(StoreError::Unavailable)?;
    role.set_up(&shared.conn).await?;
    Ok(shared)
}

/// Opens a connection to the primary for a role of a command. Returns its lineage too, if the role may read it.
pub(in crate::store) async fn open_primary(
    config: &PostgresConfig,
    role: Role,
) -> Result<(AsyncPgConnection, Option<Lineage>), StoreError> {
    // The connection drives itself until it is dropped.
    let SharedConnection { conn, lineage, .. } = config.connect_primary().await.map_err(StoreError::Unavailable)?;
    role.set_up(&conn).await?;
    Ok((conn, lineage))
}

/// Opens a connection for a role.
pub(in crate::store) async fn open(config: &PostgresConfig, role: Role) -> Result<AsyncPgConnection, StoreError> {
    let conn = config.connect().await.map_err(StoreError::Unavailable)?;
    role.set_up(&conn).await?;
    Ok(conn)
}
