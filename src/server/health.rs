//! Health by `grpc.health.v1`: a service is SERVING while its reads and writes can succeed, or only its reads if the
//! server only reads.
//!
//! The process itself (the empty service name) is SERVING as long as it runs.

mod writes;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::writes::{Verdict, Writes};
use super::{SERVICES, wait};
use crate::committer::{CommitError, Committer};
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Submission};
use crate::metrics::{database, server};
use crate::store::Store;

/// Interval between checks of the database.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time that the database has to respond to a check.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Reports health to its service and to the metrics.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    pub(super) reporter: HealthReporter,
    pub(super) metrics: Arc<server::Server>,
}

impl Reporter {
    /// Reports services as SERVING, or as NOT_SERVING, so that clients use another server.
    pub(super) async fn report(&self, services: &[&str], serves: bool) {
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in services {
            self.reporter.set_service_status(service, status).await;
            self.metrics.health(service, serves);
        }
    }

    /// Forgets services. Those who watch their health see the end of it.
    pub(super) async fn clear(&mut self, services: &[&str]) {
        for service in services {
            self.reporter.clear_service_status(service).await;
        }
    }
}

/// What the health of the services depends on.
#[derive(Clone)]
pub(super) struct Health {
    pub(super) reporter: Reporter,
    pub(super) store: Arc<dyn Store>,
    pub(super) committer: Committer,
    pub(super) database: Arc<database::Database>,
}

impl Health {
    /// Checks the database and updates the health of all services, until `draining` is true: then NOT_SERVING.
    pub(super) async fn follow(self, mut draining: watch::Receiver<bool>) {
        tokio::select! {
            () = wait(&mut draining) => {}
            () = self.update() => {}
        }
        // The last report, if another one was in progress when the server began to drain.
        self.reporter.report(&SERVICES, false).await;
    }

    async fn update(&self) {
        let (mut previous, mut committed) = (None, Writes::default());
        loop {
            let (reads, writes) = (self.can_read().await, self.can_write(&mut committed).await);
            self.database.checked(reads, writes);
            let serves = reads && writes;
            if previous != Some(serves) {
                match (previous, serves) {
                    (None, true) => {}
                    (_, true) => tracing::warn!("reads and writes succeed again; health is SERVING"),
                    (_, false) => tracing::warn!(reads, writes, "reads or writes fail; health is NOT_SERVING"),
                }
                self.reporter.report(&SERVICES, serves).await;
                previous = Some(serves);
            }
            sleep(INTERVAL).await;
        }
    }

    async fn can_read(&self) -> bool {
        // A panic is logged where it happens.
        let read = AssertUnwindSafe(self.store.position()).catch_unwind();
        matches!(timeout(TIMEOUT, read).await, Ok(Ok(Ok(_))))
    }

    /// Whether batches of calls are stored and no commit hangs. A probe decides if there are too few batches to judge by.
    /// True if the server only reads.
    async fn can_write(&self, committed: &mut Writes) -> bool {
        // Such as one that waits for a synchronous standby.
        if self.committer.takes_longer_than(TIMEOUT) {
            return false;
        }
        match committed.judge(self.committer.outcomes(), self.committer.is_away()) {
            Verdict::Succeed => true,
            Verdict::Fail => false,
            Verdict::Unclear => {
                let succeeds = self.probe().await;
                committed.probed(succeeds);
                succeeds
            }
        }
    }

    /// Whether a commit succeeds that changes nothing.
    async fn probe(&self) -> bool {
        let submission = Submission { caller: Caller::System, command: Command::Probe, idempotency: None };
        match timeout(TIMEOUT, self.committer.submit(submission)).await {
            // A full queue says nothing of the database.
            Ok(Ok(_) | Err(CommitError::Overloaded)) => true,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}
