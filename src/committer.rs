//! Collects submitted commands into batches and commits them one batch at a time.
//!
//! There is no timer: commands that arrive during a commit form the next batch. A single caller never waits for others,
//! and many callers share one transaction. Commits run in their own task, so a cancelled call never leaves a
//! transaction open.
//!
//! The queue is bounded. [`submit`](Committer::submit) refuses a command when it is full;
//! [`enqueue`](Committer::enqueue), for bulk callers, waits for a slot instead.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::domain::command::{Batch, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::policy::Policy;
use crate::store::{Store, StoreError};

/// Maximum number of commands in one batch.
const BATCH_MAX: usize = 512;
/// The share of the queue that bulk callers may fill: one part in this many.
const BULK_SHARE: usize = 4;
/// Maximum attempts to commit a batch.
const ATTEMPTS: u32 = 3;
/// Delay before the second attempt. It doubles with each further one.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(20);

/// Why a command was not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// The rules reject the command.
    Rejected(Rejection),
    /// The queue is full. Nothing was changed.
    Overloaded,
    /// The database is unavailable, or the server is shutting down. Nothing was changed.
    Unavailable,
    /// The server only reads. Nothing was changed.
    ReadOnly,
    /// The connection was lost, or the disk failed, during the commit. The change may or may not be stored.
    OutcomeUnknown,
    /// An internal error, which is in the log. Nothing was changed.
    Internal,
}

/// Sends the result of a command to its caller.
struct Responder {
    sender: oneshot::Sender<Result<Reply, CommitError>>,
    /// The slot of a command from a bulk caller, released after the response.
    _slot: Option<OwnedSemaphorePermit>,
}

/// A handle to the committing task. Cheap to clone; the task ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Committer {
    queue: mpsc::Sender<(Submission, Responder)>,
    /// Slots for bulk callers. They are fewer than the queue's, so that other callers always find room.
    bulk_slots: Arc<Semaphore>,
    closing: Arc<Notify>,
    /// Whether the last batch was committed.
    is_well: Arc<AtomicBool>,
    is_read_only: bool,
}

impl Committer {
    /// Starts the committing task with a queue of `capacity` commands.
    pub fn start(store: Arc<dyn Store>, policy: Arc<Policy>, capacity: usize) -> (Self, JoinHandle<()>) {
        let (queue, commands) = mpsc::channel(capacity);
        let closing = Arc::new(Notify::new());
        let bulk_slots = Arc::new(Semaphore::new(capacity.div_ceil(BULK_SHARE)));
        let is_well = Arc::new(AtomicBool::new(true));
        let worker = Worker { store, policy, is_well: Arc::clone(&is_well) };
        let task = tokio::spawn(run(worker, commands, Arc::clone(&closing)));
        (Self { queue, bulk_slots, closing, is_well, is_read_only: false }, task)
    }

    /// Returns a committer that refuses every command, for a server that only reads. Its task ends when it is closed.
    pub fn read_only() -> (Self, JoinHandle<()>) {
        let (queue, _commands) = mpsc::channel(1);
        let closing = Arc::new(Notify::new());
        let closed = Arc::clone(&closing);
        let task = tokio::spawn(async move { closed.notified().await });
        let (bulk_slots, is_well) = (Arc::new(Semaphore::new(1)), Arc::new(AtomicBool::new(true)));
        (Self { queue, bulk_slots, closing, is_well, is_read_only: true }, task)
    }

    /// Returns an error if this committer refuses every command.
    ///
    /// # Errors
    ///
    /// [`CommitError::ReadOnly`].
    pub fn check_writable(&self) -> Result<(), CommitError> {
        if self.is_read_only { Err(CommitError::ReadOnly) } else { Ok(()) }
    }

    /// Whether the last batch was committed. True before the first one.
    pub fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    /// Closes the queue. The task ends when the commands in it are committed, even if handles remain.
    pub fn close(&self) {
        self.closing.notify_one();
    }

    /// Executes a command and returns when its change is durable.
    ///
    /// Dropping the future before the command's batch has begun withdraws the command. Later, it is executed anyway.
    ///
    /// # Errors
    ///
    /// [`CommitError::Overloaded`] immediately if the queue is full, [`CommitError::Unavailable`] if it is closed,
    /// [`CommitError::ReadOnly`] if the server only reads.
    pub async fn submit(&self, submission: Submission) -> Result<Reply, CommitError> {
        self.check_writable()?;
        let (sender, result) = oneshot::channel();
        self.queue.try_send((submission, Responder { sender, _slot: None })).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Overloaded,
            // The server is shutting down.
            TrySendError::Closed(_) => CommitError::Unavailable,
        })?;
        Queued(result).result().await
    }

    /// Adds a command of a bulk caller to the queue, and waits if bulk callers fill their share of it.
    ///
    /// The commands of one caller are executed in the order of its calls.
    ///
    /// # Errors
    ///
    /// [`CommitError::Unavailable`] if the queue is closed, [`CommitError::ReadOnly`] if the server only reads.
    pub async fn enqueue(&self, submission: Submission) -> Result<Queued, CommitError> {
        self.check_writable()?;
        // The semaphore is never closed, so this always returns a slot.
        let slot = Arc::clone(&self.bulk_slots).acquire_owned().await.ok();
        let (sender, result) = oneshot::channel();
        let queued = self.queue.send((submission, Responder { sender, _slot: slot })).await;
        queued.map_err(|_| CommitError::Unavailable)?;
        Ok(Queued(result))
    }
}

