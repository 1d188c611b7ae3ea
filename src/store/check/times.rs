//! The check for times that lie in the future, which only an error of the clock can leave.

use super::work::Work;
use super::{Checked, ROWS_SHOWN, Sizes};
use crate::store::ConnectError;
use crate::store::session::Session;

const NAME: &str = "no time lies in the future";
/// Each table with what identifies a row, and with its times that no caller sets.
const TIMES: [(&str, &str, &[&str]); 7] = [
    ("events", "sequence", &["time"]),
    ("connection_requests", "id", &["created", "viewed", "rejected", "accepted"]),
    ("blocks", "user_id", &["created"]),
    ("cooldowns", "from_user_id", &["since"]),
    ("ended_requests", "from_user_id", &["since"]),
    ("user_counts", "user_id", &["sends_since"]),
    ("request_ids", "0", &["created"]),
];

/// The table of each column that is read.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    TIMES.into_iter().flat_map(|(table, _, columns)| columns.iter().map(move |_| table))
}

/// Looks for times after `future`, which is SQL, in all tables.
pub(super) async fn check(
    session: &mut Session,
    sizes: &mut Sizes,
    future: &str,
    work: &mut Work<'_>,
) -> Result<Checked, ConnectError> {
    let mut checked = Checked { name: NAME, examined: 0, violations: 0, rows: Vec::new(), repaired: 0 };
    for (table, key, columns) in TIMES {
        checked.examined += sizes.of(session, table.to_owned()).await?;
        for column in columns {
            work.begin(NAME, work.rows(table));
            let found = session
                .ask(format!(
                    "SELECT CAST({key} AS bigint) AS number, '{table}: {column} of ' || {key} AS said, \
                            count(*) OVER () AS total \
                     FROM {table} WHERE {column} > {future} ORDER BY number LIMIT {ROWS_SHOWN}"
                ))
                .await?;
            checked.violations += found.first().map_or(0, |row| row.total);
            let room = ROWS_SHOWN.saturating_sub(checked.rows.len());
            checked.rows.extend(found.into_iter().map(|row| row.said).take(room));
        }
    }
    Ok(checked)
}
