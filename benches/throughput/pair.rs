//! The ratios of this Kith to another one, if the run has another.

use std::fmt::Write as _;

use super::measure::Sample;
use super::session::Subject;
use super::workload::Operation;
use super::{Result, Results};

/// A compared value: its name, and how to read it from a sample.
type Column = (&'static str, fn(&Sample) -> f64);
const COLUMNS: [Column; 4] = [
    ("Calls/s", |one| one.per_second),
    ("p50", |one| one.latency[0]),
    ("p99", |one| one.latency[1]),
    ("CPU", Sample::cost),
];

/// The section of the report. Empty without another Kith.
pub fn section(operations: &[Operation], results: &Results) -> Result<String> {
    let mut text = String::from(
        "## Ratio to the other Kith\n\n\
         Figures of this Kith divided by those of the other Kith in the same round: the median of the rounds, with the\n\
         minimum and the maximum. CPU is the processor time of server and database per call.\n\n| | | In flight |",
    );
    for (name, _) in COLUMNS {
        write!(text, " {name} |")?;
    }
    text += "\n|---|---|--:|--:|--:|--:|--:|\n";
    let mut measured = false;
    for (operation, subject) in operations.iter().flat_map(|one| Subject::KITH.map(|subject| (*one, subject))) {
        for (level, _) in results.levels(operation, subject) {
            let ratios = COLUMNS.map(|(_, value)| results.to_other(operation, subject, level, value));
            if ratios.iter().all(Option::is_none) {
                continue;
            }
            measured = true;
            write!(text, "| {operation} | {subject} | {level} |")?;
            for ratio in ratios {
                match ratio {
                    Some([median, least, most]) => write!(text, " {median:.2} ({least:.2}–{most:.2}) |")?,
                    None => text += " – |",
                }
            }
            text.push('\n');
        }
    }
    Ok(if measured { text + "\n" } else { String::new() })
}
