//! The reads, written once: both engines run these same queries.
//!
//! Every list is ordered by a unique column and continues after a value of it, so that nothing is skipped or told
//! twice while others write.

use diesel::backend::Backend;
use diesel::dsl::{auto_type, case_when, count_star, exists};
use diesel::internal::derives::as_expression::Bound;
use diesel::prelude::*;
use diesel::query_builder::{AsQuery, QueryFragment};
use diesel::sql_types::{BigInt, Nullable};

use super::schema::{
    Instant, IsConnected, IsInOrder, IsOpen, IsOutOfOrder, IsWithdrawn, Stamp, blocks, connection_requests,
    connections, feed, request_ids, user_counts, users,
};

use super::statement::Statement;
use super::{DUE_AT_ONCE, EVENTS_AT_ONCE};
use crate::domain::id::Sequence;
use crate::domain::query::Mutual;

type ConnectionsSql = <connections::table as AsQuery>::SqlType;
type CountsSql = <user_counts::table as AsQuery>::SqlType;

/// The `before` of a list's first page is greater than every position.
pub(super) fn first(before: Option<Sequence>) -> i64 {
    before.map_or(i64::MAX, Sequence::get)
}

#[auto_type]
pub(super) fn head() -> _ {
    feed::table.find(1_i64)
}

#[auto_type]
pub(super) fn mark() -> _ {
    feed::table.find(1_i64).select((feed::epoch, feed::last_sequence, feed::users_changed))
}

/// Of the oldest events, those of `until` or before.
pub(super) fn due_events<DB: Backend>(until: Stamp) -> Statement<'static, DB, (Nullable<BigInt>, BigInt)>
where
    Bound<BigInt, i64>: QueryFragment<DB>,
    Bound<Instant, Stamp>: QueryFragment<DB>,
{
    // Time never runs backwards in the feed, but the database does not know: it is shown only as many as can be due.
    let text = "SELECT max(sequence), count(*) FROM \
                (SELECT sequence, time FROM events ORDER BY sequence LIMIT ?) AS oldest WHERE time <= ?";
    Statement::new(text).bind::<BigInt, _>(EVENTS_AT_ONCE).bind::<Instant, _>(until)
}

/// How many of the kept answers were given at `until` or before, as far as one sweep deletes.
pub(super) fn due_replays<DB: Backend>(until: Stamp) -> Statement<'static, DB, BigInt>
where
    Bound<BigInt, i64>: QueryFragment<DB>,
    Bound<Instant, Stamp>: QueryFragment<DB>,
{
    let text = "SELECT count(*) FROM (SELECT 1 FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?) AS due";
    Statement::new(text).bind::<Instant, _>(until).bind::<BigInt, _>(DUE_AT_ONCE)
}

// --- users ---

#[auto_type]
pub(super) fn user(id: i64) -> _ {
    users::table.find(id)
}

#[auto_type]
pub(super) fn user_by_name(key: String) -> _ {
    users::table.filter(users::username_key.eq(key))
}

#[auto_type]
pub(super) fn users_page(before: i64, limit: i64) -> _ {
    users::table.filter(users::position.lt(before)).order(users::position.desc()).limit(limit)
}

#[auto_type]
pub(super) fn counts(user: i64) -> _ {
    user_counts::table.find(user)
}

/// A user with their counts.
#[auto_type]
pub(super) fn member(id: i64) -> _ {
    users::table.inner_join(user_counts::table).filter(users::id.eq(id))
}

/// The user of this name, with their counts.
#[auto_type]
pub(super) fn member_by_name(key: String) -> _ {
    users::table.inner_join(user_counts::table).filter(users::username_key.eq(key))
}

// --- requests ---

#[auto_type]
pub(super) fn request(id: i64) -> _ {
    connection_requests::table.filter(connection_requests::id.eq(id))
}

#[auto_type]
pub(super) fn request_of_pair(low: i64, high: i64) -> _ {
    connection_requests::table.find((low, high))
}

