//! What happened between two readings: rates of counters, and quantiles of histograms.

use crate::metrics::exposition::{Exposition, Sample};
use crate::metrics::numbers::UNKNOWN;

/// Two readings of one process, and the time between them.
#[derive(Clone, Copy)]
pub(super) struct Interval<'a> {
    pub(super) before: &'a Exposition,
    pub(super) now: &'a Exposition,
    /// More than zero.
    pub(super) seconds: f64,
}

impl Interval<'_> {
    /// Returns the increase of a counter a second, summed over its matching series. None if it has none.
    pub(super) fn rate(&self, name: &str, matches: impl Fn(&Sample) -> bool) -> Option<f64> {
        let mut series = self.now.samples(name).iter().filter(|sample| matches(sample)).peekable();
        series.peek()?;
        Some(series.map(|sample| self.increase(name, sample)).sum::<f64>() / self.seconds)
    }

    /// Returns the rates of a counter by the values of a label, the highest first.
    pub(super) fn rates_by(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let mut rates: Vec<(String, f64)> = values(self.now.samples(name), label)
            .into_iter()
            .map(|value| {
                let rate = self.rate(name, |sample| sample.label(label) == value).unwrap_or_default();
                (value, rate)
            })
            .collect();
        rates.sort_by(|(one, one_rate), (other, other_rate)| other_rate.total_cmp(one_rate).then(one.cmp(other)));
        rates
    }

    /// Returns the observations of a histogram in this interval, summed over its matching series.
    pub(super) fn observed(&self, histogram: &str, matches: impl Fn(&Sample) -> bool) -> Observed {
        let name = format!("{histogram}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.now.samples(&name).iter().filter(|sample| matches(sample)) {
            let Ok(limit) = sample.label("le").parse() else { continue };
            let increase = self.increase(&name, sample);
            match buckets.iter_mut().find(|(other, _)| *other == limit) {
                Some((_, count)) => *count += increase,
                None => buckets.push((limit, increase)),
            }
        }
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Observed(buckets)
    }

    /// The increase of one series. One that is new began at zero, and so did one that is smaller than before.
    fn increase(&self, name: &str, now: &Sample) -> f64 {
        let before = self.before.samples(name).iter().find(|before| before.is_same_series(now));
        increase(before.map_or(0.0, |before| before.value), now.value)
    }
}

/// The distinct values of a label, in the order of the samples.
pub(super) fn values(samples: &[Sample], label: &str) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    for sample in samples {
        let value = sample.label(label);
        if !values.iter().any(|other| other == value) {
            values.push(value.to_owned());
        }
    }
    values
}

/// The increase of a counter. One that is smaller than before was reset to zero in between.
fn increase(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

/// Observations of a histogram: the upper limit of each bucket, in order, with the number of observations up to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observed(Vec<(f64, f64)>);

/// A quantile, as far as the buckets tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantile {
    /// About this value, interpolated within its bucket.
    About(f64),
    /// More than the largest limit of a bucket.
    Above(f64),
}

impl Quantile {
    /// Formats a quantile by `format`.
    pub(super) fn text(found: Option<Self>, format: fn(f64) -> String) -> String {
        match found {
            None => UNKNOWN.to_owned(),
            Some(Self::About(value)) => format(value),
            Some(Self::Above(limit)) => format!(">{}", format(limit)),
        }
    }
}

impl Observed {
    /// Returns the value below which this share of the observations lies. None if there are no observations.
    ///
    /// It is interpolated as Prometheus does.
    pub(super) fn quantile(&self, share: f64) -> Option<Quantile> {
        let (_, total) = *self.0.last()?;
        if total <= 0.0 {
            return None;
        }
        let rank = share * total;
        let index = self.0.iter().position(|(_, count)| *count >= rank)?;
        let (upper, count) = self.0[index];
        let (lower, below) = if index == 0 { (0.0, 0.0) } else { self.0[index - 1] };
        if upper.is_infinite() {
            return Some(Quantile::Above(lower));
        }
        let part = if count > below { (rank - below) / (count - below) } else { 1.0 };
        Some(Quantile::About(lower + (upper - lower) * part))
    }
}

#[cfg(test)]
mod tests {
    use super::Quantile::{About, Above};
    use super::*;

