//! `kith check`: verifies the database and prints a report.

use std::process::ExitCode;

use super::database::Database;
use super::{Failure, print, progress, start_log};
use crate::clock::Clock;
use crate::config::{Check, Sources};
use crate::progress::Progress;
use crate::store::{self, Checked, Repair, Report};

pub(super) async fn run(args: Check, sources: &Sources) -> Result<ExitCode, Failure> {
    let log = start_log(&args.common, false, sources)?;
    let database = Database::reach(&args.common, sources).await?;
    tracing::info!(database = %database.url, "checking the database");
    let repair = if args.repair { Repair::Counts } else { Repair::Nothing };
    let (progress, clock) = (Progress::default(), Clock::system());
    let checking = store::check(&database.url, repair, &clock, &progress);
    let report = progress::shown(&progress, &log, args.common.log_format, checking).await;
    let report = report.map_err(|error| database.failure(&error))?;
    print(&format_report(&report))?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Formats a report: a line for each check, followed by its violations, and a summary at the end.
fn format_report(report: &Report) -> String {
    let width = report.checks.iter().map(|checked| figures(checked).len()).max().unwrap_or_default();
    let mut text = String::new();
    for checked in &report.checks {
        text += &format!("{:<10}{:>width$}  {}\n", verdict(checked), figures(checked), checked.name);
        for row in &checked.rows {
            text += &format!("          {row}\n");
        }
        let listed = i64::try_from(checked.rows.len()).unwrap_or(i64::MAX);
        if checked.violations > listed && checked.repaired == 0 {
            text += &format!("          and {} more\n", checked.violations - listed);
        }
    }
    text + &summary(report)
}

fn verdict(checked: &Checked) -> &'static str {
    match (checked.violations, checked.holds()) {
        (0, _) => "ok",
        (_, true) => "repaired",
        (_, false) => "FAIL",
    }
}

fn figures(checked: &Checked) -> String {
    match checked.violations {
        0 => checked.examined.to_string(),
        violations => format!("{violations} of {}", checked.examined),
    }
}

fn summary(report: &Report) -> String {
    let Report { revision, oldest, checks } = report;
    let failed = checks.iter().filter(|checked| !checked.holds()).count();
    let repaired: i64 = checks.iter().map(|checked| checked.repaired).sum();
    let verdict = if failed == 0 {
        "all checks passed".to_owned()
    } else {
        format!("{failed} of {} checks FAILED", checks.len())
    };
    let repaired = if repaired == 0 { String::new() } else { format!("; counts repaired: {repaired}") };
    format!("{verdict}{repaired}; revision {revision}, events retained from {oldest}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &'static str, examined: i64, violations: i64, repaired: i64, rows: &[&str]) -> Checked {
        Checked { name, examined, violations, repaired, rows: rows.iter().map(|row| (*row).to_owned()).collect() }
    }

    #[test]
    fn a_report_has_aligned_lines_and_a_summary() {
        let checks = vec![
            checked("one holds", 123_456, 0, 0, &[]),
            checked("one does not", 100, 3, 0, &["user 1", "user 2"]),
            checked("one does again", 7, 1, 1, &["user 3: connections 2 -> 1"]),
        ];
        let mut report = Report { revision: Default::default(), oldest: Default::default(), checks };
        let expected = "ok          123456  one holds\n\
                        FAIL      3 of 100  one does not\n          user 1\n          user 2\n          and 1 more\n\
                        repaired    1 of 7  one does again\n          user 3: connections 2 -> 1\n\
                        1 of 3 checks FAILED; counts repaired: 1; revision 0, events retained from 0\n";
        assert_eq!(format_report(&report), expected);
        report.checks.truncate(1);
        let expected = "ok        123456  one holds\nall checks passed; revision 0, events retained from 0\n";
        assert_eq!(format_report(&report), expected);
    }
}
