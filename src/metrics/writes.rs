//! Writes: the queues, the batches, their commits, and the sweep.

use std::fmt;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Area;
use super::families::Families;
use super::reading::Reading;

/// Upper bounds of the buckets for times that a database decides, in seconds.
pub(super) const DATABASE_SECONDS: [f64; 16] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Its changes are stored.
    Committed,
    /// The database refused a statement. Its commands are then tried one by one.
    Refused,
    /// The database is unavailable, or there is a bug. Nothing is stored.
    Failed,
    /// The connection or the disk failed during the commit.
    Unknown,
}

const OUTCOMES: [&str; 4] = ["committed", "refused", "failed", "unknown"];

/// Counts batches, and measures queues.
#[derive(Debug)]
pub struct Writes {
    batch_commands: Histogram,
    commit_seconds: Histogram,
    commits: [Counter; OUTCOMES.len()],
    retries: Counter,
    /// The queue of calls.
    pub calls: Queue,
    /// The queue of imported rows.
    pub imports: Queue,
    sweep_seconds: Histogram,
    /// What sweeps did.
    pub swept: Swept,
}

/// A queue of commands.
#[derive(Debug)]
pub struct Queue {
    /// The time of each command in the queue.
    pub wait_seconds: Histogram,
    /// How many commands wait, and how many may.
    pub length: Reading<(usize, usize)>,
}

/// The rows that sweeps expired, deleted or changed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Requests that expired.
    pub requests: Counter,
    /// Cooldowns, and numbers of ended requests, whose time was over.
    pub cooldowns: Counter,
    /// Responses whose retention ended.
    pub responses: Counter,
    /// Events whose retention ended.
    pub events: Counter,
    /// Events from which a deleted user was erased.
    pub forgotten: Counter,
}

impl Default for Queue {
    fn default() -> Self {
        Self { wait_seconds: Histogram::new(DATABASE_SECONDS), length: Reading::default() }
    }
}

impl Default for Writes {
    fn default() -> Self {
        Self {
            // Up to the maximum of a batch.
            batch_commands: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            commit_seconds: Histogram::new(DATABASE_SECONDS),
            commits: Default::default(),
            retries: Counter::default(),
            calls: Queue::default(),
            imports: Queue::default(),
            sweep_seconds: Histogram::new(DATABASE_SECONDS),
            swept: Swept::default(),
        }
    }
}

impl Writes {
    /// Counts a batch of so many commands that is about to be committed.
    pub fn batch(&self, commands: usize) {
        self.batch_commands.observe(commands as f64);
    }

    /// Measures an attempt to commit, whatever its outcome.
    pub fn attempt(&self, time: Duration) {
        self.commit_seconds.observe(time.as_secs_f64());
    }

    /// Counts a further attempt.
    pub fn retry(&self) {
        self.retries.inc();
    }

    /// Counts what became of a batch after its last attempt.
    pub fn ended(&self, outcome: Committed) {
        self.commits[outcome as usize].inc();
    }

    /// Measures a sweep.
    pub fn sweep(&self, time: Duration) {
        self.sweep_seconds.observe(time.as_secs_f64());
    }
}

impl Area for Writes {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { batch_commands, commit_seconds, commits, retries, calls, imports, sweep_seconds, swept } = self;
        families
            .histogram("kith_batch_commands", "Commands in a batch, which is one transaction.")?
            .distribution(&[], batch_commands)?;
        families
            .histogram("kith_commit_seconds", "Time of an attempt to commit a batch, also of those that failed.")?
            .distribution(&[], commit_seconds)?;
        let mut family = families.counter("kith_commits_total", "Batches, by the outcome of their commit.")?;
        for (outcome, commits) in OUTCOMES.iter().zip(commits) {
            family.count(&[("outcome", outcome)], commits.get())?;
        }
        families
            .counter("kith_commit_retries_total", "Further attempts to commit a batch that the database did not take.")?
            .count(&[], retries.get())?;

        let queues = [("calls", calls), ("imports", imports)];
        // A server that only reads has none.
        let lengths = queues.map(|(name, queue)| (name, queue.length.get()));
        let lengths = || lengths.into_iter().filter_map(|(name, length)| Some((name, length?)));
        let mut family = families.gauge("kith_queue_commands", "Commands that wait for the next batch.")?;
        for (name, (length, _)) in lengths() {
            family.value(&[("queue", name)], length)?;
        }
        let mut family = families.gauge("kith_queue_capacity_commands", "Commands that may wait at most.")?;
        for (name, (_, capacity)) in lengths() {
            family.value(&[("queue", name)], capacity)?;
        }
        let mut family = families.histogram("kith_queue_wait_seconds", "Time of a command in its queue.")?;
        for (name, queue) in queues {
            family.distribution(&[("queue", name)], &queue.wait_seconds)?;
        }

        families
            .histogram("kith_sweep_seconds", "Time of a step of the sweep, with its wait in the queue.")?
            .distribution(&[], sweep_seconds)?;
        let Swept { requests, cooldowns, responses, events, forgotten } = swept;
        let mut family = families.counter("kith_swept_total", "Rows that sweeps expired, deleted or changed.")?;
        for (what, rows) in [
            ("requests", requests),
            ("cooldowns", cooldowns),
            ("responses", responses),
            ("events", events),
            ("forgotten", forgotten),
        ] {
            family.count(&[("what", what)], rows.get())?;
        }
        Ok(())
    }
}
