//! Invariants of a database after any history: what `kith check` verifies for every database, and what can only be
//! verified while no event has been deleted from the feed.

use std::time::Duration;

use kith::clock::{Clock, Reading};
use kith::domain::Time;
use kith::progress::Progress;
use kith::store::{self, Repair};

use super::database::Database;

/// Invariants beyond the library's checks: a name, and a query for violations.
const QUERIES: [(&str, &str); 3] = [
    (
        "the feed is whole: 1, 2, … n",
        "SELECT last_sequence AS value FROM feed WHERE last_sequence <> (SELECT count(*) FROM events)",
    ),
    (
        "each pair is connected as often as it was connected and not removed: once or never",
        "SELECT low || '-' || high AS value FROM ( \
             SELECT low, high, sum(step) AS live FROM ( \
                 SELECT CASE WHEN user_id < other_user_id THEN user_id ELSE other_user_id END AS low, \
                        CASE WHEN user_id < other_user_id THEN other_user_id ELSE user_id END AS high, \
                        CASE kind WHEN 'CONNECTION_CREATED' THEN 1 ELSE -1 END AS step \
                 FROM events WHERE kind IN ('CONNECTION_CREATED', 'CONNECTION_REMOVED') \
                 UNION ALL SELECT low_user_id, high_user_id, 0 FROM connection_requests \
             ) AS steps GROUP BY low, high \
         ) AS pairs WHERE live <> (SELECT count(*) FROM connection_requests \
             WHERE low_user_id = low AND high_user_id = high AND state = 'CONNECTED')",
    ),
    (
        "there are as many users as were created and not deleted",
        "SELECT live AS value FROM ( \
             SELECT coalesce(sum(CASE kind WHEN 'USER_CREATED' THEN 1 ELSE -1 END), 0) AS live FROM events \
             WHERE kind IN ('USER_CREATED', 'USER_DELETED') \
         ) AS counted WHERE live <> (SELECT count(*) FROM users)",
    ),
];

/// A clock that shows a later time than any test sets.
pub fn later_than_all() -> Clock {
    let time = Time::from_timestamp(7_000_000_000, 0).expect("a time");
    Clock::from_fn(move || Reading { time, elapsed: Duration::ZERO })
}

/// The violations. Empty if there are none.
pub async fn violations(database: &Database) -> Vec<String> {
    let report = store::check(&database.url(), Repair::Nothing, &later_than_all(), &Progress::default())
        .await
        .expect("a report");
    let broken = report.checks.iter().filter(|checked| !checked.holds());
    let mut found: Vec<_> = broken.map(|checked| format!("{}: {}", checked.name, checked.rows.join("; "))).collect();
    for (name, query) in QUERIES {
        let broken: Vec<_> = database.values(query).await.into_iter().flatten().collect();
        if !broken.is_empty() {
            found.push(format!("{name}; but not for {}", broken.join(", ")));
        }
    }
    found
}

/// Fails if an invariant is violated. Returns the number of events, so that a caller can assert that there were some.
pub async fn check(database: &Database) -> i64 {
    let found = violations(database).await;
    assert!(found.is_empty(), "{found:#?}");
    database.number("SELECT count(*) AS value FROM events").await
}
