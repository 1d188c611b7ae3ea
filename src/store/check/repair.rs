//! Repairs users' counts while servers run.
//!
//! A few users at a time are counted again under the lock that every commit takes first, so no commit is lost.

use crate::progress::{Progress, Step};
use crate::store::ConnectError;
use crate::store::connect::DatabaseUrl;
use crate::store::session::Session;

pub(super) const COUNTS_RIGHT: &str = "each count equals what it counts";
pub(super) const COUNTS_THERE: &str = "each user has counts";
pub(super) const COUNTS_OF_SOMEBODY: &str = "all counts are those of a user";

/// Whether a check can be repaired: its rows follow from rows that other checks prove.
pub(super) fn is_of_counts(name: &str) -> bool {
    [COUNTS_RIGHT, COUNTS_THERE, COUNTS_OF_SOMEBODY].contains(&name)
}

/// Users in one transaction: few enough that no caller notices the wait.
const BATCH: usize = 200;

/// The wrong counts, given the right numbers beside them, with the old and the right value of each.
macro_rules! wrong_counts {
    ($counted:literal) => {
        concat!(
            "SELECT user_id AS number, 'user ' || user_id || ':' || substr( \
                 CASE WHEN requests_sent <> sent \
                     THEN ', requests_sent ' || requests_sent || ' -> ' || sent ELSE '' END \
                 || CASE WHEN requests_received <> received \
                     THEN ', requests_received ' || requests_received || ' -> ' || received ELSE '' END \
                 || CASE WHEN requests_unviewed <> unviewed \
                     THEN ', requests_unviewed ' || requests_unviewed || ' -> ' || unviewed ELSE '' END \
                 || CASE WHEN connections <> connected \
                     THEN ', connections ' || connections || ' -> ' || connected ELSE '' END, 2) AS said \
             FROM (",
            $counted,
            ") AS stored WHERE requests_sent <> sent OR requests_received <> received \
                 OR requests_unviewed <> unviewed OR connections <> connected"
        )
    };
}
pub(super) use wrong_counts;

// The statements below read and write a few users, each by an index. `{users}` stands for their ids.

const WRONG: &str = wrong_counts!(
    "SELECT user_id, requests_sent, requests_received, requests_unviewed, connections, {sent} AS sent, \
            {received} AS received, {unviewed} AS unviewed, {connected} AS connected \
     FROM user_counts WHERE user_id IN ({users})"
);
const MISSING: &str = "SELECT id AS number, 'user ' || id || ': no counts -> counts' AS said \
                       FROM users LEFT JOIN user_counts ON user_id = id WHERE id IN ({users}) AND user_id IS NULL";
const SURPLUS: &str = "SELECT user_id AS number, 'user ' || user_id || ': counts of nobody -> none' AS said \
                       FROM user_counts LEFT JOIN users ON id = user_id WHERE user_id IN ({users}) AND id IS NULL";

const COUNT: &str = "UPDATE user_counts SET requests_sent = {sent}, requests_received = {received}, \
                     requests_unviewed = {unviewed}, connections = {connected} WHERE user_id IN ({users})";
/// The user may have seen any event up to the newest one.
const INSERT: &str = "INSERT INTO user_counts (user_id, last_visible) \
                      SELECT users.id, last_sequence FROM users CROSS JOIN feed WHERE users.id IN ({users}) \
                      AND NOT EXISTS (SELECT 1 FROM user_counts WHERE user_id = users.id)";
const DELETE: &str = "DELETE FROM user_counts WHERE user_id IN ({users}) \
                      AND NOT EXISTS (SELECT 1 FROM users WHERE id = user_counts.user_id)";

/// The right counts of a user, by name.
const RIGHT: [(&str, &str); 4] = [
    (
        "{sent}",
        "(SELECT count(*) FROM connection_requests \
          WHERE from_user_id = user_counts.user_id AND state IN ('PENDING', 'SILENCED', 'REJECTED'))",
    ),
    (
        "{received}",
        "(SELECT count(*) FROM connection_requests WHERE to_user_id = user_counts.user_id AND state = 'PENDING')",
    ),
    (
        "{unviewed}",
        "(SELECT count(*) FROM connection_requests \
          WHERE to_user_id = user_counts.user_id AND state = 'PENDING' AND viewed IS NULL)",
    ),
    (
        "{connected}",
        "(SELECT count(*) FROM connection_requests WHERE from_user_id = user_counts.user_id AND state = 'CONNECTED') \
         + (SELECT count(*) FROM connection_requests WHERE to_user_id = user_counts.user_id AND state = 'CONNECTED')",
    ),
];

/// Repairs what one check of counts found wrong with these users.
///
/// Returns descriptions of what was rewritten, and the number of users whose counts are right now. It includes those
/// that somebody else repaired or deleted in between.
pub(super) async fn counts(
    url: &DatabaseUrl,
    check: &'static str,
    users: &[i64],
    progress: &Progress,
) -> Result<(Vec<String>, i64), ConnectError> {
    let (wrong, repairs): (_, &[&str]) = match check {
        COUNTS_THERE => (MISSING, &[INSERT, COUNT]),
        COUNTS_OF_SOMEBODY => (SURPLUS, &[DELETE]),
        _ => (WRONG, &[COUNT]),
    };
    let mut session = Session::write(url).await?;
    let (mut rewritten, mut repaired, mut done) = (Vec::new(), 0, 0);
    for some in users.chunks(BATCH) {
        let (current, total) = (some.len() as u64, Some(users.len() as u64));
        progress.report(Step { phase: "repairing", unit: "users", done, current, total, doing: check.into() });
        done += current;
        let wrong = format!("SELECT number, said, number AS total FROM ({}) AS found ORDER BY number", of(some, wrong));
        session.lock().await?;
        rewritten.extend(session.ask(wrong.clone()).await?.into_iter().map(|row| row.said));
        for repair in repairs {
            session.execute(of(some, repair)).await?;
        }
        let left = session.ask(wrong).await?.len();
        session.touch().await?;
        session.commit().await?;
        repaired += some.len() - left;
    }
    Ok((rewritten, repaired.try_into().unwrap_or(i64::MAX)))
}

/// The text for these users.
fn of(users: &[i64], text: &str) -> String {
    let ids: Vec<_> = users.iter().map(i64::to_string).collect();
    let text = RIGHT.iter().fold(text.to_owned(), |text, (name, count)| text.replace(name, count));
    text.replace("{users}", &ids.join(", "))
}