    fn parsed(lines: &str) -> Exposition {
        Exposition::parse(&format!("{lines}# EOF\n")).unwrap()
    }

    #[test]
    fn a_counter_that_fell_began_at_zero() {
        for (before, now, expected) in [(0.0, 0.0, 0.0), (5.0, 7.5, 2.5), (7.0, 3.0, 3.0), (7.0, 0.0, 0.0)] {
            assert_eq!(increase(before, now), expected, "{before} {now}");
        }
    }

    #[test]
    fn rates_are_increases_a_second_of_all_matching_series() {
        let before = parsed("a_total{x=\"1\",y=\"1\"} 10\na_total{x=\"1\",y=\"2\"} 5\na_total{x=\"2\",y=\"1\"} 8\n");
        // The second series was reset, and the last is new.
        let now = parsed(
            "a_total{y=\"1\",x=\"1\"} 30\na_total{x=\"1\",y=\"2\"} 2\na_total{x=\"2\",y=\"1\"} 8\na_total{x=\"3\",y=\"1\"} 6\n",
        );
        let interval = Interval { before: &before, now: &now, seconds: 2.0 };
        for (x, expected) in [("1", Some(11.0)), ("2", Some(0.0)), ("3", Some(3.0)), ("4", None)] {
            assert_eq!(interval.rate("a_total", |sample| sample.label("x") == x), expected, "{x}");
        }
        assert_eq!(interval.rate("a_total", |_| true), Some(14.0));
        assert_eq!(interval.rate("b_total", |_| true), None);
        let by = [("1".to_owned(), 11.0), ("3".to_owned(), 3.0), ("2".to_owned(), 0.0)];
        assert_eq!(interval.rates_by("a_total", "x"), by);
    }

    #[test]
    fn quantiles_are_interpolated_within_their_bucket() {
        let some = &[(0.1, 10.0), (0.2, 30.0), (0.4, 40.0), (f64::INFINITY, 40.0)][..];
        for (buckets, share, expected) in [
            (&[][..], 0.5, None),
            (&[(0.1, 0.0), (f64::INFINITY, 0.0)], 0.5, None),
            (some, 0.125, Some(About(0.05))),
            (some, 0.25, Some(About(0.1))),
            (some, 0.5, Some(About(0.15))),
            (some, 0.75, Some(About(0.2))),
            (some, 1.0, Some(About(0.4))),
            (&[(1.0, 0.0), (2.0, 4.0), (f64::INFINITY, 4.0)], 0.5, Some(About(1.5))),
            (&[(1.0, 1.0), (f64::INFINITY, 4.0)], 0.99, Some(Above(1.0))),
            (&[(f64::INFINITY, 4.0)], 0.5, Some(Above(0.0))),
        ] {
            let found = Observed(buckets.to_vec()).quantile(share);
            let close = match (found, expected) {
                (Some(About(found)), Some(About(expected))) => (found - expected).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(close, "{buckets:?} {share}: {found:?}, not {expected:?}");
        }
    }

    #[test]
    fn quantiles_are_formatted() {
        for (quantile, expected) in [(None, "-"), (Some(About(0.5)), "500ms"), (Some(Above(10.0)), ">10.0s")] {
            assert_eq!(Quantile::text(quantile, crate::metrics::numbers::seconds), expected);
        }
    }

    #[test]
    fn a_histogram_has_the_observations_of_the_interval_from_all_matching_series() {
        let before = parsed("h_bucket{m=\"a\",le=\"1.0\"} 5\nh_bucket{m=\"a\",le=\"+Inf\"} 9\n");
        let now = parsed(
            "h_bucket{m=\"a\",le=\"1.0\"} 6\nh_bucket{m=\"a\",le=\"+Inf\"} 12\n\
             h_bucket{m=\"b\",le=\"+Inf\"} 4\nh_bucket{m=\"b\",le=\"1\"} 2\nh_bucket{m=\"c\",le=\"1\"} 2\n",
        );
        let interval = Interval { before: &before, now: &now, seconds: 1.0 };
        let observed = interval.observed("h", |sample| sample.label("m") != "c");
        assert_eq!(observed, Observed(vec![(1.0, 3.0), (f64::INFINITY, 7.0)]));
    }
}
