//! The figures that Kith is to reach, next to what this run reached.

use std::fmt;
use std::fmt::Write as _;

use super::measure::{Sample, spread};
use super::session::Subject;
use super::workload::Operation;
use super::{Result, Results};

/// All of them. A ratio is of two numbers of one run: it stands on any machine.
const AIMS: [(Figure, Bound); 14] = [
    (Figure::RateToSql(Operation::Send, 64), Bound::AtLeast(2.0)),
    (Figure::RateToSql(Operation::Send, 256), Bound::AtLeast(2.5)),
    (Figure::MedianToSql(Operation::Send, 1), Bound::AtMost(2.0)),
    (Figure::Cpu(Operation::Send, 64), Bound::AtMost(0.05)),
    (Figure::RateToSql(Operation::Accept, 64), Bound::AtLeast(1.5)),
    (Figure::RateToSql(Operation::Received, 64), Bound::AtLeast(1.3)),
    (Figure::RateToSql(Operation::Status, 64), Bound::AtLeast(0.7)),
    (Figure::RateOnSqlite(Operation::Send, 64), Bound::AtLeast(15_000.0)),
    (Figure::RateOnSqlite(Operation::Received, 64), Bound::AtLeast(20_000.0)),
    (Figure::RateOnSqlite(Operation::Status, 64), Bound::AtLeast(60_000.0)),
    // What these are of what SQLite alone gave where they were set: 20,000, 18,000 and 830,000 a second.
    (Figure::RateToSqlite(Operation::Send, 64), Bound::AtLeast(0.75)),
    (Figure::RateToSqlite(Operation::Received, 64), Bound::AtLeast(1.1)),
    (Figure::RateToSqlite(Operation::Status, 64), Bound::AtLeast(0.07)),
    (Figure::WorstAtHalf, Bound::Below(10.0)),
];

/// What is to be reached. The numbers are calls in flight.
#[derive(Clone, Copy)]
enum Figure {
    /// Calls a second on PostgreSQL, as a multiple of those of SQL alone at its best.
    RateToSql(Operation, usize),
    /// p50 on PostgreSQL, as a multiple of that of SQL alone.
    MedianToSql(Operation, usize),
    /// Milliseconds of processor time a call, of Kith and PostgreSQL together.
    Cpu(Operation, usize),
    /// Calls a second on SQLite.
    RateOnSqlite(Operation, usize),
    /// The same, as a multiple of those of SQLite alone.
    RateToSqlite(Operation, usize),
    /// The longest p99 in milliseconds at half of the peak, of any call on any engine.
    WorstAtHalf,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let postgres = Subject::KithPostgres;
        match self {
            Self::RateToSql(operation, level) => {
                write!(f, "{operation}, {level} in flight: calls/s of {postgres} / SQL alone at its best")
            }
            Self::MedianToSql(operation, level) => {
                write!(f, "{operation}, {level} in flight: p50 of {postgres} / p50 of SQL alone")
            }
            Self::Cpu(operation, level) => {
                write!(f, "{operation}, {level} in flight: CPU ms a call, of {postgres} with its database")
            }
            Self::RateOnSqlite(operation, level) => {
                write!(f, "{operation}, {level} in flight: calls/s of {}", Subject::KithSqlite)
            }
            Self::RateToSqlite(operation, level) => {
                write!(f, "{operation}, {level} in flight: calls/s of {} / SQLite alone", Subject::KithSqlite)
            }
            Self::WorstAtHalf => f.write_str("Every call on both engines: p99 ms at half of the peak"),
        }
    }
}

impl Figure {
    /// What the run reached, and in whose case where that is not said yet. Nothing if that was not measured.
    fn reached(self, results: &Results) -> Option<(f64, String)> {
        let postgres = Subject::KithPostgres;
        let rate = |sample: &Sample| sample.per_second;
        let value = match self {
            Self::RateToSql(operation, level) => {
                results.median(operation, postgres, level, rate)? / results.peak(operation, Subject::Sql)?
            }
            Self::MedianToSql(operation, level) => {
                let of = |subject| results.median(operation, subject, level, |sample| sample.latency[0]);
                of(postgres)? / of(Subject::Sql).filter(|timed| *timed > 0.0)?
            }
            Self::Cpu(operation, level) => results.median(operation, postgres, level, Sample::cost)?,
            Self::RateOnSqlite(operation, level) => results.median(operation, Subject::KithSqlite, level, rate)?,
            Self::RateToSqlite(operation, level) => {
                results.median(operation, Subject::KithSqlite, level, rate)?
                    / results.peak(operation, Subject::Sqlite)?
            }
            Self::WorstAtHalf => return worst_at_half(results),
        };
        Some((value, String::new()))
    }

    fn digits(self) -> usize {
        match self {
            Self::RateOnSqlite(..) => 0,
            Self::Cpu(..) => 3,
            _ => 2,
        }
    }
}

fn worst_at_half(results: &Results) -> Option<(f64, String)> {
    let of_each = results.half.iter().map(|((operation, subject), samples)| {
        let [median, ..] = spread(samples.iter().map(|sample| sample.latency[1]));
        (median, format!(" ({operation}, {subject})"))
    });
    of_each.max_by(|(one, _), (other, _)| one.total_cmp(other))
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::Below(bound) => write!(f, "< {bound}"),
        }
    }
}

/// The section of the report; empty if the run measured nothing that has an aim.
pub fn section(results: &Results) -> Result<String> {
    let mut text = String::from(
        "## Figures to reach\n\n\
         From the medians of this run, over the calls and levels that it measured; an aim without any is left out.\n\n\
         | | Aim | Reached | |\n\
         |---|--:|--:|---|\n",
    );
    let mut measured = false;
    for (figure, bound) in AIMS {
        let Some((value, whose)) = figure.reached(results) else { continue };
        measured = true;
        let (digits, answer) = (figure.digits(), if bound.holds(value) { "yes" } else { "**no**" });
        writeln!(text, "| {figure} | {bound} | {value:.digits$}{whose} | {answer} |")?;
    }
    Ok(if measured { text + "\n" } else { String::new() })
}
