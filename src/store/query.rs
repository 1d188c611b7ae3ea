//! Queries that both engines run.
//!
//! Every list is ordered by a unique column and continues after a value of it, so that concurrent writes cause neither
//! skipped nor repeated rows.

use diesel::dsl::{auto_type, case_when, count_star, exists};
use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::clock::TOLERANCE;
use super::schema::{
    Instant, IsConnected, IsInOrder, IsOpen, IsOutOfOrder, Stamp, blocks, connection_requests, connections, cooldowns,
    ended_requests, epochs, feed, request_ids, user_counts, users,
};

use super::bulk::KnownUser;
use super::statement::{SharedStatement, Statement};
use super::{SWEEP_EVENTS_LIMIT, SWEEP_LIMIT};
use crate::domain::id::{Sequence, UserId};
use crate::domain::query::Mutual;

type BlocksSql = <blocks::table as AsQuery>::SqlType;
type ConnectionsSql = <connections::table as AsQuery>::SqlType;
/// The columns of a [`ResponseRow`](super::row::ResponseRow).
type ResponseSql = (Text, Text, Instant, Nullable<BigInt>);
type CooldownsSql = <cooldowns::table as AsQuery>::SqlType;
type CountsSql = <user_counts::table as AsQuery>::SqlType;

/// Returns the `before` of a page. That of the first page is greater than every position.
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

/// The epochs, oldest first. Their number grows by one with each failover and restore.
#[auto_type]
pub(super) fn history() -> _ {
    epochs::table.select((epochs::epoch, epochs::first_sequence)).order(epochs::number.asc())
}

/// The last of the oldest events that are from `until` or before, and their number.
///
/// An event that an error of the clock dated in the past goes with those before it, and one that it dated after `now`
/// with those after it.
pub(super) fn expired_events(until: Stamp, now: Stamp) -> SharedStatement<(Nullable<BigInt>, BigInt)> {
    let text = "WITH oldest AS MATERIALIZED (SELECT sequence, time FROM events ORDER BY sequence LIMIT ?) \
                SELECT max(sequence), count(*) FROM oldest WHERE time <= ? AND sequence < coalesce( \
                    (SELECT min(sequence) FROM oldest WHERE time > ? AND time <= ?), 9223372036854775807)";
    let text = Statement::new(text).bind::<BigInt, _>(SWEEP_EVENTS_LIMIT).bind::<Instant, _>(until);
    text.bind::<Instant, _>(until).bind::<Instant, _>(now)
}

/// The number of responses that were stored at `until` or before, up to the limit of one sweep.
pub(super) fn expired_responses(until: Stamp) -> SharedStatement<BigInt> {
    let text = "SELECT count(*) FROM (SELECT 1 FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?) AS due";
    Statement::new(text).bind::<Instant, _>(until).bind::<BigInt, _>(SWEEP_LIMIT)
}

/// The number of cooldowns and of numbers of ended requests that begin well after `now`, of each up to the limit of one
/// sweep.
pub(super) fn ahead(now: Stamp) -> SharedStatement<BigInt> {
    let text = "SELECT (SELECT count(*) FROM (SELECT 1 FROM cooldowns WHERE since > ? ORDER BY since LIMIT ?) AS ahead) + \
                (SELECT count(*) FROM (SELECT 1 FROM ended_requests WHERE since > ? ORDER BY since LIMIT ?) AS ahead)";
    let future = Stamp(now.0 + TOLERANCE);
    Statement::new(text)
        .bind::<Instant, _>(future)
        .bind::<BigInt, _>(SWEEP_LIMIT)
        .bind::<Instant, _>(future)
        .bind::<BigInt, _>(SWEEP_LIMIT)
}

/// The number of cooldowns and of numbers of ended requests that began at `until` or before, of each up to the limit of
/// one sweep.
pub(super) fn cooled(until: Stamp) -> SharedStatement<BigInt> {
    let text = "SELECT (SELECT count(*) FROM (SELECT 1 FROM cooldowns WHERE since <= ? ORDER BY since LIMIT ?) AS due) + \
                (SELECT count(*) FROM (SELECT 1 FROM ended_requests WHERE since <= ? ORDER BY since LIMIT ?) AS due)";
    Statement::new(text)
        .bind::<Instant, _>(until)
        .bind::<BigInt, _>(SWEEP_LIMIT)
        .bind::<Instant, _>(until)
        .bind::<BigInt, _>(SWEEP_LIMIT)
}

