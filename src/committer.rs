//! Collects submitted commands into batches and commits them one batch at a time.
//!
//! There is no timer: commands that arrive during a commit form the next batch. A single caller never waits for others,
//! and many callers share one transaction. Commits run in their own task, so a cancelled call never leaves a
//! transaction open.
//!
//! There are two queues, both bounded. [`submit`](Committer::submit) refuses a call when its queue is full.
//! [`enqueue`](Committer::enqueue), for the rows of imports, waits for a slot instead. The two take turns, batch by
//! batch, and a batch of rows is short: a call waits for few rows, however many importers there are.

mod cause;
mod queue;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub use self::cause::Cause;
use self::queue::{Queue, Queues, Waiting, measure};
use crate::causes::Causes;
use crate::domain::caller::Caller;
use crate::domain::command::{Batch, Command, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::metrics::writes::{Committed, Writes};
use crate::metrics::{Metrics, feed};
use crate::store::{Store, StoreError};
use crate::traces::{self, Span};

/// The capacity of the queue of rows: one part in this many of the other one's.
const ROWS_SHARE: usize = 4;
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
    Unavailable(Cause),
    /// The server only reads. Nothing was changed.
    ReadOnly,
    /// The connection was lost, or the disk failed, during the commit. The change may or may not be stored.
    OutcomeUnknown(Cause),
    /// An internal error, which is in the log. Nothing was changed.
    Internal,
}

/// What became of the batches, for health.
#[derive(Debug, Default)]
struct Outcomes {
    stored: AtomicU64,
    failed: AtomicU64,
    /// The revision after the last batch that was executed.
    revision: AtomicI64,
    /// When the batch that is being committed began.
    running: Mutex<Option<Instant>>,
    /// Whether the last batch failed because it is known that no primary is there.
    is_away: AtomicBool,
}

