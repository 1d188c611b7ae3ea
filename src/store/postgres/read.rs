//! The connection pools for reads, and the look-ups that are batched.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{Array, BigInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use prometheus_client::metrics::counter::Counter;
use tokio::try_join;

use super::config::PostgresConfig;
use super::pool::{Access, Pool};
use super::role::Role;
use crate::domain::Time;
use crate::domain::epoch::Epoch;
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::pair::Request;
use crate::domain::query::Read;
use crate::domain::user::User;
use crate::metrics::database as metrics;
use crate::store::engine::StoredCounts;
use crate::store::pair::known_to;
use crate::store::replicas::ReplicaHead;
use crate::store::row::{BlockRow, CountsRow, MarkRow, RequestRow, UserRow};
use crate::store::schema::{Stamp, blocks, connection_requests, user_counts, users};
use crate::store::statement::PgStatement;
use crate::store::users::Mark;
use crate::store::{Options, Pairs, StoreError, query};

pub(super) type RequestsSql = <connection_requests::table as AsQuery>::SqlType;
type BlocksSql = <blocks::table as AsQuery>::SqlType;

/// The maximum number of concurrent short reads per connection. More wait.
const SHORT_DEPTH: usize = 64;
/// The maximum number of concurrent reads on the feed's connection.
///
/// It is larger than the number of concurrent reads of the reader and the watchers, so that they never wait.
const FEED_DEPTH: usize = 8;

/// The pools of connections for reads.
pub(super) struct Pools {
    pub(super) short: Access,
    /// One read at a time on each connection.
    pub(super) long: Access,
    pub(super) feed: Access,
    /// What the database was seen to have, if it is a replica.
    head: Option<Arc<ReplicaHead>>,
}

/// A query for the pairs of a user with each of the others.
pub(super) struct PairsOf {
    pub(super) user: UserId,
    pub(super) others: Vec<UserId>,
}

/// A query for a user's counts.
///
/// The result says whether they may include requests that were created at `expired` or before.
pub(super) struct CountsOf {
    pub(super) user: UserId,
    pub(super) expired: Option<Time>,
}

impl Pools {
    pub(super) fn new(config: &Arc<PostgresConfig>, options: &Options) -> Self {
        let (short, long) = options.short_and_long();
        let pool = |role, name, count, depth| {
            let reconnects = options.metrics.database.reconnects(name).clone();
            Access::whole(Pool::new(Arc::clone(config), role, count, depth, reconnects))
        };
        Self {
            short: pool(Role::ShortReads, metrics::Pool::Short, short, SHORT_DEPTH),
            long: pool(Role::LongReads, metrics::Pool::Long, long, 1),
            feed: pool(Role::Feed, metrics::Pool::Feed, 1, FEED_DEPTH),
            head: None,
        }
    }

    /// The pools of a replica. Its connection for the feed checks it.
    pub(super) fn of_replica(config: &Arc<PostgresConfig>, options: &Options, head: Arc<ReplicaHead>) -> Self {
        let (short, long) = options.short_and_long();
        let pool = |count, depth| {
            Access::whole(Pool::new(Arc::clone(config), Role::ReplicaReads, count, depth, Counter::default()))
        };
        Self { short: pool(short, SHORT_DEPTH), long: pool(long, 1), feed: pool(1, FEED_DEPTH), head: Some(head) }
    }

    /// A quarter of these pools, for reads that no replica can serve.
    pub(super) fn quarter(&self) -> Self {
        let Self { short, long, feed, head } = self;
        Self { short: short.quarter(), long: long.quarter(), feed: feed.quarter(), head: head.clone() }
    }

    /// Reads the mark.
    ///
    /// # Errors
    ///
    /// On a replica, if its feed is not that of the primary.
    pub(super) async fn mark(&self, mut conn: &AsyncPgConnection) -> Result<Mark, StoreError> {
        let row: MarkRow = query::mark().first(&mut conn).await?;
        let mark = row.mark();
        self.note(&mark.epoch, mark.revision)?;
        Ok(mark)
    }

    /// Notes what a read saw, if the database is a replica.
    pub(super) fn note(&self, epoch: &Epoch, revision: Sequence) -> Result<(), StoreError> {
        self.head.as_ref().map_or(Ok(()), |head| head.note(epoch, revision))
    }

    /// Lets the metrics read the state of the pools.
    pub(super) fn measure(self: &Arc<Self>, database: &metrics::Database) {
        type Of = fn(&Pools) -> &Access;
        let pools: [(metrics::Pool, Of); 3] = [
            (metrics::Pool::Short, |pools| &pools.short),
            (metrics::Pool::Long, |pools| &pools.long),
            (metrics::Pool::Feed, |pools| &pools.feed),
        ];
        for (name, pool) in pools {
            let measured = Arc::downgrade(self);
            database.pool(name).set(move || Some(pool(&*measured.upgrade()?).state()));
        }
    }

    /// Reads the mark once for all queries.
    pub(super) async fn marks(self: Arc<Self>, queries: Vec<()>) -> Result<Vec<Mark>, StoreError> {
        let mark = self.mark(&*self.short.lease().await?).await?;
        Ok(vec![mark; queries.len()])
    }

