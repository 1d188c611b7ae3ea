//! What the reads of PostgreSQL have in common: their connections, the users that are kept, and look-ups of many at
//! once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{Array, BigInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::try_join;

use super::shared::SharedConnections;
use crate::domain::Time;
use crate::domain::counts::Counts;
use crate::domain::id::{PairKey, UserId};
use crate::domain::pair::{Block, Pair, Request};
use crate::domain::user::User;
use crate::store::row::{BlockRow, CountsRow, MarkRow, RequestRow, UserRow};
use crate::store::schema::{Stamp, blocks, connection_requests, user_counts, users};
use crate::store::statement::Statement;
use crate::store::tls::PostgresConfig;
use crate::store::users::{EVENTS_MAX, KeptUsers, Mark};
use crate::store::{Listed, Options, Read, StoreError, Users, feed, query};

pub(super) type RequestsSql = <connection_requests::table as AsQuery>::SqlType;
pub(super) type BlocksSql = <blocks::table as AsQuery>::SqlType;

/// What is between users.
pub(super) type Pairs = HashMap<PairKey, Pair>;

/// A user's counts, and whether something is due that they may hold.
pub(super) struct CountsFound {
    pub(super) counts: Option<Counts>,
    pub(super) something_due: bool,
}

/// How many reads ask one fast connection at the same time; more wait for their turn.
const DEPTH: usize = 64;

pub(super) struct Reads {
    /// For reads that find a few rows by an index.
    pub(super) fast: SharedConnections,
    /// For reads that may take long: one at a time on each.
    pub(super) slow: SharedConnections,
    pub(super) kept: Arc<KeptUsers>,
}

impl Reads {
    pub(super) fn new(config: Arc<PostgresConfig>, options: Options, kept: Arc<KeptUsers>) -> Self {
        let (fast, slow) = options.fast_and_slow();
        Self {
            fast: SharedConnections::new(Arc::clone(&config), fast, DEPTH),
            slow: SharedConnections::new(config, slow, 1),
            kept,
        }
    }

    /// Those of the users that exist, as they were at this mark or later.
    pub(super) async fn users(
        &self,
        conn: &AsyncPgConnection,
        mark: &Mark,
        ids: BTreeSet<UserId>,
    ) -> Result<Users, StoreError> {
        users(conn, &self.kept, mark, ids).await
    }

    /// The requests with their users. One whose user was deleted meanwhile is gone too, and left out.
    pub(super) async fn requests(
        &self,
        conn: &AsyncPgConnection,
        mark: Mark,
        rows: Vec<RequestRow>,
        asked: Option<UserId>,
    ) -> Result<Listed<Request>, StoreError> {
        let rows = rows.into_iter().map(Request::try_from).collect::<Result<Vec<_>, _>>()?;
        let named = rows.iter().flat_map(|row| [row.from, row.to]).chain(asked).collect();
        Ok(Listed { revision: mark.revision, users: self.users(conn, &mark, named).await?, rows })
    }

    /// For each of the questions, those of its users that exist.
    pub(super) async fn users_of_all(self: Arc<Self>, asked: Vec<Vec<UserId>>) -> Result<Vec<Read<Users>>, StoreError> {
        let conn = &*self.fast.lease().await?;
        let mark = mark(conn).await?;
        let users = self.users(conn, &mark, asked.iter().flatten().copied().collect()).await?;
        let of = |ids: Vec<UserId>| ids.into_iter().filter_map(|id| Some((id, Arc::clone(users.get(&id)?)))).collect();
        Ok(asked.into_iter().map(|ids| Read { revision: mark.revision, value: of(ids) }).collect())
    }

