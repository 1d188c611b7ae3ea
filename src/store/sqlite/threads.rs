//! A pool of threads that each own a connection and take jobs from a shared queue.
//!
//! Used instead of Diesel's async wrapper for two reasons: a whole transaction needs only one switch to another thread,
//! and a transaction always ends, even if its caller is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use diesel::SqliteConnection;
use tokio::sync::oneshot;

use crate::causes::Causes;
use crate::metrics::database::{Database, Pool, PoolState};
use crate::store::StoreError;

/// The capacity of the queue. More jobs are refused.
const QUEUE_MAX: usize = 4_096;

pub(super) struct Threads<J> {
    // `None` only during drop.
    queue: Option<SyncSender<J>>,
    counts: Arc<Counts>,
    running: Vec<JoinHandle<()>>,
}

/// What the threads do, as the metrics see it.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    busy: AtomicUsize,
}

/// The work of a pool.
pub(super) struct Work<O, S> {
    pub(super) name: &'static str,
    pub(super) threads: usize,
    /// Opens a thread's connection.
    pub(super) open: O,
    /// Runs one job.
    pub(super) serve: S,
    /// What the metrics call it.
    pub(super) pool: Pool,
}

impl<J: Send + 'static> Threads<J> {
    pub(super) fn start<O, S>(work: &Work<O, S>, metrics: &Database) -> Result<Self, StoreError>
    where
        O: Fn() -> Result<SqliteConnection, StoreError> + Clone + Send + 'static,
        S: Fn(&mut SqliteConnection, J) + Clone + Send + 'static,
    {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let counts = Arc::<Counts>::default();
        let (measured, max) = (Arc::downgrade(&counts), work.threads);
        metrics.pool(work.pool).set(move || Some(measured.upgrade()?.state(max)));
        let mut running = Vec::with_capacity(work.threads);
        for _ in 0..work.threads {
            let (jobs, open, serve) = (Arc::clone(&jobs), work.open.clone(), work.serve.clone());
            let (counts, reopened) = (Arc::clone(&counts), metrics.reconnects(work.pool).clone());
            let open_again = move || open().inspect(|_| _ = reopened.inc());
            let conn = (work.open)()?;
            let thread = std::thread::Builder::new().name(work.name.to_owned());
            let started = thread.spawn(move || run(&jobs, conn, &open_again, &serve, &counts));
            running.push(started.map_err(|error| StoreError::Internal(error.into()))?);
        }
        Ok(Self { queue: Some(queue), counts, running })
    }

    /// Runs a job on one of the threads and returns its result.
    ///
    /// `job` creates the job from the channel for the result. The channel closes when the caller is dropped, so a job
    /// can find out before it starts that nobody waits for it.
    pub(super) async fn run<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> J,
    ) -> Result<T, StoreError> {
        let (reply, result) = oneshot::channel();
        self.send(job(reply))?;
        result.await.map_err(|_| StoreError::Internal("a database thread ended without a result".into()))?
    }

    fn send(&self, job: J) -> Result<(), StoreError> {
        let gone = || StoreError::Internal("all database threads have ended".into());
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        // Before it can be taken.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        queue.try_send(job).map_err(|error| {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => StoreError::Overloaded,
                TrySendError::Disconnected(_) => gone(),
            }
        })
    }
}

impl Counts {
    fn state(&self, max: usize) -> PoolState {
        let busy = self.busy.load(Ordering::Relaxed).min(max);
        PoolState { idle: max - busy, busy, max, waiting: self.waiting.load(Ordering::Relaxed) }
    }
}

impl<J> Drop for Threads<J> {
    /// Waits until the connections are closed.
    ///
    /// The last one checkpoints the log into the database file and deletes it, so that after an orderly shutdown a
    /// single file contains everything.
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.running.drain(..) {
            // A panic was already reported where it happened.
            let _ended = thread.join();
        }
    }
}

/// Runs jobs until the store is dropped.
fn run<J>(
    jobs: &Mutex<Receiver<J>>,
    conn: SqliteConnection,
    open: &impl Fn() -> Result<SqliteConnection, StoreError>,
    serve: &impl Fn(&mut SqliteConnection, J),
    counts: &Counts,
) {
    let mut idle = Some(conn);
    loop {
        // One idle thread waits for the next job, the others wait for the lock.
        let Ok(job) = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        counts.busy.fetch_add(1, Ordering::Relaxed);
        // A job without a connection is dropped, which fails its caller.
        let opened = idle.take().map_or_else(open, Ok);
        let opened = opened.inspect_err(|error| {
            tracing::error!(error = %Causes(error), "cannot reopen the database after a panic");
        });
        // A job that panics fails only its caller. The connection may be inside a transaction, so it is replaced.
        idle = opened
            .ok()
            .and_then(|mut conn| catch_unwind(AssertUnwindSafe(|| serve(&mut conn, job))).is_ok().then_some(conn));
        counts.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
