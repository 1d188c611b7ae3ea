//! Collects submitted commands into batches and commits them one batch at a time.
//!
//! There is no timer: commands that arrive during a commit form the next batch. So a single caller never waits for
//! others, and many callers share one transaction. Commits run in their own task: a caller that goes away never leaves
//! a transaction open.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::domain::command::{Batch, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::policy::Policy;
use crate::store::{Store, StoreError};

/// The most commands in one batch.
const BATCH_MAX: usize = 512;
/// What part of the queue those get who bring many.
const IN_TURN: usize = 4;
/// How often a batch is tried that the database refuses or cannot take.
const ATTEMPTS: u32 = 3;
/// The pause after a first failed attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitError {
    /// The rules refuse it.
    Rejected(Rejection),
    /// Too much waits already; nothing was changed.
    Overloaded,
    /// The database does not answer; nothing was changed.
    Unavailable,
    /// The database was lost, or its disk failed, during the commit.
    OutcomeUnknown,
    /// A fault of ours, which the log has; nothing was changed.
    Internal,
}

/// The way to answer a command.
struct Answer {
    to: oneshot::Sender<Result<Reply, CommitError>>,
    /// Of those that [come in turn](Committer::submit_in_turn), until they are answered.
    _place: Option<OwnedSemaphorePermit>,
}

/// The way to the committing task. Cheap to clone; the task ends when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Committer {
    queue: mpsc::Sender<(Submission, Answer)>,
    /// Places for what comes in turn: a part of the queue, so that the rest stays free for all others.
    in_turn: Arc<Semaphore>,
    closing: Arc<Notify>,
}

impl Committer {
    /// Starts the task. At most `capacity` commands wait for a batch; more are refused at once.
    pub fn start(store: Arc<dyn Store>, policy: Arc<Policy>, clock: Clock, capacity: usize) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(capacity);
        let closing = Arc::new(Notify::new());
        let in_turn = Arc::new(Semaphore::new(capacity.div_ceil(IN_TURN)));
        let task = tokio::spawn(work(Worker { store, policy, clock }, waiting, Arc::clone(&closing)));
        (Self { queue, in_turn, closing }, task)
    }

    /// Takes no more commands. The task ends when what is in the queue is committed, whoever still holds one of
    /// these.
    pub fn close(&self) {
        self.closing.notify_one();
    }

    /// Carries out a command, and answers when its change is durable. Dropping the future before its batch has
    /// begun withdraws the command; later, it is carried out all the same.
    pub async fn submit(&self, submission: Submission) -> Result<Reply, CommitError> {
        let (to, outcome) = oneshot::channel();
        self.queue.try_send((submission, Answer { to, _place: None })).map_err(|error| match error {
            TrySendError::Full(_) => CommitError::Overloaded,
            // The service is ending.
            TrySendError::Closed(_) => CommitError::Unavailable,
        })?;
        Queued(outcome).outcome().await
    }

    /// Puts a command into the queue, for a caller that brings many in an order that matters: waits for a place
    /// instead of being refused.
    pub async fn submit_in_turn(&self, submission: Submission) -> Result<Queued, CommitError> {
        // The semaphore is never closed; without a place, the command only comes sooner.
        let place = Arc::clone(&self.in_turn).acquire_owned().await.ok();
        let (to, outcome) = oneshot::channel();
        let queued = self.queue.send((submission, Answer { to, _place: place })).await;
        queued.map_err(|_| CommitError::Unavailable)?;
        Ok(Queued(outcome))
    }
}

/// A command that waits for its batch, or is in it. Dropping this before the batch has begun withdraws it.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Result<Reply, CommitError>>);

impl Queued {
    /// What came of it.
    pub async fn outcome(self) -> Result<Reply, CommitError> {
        self.0.await.unwrap_or(Err(CommitError::Internal))
    }
}

async fn work(worker: Worker, mut waiting: mpsc::Receiver<(Submission, Answer)>, closing: Arc<Notify>) {
    let mut gathered = Vec::with_capacity(BATCH_MAX);
    loop {
        let received = tokio::select! {
            received = waiting.recv_many(&mut gathered, BATCH_MAX) => received,
            () = closing.notified() => {
                waiting.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        // Commands are withdrawn when their caller goes away or their time runs out.
        let wanted = gathered.drain(..).filter(|(_, answer)| !answer.to.is_closed());
        let (submissions, answers): (Vec<_>, Vec<_>) = wanted.unzip();
        if !submissions.is_empty() {
            // The next batch forms in the queue during this.
            worker.serve(submissions, answers).await;
        }
    }
}

struct Worker {
    store: Arc<dyn Store>,
    policy: Arc<Policy>,
    clock: Clock,
}

impl Worker {
    /// Commits a batch and answers its callers.
    async fn serve(&self, submissions: Vec<Submission>, answers: Vec<Answer>) {
        let outcomes = self.commit(submissions).await;
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // An error means that the caller has gone away.
            let _gone = answer.to.send(outcome);
        }
    }

    /// Commits a batch. If the database refuses it as a whole, commits each of its commands alone, so that one bad
    /// command does not fail the others.
    async fn commit(&self, submissions: Vec<Submission>) -> Vec<Result<Reply, CommitError>> {
        let batch = self.batch(submissions);
        match self.attempt(&batch).await {
            Ok(outcomes) => outcomes,
            Err(CommitError::Internal) if batch.submissions.len() > 1 => {
                let mut outcomes = Vec::with_capacity(batch.submissions.len());
                for submission in &batch.submissions {
                    let alone = self.batch(vec![submission.clone()]);
                    let outcome = self.attempt(&alone).await;
                    outcomes.extend(outcome.unwrap_or_else(|error| vec![Err(error)]));
                }
                outcomes
            }
            Err(error) => vec![Err(error); batch.submissions.len()],
        }
    }

    fn batch(&self, submissions: Vec<Submission>) -> Arc<Batch> {
        Arc::new(Batch { submissions, policy: Arc::clone(&self.policy), now: self.clock.now() })
    }

    /// Commits a batch, and again when the database refuses it or cannot take it. The cause of a failure is logged
    /// here, once for the batch.
    async fn attempt(&self, batch: &Arc<Batch>) -> Result<Vec<Result<Reply, CommitError>>, CommitError> {
        let mut pause = FIRST_PAUSE;
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
                    tracing::warn!(error = &error as &dyn Error, commands, attempt, "a batch failed; trying again");
                    sleep(pause).await;
                    pause *= 2;
                    continue;
                }
                StoreError::Unavailable(_) | StoreError::Overloaded => {
                    tracing::error!(
                        error = &error as &dyn Error,
                        commands,
                        "a batch failed: the database is unavailable"
                    );
                    return Err(CommitError::Unavailable);
                }
                StoreError::OutcomeUnknown(_) => {
                    tracing::error!(error = &error as &dyn Error, commands, "a batch was lost during its commit");
                    return Err(CommitError::OutcomeUnknown);
                }
                StoreError::Refused(_) | StoreError::Corrupt { .. } | StoreError::Internal(_) => {
                    tracing::error!(error = &error as &dyn Error, commands, "a batch failed");
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