    /// For each of the questions, what is between its user and each of the others.
    pub(super) async fn pairs_of_all(
        self: Arc<Self>,
        asked: Vec<(UserId, Vec<UserId>)>,
    ) -> Result<Vec<Read<Pairs>>, StoreError> {
        let conn = &*self.fast.lease().await?;
        let each = || asked.iter().flat_map(|(user, others)| others.iter().map(|other| (*user, *other)));
        let keys: BTreeSet<_> = each().filter_map(|(user, other)| PairKey::of(user, other)).collect();
        let (low, high) = keys.into_iter().map(|key| (key.low().get(), key.high().get())).unzip();
        let (user, other) = each().map(|(user, other)| (user.get(), other.get())).unzip();
        let (mark, requests, blocks) = try_join!(
            biased;
            mark(conn),
            requests_of_pairs(conn, low, high),
            blocks_of(conn, user, other),
        )?;
        let requests = requests.into_iter().map(Request::try_from).collect::<Result<Vec<_>, _>>()?;
        let requests: HashMap<_, _> = requests.iter().filter_map(|request| Some((request.key()?, request))).collect();
        let blocks: HashMap<_, _> = blocks.iter().map(|row| ((row.user_id, row.other_user_id), row.block())).collect();
        let of = |user: UserId, others: Vec<UserId>| {
            others.into_iter().filter_map(|other| between(user, other, &requests, &blocks)).collect()
        };
        let answer = |(user, others)| Read { revision: mark.revision, value: of(user, others) };
        Ok(asked.into_iter().map(answer).collect())
    }

    /// For each of the questions, the user's counts, and whether something is due that they may hold.
    pub(super) async fn counts_of_all(
        self: Arc<Self>,
        asked: Vec<(UserId, Option<Time>)>,
    ) -> Result<Vec<Read<CountsFound>>, StoreError> {
        let conn = &*self.fast.lease().await?;
        let ids: BTreeSet<i64> = asked.iter().map(|(user, _)| user.get()).collect();
        let counts = async {
            let load = user_counts::table.filter(user_counts::user_id.eq_any(ids.into_iter().collect::<Vec<_>>()));
            Ok::<Vec<CountsRow>, StoreError>(load.load(&mut &*conn).await?)
        };
        let oldest = async {
            if asked.iter().all(|(_, expired)| expired.is_none()) {
                return Ok(None);
            }
            Ok::<Option<Stamp>, StoreError>(query::oldest_open().get_result(&mut &*conn).await?)
        };
        // What is due first: if it is swept before the counts are read, they are without it.
        let (mark, oldest, rows) = try_join!(biased; mark(conn), oldest, counts)?;
        let rows: HashMap<_, _> = rows.iter().map(|row| (UserId::new(row.user_id), row.counts())).collect();
        let answer = |(user, expired): (UserId, Option<Time>)| {
            let something_due = oldest.zip(expired).is_some_and(|(oldest, expired)| oldest.0 <= expired);
            let value = CountsFound { counts: rows.get(&user).copied(), something_due };
            Read { revision: mark.revision, value }
        };
        Ok(asked.into_iter().map(answer).collect())
    }

    pub(super) async fn counts_without_due(&self, user: UserId, expired: Time) -> Result<Option<Counts>, StoreError> {
        let conn = &*self.slow.lease().await?;
        let load = query::counts_without_due(user.get(), Stamp(expired));
        let row: Option<CountsRow> = load.get_result(&mut &*conn).await.optional()?;
        Ok(row.map(|row| row.counts()))
    }
}

/// Those of the users that exist, as they were at this mark or later; it was read before. From memory as far as they
/// are kept and still true.
pub(super) async fn users(
    conn: &AsyncPgConnection,
    kept: &KeptUsers,
    mark: &Mark,
    ids: BTreeSet<UserId>,
) -> Result<Users, StoreError> {
    if let Some((after, until)) = kept.behind(mark) {
        let few = until.get() - after.get() <= EVENTS_MAX;
        let changed = if few { users_changed(conn, after.get(), until.get()).await? } else { None };
        kept.catch_up(mark, after, changed);
    }
    let (mut found, missing) = kept.find(ids, mark);
    if !missing.is_empty() {
        let read = users_by_id(conn, missing).await?;
        kept.keep(&read, mark);
        found.extend(read);
    }
    Ok(found)
}