/// The requests to a user in one state, by when they came into it.
#[auto_type]
pub(super) fn requests_received(user: i64, state: &'static str, after: Stamp, before: i64, limit: i64) -> _ {
    connection_requests::table
        .filter(connection_requests::to_user_id.eq(user))
        .filter(connection_requests::state.eq(state))
        .filter(connection_requests::created.gt(after))
        .filter(connection_requests::position.lt(before))
        .order(connection_requests::position.desc())
        .limit(limit)
}

/// The same, of those not viewed.
#[auto_type]
pub(super) fn requests_unviewed(user: i64, state: &'static str, after: Stamp, before: i64, limit: i64) -> _ {
    connection_requests::table
        .filter(connection_requests::to_user_id.eq(user))
        .filter(connection_requests::state.eq(state))
        .filter(connection_requests::viewed.is_null())
        .filter(connection_requests::created.gt(after))
        .filter(connection_requests::position.lt(before))
        .order(connection_requests::position.desc())
        .limit(limit)
}

/// The requests that a user sent and sees waiting, by when they were sent.
#[auto_type]
pub(super) fn requests_sent(user: i64, after: Stamp, before: i64, limit: i64) -> _ {
    connection_requests::table
        .filter(connection_requests::from_user_id.eq(user))
        .filter(IsOpen)
        .filter(connection_requests::created.gt(after))
        .filter(connection_requests::id.lt(before))
        .order(connection_requests::id.desc())
        .limit(limit)
}

/// Those of them in one state only; for products that disclose rejections.
#[auto_type]
pub(super) fn requests_sent_in(user: i64, state: &'static str, after: Stamp, before: i64, limit: i64) -> _ {
    connection_requests::table
        .filter(connection_requests::from_user_id.eq(user))
        .filter(IsOpen)
        .filter(connection_requests::state.eq(state))
        .filter(connection_requests::created.gt(after))
        .filter(connection_requests::id.lt(before))
        .order(connection_requests::id.desc())
        .limit(limit)
}

/// The oldest of the requests that a user sent and sees waiting.
#[auto_type]
pub(super) fn oldest_sent(user: i64, limit: i64) -> _ {
    connection_requests::table
        .filter(connection_requests::from_user_id.eq(user))
        .filter(IsOpen)
        .order(connection_requests::id.asc())
        .limit(limit)
}

// All that a user sent, by state: each has its own index on the sender, and no index has them all.

#[auto_type]
pub(super) fn all_sent_open(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::from_user_id.eq(user)).filter(IsOpen)
}

#[auto_type]
pub(super) fn all_sent_connected(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::from_user_id.eq(user)).filter(IsConnected)
}

#[auto_type]
pub(super) fn all_sent_withdrawn(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::from_user_id.eq(user)).filter(IsWithdrawn)
}

#[auto_type]
pub(super) fn all_received(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::to_user_id.eq(user))
}

/// The open requests after those that the sweep is done with, in the order in which they expire.
#[auto_type]
pub(super) fn next_open(limit: i64) -> _ {
    let feed: swept = swept();
    connection_requests::table
        .filter(connection_requests::id.nullable().gt(feed.single_value()))
        .filter(IsOpen)
        .filter(IsInOrder)
        .order(connection_requests::id.asc())
        .limit(limit)
}

/// The id up to which the sweep is done.
#[auto_type]
pub(super) fn swept() -> _ {
    feed::table.find(1_i64).select(feed::swept_id)
}

/// The exceptions: open requests that were sent at `until` or before and do not expire in the order of their ids.
#[auto_type]
pub(super) fn due_out_of_order(until: Stamp, limit: i64) -> _ {
    connection_requests::table
        .filter(IsOutOfOrder)
        .filter(IsOpen)
        .filter(connection_requests::created.le(until))
        .order(connection_requests::created.asc())
        .limit(limit)
}

