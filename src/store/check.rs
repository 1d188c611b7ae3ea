//! Proves that a database is in order: every check is a query for what breaks an invariant, and all of them see the
//! database at one moment.

mod query;
mod repair;

use std::collections::HashMap;

use self::query::{CHECKS, Check};
use super::connect::{DatabaseUrl, refuse_other_tables};
use super::session::{Answer, Session};
use super::{ConnectError, StoreError};
use crate::domain::id::Sequence;

/// How many of the rows that break an invariant are told of one by one.
const ROWS_TOLD: usize = 20;

/// Whether to mend what can be mended without a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Change nothing.
    Nothing,
    /// Write users' counts anew where they are not what they count.
    Counts,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The newest event of the moment that was looked at.
    pub revision: Sequence,
    /// The oldest event that is still kept; the one after the revision if there is none.
    pub oldest: Sequence,
    /// Each check, in order.
    pub checks: Vec<Checked>,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What must hold.
    pub name: &'static str,
    /// Of how many rows it was asked.
    pub examined: i64,
    /// For how many it does not hold.
    pub violations: i64,
    /// Some of these in words; if repaired, all that were rewritten, with the old value and the right one.
    pub rows: Vec<String>,
    /// How many of them are right now.
    pub repaired: i64,
}

impl Checked {
    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        self.violations == self.repaired
    }
}

impl Report {
    /// Whether all holds now.
    pub fn is_clean(&self) -> bool {
        self.checks.iter().all(Checked::holds)
    }
}

/// Checks a database, which may be in use; servers go on undisturbed.
///
/// What events tell of rows is checked as far back as events are kept.
///
/// # Errors
///
/// When the database cannot be used, or its tables are not those that this program knows. What is broken in it is not
/// an error but in the report.
pub async fn check(url: &DatabaseUrl, repair: Repair) -> Result<Report, ConnectError> {
    refuse_other_tables(url).await?;
    let (mut report, broken) = look(url, repair).await?;
    // After the snapshot's end: what it saw is asked again under the lock.
    for (place, ids) in broken {
        let checked = &mut report.checks[place];
        (checked.rows, checked.repaired) = repair::counts(url, checked.name, &ids).await?;
    }
    Ok(report)
}

/// The report on one moment, and for each check that is to be mended its place and the users concerned.
async fn look(url: &DatabaseUrl, repair: Repair) -> Result<(Report, Vec<(usize, Vec<i64>)>), ConnectError> {
    let mut session = Session::read(url).await?;
    let mut report = head(&mut session).await?;
    let (mut sizes, mut broken) = (HashMap::new(), Vec::new());
    for (place, check) in CHECKS.iter().enumerate() {
        let mends = repair == Repair::Counts && query::is_of_counts(check.name);
        let looks_at = check.looks_at(report.oldest);
        let examined = match sizes.get(&looks_at) {
            Some(examined) => *examined,
            None => size(&mut session, &looks_at).await?,
        };
        sizes.insert(looks_at, examined);
        let found = session.ask(check.sql(report.oldest, if mends { None } else { Some(ROWS_TOLD) })).await?;
        if mends && !found.is_empty() {
            broken.push((place, found.iter().map(|row| row.number).collect()));
        }
        let checked = checked(check, examined, found);
        // On large tables this takes minutes; the log tells how far it is.
        tracing::debug!(examined, violations = checked.violations, "{}", checked.name);
        report.checks.push(checked);
    }
    Ok((report, broken))
}

fn checked(check: &Check, examined: i64, found: Vec<Answer>) -> Checked {
    let violations = found.first().map_or(0, |row| row.total);
    let rows = found.into_iter().take(ROWS_TOLD).map(|row| row.said).collect();
    Checked { name: check.name, examined, violations, rows, repaired: 0 }
}

/// A report that says of what, and nothing yet.
async fn head(session: &mut Session) -> Result<Report, ConnectError> {
    let ends = "SELECT last_sequence AS number, '' AS said, \
                       coalesce((SELECT min(sequence) FROM events), last_sequence + 1) AS total FROM feed";
    let ends = session.ask(ends.to_owned()).await?.pop().ok_or_else(|| StoreError::corrupt("feed", "no row"))?;
    Ok(Report { revision: Sequence::new(ends.number), oldest: Sequence::new(ends.total), checks: Vec::new() })
}

async fn size(session: &mut Session, looks_at: &str) -> Result<i64, ConnectError> {
    let count = format!("SELECT CAST(0 AS bigint) AS number, '' AS said, count(*) AS total FROM {looks_at}");
    Ok(session.ask(count).await?.first().map_or(0, |row| row.total))
}