pub(super) async fn mark(mut conn: &AsyncPgConnection) -> Result<Mark, StoreError> {
    let row: MarkRow = query::mark().first(&mut conn).await?;
    Ok(row.mark())
}

/// What is between a user and another one, but for blocks against the user.
fn between(
    user: UserId,
    other: UserId,
    requests: &HashMap<PairKey, &Request>,
    blocks: &HashMap<(i64, i64), Block>,
) -> Option<(PairKey, Pair)> {
    let key = PairKey::of(user, other)?;
    let (request, block) = (requests.get(&key), blocks.get(&(user.get(), other.get())));
    if request.is_none() && block.is_none() {
        return None;
    }
    let mut pair = Pair { request: request.map(|request| Request::clone(request)), ..Pair::empty(key) };
    *pair.block_by_mut(user) = block.copied();
    Some((key, pair))
}

/// The users that were changed or deleted by these events; `None` if some of the events are kept no longer.
async fn users_changed(
    mut conn: &AsyncPgConnection,
    after: i64,
    until: i64,
) -> Result<Option<Vec<UserId>>, StoreError> {
    let changed: Vec<i64> = feed::users_changed(after, until).load(&mut conn).await?;
    // Only now: what is deleted meanwhile is missing above.
    let oldest: Option<i64> = feed::oldest().first(&mut conn).await.optional()?;
    let all = oldest.is_some_and(|oldest| oldest <= after + 1);
    Ok(all.then(|| changed.into_iter().map(UserId::new).collect()))
}

/// The requests of these pairs, each a look-up by key. With `= ANY` on one of the two columns PostgreSQL may read all
/// that the other user has.
pub(super) async fn requests_of_pairs(
    mut conn: &AsyncPgConnection,
    low: Vec<i64>,
    high: Vec<i64>,
) -> Result<Vec<RequestRow>, StoreError> {
    if low.is_empty() {
        return Ok(Vec::new());
    }
    let text = "SELECT ? FROM unnest(?, ?) AS key (low, high) \
                JOIN connection_requests ON low_user_id = key.low AND high_user_id = key.high";
    let load = Statement::<Pg, RequestsSql>::new(text)
        .part(connection_requests::all_columns)
        .bind::<Array<BigInt>, _>(low)
        .bind::<Array<BigInt>, _>(high);
    Ok(load.load(&mut conn).await?)
}

/// The blocks of these users, each against the other one of the same place.
pub(super) async fn blocks_of(
    mut conn: &AsyncPgConnection,
    users: Vec<i64>,
    others: Vec<i64>,
) -> Result<Vec<BlockRow>, StoreError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let text = "SELECT ? FROM unnest(?, ?) AS key (one, other) \
                JOIN blocks ON blocks.user_id = key.one AND blocks.other_user_id = key.other";
    let load = Statement::<Pg, BlocksSql>::new(text)
        .part(blocks::all_columns)
        .bind::<Array<BigInt>, _>(users)
        .bind::<Array<BigInt>, _>(others);
    Ok(load.load(&mut conn).await?)
}

pub(super) async fn users_by_id(mut conn: &AsyncPgConnection, ids: Vec<UserId>) -> Result<Users, StoreError> {
    if ids.is_empty() {
        return Ok(Users::new());
    }
    let ids: Vec<i64> = ids.into_iter().map(UserId::get).collect();
    whole(users::table.filter(users::id.eq_any(ids)).load(&mut conn).await?)
}

pub(super) fn whole(rows: Vec<UserRow>) -> Result<Users, StoreError> {
    let user = |row: UserRow| Ok((UserId::new(row.id), Arc::new(User::try_from(row)?)));
    rows.into_iter().map(user).collect()
}
