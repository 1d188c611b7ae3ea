//! Threads that each own a connection and take jobs from one queue.
//!
//! Threads of our own instead of Diesel's async wrapper: a whole transaction is one hop, and a caller who goes away
//! leaves nothing behind.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use diesel::SqliteConnection;
use tokio::sync::oneshot;

use crate::store::StoreError;

/// How many jobs may wait for a thread before more are refused.
const WAITING_MAX: usize = 4_096;

pub(super) struct Threads<J> {
    // `None` only while it is dropped.
    queue: Option<SyncSender<J>>,
    running: Vec<JoinHandle<()>>,
}

/// What the threads do.
pub(super) struct Work<O, S> {
    pub(super) name: &'static str,
    pub(super) threads: usize,
    /// Opens a thread's connection.
    pub(super) open: O,
    /// Does one job.
    pub(super) serve: S,
}

impl<J: Send + 'static> Threads<J> {
    pub(super) fn start<O, S>(work: &Work<O, S>) -> Result<Self, StoreError>
    where
        O: Fn() -> Result<SqliteConnection, StoreError> + Clone + Send + 'static,
        S: Fn(&mut SqliteConnection, J) + Clone + Send + 'static,
    {
        let (queue, jobs) = sync_channel(WAITING_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut running = Vec::with_capacity(work.threads);
        for _ in 0..work.threads {
            let (jobs, open, serve) = (Arc::clone(&jobs), work.open.clone(), work.serve.clone());
            let conn = open()?;
            let thread = std::thread::Builder::new().name(work.name.to_owned());
            let started = thread.spawn(move || run(&jobs, conn, &open, &serve));
            running.push(started.map_err(|error| StoreError::Internal(error.into()))?);
        }
        Ok(Self { queue: Some(queue), running })
    }

    /// Has a job done by one of the threads. `job` makes it of the way to answer: a caller who goes away before it is
    /// begun closes that.
    pub(super) async fn run<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> J,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(job(reply))?;
        answer.await.map_err(|_| StoreError::Internal("a thread that serves the database has ended".into()))?
    }

    fn send(&self, job: J) -> Result<(), StoreError> {
        let gone = || StoreError::Internal("no thread serves the database".into());
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Disconnected(_) => gone(),
        })
    }
}

impl<J> Drop for Threads<J> {
    /// Waits until the connections are closed: the last one moves the log into the database's file and deletes it, so
    /// that after an orderly end one file holds everything.
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.running.drain(..) {
            // A panic was the end of a job, and is told where it was.
            let _ended = thread.join();
        }
    }
}

/// Serves jobs until the store is dropped.
fn run<J>(
    jobs: &Mutex<Receiver<J>>,
    mut conn: SqliteConnection,
    open: &impl Fn() -> Result<SqliteConnection, StoreError>,
    serve: &impl Fn(&mut SqliteConnection, J),
) {
    loop {
        // One idle thread waits for the next job, the others wait for the lock.
        let Ok(job) = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv() else { return };
        // A job that panics takes its caller's result with it, but not the thread. Its connection may be left within a
        // transaction, so it gets a new one.
        if catch_unwind(AssertUnwindSafe(|| serve(&mut conn, job))).is_err() {
            match open() {
                Ok(fresh) => conn = fresh,
                Err(error) => tracing::error!(error = &error as &dyn Error, "the database cannot be opened again"),
            }
        }
    }
}
