//! One replica: whether it is well, and reads on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::heads::{Heads, ReplicaHead};
use super::route::Known;
use super::{CHECK_INTERVAL, CHECK_TIMEOUT};
use crate::causes::Causes;
use crate::domain::id::Sequence;
use crate::metrics::replicas::{Host, Outcome, ReplicaState};
use crate::rarely::Rarely;
use crate::store::engine::{Database, Engine};
use crate::store::postgres::PostgresEngine;
use crate::store::{Observed, Store, StoreError};

/// How long a read waits at most until the replica has its revision.
const REACH: Duration = Duration::from_millis(50);
/// The interval at which the replica's head is read meanwhile.
const POLL: Duration = Duration::from_millis(5);
/// How long a replica is left out after a failure.
const LEFT_OUT: Duration = Duration::from_secs(1);

/// A replica of the database.
pub struct Replica {
    host: String,
    database: Arc<Database<PostgresEngine>>,
    store: Arc<dyn Store>,
    head: Arc<ReplicaHead>,
    primary: Arc<Heads>,
    max_lag: Duration,
    /// Whether it responded to the last check as a replica.
    responds: watch::Sender<bool>,
    state: Mutex<State>,
    /// Limits what the log says about it.
    warned: Rarely,
    metrics: Arc<Host>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when it is left out.
    left_out_until: Option<Instant>,
    /// Whether the log has that it is left out, and not yet that it is used again.
    is_reported: bool,
}

impl Replica {
    pub(super) fn new(
        host: String,
        database: Database<PostgresEngine>,
        head: Arc<ReplicaHead>,
        primary: Arc<Heads>,
        max_lag: Duration,
        metrics: Arc<Host>,
    ) -> Self {
        let database = Arc::new(database);
        let store: Arc<dyn Store> = Arc::new(Observed::new(Arc::<Database<_>>::clone(&database)));
        let (responds, state, warned) = (watch::Sender::new(false), Mutex::default(), Rarely::default());
        Self { host, database, store, head, primary, max_lag, responds, state, warned, metrics }
    }

    /// The host, with its port if it is not the usual one.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// What is known of it, for the choice.
    pub(super) fn known(&self, now: Instant) -> Known {
        let revision = self.head.revision();
        let is_out = self.state().left_out_until.is_some_and(|until| now < until);
        Known { is_well: *self.responds.borrow() && !is_out, revision, lag: self.primary.lag(revision, now).time }
    }

    /// Lets the metrics read its state.
    pub(super) fn measure(self: &Arc<Self>) {
        let measured = Arc::downgrade(self);
        self.metrics.state.set(move || {
            let (replica, now) = (measured.upgrade()?, Instant::now());
            let Known { is_well, revision, lag } = replica.known(now);
            let lag_revisions = replica.primary.lag(revision, now).revisions;
            Some(ReplicaState { is_used: is_well && lag <= replica.max_lag, lag_revisions, lag })
        });
    }

    /// Checks it again and again: whether it responds, is a standby and has the primary's feed, and how far it is.
    pub(super) async fn follow(self: Arc<Self>) {
        loop {
            let checked = timeout(CHECK_TIMEOUT, self.database.engine.check_replica()).await;
            match checked.unwrap_or_else(|_| Err(StoreError::Unavailable("it does not respond".into()))) {
                Ok(()) => {
                    self.responds.send_replace(true);
                    self.used_again();
                }
                Err(error) => {
                    self.responds.send_replace(false);
                    self.leave_out(&error);
                }
            }
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// The store that reads from it.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Waits until it has a revision: at most for 50 ms, and not for longer than `limit`.
    ///
    /// Returns what is to be [counted](Self::served) if it then serves the read; `None` if it does not have the revision
    /// in time, or fails.
    pub async fn reach(&self, revision: Sequence, limit: Duration) -> Option<Outcome> {
        if self.head.revision() >= revision {
            return Some(Outcome::Served);
        }
        let begun = Instant::now();
        let reached = timeout_at(begun + REACH.min(limit), self.wait_for(revision)).await;
        self.metrics.waited(begun.elapsed());
        match reached {
            Ok(true) => Some(Outcome::Waited),
            Ok(false) => None,
            Err(_) => {
                self.behind();
                None
            }
        }
    }

    /// Reads its head until it has a revision. Returns false if that fails.
    async fn wait_for(&self, revision: Sequence) -> bool {
        loop {
            match self.run(self.database.engine.mark()).await {
                Some(Ok(mark)) if mark.revision >= revision => return true,
                Some(Ok(_)) => sleep(POLL).await,
                Some(Err(error)) => {
                    self.failed(Some(&error));
                    return false;
                }
                None => return false,
            }
        }
    }

    /// Runs a read of its store to its end; `None` if the replica stops responding before. Then it is counted.
    pub async fn run<T>(&self, read: impl Future<Output = T>) -> Option<T> {
        let mut responds = self.responds.subscribe();
        let result = tokio::select! {
            biased;
            result = read => Some(result),
            _ = responds.wait_for(|responds| !responds) => None,
        };
        if result.is_none() {
            self.failed(None);
        }
        result
    }

    /// Counts a read that it served.
    pub fn served(&self, outcome: Outcome) {
        self.metrics.read(outcome);
    }

    /// Counts a read whose revision it does not have.
    pub fn behind(&self) {
        self.metrics.read(Outcome::Behind);
    }

    /// Counts a read that failed. After an error of the database the replica is left out for a second.
    ///
    /// One that only has too many reads is not left out: the others, and the primary, would have them too.
    pub fn failed(&self, error: Option<&StoreError>) {
        self.metrics.read(Outcome::Failed);
        if let Some(error) = error.filter(|error| !matches!(error, StoreError::Overloaded)) {
            self.leave_out(error);
        }
    }

    fn leave_out(&self, error: &StoreError) {
        let mut state = self.state();
        state.left_out_until = Some(Instant::now() + LEFT_OUT);
        if !state.is_reported && self.warned.due().is_some() {
            state.is_reported = true;
            tracing::warn!(host = self.host, error = %Causes(error), "replica cannot be used; the primary has its reads");
        }
    }

    fn used_again(&self) {
        let mut state = self.state();
        let is_over = state.left_out_until.is_none_or(|until| until <= Instant::now());
        if is_over && std::mem::take(&mut state.is_reported) {
            tracing::info!(host = self.host, "replica is used again");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