impl Outcomes {
    /// Counts a batch that was executed, if it moved the feed on. Others write nothing, or the little that a probe does.
    fn executed(&self, revision: Sequence) {
        if self.revision.swap(revision.get(), Ordering::Relaxed) < revision.get() {
            self.stored.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that a batch begins, or ends.
    fn runs(&self, since: Option<Instant>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Counts a batch that failed, if it was more than a probe.
    fn failed(&self, batch: &Batch) {
        if batch.submissions.iter().any(|submission| submission.command != Command::Probe) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A handle to the committing task. Cheap to clone; the task ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Committer {
    calls: mpsc::Sender<Waiting>,
    rows: mpsc::Sender<Waiting>,
    closing: Arc<Notify>,
    outcomes: Arc<Outcomes>,
    is_read_only: bool,
}

impl Committer {
    /// Starts the committing task with a queue of `capacity` calls, and one of a quarter as many imported rows.
    pub fn start(
        store: Arc<dyn Store>,
        policy: Arc<Policy>,
        capacity: usize,
        metrics: &Metrics,
    ) -> (Self, JoinHandle<()>) {
        let (calls, queued_calls) = mpsc::channel(capacity);
        let (rows, queued_rows) = mpsc::channel(capacity.div_ceil(ROWS_SHARE));
        let writes = &metrics.writes;
        measure(&calls, &writes.calls);
        measure(&rows, &writes.imports);
        let queues = Queues::new(
            Queue::of_calls(queued_calls, writes.calls.wait_seconds.clone()),
            Queue::of_rows(queued_rows, writes.imports.wait_seconds.clone()),
        );
        let closing = Arc::new(Notify::new());
        let outcomes = Arc::new(Outcomes::default());
        let (writes, feed) = (Arc::clone(writes), Arc::clone(&metrics.feed));
        let worker = Worker { store, policy, outcomes: Arc::clone(&outcomes), writes, feed };
        let task = tokio::spawn(run(worker, queues, Arc::clone(&closing)));
        (Self { calls, rows, closing, outcomes, is_read_only: false }, task)
    }

    /// Returns a committer that refuses every command, for a server that only reads. Its task ends when it is closed.
    pub fn read_only() -> (Self, JoinHandle<()>) {
        let ((calls, _), (rows, _)) = (mpsc::channel(1), mpsc::channel(1));
        let closing = Arc::new(Notify::new());
        let closed = Arc::clone(&closing);
        let task = tokio::spawn(async move { closed.notified().await });
        (Self { calls, rows, closing, outcomes: Arc::default(), is_read_only: true }, task)
    }

    /// Returns an error if this committer refuses every command.
    ///
    /// # Errors
    ///
    /// [`CommitError::ReadOnly`].
    pub fn check_writable(&self) -> Result<(), CommitError> {
        if self.is_read_only { Err(CommitError::ReadOnly) } else { Ok(()) }
    }

    /// Returns how many batches were stored, and how many failed, since the start. A probe alone counts as neither, and
    /// so does a batch that changes nothing.
    pub fn outcomes(&self) -> (u64, u64) {
        let Outcomes { stored, failed, revision: _, running: _, is_away: _ } = &*self.outcomes;
        (stored.load(Ordering::Relaxed), failed.load(Ordering::Relaxed))
    }

    /// Whether the last batch failed because it is known that no primary of the database is there.
    pub fn is_away(&self) -> bool {
        self.outcomes.is_away.load(Ordering::Relaxed)
    }

    /// Whether the present commit has taken longer than this.
    pub fn takes_longer_than(&self, limit: Duration) -> bool {
        let running = *self.outcomes.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.is_some_and(|since| since.elapsed() > limit)
    }

    /// Closes the queues. The task ends when the commands in them are committed, even if handles remain.
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
        let waiting = Waiting::new(submission, sender);
        self.calls.try_send(waiting).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Overloaded,
            // The server is shutting down.
            TrySendError::Closed(_) => CommitError::Unavailable(Cause::shutting_down()),
        })?;
        Queued(result).result().await
    }

    /// Adds a command of an import to the queue of rows, and waits while that is full.
    ///
    /// The commands of one caller are executed in the order of its calls.
    ///
    /// # Errors
    ///
    /// [`CommitError::Unavailable`] if the queue is closed, [`CommitError::ReadOnly`] if the server only reads.
    pub async fn enqueue(&self, submission: Submission) -> Result<Queued, CommitError> {
        self.check_writable()?;
        let (sender, result) = oneshot::channel();
        let waiting = Waiting::new(submission, sender);
        let added = self.rows.send(waiting).await;
        added.map_err(|_| CommitError::Unavailable(Cause::shutting_down()))?;
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

async fn run(worker: Worker, mut queues: Queues, closing: Arc<Notify>) {
    loop {
        let batch = tokio::select! {
            batch = queues.batch() => batch,
            () = closing.notified() => {
                queues.close();
                continue;
            }
        };
        let Some(batch) = batch else { return };
        // A command is withdrawn when its call is cancelled or reaches its deadline.
        let live: Vec<Waiting> = batch.into_iter().filter(|waiting| !waiting.responder.is_closed()).collect();
        if !live.is_empty() {
            // The next batch forms in the queues during this commit.
            worker.process(live).await;
        }
    }
}

struct Worker {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    outcomes: Arc<Outcomes>,
    writes: Arc<Writes>,
    feed: Arc<feed::Feed>,
}

impl Worker {
    /// Commits a batch and sends each caller its result.
    async fn process(&self, commands: Vec<Waiting>) {
        let (mut submissions, mut responders, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for Waiting { submission, responder, span, since: _ } in commands {
            submissions.push(submission);
            responders.push(responder);
            spans.push(span);
        }
        let of_calls: Vec<_> = submissions.iter().map(|submission| submission.caller != Caller::System).collect();
        let results = self.commit(submissions, &spans).await;
        let (mut is_logged, mut cause) = (false, None);
        for ((responder, result), of_call) in responders.into_iter().zip(results).zip(of_calls) {
            if let Err(CommitError::Unavailable(error) | CommitError::OutcomeUnknown(error)) = &result {
                cause.get_or_insert_with(|| error.clone());
            }
            // Fails if the call was cancelled.
            is_logged |= responder.send(result).is_ok() && of_call;
        }
        // Such as that of a probe or a sweep.
        if let Some(error) = cause.filter(|_| !is_logged) {
            tracing::error!(%error, "batch commit failed");
        }
    }

    /// Commits a batch, or each of its commands separately if the database refuses the batch.
    ///
    /// So one bad command does not fail the others.
    async fn commit(&self, submissions: Vec<Submission>, spans: &[Option<Span>]) -> Vec<Result<Reply, CommitError>> {
        let batch = self.batch(submissions);
        self.outcomes.runs(Some(Instant::now()));
        let committed = self.traced_commit(&batch, spans).await;
        self.outcomes.runs(None);
        match committed {
            Ok(results) => results,
            Err(CommitError::Internal) if batch.submissions.len() > 1 => {
                let mut results = Vec::with_capacity(batch.submissions.len());
                for (submission, span) in batch.submissions.iter().zip(spans) {
                    let alone = self.batch(vec![submission.clone()]);
                    let result = self.traced_commit(&alone, std::slice::from_ref(span)).await;
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

    /// The same as [`commit_with_retries`](Self::commit_with_retries), in a span if any of the calls is traced.
    async fn traced_commit(
        &self,
        batch: &Arc<Batch>,
        calls: &[Option<Span>],
    ) -> Result<Vec<Result<Reply, CommitError>>, CommitError> {
        let span = Span::batch(calls.iter().flatten(), batch.submissions.len());
        let committed = self.commit_with_retries(batch, span.as_ref()).await;
        if committed.is_err() {
            self.outcomes.failed(batch);
        }
        if let Some(span) = span {
            span.ended(match &committed {
                Ok(results) => Ok(results.iter().filter_map(revision).max()),
                Err(CommitError::OutcomeUnknown(_)) => Err("unknown"),
                Err(_) => Err("failed"),
            });
        }
        committed
    }

    /// Commits a batch, and retries if the database refuses it or is unavailable.
    ///
    /// Callers receive the cause of a failure, and their calls log it, in one line each. Logged here are internal errors, and
    /// commits that needed a retry.
    async fn commit_with_retries(
        &self,
        batch: &Arc<Batch>,
        span: Option<&traces::Batch>,
    ) -> Result<Vec<Result<Reply, CommitError>>, CommitError> {
        let mut delay = FIRST_RETRY_DELAY;
        let mut retried = None;
        self.writes.batch(batch.submissions.len());
        for attempt in 1.. {
            let started = Instant::now();
            let committed = self.guarded_commit(batch, span).await;
            self.writes.attempt(started.elapsed());
            self.outcomes.is_away.store(matches!(committed, Err(StoreError::Away(_))), Ordering::Relaxed);
            let error = match committed {
                Ok(replies) => {
                    self.writes.ended(Committed::Committed);
                    if let Some(error) = retried {
                        let error = Causes(&error);
                        tracing::warn!(%error, commands = replies.len(), attempt, "batch committed after a retry");
                    }
                    if let Some(revision) = revision_after(&replies) {
                        self.feed.committed(revision.get());
                        self.outcomes.executed(revision);
                    }
                    return Ok(replies.into_iter().map(|reply| reply.map_err(CommitError::Rejected)).collect());
                }
                Err(error) => error,
            };
            let commands = batch.submissions.len();
            let last = attempt == ATTEMPTS;
            match &error {
                StoreError::Refused(_) | StoreError::Unavailable(_) | StoreError::Overloaded if !last => {
                    retried = Some(error);
                    self.writes.retry();
                    sleep(delay).await;
                    delay *= 2;
                    continue;
                }
                StoreError::Unavailable(_) | StoreError::Away(_) | StoreError::Overloaded => {
                    self.writes.ended(Committed::Failed);
                    return Err(CommitError::Unavailable(Cause::of(&error, attempt, commands)));
                }
                StoreError::OutcomeUnknown(_) => {
                    self.writes.ended(Committed::Unknown);
                    return Err(CommitError::OutcomeUnknown(Cause::of(&error, attempt, commands)));
                }
                StoreError::Refused(_) | StoreError::Corrupt { .. } | StoreError::Internal(_) => {
                    tracing::error!(error = %Causes(&error), commands, "batch commit failed");
                    let refused = matches!(error, StoreError::Refused(_));
                    self.writes.ended(if refused { Committed::Refused } else { Committed::Failed });
                    return Err(CommitError::Internal);
                }
            }
        }
        Err(CommitError::Internal)
    }

    /// Runs the commit in its own task, so that a panic fails only this batch.
    async fn guarded_commit(
        &self,
        batch: &Arc<Batch>,
        span: Option<&traces::Batch>,
    ) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let (store, batch) = (Arc::clone(&self.store), Arc::clone(batch));
        let span = span.map(traces::Batch::attempt);
        let commit = tokio::spawn(traces::within(span, async move { store.commit(batch).await }));
        commit.await.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into())))
    }
}

/// Returns the revision after a batch: that of the last command that was executed in it.
fn revision_after(replies: &[Result<Reply, Rejection>]) -> Option<Sequence> {
    replies.iter().rev().find_map(|reply| match reply {
        Ok(Reply::Fresh(executed)) => Some(executed.revision),
        Ok(Reply::Stored(_)) | Err(_) => None,
    })
}

/// Returns the revision right after a command that was executed now.
fn revision(result: &Result<Reply, CommitError>) -> Option<i64> {
    match result {
        Ok(Reply::Fresh(executed)) => Some(executed.revision.get()),
        Ok(Reply::Stored(_)) | Err(_) => None,
    }
}
