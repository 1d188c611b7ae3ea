//! The metrics of one server: what it counts, and how the numbers are written.
//!
//! Each area has a struct of counters, which is handed to the code that counts. There are no global ones, so two servers
//! in one process do not share numbers. A counter is an atomic number that was resolved beforehand: nothing is looked up
//! by its labels, formatted or allocated when it is counted. What other code has anyway, such as the length of a queue, is
//! read when the metrics are written, without a lock that a call waits for and without a query.
//!
//! Labels have a fixed set of values. None of them is from a request.
//!
//! A new area is a struct in a file of its own that implements [`Area`], and a field of [`Metrics`]. `docs/operations.md`
//! describes each metric; a test compares it with what a server writes.

mod build;
mod families;
mod process;
pub mod rpc;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use self::build::Build;
use self::families::Families;
use self::process::Process;
use self::rpc::Rpcs;

/// The metrics of one server. Cheap to clone; clones share their numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Calls and their errors.
    pub rpcs: Arc<Rpcs>,
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
        let rpcs = Arc::new(Rpcs::default());
        let areas: [Arc<dyn Area>; 3] = [Arc::new(Build), Arc::new(Process), Arc::clone(&rpcs) as _];
        let mut registry = Registry::default();
        areas.into_iter().for_each(|area| registry.register_collector(Box::new(Registered(area))));
        Self { rpcs, registry: Arc::new(registry) }
    }
}

impl Metrics {
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
