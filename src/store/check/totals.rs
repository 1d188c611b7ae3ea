//! The totals in the head: their check, and their repair while servers run.
//!
//! Counting whole tables takes too long under the lock that every commit takes. But a commit changes a total by as much as
//! it changes what the total counts, so the difference between the two stays the same. The repair adds the difference that
//! the check found in its snapshot.

use crate::store::ConnectError;
use crate::store::connect::DatabaseUrl;
use crate::store::session::Session;

pub(super) const TOTALS_RIGHT: &str = "each total in the head equals what it counts";

/// One row for each total.
pub(super) const TOTALS: &str = "(VALUES (1), (2), (3), (4), (5), (6)) AS totals";

/// The totals by number, each with its value and with the right one.
pub(super) const WITH_TOTALS: &str = "WITH of_requests AS ( \
        SELECT count(CASE WHEN state = 'PENDING' THEN 1 END) AS pending, \
               count(CASE WHEN state = 'SILENCED' THEN 1 END) AS silenced, \
               count(CASE WHEN state = 'REJECTED' THEN 1 END) AS rejected, \
               count(CASE WHEN state = 'CONNECTED' THEN 1 END) AS connected \
        FROM connection_requests \
    ), totals AS ( \
        SELECT CAST(1 AS bigint) AS number, 'total_users' AS name, total_users AS value, \
               (SELECT count(*) FROM users) AS counted FROM feed \
        UNION ALL SELECT 2, 'total_pending', total_pending, pending FROM feed CROSS JOIN of_requests \
        UNION ALL SELECT 3, 'total_silenced', total_silenced, silenced FROM feed CROSS JOIN of_requests \
        UNION ALL SELECT 4, 'total_rejected', total_rejected, rejected FROM feed CROSS JOIN of_requests \
        UNION ALL SELECT 5, 'total_connected', total_connected, connected FROM feed CROSS JOIN of_requests \
        UNION ALL SELECT 6, 'total_blocks', total_blocks, (SELECT count(*) FROM blocks) FROM feed \
    )";

pub(super) const WRONG_TOTALS: &str =
    "SELECT number, name || ' ' || value || ' -> ' || counted AS said FROM totals WHERE value <> counted";

/// The columns of the wrong totals, each with the difference that makes it right.
const DIFFERENCES: &str =
    "SELECT number, name AS said, counted - value AS total FROM totals WHERE value <> counted ORDER BY number";

/// A wrong total: its column, and the difference that makes it right.
pub(super) struct Difference {
    column: String,
    difference: i64,
}

/// Finds the wrong totals in the snapshot of a session.
pub(super) async fn differences(session: &mut Session) -> Result<Vec<Difference>, ConnectError> {
    let found = session.ask(format!("{WITH_TOTALS} {DIFFERENCES}")).await?;
    Ok(found.into_iter().map(|row| Difference { column: row.said, difference: row.total }).collect())
}

/// Makes the totals right, and returns how many of them are right now.
///
/// That is fewer if another repair ran at the same time, and added the differences too.
pub(super) async fn repair(url: &DatabaseUrl, wrong: &[Difference]) -> Result<i64, ConnectError> {
    let changes: Vec<_> =
        wrong.iter().map(|Difference { column, difference }| format!("{column} = {column} + ({difference})")).collect();
    let mut session = Session::write(url).await?;
    session.lock().await?;
    session.execute(format!("UPDATE feed SET {} WHERE id = 1", changes.join(", "))).await?;
    session.touch().await?;
    session.commit().await?;
    let left = differences(&mut Session::read(url).await?).await?;
    Ok(wrong.len().saturating_sub(left.len()).try_into().unwrap_or(i64::MAX))
}
