//! Notifications of commits, including those of other servers.
//!
//! Each commit notifies a channel in its transaction. A standby refuses to listen: there, a commit shows in how far it has
//! replayed the log of its primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diesel::sql_types::{Bool, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::StreamExt;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::sleep;

use super::config::PostgresConfig;
use super::primary::Primary;
use super::role::{Role, open};
use crate::causes::Causes;
use crate::metrics::database::{Database, Pool, PoolState};
use crate::store::StoreError;
use crate::store::statement::{PgStatement, statement};

/// Subscribes to the channel that each update of the head notifies.
///
/// PostgreSQL delivers a notification only after its transaction is committed.
const LISTEN: &str = "LISTEN kith_feed";
/// The number of the lock that the session which listens also holds, shared with other servers: "kith" in ASCII, plus
/// one. It shows that a server is connected.
pub(in crate::store) const SERVING: i64 = 0x6b69_7469;
/// How often a server on a standby looks for commits.
const REPLAY_INTERVAL: Duration = Duration::from_millis(100);
/// The pause before a lost connection is reopened.
const PAUSE: Duration = Duration::from_secs(1);

/// The connection that listens, as the metrics see it.
pub(super) struct Listening {
    is_open: Arc<AtomicBool>,
    was_open: AtomicBool,
    reconnects: Counter,
}

impl Listening {
    /// Lets the metrics read whether it is open.
    pub(super) fn new(metrics: &Database) -> Self {
        let is_open = Arc::<AtomicBool>::default();
        let measured = Arc::downgrade(&is_open);
        metrics.pool(Pool::Listener).set(move || {
            let busy = usize::from(AtomicBool::load(&*measured.upgrade()?, Ordering::Relaxed));
            Some(PoolState { busy, max: 1, ..PoolState::default() })
        });
        let reconnects = metrics.reconnects(Pool::Listener).clone();
        Self { is_open, was_open: AtomicBool::new(false), reconnects }
    }

    fn opened(&self) {
        self.is_open.store(true, Ordering::Relaxed);
        if self.was_open.swap(true, Ordering::Relaxed) {
            self.reconnects.inc();
        }
    }

    fn closed(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }
}

/// Marks `committed` as changed after every commit.
///
/// Reopens a lost connection. Until then, callers that wait for commits poll.
pub(super) async fn follow(config: Arc<PostgresConfig>, committed: watch::Sender<()>, listening: Arc<Listening>) {
    let mut warned = false;
    loop {
        let mut left = config.primary().map(Primary::left);
        let until_left = async {
            match &mut left {
                Some(left) => left.changed().await.ok(),
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            Err(error) = listen(&config, &committed, &listening, &mut warned) => error,
            Some(()) = until_left => StoreError::Unavailable("another server is the primary".into()),
        };
        listening.closed();
        if !warned {
            tracing::warn!(
                error = %Causes(&error),
                "cannot receive notifications of commits; polling the feed"
            );
            warned = true;
        }
        sleep(PAUSE).await;
    }
}

/// Marks `committed` as changed whenever a standby has replayed more. Returns when the database is no standby.
async fn follow_replay(mut conn: &AsyncPgConnection, committed: &watch::Sender<()>) -> Result<(), StoreError> {
    let mut before: Option<String> = None;
    loop {
        let replay: PgStatement<'_, (Bool, Nullable<Text>), _> =
            statement!("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text");
        let (is_standby, replayed): (bool, Option<String>) = replay.get_result(&mut conn).await?;
        if !is_standby {
            return Ok(());
        }
        if before != replayed {
            committed.send_replace(());
        }
        before = replayed;
        sleep(REPLAY_INTERVAL).await;
    }
}

async fn listen(
    config: &PostgresConfig,
    committed: &watch::Sender<()>,
    listening: &Listening,
    warned: &mut bool,
) -> Result<std::convert::Infallible, StoreError> {
    let mut conn = open(config, Role::Listener).await?;
    listening.opened();
    follow_replay(&conn, committed).await?;
    conn.batch_execute(&format!("{LISTEN}; SELECT pg_advisory_lock_shared({SERVING})")).await?;
    if std::mem::take(warned) {
        tracing::info!("receiving notifications of commits again");
    }
    // Commits before LISTEN have not been notified.
    committed.send_replace(());
    let mut notifications = std::pin::pin!(conn.notifications_stream());
    while let Some(notification) = notifications.next().await {
        notification?;
        committed.send_replace(());
    }
    Err(StoreError::Unavailable("the connection for notifications was lost".into()))
}
