//! Hears of commits, those of other servers too: each notifies a channel in its own transaction.

use std::sync::Arc;
use std::time::Duration;

use diesel_async::SimpleAsyncConnection;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;

use super::role::{Role, open};
use crate::store::StoreError;
use crate::store::tls::PostgresConfig;

/// Hears what each save of the head tells. PostgreSQL passes that on when the commit is done, and only then.
const LISTEN: &str = "LISTEN kith_feed";
/// The pause before a lost connection is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// Marks `committed` as changed with every commit. A connection that is lost is made again; meanwhile whoever waits
/// for commits asks the database now and then.
pub(super) async fn follow(config: Arc<PostgresConfig>, committed: watch::Sender<()>) {
    let mut warned = false;
    loop {
        let Err(error) = listen(&config, &committed, &mut warned).await;
        if !warned {
            tracing::warn!(error = &error as &dyn std::error::Error, "commits are not heard of; the feed is polled");
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
        tracing::info!("commits are heard of again");
    }
    // Something may have been committed while nobody listened.
    committed.send_replace(());
    let mut notifications = std::pin::pin!(conn.notifications_stream());
    while let Some(notification) = notifications.next().await {
        notification?;
        committed.send_replace(());
    }
    Err(StoreError::Unavailable("the connection that listens was lost".into()))
}
