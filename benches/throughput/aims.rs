//! The targets of Kith, next to the figures of this run.

use std::fmt;
use std::fmt::Write as _;

use super::measure::{Sample, spread};
use super::session::Subject;
use super::workload::Operation;
use super::{Result, Results};

/// All targets. Each is a ratio of two figures of one run, since absolute figures differ between machines.
const AIMS: [(Figure, Bound); 17] = [
    (Figure::ToOther(RATE, Operation::Send, Subject::KithPostgres, 64), Bound::AtLeast(0.95)),
    (Figure::ToOther(RATE, Operation::Send, Subject::KithPostgres, 256), Bound::AtLeast(0.95)),
    (Figure::ToOther(RATE, Operation::Accept, Subject::KithPostgres, 64), Bound::AtLeast(1.0)),
    (Figure::ToOther(RATE, Operation::Received, Subject::KithPostgres, 64), Bound::AtLeast(1.0)),
    (Figure::ToOther(RATE, Operation::Status, Subject::KithPostgres, 64), Bound::AtLeast(1.0)),
    (Figure::ToOther(RATE, Operation::Statuses, Subject::KithPostgres, 64), Bound::AtLeast(1.0)),
    (Figure::ToOther(RATE, Operation::Received, Subject::KithSqlite, 64), Bound::AtLeast(1.15)),
    (Figure::ToOther(MEDIAN, Operation::Send, Subject::KithPostgres, 1), Bound::AtMost(1.5)),
    (Figure::ToOther(CPU, Operation::Send, Subject::KithPostgres, 64), Bound::AtMost(0.95)),
    (Figure::WorstAtHalfToSql(Operation::Send), Bound::Below(1.3)),
    (Figure::RateToSql(Operation::Send, 64), Bound::None),
    (Figure::RateToSql(Operation::Send, 256), Bound::None),
    (Figure::RateToSql(Operation::Accept, 64), Bound::None),
    (Figure::RateToSql(Operation::Received, 64), Bound::None),
    (Figure::RateToSql(Operation::Status, 64), Bound::None),
    (Figure::RateToSqlite(Operation::Send, 64), Bound::None),
    (Figure::RateToSqlite(Operation::Received, 64), Bound::None),
];

/// The name of a compared value, and how to read it from a sample.
type Value = (&'static str, fn(&Sample) -> f64);
const RATE: Value = ("calls/s", |sample| sample.per_second);
const MEDIAN: Value = ("p50", |sample| sample.latency[0]);
const CPU: Value = ("CPU a call, server and database", Sample::cost);

/// A figure with a target. The numbers are calls in flight.
#[derive(Clone, Copy)]
enum Figure {
    /// The ratio to the other Kith.
    ToOther(Value, Operation, Subject, usize),
    /// p99 on PostgreSQL at half of its peak, divided by that of SQL alone at half of its own.
    WorstAtHalfToSql(Operation),
    /// Calls per second on PostgreSQL, divided by the best of SQL alone.
    RateToSql(Operation, usize),
    /// Calls per second on SQLite, divided by those of SQLite alone.
    RateToSqlite(Operation, usize),
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ToOther((name, _), operation, subject, level) => {
                write!(f, "{operation}, {level} in flight: {name} of {subject} / the other Kith")
            }
            Self::WorstAtHalfToSql(operation) => {
                write!(f, "{operation}: p99 of {} / SQL alone, each at half of its peak", Subject::KithPostgres)
            }
            Self::RateToSql(operation, level) => {
                let postgres = Subject::KithPostgres;
                write!(f, "{operation}, {level} in flight: calls/s of {postgres} / SQL alone at its best")
            }
            Self::RateToSqlite(operation, level) => {
                write!(f, "{operation}, {level} in flight: calls/s of {} / SQLite alone", Subject::KithSqlite)
            }
        }
    }
}

impl Figure {
    /// The figure of the run. `None` if it was not measured.
    fn reached(self, results: &Results) -> Option<f64> {
        let ratio = |subject, operation, level, to| {
            Some(results.median(operation, subject, level, RATE.1)? / results.peak(operation, to)?)
        };
        match self {
            Self::ToOther((_, value), operation, subject, level) => {
                results.to_other(operation, subject, level, value).map(|[median, ..]| median)
            }
            Self::WorstAtHalfToSql(operation) => {
                let of = |subject| {
                    let samples = results.half.get(&(operation, subject))?;
                    Some(spread(samples.iter().map(|sample| sample.latency[1]))[0])
                };
                Some(of(Subject::KithPostgres)? / of(Subject::Sql).filter(|timed| *timed > 0.0)?)
            }
            Self::RateToSql(operation, level) => ratio(Subject::KithPostgres, operation, level, Subject::Sql),
            Self::RateToSqlite(operation, level) => ratio(Subject::KithSqlite, operation, level, Subject::Sqlite),
        }
    }
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    /// Has no target; shown for information.
    None,
}

impl Bound {
    fn verdict(self, value: f64) -> &'static str {
        let holds = match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::None => return "–",
        };
        if holds { "yes" } else { "**no**" }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::Below(bound) => write!(f, "< {bound}"),
            Self::None => f.write_str("–"),
        }
    }
}

/// The section of the report. Empty if no figure with a target was measured.
pub fn section(results: &Results) -> Result<String> {
    let mut text = String::from(
        "## Targets\n\n\
         Computed from the medians of this run. A target for which nothing was measured is omitted.\n\n\
         | | Target | Measured | |\n\
         |---|--:|--:|---|\n",
    );
    let mut measured = false;
    for (figure, bound) in AIMS {
        let Some(value) = figure.reached(results) else { continue };
        measured = true;
        writeln!(text, "| {figure} | {bound} | {value:.2} | {} |", bound.verdict(value))?;
    }
    Ok(if measured { text + "\n" } else { String::new() })
}
