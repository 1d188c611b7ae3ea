//! Pairs as they are stored: the request of two users, and what each of them has done to the other.

use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{Array, BigInt, Nullable};

use super::StoreError;
use super::row::RequestRow;
use super::schema::{Instant, Stamp, connection_requests};
use super::statement::{CacheKey, PgStatement, SharedStatement, SqliteStatement, Statement, statement};
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::ledger::Snapshot;
use crate::domain::pair::{Block, Ended, Pair, Request, Side};

/// A user's block of another (its time and event), their cooldown, and their ended requests (since when, how many).
type SideSql = (Nullable<Instant>, Nullable<BigInt>, Nullable<Instant>, Nullable<Instant>, Nullable<BigInt>);

/// The columns of [`SidePartRow`].
type SidePartSql = (BigInt, BigInt, SideSql);

/// The columns of [`pair_sql!`].
type PairSql =
    (Nullable<BigInt>, Nullable<BigInt>, Nullable<<connection_requests::table as AsQuery>::SqlType>, SideSql, SideSql);

/// The SQL that reads pairs whole: the two users, the request, and the side of the lower and of the higher user.
///
/// `$from` has the pairs, joined with their requests, and `$low` and `$high` are its columns with the two users. The
/// first `?` is for the columns of the request.
macro_rules! pair_sql {
    ($low:literal, $high:literal, $from:literal) => {
        concat!(
            "SELECT ",
            $low,
            ", ",
            $high,
            ", ?, \
             low_block.created, low_block.position, low_cooldown.since, low_ended.since, low_ended.requests, \
             high_block.created, high_block.position, high_cooldown.since, high_ended.since, high_ended.requests \
             FROM ",
            $from,
            " LEFT JOIN blocks AS low_block ON low_block.user_id = ",
            $low,
            " AND low_block.other_user_id = ",
            $high,
            " LEFT JOIN cooldowns AS low_cooldown \
                   ON low_cooldown.from_user_id = ",
            $low,
            " AND low_cooldown.to_user_id = ",
            $high,
            " LEFT JOIN ended_requests AS low_ended \
                   ON low_ended.from_user_id = ",
            $low,
            " AND low_ended.to_user_id = ",
            $high,
            " LEFT JOIN blocks AS high_block ON high_block.user_id = ",
            $high,
            " AND high_block.other_user_id = ",
            $low,
            " LEFT JOIN cooldowns AS high_cooldown \
                   ON high_cooldown.from_user_id = ",
            $high,
            " AND high_cooldown.to_user_id = ",
            $low,
            " LEFT JOIN ended_requests AS high_ended \
                   ON high_ended.from_user_id = ",
            $high,
            " AND high_ended.to_user_id = ",
            $low
        )
    };
}

/// The pairs with these keys, each by a separate look-up.
///
/// With `= ANY` on both columns, PostgreSQL may use only one of them and read all requests of that user.
pub(super) fn by_keys(low: Vec<i64>, high: Vec<i64>) -> PgStatement<'static, PairSql, impl CacheKey> {
    let load = statement!(pair_sql!(
        "pair.low",
        "pair.high",
        "unnest(?, ?) AS pair (low, high) \
         LEFT JOIN connection_requests ON low_user_id = pair.low AND high_user_id = pair.high"
    ));
    load.part(connection_requests::all_columns).bind::<Array<BigInt>, _>(low).bind::<Array<BigInt>, _>(high)
}

/// The pairs whose requests have these ids: a row for each id, even if the request does not exist.
pub(super) fn by_requests(ids: Vec<i64>) -> PgStatement<'static, PairSql, impl CacheKey> {
    let load = statement!(pair_sql!(
        "low_user_id",
        "high_user_id",
        "unnest(?) AS asked (id) LEFT JOIN connection_requests ON connection_requests.id = asked.id"
    ));
    load.part(connection_requests::all_columns).bind::<Array<BigInt>, _>(ids)
}

/// The pair with this key.
pub(super) fn by_key(low: i64, high: i64) -> SqliteStatement<'static, PairSql, impl CacheKey> {
    let load = statement!(pair_sql!(
        "pair.low",
        "pair.high",
        "(SELECT ? AS low, ? AS high) AS pair \
         LEFT JOIN connection_requests ON low_user_id = pair.low AND high_user_id = pair.high"
    ));
    load.part(connection_requests::all_columns).bind::<BigInt, _>(low).bind::<BigInt, _>(high)
}

/// The pair whose request has this id: a row even if the request does not exist.
pub(super) fn by_request(id: i64) -> SqliteStatement<'static, PairSql, impl CacheKey> {
    let load = statement!(pair_sql!(
        "low_user_id",
        "high_user_id",
        "(SELECT ? AS id) AS asked LEFT JOIN connection_requests ON connection_requests.id = asked.id"
    ));
    load.part(connection_requests::all_columns).bind::<BigInt, _>(id)
}

/// What a user has done to another.
#[derive(Clone, Debug, Queryable)]
pub(super) struct SideRow {
    block_created: Option<Stamp>,
    block_position: Option<i64>,
    cooldown: Option<Stamp>,
    ended_since: Option<Stamp>,
    ended: Option<i64>,
}

