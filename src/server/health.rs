//! Health, as `grpc.health.v1` tells it: each service follows the database; the process as such (the empty name)
//! serves as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::SERVICES;
use crate::store::Store;

/// How often the database is asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Follows the database until told to stop.
pub(super) async fn follow(reporter: HealthReporter, store: Arc<dyn Store>, mut stopped: watch::Receiver<bool>) {
    let mut before = None;
    loop {
        let serves = matches!(timeout(PATIENCE, store.revision()).await, Ok(Ok(_)));
        if before != Some(serves) {
            if before.is_some() {
                tracing::warn!(serves, "the database {}", if serves { "answers again" } else { "does not answer" });
            }
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                reporter.set_service_status(service, status).await;
            }
            before = Some(serves);
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}
