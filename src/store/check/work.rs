//! How much work each check is, for the display of the progress.

use super::{Check, Sizes, times};
use crate::progress::{Progress, Step};
use crate::store::ConnectError;
use crate::store::session::Session;

/// The tables whose rows are counted before the checks.
const TABLES: [&str; 8] =
    ["events", "connection_requests", "blocks", "cooldowns", "ended_requests", "users", "user_counts", "request_ids"];

/// The work of all checks in rows to read, and how much of it is done.
pub(super) struct Work<'a> {
    progress: &'a Progress,
    tables: Vec<(&'static str, u64)>,
    done: u64,
    current: u64,
    total: u64,
}

impl<'a> Work<'a> {
    /// Counts the rows of the tables, which the checks need anyway.
    pub(super) async fn of(
        checks: &[Check],
        session: &mut Session,
        sizes: &mut Sizes,
        progress: &'a Progress,
    ) -> Result<Self, ConnectError> {
        let mut work = Self { progress, tables: Vec::new(), done: 0, current: 0, total: 0 };
        for (done, table) in (0..).zip(TABLES) {
            let total = TABLES.len().try_into().ok();
            progress.report(Step {
                phase: "counting rows",
                unit: "tables",
                done,
                current: 1,
                total,
                doing: table.into(),
            });
            let rows = sizes.of(session, table.to_owned()).await?;
            work.tables.push((table, rows.try_into().unwrap_or_default()));
        }
        let of_times: u64 = times::columns().map(|table| work.rows(table)).sum();
        let of_checks: u64 = checks.iter().map(|check| work.of_check(check)).sum();
        work.total = of_checks + of_times + work.rows("users");
        Ok(work)
    }

    pub(super) fn rows(&self, table: &str) -> u64 {
        self.tables.iter().find(|(name, _)| *name == table).map_or(0, |(_, rows)| *rows)
    }

    /// The rows that a check reads: those of each table that its query names.
    pub(super) fn of_check(&self, check: &Check) -> u64 {
        named_tables(check.with).chain(named_tables(check.finds)).map(|table| self.rows(table)).sum()
    }

    /// Reports that this begins, which reads so many rows.
    pub(super) fn begin(&mut self, doing: &'static str, rows: u64) {
        self.done += self.current;
        self.current = rows;
        let Self { done, current, total, .. } = *self;
        let total = Some(total.max(done));
        self.progress.report(Step { phase: "checking", unit: "rows", done, current, total, doing: doing.into() });
    }
}

/// What follows FROM and JOIN in a query.
fn named_tables(sql: &str) -> impl Iterator<Item = &str> {
    let words =
        || sql.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words().zip(words().skip(1)).filter(|(word, _)| matches!(*word, "FROM" | "JOIN")).map(|(_, table)| table)
}

#[cfg(test)]
mod tests {
    use super::super::CHECKS;
    use super::*;

    #[test]
    fn the_work_of_a_check_is_the_rows_of_the_tables_in_its_query() {
        for (sql, expected) in [
            ("", &[][..]),
            ("SELECT 1 FROM users", &["users"]),
            ("SELECT a FROM (SELECT b FROM events) AS c LEFT JOIN users ON x = y", &["SELECT", "events", "users"]),
            ("WHERE EXISTS (SELECT 1 FROM blocks) AND z", &["blocks"]),
        ] {
            assert_eq!(named_tables(sql).collect::<Vec<_>>(), expected, "{sql}");
        }
        // Each check reads a table that is counted, or the head.
        for check in CHECKS {
            let known = |table: &str| TABLES.contains(&table) || table == "feed";
            let mut tables = named_tables(check.with).chain(named_tables(check.finds));
            assert!(tables.any(known), "{}", check.name);
        }
    }
}
