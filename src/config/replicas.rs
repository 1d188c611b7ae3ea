//! Settings of replicas.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::database::UrlParser;
use super::duration::interval;
use crate::store::{DatabaseUrl, ReplicaOptions};

/// Settings of the replicas that serve reads.
#[derive(Clone, Debug, Args)]
pub struct ReplicaArgs {
    /// URL of replicas (hot standbys) of the PostgreSQL database that serve reads, postgres://USER:PASSWORD@HOST1,HOST2/NAME:
    /// each host is one; may be given several times
    #[arg(long, help_heading = "Replicas", env = "KITH_REPLICA_URL", value_name = "URL", hide_env_values = true, value_parser = UrlParser)]
    pub(super) replica_url: Vec<DatabaseUrl>,
    /// Reads that replicas serve: min-revision = those with a min_revision, which see what it names; stale-ok = all, and
    /// those without one may be older by --replica-max-lag and half a second, or more while the primary cannot be read
    #[arg(
        long,
        help_heading = "Replicas",
        env = "KITH_REPLICA_READS",
        value_name = "READS",
        default_value = "min-revision"
    )]
    pub(super) replica_reads: ReplicaReads,
    /// How far behind the primary a replica may be; one that is further behind is left out until it has caught up
    #[arg(long, help_heading = "Replicas", env = "KITH_REPLICA_MAX_LAG", value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(super) replica_max_lag: Duration,
}

/// Reads that replicas serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplicaReads {
    /// Those with a `min_revision`
    MinRevision,
    /// All
    StaleOk,
}

impl ReplicaArgs {
    /// Returns the options, without the URLs: those need their passwords.
    pub fn options(&self) -> ReplicaOptions {
        let stale_ok = self.replica_reads == ReplicaReads::StaleOk;
        ReplicaOptions { urls: Vec::new(), stale_ok, max_lag: self.replica_max_lag }
    }
}
