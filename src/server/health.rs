//! Health by `grpc.health.v1`: each service has the health of the database.
//!
//! The process itself (the empty service name) is SERVING as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::SERVICES;
use crate::store::Store;

/// Interval between checks of the database.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time that the database has to respond to a check.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Checks the database and updates the health of all services, until `stopped` is true.
pub(super) async fn follow(reporter: HealthReporter, store: Arc<dyn Store>, mut stopped: watch::Receiver<bool>) {
    let mut previous = None;
    loop {
        let serves = matches!(timeout(TIMEOUT, store.revision()).await, Ok(Ok(_)));
        if previous != Some(serves) {
            match (previous, serves) {
                (None, _) => {}
                (Some(_), true) => tracing::warn!("database is responding again; health is SERVING"),
                (Some(_), false) => tracing::warn!("database is not responding; health is NOT_SERVING"),
            }
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in SERVICES {
                reporter.set_service_status(service, status).await;
            }
            previous = Some(serves);
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}
