//! Writes metrics by the names that they have in the text.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

static SECONDS: Unit = Unit::Seconds;
static BYTES: Unit = Unit::Bytes;

/// Labels with their values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// The metrics that are being written.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

impl<'a> Families<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Begins a metric that only rises. Its name ends with `_total`.
    pub(super) fn counter<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Family<'s>, fmt::Error> {
        self.family(name.strip_suffix("_total").unwrap_or(name), help, MetricType::Counter)
    }

    /// Begins a metric that rises and falls.
    pub(super) fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Family<'s>, fmt::Error> {
        self.family(name, help, MetricType::Gauge)
    }

    /// Begins a distribution.
    pub(super) fn histogram<'s>(&'s mut self, name: &'s str, help: &str) -> Result<Family<'s>, fmt::Error> {
        self.family(name, help, MetricType::Histogram)
    }

    /// Writes a metric whose labels are its content. Its name ends with `_info`.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) -> fmt::Result {
        self.family(name.strip_suffix("_info").unwrap_or(name), help, MetricType::Info)?.0.encode_info(&labels)
    }

    /// Begins a metric. The last word of its name may be a unit.
    fn family<'s>(&'s mut self, name: &'s str, help: &str, kind: MetricType) -> Result<Family<'s>, fmt::Error> {
        let units = [("_seconds", &SECONDS), ("_bytes", &BYTES)];
        let with_unit = units.into_iter().find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, Some(unit))));
        let (name, unit) = with_unit.unwrap_or((name, None));
        Ok(Family(self.0.encode_descriptor(name, help, unit, kind)?))
    }
}

/// A metric of which the values are being written.
pub(super) struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    /// Writes a value of a counter.
    pub(super) fn count(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// Writes a value of a counter that is no whole number.
    pub(super) fn amount(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Writes a value of a gauge.
    pub(super) fn value(&mut self, labels: Labels<'_>, value: impl EncodeGaugeValue + Copy) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    /// Writes a distribution.
    pub(super) fn distribution(&mut self, labels: Labels<'_>, values: &Histogram) -> fmt::Result {
        values.encode(self.0.encode_family(&labels)?)
    }
}
