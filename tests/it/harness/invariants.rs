//! What must hold of a database whatever was done to it, asked in SQL from outside the service.

use super::database::Database;

/// What is asked: a name, and a query for what breaks it.
const QUERIES: [(&str, &str); 13] = [
    (
        "the sequence is 1, 2, … n, and the head has n",
        "SELECT last_sequence AS value FROM feed WHERE last_sequence <> (SELECT count(*) FROM events) \
         OR last_sequence <> (SELECT coalesce(max(sequence), 0) FROM events) \
         OR (SELECT min(sequence) FROM events) <> 1",
    ),
    (
        "time never runs backwards in the feed",
        "SELECT sequence AS value FROM ( \
             SELECT sequence, time, lag(time) OVER (ORDER BY sequence) AS before FROM events \
         ) AS event WHERE time < before \
         UNION ALL SELECT last_sequence FROM feed WHERE last_time < (SELECT max(time) FROM events)",
    ),
    (
        "each count is what it counts",
        "SELECT user_id AS value FROM user_counts AS kept WHERE \
         requests_sent <> (SELECT count(*) FROM connection_requests \
             WHERE from_user_id = kept.user_id AND state IN ('PENDING', 'REJECTED')) \
         OR requests_received <> (SELECT count(*) FROM connection_requests \
             WHERE to_user_id = kept.user_id AND state = 'PENDING') \
         OR requests_unviewed <> (SELECT count(*) FROM connection_requests \
             WHERE to_user_id = kept.user_id AND state = 'PENDING' AND viewed IS NULL) \
         OR connections <> (SELECT count(*) FROM connections WHERE user_id = kept.user_id)",
    ),
    (
        "each user has counts, and each counts have a user",
        "SELECT id AS value FROM users WHERE id NOT IN (SELECT user_id FROM user_counts) \
         UNION ALL SELECT user_id FROM user_counts WHERE user_id NOT IN (SELECT id FROM users)",
    ),
    (
        "nothing is pending or connected across a block",
        "SELECT id AS value FROM connection_requests WHERE state IN ('PENDING', 'CONNECTED') AND EXISTS ( \
             SELECT 1 FROM blocks WHERE (user_id = from_user_id AND other_user_id = to_user_id) \
                 OR (user_id = to_user_id AND other_user_id = from_user_id))",
    ),
    (
        "a pair's key is its two users in order",
        "SELECT id AS value FROM connection_requests WHERE low_user_id >= high_user_id \
         OR NOT ((low_user_id = from_user_id AND high_user_id = to_user_id) \
             OR (low_user_id = to_user_id AND high_user_id = from_user_id))",
    ),
    (
        "the users of each request exist",
        "SELECT id AS value FROM connection_requests WHERE low_user_id NOT IN (SELECT id FROM users) \
         OR high_user_id NOT IN (SELECT id FROM users)",
    ),
    (
        "the users of each block exist",
        "SELECT position AS value FROM blocks WHERE user_id NOT IN (SELECT id FROM users) \
         OR other_user_id NOT IN (SELECT id FROM users)",
    ),
    (
        "each request was created by the event whose sequence is its id",
        "SELECT id AS value FROM connection_requests AS kept WHERE NOT EXISTS ( \
             SELECT 1 FROM events WHERE sequence = kept.id AND kind = 'REQUEST_CREATED' AND request_id = kept.id \
                 AND user_id = kept.from_user_id AND other_user_id = kept.to_user_id AND time = kept.created)",
    ),
    (
        "each request came into its state by the event at its position, and by no later one out of it",
        "SELECT id AS value FROM connection_requests AS kept WHERE NOT EXISTS ( \
             SELECT 1 FROM events WHERE sequence = kept.position AND request_id = kept.id AND ( \
                 (kept.state = 'PENDING' AND kind IN ('REQUEST_CREATED', 'REQUEST_RESTORED')) \
                 OR (kept.state = 'REJECTED' AND kind IN ('REQUEST_CREATED', 'REQUEST_REJECTED')) \
                 OR (kept.state = 'WITHDRAWN' AND kind IN ('REQUEST_CANCELLED', 'REQUEST_EXPIRED')) \
                 OR (kept.state = 'CONNECTED' AND kind = 'CONNECTION_CREATED'))) \
         OR EXISTS (SELECT 1 FROM events WHERE request_id = kept.id AND sequence > kept.position \
             AND kind <> 'REQUEST_VIEWED')",
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
        "each block and each user was made by the event at its position",
        "SELECT position AS value FROM blocks AS kept WHERE NOT EXISTS ( \
             SELECT 1 FROM events WHERE sequence = kept.position AND kind = 'USER_BLOCKED' \
                 AND user_id = kept.user_id AND other_user_id = kept.other_user_id) \
         UNION ALL SELECT position FROM users AS kept WHERE NOT EXISTS ( \
             SELECT 1 FROM events WHERE sequence = kept.position AND kind = 'USER_CREATED' AND user_id = kept.id)",
    ),
    (
        "there are as many users as were created and not deleted",
        "SELECT live AS value FROM ( \
             SELECT coalesce(sum(CASE kind WHEN 'USER_CREATED' THEN 1 ELSE -1 END), 0) AS live FROM events \
             WHERE kind IN ('USER_CREATED', 'USER_DELETED') \
         ) AS counted WHERE live <> (SELECT count(*) FROM users)",
    ),
];

/// What is broken; empty if nothing is.
pub async fn violations(database: &Database) -> Vec<String> {
    let mut found = Vec::new();
    for (name, query) in QUERIES {
        let broken: Vec<_> = database.values(query).await.into_iter().flatten().collect();
        if !broken.is_empty() {
            found.push(format!("{name}; but not for {}", broken.join(", ")));
        }
    }
    found
}

/// Fails if anything is broken; answers how many events there are, so that a caller can tell that there were some.
pub async fn check(database: &Database) -> i64 {
    let found = violations(database).await;
    assert!(found.is_empty(), "{found:#?}");
    database.number("SELECT count(*) AS value FROM events").await
}