// --- exports ---

#[auto_type]
pub(super) fn users_after(id: i64, limit: i64) -> _ {
    users::table.filter(users::id.gt(id)).order(users::id.asc()).limit(limit)
}

#[auto_type]
pub(super) fn requests_after(id: i64, limit: i64) -> _ {
    connection_requests::table.filter(connection_requests::id.gt(id)).order(connection_requests::id.asc()).limit(limit)
}

/// The cooldowns after that of this sender and receiver, without those of requests that are still rejected.
pub(super) fn withdrawn_after((from, to): (i64, i64), limit: i64) -> SharedStatement<CooldownsSql> {
    let text = "SELECT ? FROM cooldowns WHERE (cooldowns.from_user_id, cooldowns.to_user_id) > (?, ?) AND NOT EXISTS ( \
                    SELECT 1 FROM connection_requests AS stored \
                    WHERE stored.low_user_id = CASE WHEN cooldowns.from_user_id < cooldowns.to_user_id \
                                                    THEN cooldowns.from_user_id ELSE cooldowns.to_user_id END \
                          AND stored.high_user_id = CASE WHEN cooldowns.from_user_id < cooldowns.to_user_id \
                                                         THEN cooldowns.to_user_id ELSE cooldowns.from_user_id END \
                          AND stored.from_user_id = cooldowns.from_user_id AND stored.state = 'REJECTED') \
                ORDER BY cooldowns.from_user_id, cooldowns.to_user_id LIMIT ?";
    Statement::new(text)
        .part(cooldowns::all_columns)
        .bind::<BigInt, _>(from)
        .bind::<BigInt, _>(to)
        .bind::<BigInt, _>(limit)
}

/// The blocks after that of this user against this other one.
pub(super) fn blocks_after((user, other): (i64, i64), limit: i64) -> SharedStatement<BlocksSql> {
    let text = "SELECT ? FROM blocks WHERE (user_id, other_user_id) > (?, ?) ORDER BY user_id, other_user_id LIMIT ?";
    Statement::new(text)
        .part(blocks::all_columns)
        .bind::<BigInt, _>(user)
        .bind::<BigInt, _>(other)
        .bind::<BigInt, _>(limit)
}

// --- users ---

#[auto_type]
pub(super) fn user(id: i64) -> _ {
    users::table.find(id)
}

/// A user as rows of imports may name them.
#[derive(Clone, Debug, Queryable)]
pub(super) struct KnownUserRow {
    id: i64,
    username_key: String,
    external_id: Option<String>,
    date_joined: Stamp,
}

impl KnownUserRow {
    pub(super) fn known(self) -> KnownUser {
        let Self { id, username_key, external_id, date_joined: Stamp(date_joined) } = self;
        // A user without a username has a key that no username has.
        let username_key = Some(username_key).filter(|key| !key.starts_with('/'));
        KnownUser { id: UserId::new(id), username_key, external_id, date_joined }
    }
}

/// Users after this one, in the order of their ids.
#[auto_type]
pub(super) fn known_users(after: i64, limit: i64) -> _ {
    users::table.filter(users::id.gt(after)).order(users::id).limit(limit).select((
        users::id,
        users::username_key,
        users::external_id,
        users::date_joined,
    ))
}

/// The users with more connections than `limit`. Reads all counts.
#[auto_type]
pub(super) fn full_users(limit: i64) -> _ {
    user_counts::table
        .filter(user_counts::connections.gt(limit))
        .order(user_counts::user_id)
        .select(user_counts::user_id)
}

#[auto_type]
pub(super) fn user_by_name(key: String) -> _ {
    users::table.filter(users::username_key.eq(key))
}

#[auto_type]
pub(super) fn user_by_external_id(external_id: String) -> _ {
    users::table.filter(users::external_id.eq(external_id))
}

/// The ids from `first` to `last` that users have.
#[auto_type]
pub(super) fn user_ids_in(first: i64, last: i64) -> _ {
    users::table.filter(users::id.between(first, last)).select(users::id)
}

#[auto_type]
pub(super) fn user_position(id: i64) -> _ {
    users::table.find(id).select(users::position)
}

