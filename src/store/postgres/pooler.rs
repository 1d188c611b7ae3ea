//! Refuses a pooler that gives the transactions of one session to several connections.
//!
//! Kith's sessions have settings, prepared statements and notifications. In such a pool they would be lost, or be those
//! of another application. It is found out before any setting is sent, by statements that change nothing.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::attributes::value;
use super::config::{Cause, PostgresConfig};
use crate::causes::with_causes;
use crate::store::{ConnectError, StoreError};

/// The time that a step has. A pool with a single connection would wait for its other user for ever.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names the process of PostgreSQL that executes it. Two servers may have processes with the same number.
const PROCESS: &str = "SELECT pg_backend_pid() || ' since ' || pg_postmaster_start_time()";

/// Returns an error if the database is behind a pooler that shares connections, or that has too few of them.
pub(in crate::store) async fn refuse_shared_sessions(config: &PostgresConfig) -> Result<(), ConnectError> {
    let one = config.connect_plain().await.map_err(StoreError::Unavailable)?;
    match timeout(PATIENCE, is_shared(config, &one)).await {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => Err(ConnectError::SharedSessions),
        Ok(Err(Failed::Connect(cause))) => Err(StoreError::Unavailable(cause).into()),
        // PgBouncer refuses transactions of several statements where it shares connections for each of them.
        Ok(Err(Failed::Begin(cause))) if cause.to_string().contains("statement pooling") => {
            Err(ConnectError::SharedSessions)
        }
        Ok(Err(Failed::Begin(cause))) => Err(StoreError::Unavailable(cause).into()),
        Err(_) => Err(ConnectError::NoSecondSession(PATIENCE)),
    }
}

enum Failed {
    Connect(Cause),
    Begin(Cause),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Connect(error.into())
    }
}

/// Whether two connections, or the transactions of one, have different processes of PostgreSQL.
///
/// A pooler gives the connection that became idle last, or the one that has been idle the longest. Either shows itself.
async fn is_shared(config: &PostgresConfig, one: &Client) -> Result<bool, Failed> {
    let process = read_process(one).await?;
    let other = config.connect_plain().await.map_err(Failed::Connect)?;
    other.batch_execute("BEGIN").await.map_err(|error| Failed::Begin(with_causes(&error).into()))?;
    if read_process(&other).await? == process {
        return Ok(true);
    }
    let mut has_changed = read_process(one).await? != process;
    other.batch_execute("ROLLBACK").await?;
    for _ in 0..2 {
        has_changed |= read_process(one).await? != process;
    }
    Ok(has_changed)
}

async fn read_process(client: &Client) -> Result<String, tokio_postgres::Error> {
    let answer = client.simple_query(PROCESS).await?;
    Ok(value(&answer).unwrap_or_default().to_owned())
}
