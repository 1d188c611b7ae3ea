//! The self-check of a database: each check is a query for the rows that violate an invariant.
//!
//! All queries read one snapshot.

mod names;
mod query;
mod repair;
mod times;
mod totals;
mod work;

use std::collections::HashMap;

use self::query::CHECKS;
use self::totals::{Difference, TOTALS_RIGHT};
use self::work::Work;
use super::clock::TOLERANCE;
use super::connect::{DatabaseUrl, refuse_other_tables};
use super::session::{ResultRow, Session};
use super::{ConnectError, StoreError};
use crate::clock::Clock;
use crate::domain::event::{Cause, EventKind, PrincipalKind};
use crate::domain::id::Sequence;
use crate::domain::pair::RequestState;
use crate::progress::Progress;

/// The number of violating rows that a report describes for each check.
const ROWS_SHOWN: usize = 20;

/// Whether to repair what follows from other rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Change nothing.
    Nothing,
    /// Rewrite users' counts, and totals in the head, that are wrong.
    Counts,
}

/// The result of all checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The sequence of the newest event in the snapshot.
    pub revision: Sequence,
    /// The oldest event that is still stored; the one after the revision if there is none.
    pub oldest: Sequence,
    /// Each check, in order.
    pub checks: Vec<Checked>,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What must hold.
    pub name: &'static str,
    /// The number of rows that were examined.
    pub examined: i64,
    /// The number of rows that violate it.
    pub violations: i64,
    /// Descriptions of the first of them; after a repair, of all that were rewritten, with the old and the new value.
    pub rows: Vec<String>,
    /// The number of rows that were repaired.
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

/// An invariant.
struct Check {
    /// What must hold, as the report shows it.
    name: &'static str,
    /// The examined rows: what follows FROM.
    looks_at: &'static str,
    /// A WITH clause for the query, or nothing.
    with: &'static str,
    /// The violating rows: `number`, by which they are ordered, and `said`, the description.
    finds: &'static str,
}

impl Check {
    fn looks_at(&self, oldest: Sequence) -> String {
        self.looks_at.replace("{oldest}", &oldest.to_string())
    }

    /// The query for the first violating rows and their total number.
    fn sql(&self, oldest: Sequence, future: &str, limit: Option<usize>) -> String {
        let Self { with, finds, .. } = self;
        let limit = limit.map_or_else(String::new, |limit| format!(" LIMIT {limit}"));
        let sql = format!(
            "{with} SELECT number, said, count(*) OVER () AS total FROM ({finds}) AS found ORDER BY number{limit}"
        );
        sql.replace("{oldest}", &oldest.to_string())
            .replace("{future}", future)
            .replace("{states}", &quoted(RequestState::ALL.iter().map(|state| state.name())))
            .replace("{kinds}", &quoted(EventKind::ALL.iter().map(|kind| kind.name())))
            .replace("{causes}", &quoted(Cause::ALL.iter().map(|cause| cause.name())))
            .replace("{principals}", &quoted(PrincipalKind::ALL.iter().map(|principal| principal.name())))
    }
}

/// A list of names, as `IN` takes it.
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

/// Checks a database, which may be in use.
///
/// Rows are compared with their events as far back as events are stored, and times with the clock; on PostgreSQL, the
/// system's clock stands for that of the database.
///
/// # Errors
///
/// When the database cannot be used, or its tables belong to another version. Violations are not errors: the report has
/// them.
pub async fn check(
    url: &DatabaseUrl,
    repair: Repair,
    clock: &Clock,
    progress: &Progress,
) -> Result<Report, ConnectError> {
    refuse_other_tables(url).await?;
    let (mut report, Broken { counts, totals }) = look(url, repair, clock, progress).await?;
    // The snapshot has ended. The repair reads again under the lock.
    for (index, ids) in counts {
        let checked = &mut report.checks[index];
        (checked.rows, checked.repaired) = repair::counts(url, checked.name, &ids, progress).await?;
    }
    if let Some((index, differences)) = totals {
        report.checks[index].repaired = totals::repair(url, &differences).await?;
    }
    Ok(report)
}

/// What is to be repaired, each with the index of its check.
#[derive(Default)]
struct Broken {
    /// Users with wrong counts.
    counts: Vec<(usize, Vec<i64>)>,
    /// Wrong totals.
    totals: Option<(usize, Vec<Difference>)>,
}

/// Runs the checks in one snapshot. Also returns what is to be repaired.
async fn look(
    url: &DatabaseUrl,
    repair: Repair,
    clock: &Clock,
    progress: &Progress,
) -> Result<(Report, Broken), ConnectError> {
    let mut session = Session::read(url).await?;
    let future = session.later_than(clock, TOLERANCE);
    let mut report = head(&mut session).await?;
    let (mut sizes, mut broken) = (Sizes::default(), Broken::default());
    let mut work = Work::of(CHECKS, &mut session, &mut sizes, progress).await?;
    for (index, check) in CHECKS.iter().enumerate() {
        work.begin(check.name, work.of_check(check));
        let repairs = repair == Repair::Counts && repair::is_of_counts(check.name);
        let examined = sizes.of(&mut session, check.looks_at(report.oldest)).await?;
        let found =
            session.ask(check.sql(report.oldest, &future, if repairs { None } else { Some(ROWS_SHOWN) })).await?;
        if repairs && !found.is_empty() {
            broken.counts.push((index, found.iter().map(|row| row.number).collect()));
        }
        if repair == Repair::Counts && check.name == TOTALS_RIGHT && !found.is_empty() {
            broken.totals = Some((index, totals::differences(&mut session).await?));
        }
        let checked = checked(check, examined, found);
        tracing::debug!(examined, violations = checked.violations, "{}", checked.name);
        report.checks.push(checked);
    }
    report.checks.push(times::check(&mut session, &mut sizes, &future, &mut work).await?);
    report.checks.push(names::check(&mut session, &mut work).await?);
    Ok((report, broken))
}

fn checked(check: &Check, examined: i64, found: Vec<ResultRow>) -> Checked {
    let violations = found.first().map_or(0, |row| row.total);
    let rows = found.into_iter().take(ROWS_SHOWN).map(|row| row.said).collect();
    Checked { name: check.name, examined, violations, rows, repaired: 0 }
}

/// A report without checks yet.
async fn head(session: &mut Session) -> Result<Report, ConnectError> {
    let ends = "SELECT last_sequence AS number, '' AS said, \
                       coalesce((SELECT min(sequence) FROM events), last_sequence + 1) AS total FROM feed";
    let ends = session.ask(ends.to_owned()).await?.pop().ok_or_else(|| StoreError::corrupt("feed", "no row"))?;
    Ok(Report { revision: Sequence::new(ends.number), oldest: Sequence::new(ends.total), checks: Vec::new() })
}

/// The numbers of rows that the checks look at, by what follows FROM. Several checks look at the same rows.
#[derive(Default)]
struct Sizes(HashMap<String, i64>);

impl Sizes {
    async fn of(&mut self, session: &mut Session, looks_at: String) -> Result<i64, ConnectError> {
        if let Some(size) = self.0.get(&looks_at) {
            return Ok(*size);
        }
        let count = format!("SELECT CAST(0 AS bigint) AS number, '' AS said, count(*) AS total FROM {looks_at}");
        let size = session.ask(count).await?.first().map_or(0, |row| row.total);
        self.0.insert(looks_at, size);
        Ok(size)
    }
}