#[auto_type]
pub(super) fn users_page(before: i64, limit: i64) -> _ {
    users::table.filter(users::position.lt(before)).order(users::position.desc()).limit(limit)
}

#[auto_type]
pub(super) fn counts(user: i64) -> _ {
    user_counts::table.find(user)
}

/// The newest event about a user alone, and the newest one about them and another user that they may see.
#[auto_type]
pub(super) fn newest_visible(id: i64) -> _ {
    let member: member = member(id);
    member.select((users::changed, user_counts::last_visible))
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

/// The user with this external id, with their counts.
#[auto_type]
pub(super) fn member_by_external_id(external_id: String) -> _ {
    users::table.inner_join(user_counts::table).filter(users::external_id.eq(external_id))
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

/// The requests to a user in one state, most recently changed first.
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

/// The requests to a user in one state that were not viewed, most recently changed first.
#[auto_type]
pub(super) fn requests_unviewed(user: i64, state: &'static str, after: Stamp, before: i64, limit: i64) -> _ {
    let received: requests_received = requests_received(user, state, after, before, limit);
    received.filter(connection_requests::viewed.is_null())
}

/// The open requests that a user sent, most recently sent first.
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

/// The requests that a user sent and that were accepted, most recently accepted first.
#[auto_type]
pub(super) fn requests_sent_connected(user: i64, before: i64, limit: i64) -> _ {
    connection_requests::table
        .filter(connection_requests::from_user_id.eq(user))
        .filter(IsConnected)
        .filter(connection_requests::position.lt(before))
        .order(connection_requests::position.desc())
        .limit(limit)
}

/// The open requests that a user sent, either the rejected ones or the others. For deployments that disclose rejections.
#[auto_type]
pub(super) fn requests_sent_and(user: i64, rejected: bool, after: Stamp, before: i64, limit: i64) -> _ {
    let sent: requests_sent = requests_sent(user, after, before, limit);
    sent.filter(connection_requests::state.eq("REJECTED").eq(rejected))
}

/// The oldest of the open requests that a user sent.
#[auto_type]
pub(super) fn oldest_sent(user: i64, limit: i64) -> _ {
    let open: all_sent_open = all_sent_open(user);
    open.order(connection_requests::id.asc()).limit(limit)
}

// All requests that a user sent: the open ones and the connections have an index each.

#[auto_type]
pub(super) fn all_sent_open(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::from_user_id.eq(user)).filter(IsOpen)
}

#[auto_type]
pub(super) fn all_sent_connected(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::from_user_id.eq(user)).filter(IsConnected)
}

#[auto_type]
pub(super) fn all_received(user: i64) -> _ {
    connection_requests::table.filter(connection_requests::to_user_id.eq(user))
}

/// The open requests after those that were swept, in the order in which they expire.
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

/// The id up to which open requests were swept.
#[auto_type]
pub(super) fn swept() -> _ {
    feed::table.find(1_i64).select(feed::swept_id)
}

/// The expired requests among those that do not expire in the order of their ids.
///
/// They were created at `until` or before.
#[auto_type]
pub(super) fn expired_out_of_order(until: Stamp, limit: i64) -> _ {
    connection_requests::table
        .filter(IsOutOfOrder)
        .filter(IsOpen)
        .filter(connection_requests::created.le(until))
        .order(connection_requests::created.asc())
        .limit(limit)
}

/// The creation time of the open request that expires next.
///
/// Shows whether any request has expired that was not swept yet.
pub(super) fn oldest_open() -> SharedStatement<Nullable<Instant>> {
    Statement::new(
        "SELECT min(created) FROM ( \
             SELECT created FROM ( \
                 SELECT created FROM connection_requests WHERE id > (SELECT swept_id FROM feed WHERE feed.id = 1) \
                 AND state IN ('PENDING', 'SILENCED', 'REJECTED') AND NOT out_of_order ORDER BY id LIMIT 1 \
             ) AS in_order \
             UNION ALL SELECT created FROM ( \
                 SELECT created FROM connection_requests WHERE out_of_order AND state IN ('PENDING', 'SILENCED', 'REJECTED') \
                 ORDER BY created LIMIT 1 \
             ) AS exceptions \
         ) AS oldest",
    )
}