impl From<SideRow> for Side {
    fn from(row: SideRow) -> Self {
        let SideRow { block_created, block_position, cooldown, ended_since, ended } = row;
        let block = block_created.zip(block_position);
        Self {
            block: block.map(|(Stamp(created), position)| Block { created, position: Sequence::new(position) }),
            cooldown: cooldown.map(|Stamp(since)| since),
            ended: ended_since.zip(ended).map(|(Stamp(since), count)| Ended { since, count }),
        }
    }
}

/// A row of [`pair_sql!`]. All columns are null for the id of a request that does not exist.
#[derive(Clone, Debug, Queryable)]
pub(super) struct PairRow {
    low_user_id: Option<i64>,
    high_user_id: Option<i64>,
    request: Option<RequestRow>,
    low: SideRow,
    high: SideRow,
}

impl PairRow {
    pub(super) fn pair(self) -> Result<Option<Pair>, StoreError> {
        let Self { low_user_id, high_user_id, request, low: low_side, high: high_side } = self;
        let Some((low, high)) = low_user_id.zip(high_user_id) else { return Ok(None) };
        let key = PairKey::of(UserId::new(low), UserId::new(high)).ok_or_else(|| {
            StoreError::corrupt("connection_requests.low_user_id", format_args!("user {low} with themselves"))
        })?;
        let request = request.map(Request::try_from).transpose()?;
        Ok(Some(Pair { key, request, low: low_side.into(), high: high_side.into() }))
    }
}

/// A part of what a user has done to another.
#[derive(Clone, Debug, Queryable)]
pub(super) struct SidePartRow {
    user_id: i64,
    other_user_id: i64,
    side: SideRow,
}

impl SidePartRow {
    pub(super) fn add_to(self, snapshot: &mut Snapshot) {
        let Self { user_id, other_user_id, side } = self;
        snapshot.add_side(UserId::new(user_id), UserId::new(other_user_id), side.into());
    }
}

/// What a user has done to others and others to the user: a row for each block, cooldown and number of ended requests.
pub(super) fn sides_of(user: i64) -> SharedStatement<SidePartSql> {
    let text = "SELECT user_id, other_user_id, created, position, CAST(NULL AS timestamptz), \
                       CAST(NULL AS timestamptz), CAST(NULL AS bigint) FROM blocks WHERE user_id = ? \
                UNION ALL SELECT user_id, other_user_id, created, position, NULL, NULL, NULL \
                          FROM blocks WHERE other_user_id = ? \
                UNION ALL SELECT from_user_id, to_user_id, NULL, NULL, since, NULL, NULL \
                          FROM cooldowns WHERE from_user_id = ? \
                UNION ALL SELECT from_user_id, to_user_id, NULL, NULL, since, NULL, NULL \
                          FROM cooldowns WHERE to_user_id = ? \
                UNION ALL SELECT from_user_id, to_user_id, NULL, NULL, NULL, since, requests \
                          FROM ended_requests WHERE from_user_id = ? \
                UNION ALL SELECT from_user_id, to_user_id, NULL, NULL, NULL, since, requests \
                          FROM ended_requests WHERE to_user_id = ?";
    (0..6).fold(Statement::new(text), |statement, _branch| statement.bind::<BigInt, _>(user))
}

/// The SQL that reads numbers of ended requests as [`SidePartRow`]s.
macro_rules! ended_sql {
    ($from:literal) => {
        concat!(
            "SELECT from_user_id, to_user_id, CAST(NULL AS timestamptz), CAST(NULL AS bigint), \
             CAST(NULL AS timestamptz), since, requests FROM ",
            $from
        )
    };
}

/// The number of ended requests of one user to another.
pub(super) fn ended(from: i64, to: i64) -> SqliteStatement<'static, SidePartSql, impl CacheKey> {
    let load = statement!(ended_sql!("ended_requests WHERE from_user_id = ? AND to_user_id = ?"));
    load.bind::<BigInt, _>(from).bind::<BigInt, _>(to)
}

/// The numbers of ended requests of these senders to these receivers.
pub(super) fn ended_between(from: Vec<i64>, to: Vec<i64>) -> PgStatement<'static, SidePartSql, impl CacheKey> {
    let load = statement!(ended_sql!(
        "unnest(?, ?) AS pair (one, other) \
         JOIN ended_requests ON from_user_id = pair.one AND to_user_id = pair.other"
    ));
    load.bind::<Array<BigInt>, _>(from).bind::<Array<BigInt>, _>(to)
}

/// Returns what a user may know of their pair with another: the request, and the user's own block. `None`: nothing.
pub(super) fn known_to(
    user: UserId,
    other: UserId,
    request: Option<Request>,
    block: Option<Block>,
) -> Option<(PairKey, Pair)> {
    let key = PairKey::of(user, other)?;
    if request.is_none() && block.is_none() {
        return None;
    }
    let mut pair = Pair { request, ..Pair::empty(key) };
    pair.side_mut(user).block = block;
    Some((key, pair))
}
