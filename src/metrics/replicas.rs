//! Reads from replicas of PostgreSQL.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::Area;
use super::families::Families;
use super::reading::Reading;
use super::writes::DATABASE_SECONDS;

/// What became of a read that a replica was chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The replica served it, and had its revision already.
    Served,
    /// The replica served it after a wait for its revision.
    Waited,
    /// The replica did not reach its revision in time.
    Behind,
    /// The replica returned an error, or stopped responding.
    Failed,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Served, "served"),
    (Outcome::Waited, "waited"),
    (Outcome::Behind, "behind"),
    (Outcome::Failed, "failed"),
];

/// The state of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaState {
    /// Whether it is given reads.
    pub is_used: bool,
    /// The events that it lacks.
    pub lag_revisions: i64,
    /// The time since the first of these.
    pub lag: Duration,
}

/// Counts the reads of one replica.
#[derive(Debug)]
pub struct Host {
    name: String,
    reads: [Counter; OUTCOMES.len()],
    wait_seconds: Histogram,
    /// Its state.
    pub state: Reading<ReplicaState>,
}

impl Host {
    /// Counts a read.
    pub fn read(&self, outcome: Outcome) {
        self.reads[outcome as usize].inc();
    }

    /// Measures how long a read waited for its revision.
    pub fn waited(&self, time: Duration) {
        self.wait_seconds.observe(time.as_secs_f64());
    }
}

/// Counts the reads from replicas. Without replicas it has no metrics.
#[derive(Debug, Default)]
pub struct Replicas {
    hosts: OnceLock<Vec<Arc<Host>>>,
    /// Reads that the primary served because no replica could.
    pub fallbacks: Counter,
}

impl Replicas {
    /// Adds the hosts that the settings name.
    pub fn hosts(&self, names: impl Iterator<Item = String>) -> Vec<Arc<Host>> {
        let host = |name| {
            let (reads, wait_seconds) = (Default::default(), Histogram::new(DATABASE_SECONDS));
            Arc::new(Host { name, reads, wait_seconds, state: Reading::default() })
        };
        self.hosts.get_or_init(|| names.map(host).collect()).clone()
    }
}

impl Area for Replicas {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { hosts, fallbacks } = self;
        let Some(hosts) = hosts.get() else { return Ok(()) };
        let states: Vec<_> = hosts.iter().filter_map(|host| Some((host.name.as_str(), host.state.get()?))).collect();
        let mut family = families.gauge("kith_replica_used", "1 if the replica is given reads.")?;
        for (name, state) in &states {
            family.value(&[("host", name)], u64::from(state.is_used))?;
        }
        let help = "Reads that the replica was chosen for, by what became of them.";
        let mut family = families.counter("kith_replica_reads_total", help)?;
        for host in hosts {
            for (outcome, name) in OUTCOMES {
                family.count(&[("host", &host.name), ("outcome", name)], host.reads[outcome as usize].get())?;
            }
        }
        let help = "Time that a read waited until the replica had its revision, or was given up.";
        let mut family = families.histogram("kith_replica_wait_seconds", help)?;
        for host in hosts {
            family.distribution(&[("host", &host.name)], &host.wait_seconds)?;
        }
        let help = "Events that the replica lacks, as far as this server knows.";
        let mut family = families.gauge("kith_replica_lag_revisions", help)?;
        for (name, state) in &states {
            family.value(&[("host", name)], state.lag_revisions)?;
        }
        let help = "Time since this server learned of the first event that the replica lacks, \
            less the 250 ms between two checks.";
        let mut family = families.gauge("kith_replica_lag_seconds", help)?;
        for (name, state) in &states {
            family.value(&[("host", name)], state.lag.as_secs_f64())?;
        }
        families
            .counter(
                "kith_replica_fallbacks_total",
                "Reads that the primary was given because no replica could serve them.",
            )?
            .count(&[], fallbacks.get())
    }
}