/// A user's counts without the open requests that were created at `until` or before.
///
/// Reads all open requests of the user. One statement, so that a request that a concurrent sweep deletes is not
/// subtracted twice.
pub(super) fn counts_without_expired_requests(user: i64, until: Stamp) -> SharedStatement<CountsSql> {
    let text = "SELECT user_id, requests_sent - sent.due, requests_received - received.due, \
                requests_unviewed - received.unviewed, connections, sends, sends_since, last_visible \
                FROM user_counts CROSS JOIN ( \
                    SELECT count(*) AS due FROM connection_requests \
                    WHERE from_user_id = ? AND state IN ('PENDING', 'SILENCED', 'REJECTED') AND created <= ? \
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

/// The SQL of a page of a user's connections, merged from a page of each side.
///
/// PostgreSQL does not push the order and limit of a query of the view down to the indexes: it would read and sort all
/// connections.
macro_rules! connections_sql {
    () => {
        connections_sql!(@ "", "")
    };
    // Only connections whose other user is, or is not, connected to a viewer: a look-up by the pair's key. The OFFSET
    // keeps PostgreSQL from turning it into a join, which for a user with many connections would read the whole table.
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

/// Whether the other user of a connection is connected to `viewer`.
///
/// A look-up by the pair's key. The OFFSET prevents a join, as in `connections_sql!`.
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

pub(super) fn connections_page(user: i64, mutual: Mutual, before: i64, limit: i64) -> SharedStatement<ConnectionsSql> {
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

// --- blocks and stored responses ---

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

// --- what else is stored about a user, each in the order of its key ---

/// The blocks of a user by others.
#[auto_type]
pub(super) fn blocks_of(user: i64, after: i64, limit: i64) -> _ {
    blocks::table
        .filter(blocks::other_user_id.eq(user))
        .filter(blocks::user_id.gt(after))
        .order(blocks::user_id.asc())
        .limit(limit)
}

#[auto_type]
pub(super) fn cooldowns_from(user: i64, after: i64, limit: i64) -> _ {
    cooldowns::table
        .filter(cooldowns::from_user_id.eq(user))
        .filter(cooldowns::to_user_id.gt(after))
        .order(cooldowns::to_user_id.asc())
        .limit(limit)
}

#[auto_type]
pub(super) fn cooldowns_to(user: i64, after: i64, limit: i64) -> _ {
    cooldowns::table
        .filter(cooldowns::to_user_id.eq(user))
        .filter(cooldowns::from_user_id.gt(after))
        .order(cooldowns::from_user_id.asc())
        .limit(limit)
}

#[auto_type]
pub(super) fn ended_from(user: i64, after: i64, limit: i64) -> _ {
    ended_requests::table
        .filter(ended_requests::from_user_id.eq(user))
        .filter(ended_requests::to_user_id.gt(after))
        .order(ended_requests::to_user_id.asc())
        .limit(limit)
}

#[auto_type]
pub(super) fn ended_to(user: i64, after: i64, limit: i64) -> _ {
    ended_requests::table
        .filter(ended_requests::to_user_id.eq(user))
        .filter(ended_requests::from_user_id.gt(after))
        .order(ended_requests::from_user_id.asc())
        .limit(limit)
}

/// The stored responses to calls by a user, or about them, after one with this caller and id.
///
/// Each page reads all of them, found by the users' indexes. Their order is that of the primary key, by which PostgreSQL
/// would otherwise search the whole table.
pub(super) fn responses_of(user: i64, caller: String, id: String, limit: i64) -> SharedStatement<ResponseSql> {
    let text = "WITH mine AS MATERIALIZED ( \
                    SELECT caller, id, created, actor_user_id FROM request_ids WHERE user_id = ? \
                    UNION ALL SELECT caller, id, created, actor_user_id FROM request_ids WHERE other_user_id = ? \
                ) SELECT * FROM mine WHERE (caller, id) > (?, ?) ORDER BY caller, id LIMIT ?";
    Statement::new(text)
        .bind::<BigInt, _>(user)
        .bind::<BigInt, _>(user)
        .bind::<Text, _>(caller)
        .bind::<Text, _>(id)
        .bind::<BigInt, _>(limit)
}

#[auto_type]
pub(super) fn idempotent_response(caller: String, id: String) -> _ {
    request_ids::table.find((caller, id))
}

#[cfg(test)]
mod tests;
