//! The check of the keys of usernames, which SQL cannot compute.

use super::work::Work;
use super::{Checked, ROWS_SHOWN};
use crate::domain::id::UserId;
use crate::domain::text::Username;
use crate::store::ConnectError;
use crate::store::columns::username_key;
use crate::store::session::Session;

const NAME: &str = "each username has its key";
/// The number of users that are read at a time.
const PAGE_ROWS: u64 = 10_000;

/// Compares the key of each username with the one that the username has.
pub(super) async fn check(session: &mut Session, work: &mut Work<'_>) -> Result<Checked, ConnectError> {
    let mut checked = Checked { name: NAME, examined: 0, violations: 0, rows: Vec::new(), repaired: 0 };
    let mut last = 0;
    loop {
        work.begin(NAME, PAGE_ROWS.min(work.rows("users").saturating_sub(checked.examined.unsigned_abs())));
        // No username contains a slash.
        let page = session
            .ask(format!(
                "SELECT id AS number, username || '/' || username_key AS said, id AS total FROM users \
                 WHERE id > {last} ORDER BY id LIMIT {PAGE_ROWS}"
            ))
            .await?;
        let Some(end) = page.last() else { return Ok(checked) };
        last = end.number;
        for user in &page {
            checked.examined += 1;
            let (username, key) = user.said.split_once('/').unwrap_or((&user.said, ""));
            if username_key(&Username::stored(username.to_owned()), UserId::new(user.number)) != key {
                checked.violations += 1;
                if checked.rows.len() < ROWS_SHOWN {
                    checked.rows.push(format!("user {} is {username:?} under the key {key:?}", user.number));
                }
            }
        }
    }
}