/// The withdrawn requests that were rejected at `until` or before, the oldest first.
#[auto_type]
pub(super) fn due_withdrawn(until: Stamp, limit: i64) -> _ {
    connection_requests::table
        .filter(IsWithdrawn)
        .filter(connection_requests::rejected.le(until))
        .order(connection_requests::rejected.asc())
        .limit(limit)
}

/// When the open request was sent that expires next: shows whether any has expired and was not swept yet.
pub(super) fn oldest_open<DB: Backend>() -> Statement<'static, DB, Nullable<Instant>> {
    Statement::new(
        "SELECT min(created) FROM ( \
             SELECT created FROM ( \
                 SELECT created FROM connection_requests WHERE id > (SELECT swept_id FROM feed WHERE feed.id = 1) \
                 AND state IN ('PENDING', 'REJECTED') AND NOT out_of_order ORDER BY id LIMIT 1 \
             ) AS in_order \
             UNION ALL SELECT created FROM ( \
                 SELECT created FROM connection_requests WHERE out_of_order AND state IN ('PENDING', 'REJECTED') \
                 ORDER BY created LIMIT 1 \
             ) AS exceptions \
         ) AS oldest",
    )
}

/// A user's counts without the open requests that were sent at `until` or before. One statement, so that a sweep in
/// between is not counted twice. It reads all open requests of the user.
pub(super) fn counts_without_due<DB: Backend>(user: i64, until: Stamp) -> Statement<'static, DB, CountsSql>
where
    Bound<BigInt, i64>: QueryFragment<DB>,
    Bound<Instant, Stamp>: QueryFragment<DB>,
{
    let text = "SELECT user_id, requests_sent - sent.due, requests_received - received.due, \
                requests_unviewed - received.unviewed, connections, sends, sends_since \
                FROM user_counts CROSS JOIN ( \
                    SELECT count(*) AS due FROM connection_requests \
                    WHERE from_user_id = ? AND state IN ('PENDING', 'REJECTED') AND created <= ? \
                ) AS sent CROSS JOIN ( \
                    SELECT count(*) AS due, count(*) FILTER (WHERE viewed IS NULL) AS unviewed \
                    FROM connection_requests WHERE to_user_id = ? AND state = 'PENDING' AND created <= ? \
                ) AS received WHERE user_id = ?";
    Statement::new(text)
        .bind::<BigInt, _>(user)
        .bind::<Instant, _>(until)
        .bind::<BigInt, _>(user)
        .bind::<Instant, _>(until)
        .bind::<BigInt, _>(user)
}

// --- connections ---

/// A page of the connections of a user, out of a page from either side: on PostgreSQL the order and limit of a query
/// of the view do not reach the indexes, and it would read all connections and sort them.
macro_rules! connections_sql {
    () => {
        connections_sql!(@ "", "")
    };
    // Only those whose other end is, or is not, connected to a viewer: a look-up by the pair's key. The offset keeps
    // PostgreSQL from making a join of it, which for a user with many connections would read the whole table.
    ($exists:literal) => {
        connections_sql!(@
            concat!(
                "AND ", $exists, " (SELECT 1 FROM connection_requests AS theirs WHERE theirs.state = 'CONNECTED' \
                 AND theirs.low_user_id = CASE WHEN own.to_user_id < ? THEN own.to_user_id ELSE ? END \
                 AND theirs.high_user_id = CASE WHEN own.to_user_id < ? THEN ? ELSE own.to_user_id END LIMIT 1 OFFSET 0)"
            ),
            concat!(
                "AND ", $exists, " (SELECT 1 FROM connection_requests AS theirs WHERE theirs.state = 'CONNECTED' \
                 AND theirs.low_user_id = CASE WHEN own.from_user_id < ? THEN own.from_user_id ELSE ? END \
                 AND theirs.high_user_id = CASE WHEN own.from_user_id < ? THEN ? ELSE own.from_user_id END LIMIT 1 OFFSET 0)"
            )
        )
    };
    (@ $if_asked:expr, $if_was_asked:expr) => {
        concat!(
            "SELECT * FROM ( \
                 SELECT * FROM ( \
                     SELECT from_user_id AS user_id, to_user_id AS other_user_id, id AS connection_request_id, \
                            accepted AS connected, position FROM connection_requests AS own \
                     WHERE state = 'CONNECTED' AND from_user_id = ? AND position < ? ",
            $if_asked,
            " ORDER BY position DESC LIMIT ?) AS asked \
                 UNION ALL SELECT * FROM ( \
                     SELECT to_user_id, from_user_id, id, accepted, position FROM connection_requests AS own \
                     WHERE state = 'CONNECTED' AND to_user_id = ? AND position < ? ",
            $if_was_asked,
            " ORDER BY position DESC LIMIT ?) AS was_asked \
             ) AS connections ORDER BY position DESC LIMIT ?"
        )
    };
}