    /// Reads the users of all queries. Returns for each query those that exist.
    pub(super) async fn users(self: Arc<Self>, queries: Vec<Vec<UserId>>) -> Result<Vec<Vec<User>>, StoreError> {
        let conn = &*self.short.lease().await?;
        let ids: BTreeSet<i64> = queries.iter().flatten().map(|id| id.get()).collect();
        let load = users::table.filter(users::id.eq_any(ids.into_iter().collect::<Vec<_>>()));
        let rows: Vec<UserRow> = load.load(&mut &*conn).await?;
        let users = rows.into_iter().map(User::try_from).collect::<Result<Vec<_>, _>>()?;
        let users: HashMap<_, _> = users.iter().map(|user| (user.id, user)).collect();
        let found = |ids: Vec<UserId>| ids.iter().filter_map(|id| users.get(id).copied().cloned()).collect();
        Ok(queries.into_iter().map(found).collect())
    }

    pub(super) async fn pairs(self: Arc<Self>, queries: Vec<PairsOf>) -> Result<Vec<Read<Pairs>>, StoreError> {
        let conn = &*self.short.lease().await?;
        let each = || queries.iter().flat_map(|PairsOf { user, others }| others.iter().map(|other| (*user, *other)));
        let keys: BTreeSet<_> = each().filter_map(|(user, other)| PairKey::of(user, other)).collect();
        let (low, high) = keys.into_iter().map(|key| (key.low().get(), key.high().get())).unzip();
        let (user, other) = each().map(|(user, other)| (user.get(), other.get())).unzip();
        let (mark, requests, blocks) = try_join!(
            biased;
            self.mark(conn),
            requests_of_pairs(conn, low, high),
            blocks_of(conn, user, other),
        )?;
        let requests = requests.into_iter().map(Request::try_from).collect::<Result<Vec<_>, _>>()?;
        let requests: HashMap<_, _> = requests.iter().map(|request| (request.key(), request)).collect();
        let blocks: HashMap<_, _> = blocks.iter().map(|row| ((row.user_id, row.other_user_id), row.block())).collect();
        let found = |PairsOf { user, others }: PairsOf| {
            let between = |other: UserId| {
                let request = requests.get(&PairKey::of(user, other)).copied().cloned();
                known_to(user, other, request, blocks.get(&(user.get(), other.get())).copied())
            };
            mark.clone().read(others.into_iter().filter_map(between).collect())
        };
        Ok(queries.into_iter().map(found).collect())
    }

    pub(super) async fn counts(self: Arc<Self>, queries: Vec<CountsOf>) -> Result<Vec<Read<StoredCounts>>, StoreError> {
        let conn = &*self.short.lease().await?;
        let ids: BTreeSet<i64> = queries.iter().map(|query| query.user.get()).collect();
        let counts = async {
            let load = user_counts::table.filter(user_counts::user_id.eq_any(ids.into_iter().collect::<Vec<_>>()));
            Ok::<Vec<CountsRow>, StoreError>(load.load(&mut &*conn).await?)
        };
        let oldest = async {
            if queries.iter().all(|query| query.expired.is_none()) {
                return Ok(None);
            }
            Ok::<Option<Stamp>, StoreError>(query::oldest_open().get_result(&mut &*conn).await?)
        };
        // Expired requests are looked up first: if a sweep deletes them before the counts are read, the counts exclude
        // them.
        let (mark, oldest, rows) = try_join!(biased; self.mark(conn), oldest, counts)?;
        let rows: HashMap<_, _> = rows.iter().map(|row| (UserId::new(row.user_id), row.counts())).collect();
        let found = |CountsOf { user, expired }: CountsOf| {
            let something_expired = oldest.zip(expired).is_some_and(|(oldest, expired)| oldest.0 <= expired);
            let value = StoredCounts { counts: rows.get(&user).copied(), something_expired };
            mark.clone().read(value)
        };
        Ok(queries.into_iter().map(found).collect())
    }
}

/// Reads the requests of these pairs, each by a look-up by key.
///
/// With `= ANY` on both columns, PostgreSQL may use only one of them and read all requests of that user.
async fn requests_of_pairs(
    mut conn: &AsyncPgConnection,
    low: Vec<i64>,
    high: Vec<i64>,
) -> Result<Vec<RequestRow>, StoreError> {
    if low.is_empty() {
        return Ok(Vec::new());
    }
    let text = "SELECT ? FROM unnest(?, ?) AS key (low, high) \
                JOIN connection_requests ON low_user_id = key.low AND high_user_id = key.high";
    let load = PgStatement::<RequestsSql>::new(text)
        .part(connection_requests::all_columns)
        .bind::<Array<BigInt>, _>(low)
        .bind::<Array<BigInt>, _>(high);
    Ok(load.load(&mut conn).await?)
}

/// Reads the blocks of `users` against `others`, which are paired by index.
async fn blocks_of(
    mut conn: &AsyncPgConnection,
    users: Vec<i64>,
    others: Vec<i64>,
) -> Result<Vec<BlockRow>, StoreError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let text = "SELECT ? FROM unnest(?, ?) AS key (one, other) \
                JOIN blocks ON blocks.user_id = key.one AND blocks.other_user_id = key.other";
    let load = PgStatement::<BlocksSql>::new(text)
        .part(blocks::all_columns)
        .bind::<Array<BigInt>, _>(users)
        .bind::<Array<BigInt>, _>(others);
    Ok(load.load(&mut conn).await?)
}
