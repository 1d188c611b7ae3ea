//! The queues of commands, and which of them forms the next batch.

use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot};

use super::CommitError;
use crate::domain::command::{Reply, Submission};
use crate::metrics::writes::Queue as QueueMetrics;
use crate::traces::{self, Span};

/// Maximum number of commands in one batch.
const BATCH_MAX: usize = 512;
/// The number of imported rows in the batch that follows one of calls. It doubles with each further batch of rows, up to
/// the maximum. A call that arrives meanwhile waits for as many.
const ROWS: (usize, usize) = (8, 64);
/// Sends the result of a command to its caller.
pub(super) type Responder = oneshot::Sender<Result<Reply, CommitError>>;

/// A command in a queue.
pub(super) struct Waiting {
    pub(super) submission: Submission,
    pub(super) responder: Responder,
    /// The span of its call, if that is traced.
    pub(super) span: Option<Span>,
    /// When it was added.
    pub(super) since: Instant,
}

impl Waiting {
    /// A command that is about to be added to a queue.
    pub(super) fn new(submission: Submission, responder: Responder) -> Self {
        Self { submission, responder, span: traces::current(), since: Instant::now() }
    }
}

/// Commands that wait, with the senders of their results.
pub(super) struct Queue {
    commands: mpsc::Receiver<Waiting>,
    /// The maximum number in the next batch.
    limit: usize,
    /// Its least and its largest value.
    limits: (usize, usize),
    /// The time of each command in the queue.
    wait_seconds: Histogram,
}

impl Queue {
    pub(super) fn of_calls(commands: mpsc::Receiver<Waiting>, wait_seconds: Histogram) -> Self {
        Self { commands, limit: BATCH_MAX, limits: (BATCH_MAX, BATCH_MAX), wait_seconds }
    }

    pub(super) fn of_rows(commands: mpsc::Receiver<Waiting>, wait_seconds: Histogram) -> Self {
        Self { commands, limit: ROWS.0, limits: ROWS, wait_seconds }
    }

    /// Waits for commands. `None` if there will be no more.
    async fn batch(&mut self) -> Option<Vec<Waiting>> {
        let mut batch = Vec::new();
        let received = self.commands.recv_many(&mut batch, self.limit).await;
        let now = Instant::now();
        let waited = batch.iter().map(|waiting| now.saturating_duration_since(waiting.since));
        waited.for_each(|time| self.wait_seconds.observe(time.as_secs_f64()));
        self.limit = self.limits.1.min(self.limit * 2);
        (received > 0).then_some(batch)
    }

    /// Limits the next batch as if it were the first one.
    fn reset(&mut self) {
        self.limit = self.limits.0;
    }
}

/// The queues of calls and of imported rows.
pub(super) struct Queues {
    /// The one whose turn it is.
    next: Queue,
    other: Queue,
}

impl Queues {
    /// The two queues. The first batch is of calls, if there are any.
    pub(super) fn new(calls: Queue, rows: Queue) -> Self {
        Self { next: calls, other: rows }
    }

    /// Waits for the next batch: of the queue whose turn it is, or of the other one if that is empty.
    pub(super) async fn batch(&mut self) -> Option<Vec<Waiting>> {
        let Self { next, other } = self;
        tokio::select! {
            biased;
            Some(batch) = next.batch() => {
                other.reset();
                std::mem::swap(next, other);
                Some(batch)
            }
            Some(batch) = other.batch() => Some(batch),
            else => None,
        }
    }

    pub(super) fn close(&mut self) {
        self.next.commands.close();
        self.other.commands.close();
    }
}

/// Lets the metrics read the length of a queue.
pub(super) fn measure(queue: &mpsc::Sender<Waiting>, metrics: &QueueMetrics) {
    // The task ends with the last sender.
    let queue = queue.downgrade();
    metrics.length.set(move || {
        let queue = queue.upgrade()?;
        Some((queue.max_capacity() - queue.capacity(), queue.max_capacity()))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::caller::Caller;
    use crate::domain::command::Command;

    /// Adds commands to a queue, and returns the receivers of their results.
    fn fill(queue: &mpsc::Sender<Waiting>, number: usize) {
        for _ in 0..number {
            let submission = Submission { caller: Caller::System, command: Command::Probe, idempotency: None };
            queue.try_send(Waiting::new(submission, oneshot::channel().0)).expect("room");
        }
    }

    /// Returns the sizes of the next batches. The calls that are added come while the first of them is committed.
    async fn sizes(calls: usize, rows: usize, added: usize, batches: usize) -> Vec<usize> {
        let (call, queued_calls) = mpsc::channel(2_000);
        let (row, queued_rows) = mpsc::channel(2_000);
        let waits = || Histogram::new([1.0]);
        let mut queues = Queues::new(Queue::of_calls(queued_calls, waits()), Queue::of_rows(queued_rows, waits()));
        fill(&call, calls);
        fill(&row, rows);
        let mut sizes = Vec::new();
        for number in 0..batches {
            sizes.push(queues.batch().await.expect("a batch").len());
            fill(&call, if number == 0 { added } else { 0 });
        }
        drop((call, row));
        while queues.batch().await.is_some() {}
        sizes
    }

    #[tokio::test]
    async fn calls_and_imported_rows_take_turns() {
        assert_eq!(sizes(3, 0, 0, 1).await, [3]);
        assert_eq!(sizes(0, 1_000, 0, 6).await, [8, 16, 32, 64, 64, 64], "without calls, batches of rows grow");
        assert_eq!(sizes(3, 1_000, 0, 3).await, [3, 8, 16]);
        assert_eq!(sizes(0, 1_000, 1, 3).await, [8, 1, 8], "a call waits for one batch of rows");
        assert_eq!(sizes(1_500, 1_000, 0, 5).await, [512, 8, 512, 8, 476], "many calls let rows through");
    }
}
