//! Notifications of commits, including those of other servers.
//!
//! Each commit notifies a channel in its transaction.

use std::sync::Arc;
use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;

use super::config::PostgresConfig;
use super::role::{Role, open};
use crate::store::StoreError;

/// Subscribes to the channel that each update of the head notifies.
///
/// PostgreSQL delivers a notification only after its transaction is committed.
const LISTEN: &str = "LISTEN kith_feed";
/// The pause before a lost connection is reopened.
const PAUSE: Duration = Duration::from_secs(1);

/// Marks `committed` as changed after every commit.
///
/// Reopens a lost connection. Until then, callers that wait for commits poll.
pub(super) async fn follow(config: Arc<PostgresConfig>, committed: watch::Sender<()>) {
    let mut warned = false;
    loop {
        let Err(error) = listen(&config, &committed, &mut warned).await;
        if !warned {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot receive notifications of commits; polling the feed"
            );
            warned = true;
        }
        sleep(PAUSE).await;
    }
}

async fn listen(
    config: &PostgresConfig,
    committed: &watch::Sender<()>,
    warned: &mut bool,
) -> Result<std::convert::Infallible, StoreError> {
    let mut conn = open(config, Role::Listener).await?;
    conn.batch_execute(LISTEN).await?;
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