/// Whether the other end of a connection is connected to `viewer`: a look-up by the pair's key, and no join, as
/// above.
#[auto_type]
fn shared_with(viewer: i64) -> _ {
    exists(
        connection_requests::table
            .filter(
                connection_requests::low_user_id.eq(case_when(
                    connections::other_user_id.lt(viewer),
                    connections::other_user_id,
                )
                .otherwise(viewer.into_sql::<BigInt>())),
            )
            .filter(
                connection_requests::high_user_id.eq(case_when(
                    connections::other_user_id.lt(viewer),
                    viewer.into_sql::<BigInt>(),
                )
                .otherwise(connections::other_user_id)),
            )
            .filter(connection_requests::state.eq("CONNECTED"))
            .limit(1_i64)
            .offset(0_i64),
    )
}

pub(super) fn connections_page<DB: Backend>(
    user: i64,
    mutual: Mutual,
    before: i64,
    limit: i64,
) -> Statement<'static, DB, ConnectionsSql>
where
    Bound<BigInt, i64>: QueryFragment<DB>,
{
    let mut statement = Statement::new(match mutual {
        Mutual::Any => connections_sql!(),
        Mutual::With(_) => connections_sql!("EXISTS"),
        Mutual::Without(_) => connections_sql!("NOT EXISTS"),
    });
    for _side in 0..2 {
        statement = statement.bind::<BigInt, _>(user).bind::<BigInt, _>(before);
        for viewer in mutual.viewer().into_iter().flat_map(|viewer| [viewer.get(); 4]) {
            statement = statement.bind::<BigInt, _>(viewer);
        }
        statement = statement.bind::<BigInt, _>(limit);
    }
    statement.bind::<BigInt, _>(limit)
}

#[auto_type]
pub(super) fn connections_shared_total(user: i64, viewer: i64) -> _ {
    let shared: shared_with = shared_with(viewer);
    connections::table.filter(connections::user_id.eq(user)).filter(shared).select(count_star())
}

// --- blocks and kept answers ---

#[auto_type]
pub(super) fn block(user: i64, other: i64) -> _ {
    blocks::table.find((user, other))
}

#[auto_type]
pub(super) fn blocks_page(user: i64, before: i64, limit: i64) -> _ {
    blocks::table
        .filter(blocks::user_id.eq(user))
        .filter(blocks::position.lt(before))
        .order(blocks::position.desc())
        .limit(limit)
}

#[auto_type]
pub(super) fn blocks_by(user: i64) -> _ {
    blocks::table.filter(blocks::user_id.eq(user))
}

#[auto_type]
pub(super) fn blocks_against(user: i64) -> _ {
    blocks::table.filter(blocks::other_user_id.eq(user))
}

#[auto_type]
pub(super) fn replay(caller: String, id: String) -> _ {
    request_ids::table.find((caller, id))
}

#[cfg(test)]
mod tests;