/// A command in the queue or in the running batch.
///
/// Dropping it before its batch has begun withdraws the command.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Result<Reply, CommitError>>);

impl Queued {
    /// Waits for the result of the command.
    pub async fn result(self) -> Result<Reply, CommitError> {
        self.0.await.unwrap_or(Err(CommitError::Internal))
    }
}

async fn run(worker: Worker, mut queue: mpsc::Receiver<(Submission, Responder)>, closing: Arc<Notify>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = tokio::select! {
            received = queue.recv_many(&mut batch, BATCH_MAX) => received,
            () = closing.notified() => {
                queue.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        // A command is withdrawn when its call is cancelled or reaches its deadline.
        let live = batch.drain(..).filter(|(_, responder)| !responder.sender.is_closed());
        let (submissions, responders): (Vec<_>, Vec<_>) = live.unzip();
        if !submissions.is_empty() {
            // The next batch forms in the queue during this commit.
            worker.process(submissions, responders).await;
        }
    }
}

struct Worker {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    is_well: Arc<AtomicBool>,
}

impl Worker {
    /// Commits a batch and sends each caller its result.
    async fn process(&self, submissions: Vec<Submission>, responders: Vec<Responder>) {
        let results = self.commit(submissions).await;
        for (responder, result) in responders.into_iter().zip(results) {
            // Fails if the call was cancelled.
            let _cancelled = responder.sender.send(result);
        }
    }

    /// Commits a batch, or each of its commands separately if the database refuses the batch.
    ///
    /// So one bad command does not fail the others.
    async fn commit(&self, submissions: Vec<Submission>) -> Vec<Result<Reply, CommitError>> {
        let batch = self.batch(submissions);
        let committed = self.commit_with_retries(&batch).await;
        self.is_well.store(committed.is_ok(), Ordering::Relaxed);
        match committed {
            Ok(results) => results,
            Err(CommitError::Internal) if batch.submissions.len() > 1 => {
                let mut results = Vec::with_capacity(batch.submissions.len());
                for submission in &batch.submissions {
                    let alone = self.batch(vec![submission.clone()]);
                    let result = self.commit_with_retries(&alone).await;
                    results.extend(result.unwrap_or_else(|error| vec![Err(error)]));
                }
                results
            }
            Err(error) => vec![Err(error); batch.submissions.len()],
        }
    }

    fn batch(&self, submissions: Vec<Submission>) -> Arc<Batch> {
        Arc::new(Batch { submissions, policy: Arc::clone(&self.policy) })
    }

    /// Commits a batch, and retries if the database refuses it or is unavailable.
    ///
    /// Logs the cause of each failure once for the batch.
    async fn commit_with_retries(&self, batch: &Arc<Batch>) -> Result<Vec<Result<Reply, CommitError>>, CommitError> {
        let mut delay = FIRST_RETRY_DELAY;
        for attempt in 1.. {
            let error = match self.guarded_commit(batch).await {
                Ok(replies) => {
                    return Ok(replies.into_iter().map(|reply| reply.map_err(CommitError::Rejected)).collect());
                }
                Err(error) => error,
            };
            let commands = batch.submissions.len();
            let last = attempt == ATTEMPTS;
            match &error {
                StoreError::Refused(_) | StoreError::Unavailable(_) | StoreError::Overloaded if !last => {
                    tracing::warn!(error = &error as &dyn Error, commands, attempt, "batch commit failed; retrying");
                    sleep(delay).await;
                    delay *= 2;
                    continue;
                }
                StoreError::Unavailable(_) | StoreError::Overloaded => {
                    tracing::error!(
                        error = &error as &dyn Error,
                        commands,
                        "batch commit failed: database unavailable"
                    );
                    return Err(CommitError::Unavailable);
                }
                StoreError::OutcomeUnknown(_) => {
                    tracing::error!(
                        error = &error as &dyn Error,
                        commands,
                        "batch commit failed; its outcome is unknown"
                    );
                    return Err(CommitError::OutcomeUnknown);
                }
                StoreError::Refused(_) | StoreError::Corrupt { .. } | StoreError::Internal(_) => {
                    tracing::error!(error = &error as &dyn Error, commands, "batch commit failed");
                    return Err(CommitError::Internal);
                }
            }
        }
        Err(CommitError::Internal)
    }

    /// Runs the commit in its own task, so that a panic fails only this batch.
    async fn guarded_commit(&self, batch: &Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let (store, batch) = (Arc::clone(&self.store), Arc::clone(batch));
        let commit = tokio::spawn(async move { store.commit(batch).await });
        commit.await.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into())))
    }
}
