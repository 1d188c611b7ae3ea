//! The metrics of one server: what it counts, and how the numbers are written.
//!
//! Each area has a struct of counters, which is handed to the code that counts. There are no global ones, so two servers
//! in one process do not share numbers. A counter is an atomic number that was resolved beforehand: nothing is looked up
//! by its labels, formatted or allocated when it is counted. What other code has anyway, such as the length of a queue, is
//! read when the metrics are written, without a lock that a call waits for and without a query.
//!
//! Labels have a fixed set of values. None of them is from a request.
//!
//! A new area is a struct in a file of its own that implements `Area`, and a field of [`Metrics`]. `docs/operations.md`
//! describes each metric; a test compares it with what a server writes.

mod build;
pub mod caches;
pub mod database;
pub mod exposition;
mod families;
pub mod feed;
pub mod numbers;
mod process;
mod reading;
pub mod refusals;
pub mod replicas;
pub mod rpc;
pub mod server;
pub mod totals;
pub mod writes;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use self::build::Build;
use self::caches::Caches;
use self::database::Database;
use self::families::Families;
use self::feed::Feed;
use self::process::Process;
pub use self::reading::Reading;
use self::refusals::Refusals;
use self::replicas::Replicas;
use self::rpc::Rpcs;
use self::server::Server;
use self::totals::Totals;
use self::writes::Writes;

/// The metrics of one server. Cheap to clone; clones share their numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Calls and their errors.
    pub rpcs: Arc<Rpcs>,
    /// What is refused.
    pub refusals: Arc<Refusals>,
    /// Batches and their commits.
    pub writes: Arc<Writes>,
    /// Caches.
    pub caches: Arc<Caches>,
    /// The event feed.
    pub feed: Arc<Feed>,
    /// The database.
    pub database: Arc<Database>,
    /// Reads from replicas.
    pub replicas: Arc<Replicas>,
    /// Health, connections of clients, and files.
    pub server: Arc<Server>,
    /// Users, requests and blocks.
    pub totals: Arc<Totals>,
    registry: Arc<Registry>,
}

/// A format in which metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0, as text.
    OpenMetrics,
    /// The older text format of Prometheus, which is easier to read.
    Prometheus,
}

impl Format {
    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

/// Metrics that belong together.
trait Area: fmt::Debug + Send + Sync + 'static {
    /// Writes each of its metrics, with its name and its meaning.
    fn write(&self, families: &mut Families<'_>) -> fmt::Result;
}

/// An area among the others.
#[derive(Debug)]
struct Registered(Arc<dyn Area>);

impl Collector for Registered {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Families::new(encoder))
    }
}

impl Default for Metrics {
    /// Metrics that count from zero.
    fn default() -> Self {
        let refusals = Arc::new(Refusals::default());
        let rpcs = Arc::new(Rpcs::new(Arc::clone(&refusals)));
        let (writes, caches, feed) = (Arc::default(), Arc::default(), Arc::default());
        let (database, replicas) = (Arc::default(), Arc::default());
        let (server, totals, registry) = (Arc::default(), Arc::default(), Arc::default());
        let mut metrics = Self { rpcs, refusals, writes, caches, feed, database, replicas, server, totals, registry };
        metrics.registry = Arc::new(metrics.registry());
        metrics
    }
}

impl Metrics {
    /// All areas, in the order in which they are written.
    fn registry(&self) -> Registry {
        let Self { rpcs, refusals, writes, caches, feed, database, replicas, server, totals, registry: _ } =
            self.clone();
        let (build, process) = (Arc::new(Build), Arc::new(Process));
        let areas: [Arc<dyn Area>; 11] =
            [build, process, server, rpcs, refusals, writes, caches, feed, database, replicas, totals];
        let mut registry = Registry::default();
        areas.into_iter().for_each(|area| registry.register_collector(Box::new(Registered(area))));
        registry
    }

    /// Returns all metrics as text.
    ///
    /// It takes a millisecond or so, for some thousand lines.
    ///
    /// # Errors
    ///
    /// If a name or a label cannot be written, which is a bug.
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut buffer = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut buffer, &self.registry)?,
            Format::Prometheus => prometheus_text::encode(&mut buffer, &self.registry)?,
        }
        Ok(buffer)
    }
}
