//! PostgreSQL, without libpq: one connection writes, a pool of them reads.
//!
//! The statements of one read go out together and come back together. Each sees the database at its own moment, so
//! the revision is asked first: what follows reflects at least that much.

mod commit;
mod listen;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{Array, BigInt};
use diesel_async::pooled_connection::bb8::{Pool, PooledConnection, RunError};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError, PoolableConnection, RecyclingMethod,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::try_join;
use uuid::Uuid;

use self::commit::Writer;
pub(super) use self::commit::{BEGIN, WRITER};
use super::feed::{self, EventRow};
use super::row::{BlockRow, ConnectionRow, CountsRow, FeedRow, ReplayRow, RequestRow, UserRow};
use super::schema::{Stamp, blocks, connection_requests, users};
use super::statement::Statement;
use super::tls::PostgresConfig;
use super::{
    Connection, Events, FeedSlice, Listed, Read, Requests, Sharing, Slice, Store, StoreError, UserKey, Users, query,
};
use crate::domain::Time;
use crate::domain::command::{Batch, Replay, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::ledger::Snapshot;
use crate::domain::pair::{Block, Pair, Request, RequestState};
use crate::domain::user::User;

type RequestsSql = <connection_requests::table as AsQuery>::SqlType;
type BlocksSql = <blocks::table as AsQuery>::SqlType;

/// How long a read waits for a connection before it is refused.
const POOL_WAIT: Duration = Duration::from_secs(1);

/// Settings of every connection. A statement that was compiled (`jit`) or that runs on for a dead caller helps nobody.
/// Plans are made once and kept: planning anew costs more than most of the statements. They may be made while the
/// tables are empty, so they are left only the indexes to choose, which every statement has.
const SESSION: &str = "SET jit = off; SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'; \
                       SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC'; \
                       SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
                       SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
                       SET enable_material = off;";

pub(super) struct PostgresStore {
    writer: Writer,
    readers: Pool<AsyncPgConnection>,
    token_key: Vec<u8>,
    committed: watch::Sender<()>,
    /// Hears of other servers' commits. Ends when this is dropped.
    _listener: JoinSet<()>,
}

impl PostgresStore {
    /// Connects to a database that has been migrated.
    pub(super) async fn connect(config: PostgresConfig, readers: u32) -> Result<Self, StoreError> {
        let config = Arc::new(config);
        let mut conn = open(&config).await?;
        let head: FeedRow = query::head().first(&mut conn).await?;
        let committed = watch::Sender::new(());
        let mut listener = JoinSet::new();
        listener.spawn(listen::follow(Arc::clone(&config), committed.clone()));
        Ok(Self {
            writer: Writer::new(Arc::clone(&config)),
            readers: pool(config, readers).await?,
            token_key: head.token_key.into_bytes(),
            committed,
            _listener: listener,
        })
    }

    async fn conn(&self) -> Result<PooledConnection<'_, AsyncPgConnection>, StoreError> {
        self.readers.get().await.map_err(|error| match error {
            RunError::TimedOut => StoreError::Overloaded,
            RunError::User(error) => StoreError::Unavailable(error.into()),
        })
    }
}

/// Opens a connection with the settings that every connection has.
pub(super) async fn open(config: &PostgresConfig) -> Result<AsyncPgConnection, StoreError> {
    let mut conn = config.connect().await.map_err(StoreError::Unavailable)?;
    conn.batch_execute(SESSION).await?;
    Ok(conn)
}

async fn pool(config: Arc<PostgresConfig>, size: u32) -> Result<Pool<AsyncPgConnection>, StoreError> {
    let mut manager = ManagerConfig::default();
    manager.custom_setup = Box::new(move |_| {
        let config = Arc::clone(&config);
        Box::pin(async move {
            open(&config).await.map_err(|error| diesel::ConnectionError::BadConnection(error_text(&error)))
        })
    });
    // Told by the connection itself, without a question to the database.
    manager.recycling_method = RecyclingMethod::CustomFunction(Box::new(|conn: &mut AsyncPgConnection| {
        let broken = conn.is_broken();
        Box::pin(async move { if broken { Err(diesel::result::Error::BrokenTransactionManager) } else { Ok(()) } })
    }));
    let manager = AsyncDieselConnectionManager::new_with_config("", manager);
    let pool = Pool::builder().max_size(size).connection_timeout(POOL_WAIT).build(manager).await;
    pool.map_err(|error: PoolError| StoreError::Unavailable(error.into()))
}

fn error_text(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let replies = self.writer.commit(&batch).await;
        self.committed.send_replace(());
        replies
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        revision(&*self.conn().await?).await
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<Arc<User>>>, StoreError> {
        let conn = &*self.conn().await?;
        let user = async {
            let mut conn = conn;
            let row: Option<UserRow> = match key {
                UserKey::Id(id) => query::user(id.get()).first(&mut conn).await.optional()?,
                UserKey::Name(name) => query::user_by_name(name).first(&mut conn).await.optional()?,
            };
            row.map(User::try_from).transpose()
        };
        let (revision, user) = try_join!(biased; revision(conn), user)?;
        Ok(Read { revision, value: user.map(Arc::new) })
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        let conn = &*self.conn().await?;
        let (revision, value) = try_join!(biased; revision(conn), users_by_id(conn, ids.into_iter().collect()))?;
        Ok(Read { revision, value })
    }

    async fn users_page(&self, slice: Slice) -> Result<Read<Vec<(Arc<User>, Sequence)>>, StoreError> {
        let conn = &*self.conn().await?;
        let rows = async {
            let rows: Vec<UserRow> = query::users_page(slice.before(), slice.limit).load(&mut &*conn).await?;
            super::row::positioned(rows)
        };
        let (revision, value) = try_join!(biased; revision(conn), rows)?;
        Ok(Read { revision, value })
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        let conn = &*self.conn().await?;
        let rows = async { Ok(query::request(id.get()).load(&mut &*conn).await?) };
        let (revision, rows) = try_join!(biased; revision(conn), rows)?;
        requests(conn, revision, rows, None).await
    }

    async fn requests(
        &self,
        user: UserId,
        which: Requests,
        after: Time,
        slice: Slice,
    ) -> Result<Listed<Request>, StoreError> {
        let conn = &*self.conn().await?;
        let (id, after, before, limit) = (user.get(), Stamp(after), slice.before(), slice.limit);
        let rows = async {
            let mut conn = conn;
            let pending = RequestState::Pending.name();
            Ok(match which {
                Requests::Received(state) => {
                    query::requests_received(id, state.name(), after, before, limit).load(&mut conn).await?
                }
                Requests::Unviewed => {
                    query::requests_unviewed(id, pending, after, before, limit).load(&mut conn).await?
                }
                Requests::Sent => query::requests_sent(id, after, before, limit).load(&mut conn).await?,
                Requests::SentIn(state) => {
                    query::requests_sent_in(id, state.name(), after, before, limit).load(&mut conn).await?
                }
            })
        };
        let (revision, rows) = try_join!(biased; revision(conn), rows)?;
        requests(conn, revision, rows, Some(user)).await
    }

    async fn connections(
        &self,
        user: UserId,
        sharing: Sharing,
        slice: Slice,
    ) -> Result<Listed<Connection>, StoreError> {
        let conn = &*self.conn().await?;
        let (id, before, limit) = (user.get(), slice.before(), slice.limit);
        let rows = async {
            let mut conn = conn;
            let rows: Vec<ConnectionRow> = query::connections_page(id, sharing, before, limit).load(&mut conn).await?;
            Ok(rows.into_iter().map(Connection::from).collect::<Vec<_>>())
        };
        let (revision, rows) = try_join!(biased; revision(conn), rows)?;
        let mut named: BTreeSet<_> = rows.iter().map(|row| row.other).collect();
        named.extend(sharing.viewer().into_iter().chain([user]));
        Ok(Listed { revision, users: users_by_id(conn, named).await?, rows })
    }

    async fn shared_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        let conn = &*self.conn().await?;
        Ok(query::connections_shared_total(user.get(), other.get()).first(&mut &*conn).await?)
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<HashMap<PairKey, Pair>>, StoreError> {
        let conn = &*self.conn().await?;
        let keys = others.iter().filter_map(|other| PairKey::of(user, *other));
        let (low, high) = keys.map(|key| (key.low().get(), key.high().get())).unzip();
        let others = others.into_iter().map(UserId::get).collect();
        let (revision, requests, blocks) = try_join!(
            biased;
            revision(conn),
            requests_of_pairs(conn, low, high),
            blocks_by(conn, user, others),
        )?;
        let mut snapshot = Snapshot::default();
        for row in requests {
            snapshot.add_request(row.try_into()?);
        }
        for row in blocks {
            snapshot.add_block(user, UserId::new(row.other_user_id), row.block());
        }
        Ok(Read { revision, value: snapshot.pairs })
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        let conn = &*self.conn().await?;
        let (revision, value) = try_join!(biased; revision(conn), counts(conn, user, expired))?;
        Ok(Read { revision, value })
    }

    async fn blocks(&self, user: UserId, slice: Slice) -> Result<Listed<(UserId, Block)>, StoreError> {
        let conn = &*self.conn().await?;
        let rows = async {
            let rows: Vec<BlockRow> =
                query::blocks_page(user.get(), slice.before(), slice.limit).load(&mut &*conn).await?;
            Ok(rows.iter().map(|row| (UserId::new(row.other_user_id), row.block())).collect::<Vec<_>>())
        };
        let (revision, rows) = try_join!(biased; revision(conn), rows)?;
        let named = rows.iter().map(|(other, _)| *other).chain([user]).collect();
        Ok(Listed { revision, users: users_by_id(conn, named).await?, rows })
    }

    async fn replay(&self, id: Uuid) -> Result<Option<Replay>, StoreError> {
        let conn = &*self.conn().await?;
        let row: Option<ReplayRow> = query::replay(id.to_string()).first(&mut &*conn).await.optional()?;
        row.map(Replay::try_from).transpose()
    }

    async fn events(&self, which: Events, after: Sequence, limit: i64) -> Result<FeedSlice, StoreError> {
        let conn = &*self.conn().await?;
        let head = async { Ok::<FeedRow, StoreError>(query::head().first(&mut &*conn).await?) };
        let rows = async {
            let rows: Vec<EventRow> = match which {
                Events::All => feed::all_after(after.get(), limit).load(&mut &*conn).await?,
                Events::Of(user) => feed::of_user_after(user.get(), after.get(), limit).load(&mut &*conn).await?,
            };
            Ok(rows)
        };
        let (head, rows) = try_join!(biased; head, rows)?;
        // Only now: what a sweep deletes while the events are read is not taken for something that never was. In the
        // same flight this could overtake them, while they are not prepared yet.
        let oldest = feed::oldest().first(&mut &*conn).await.optional()?;
        FeedSlice::new(head, rows, oldest)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.committed.subscribe()
    }

    fn token_key(&self) -> &[u8] {
        &self.token_key
    }
}

async fn revision(mut conn: &AsyncPgConnection) -> Result<Sequence, StoreError> {
    Ok(Sequence::new(query::revision().first(&mut conn).await?))
}

/// The requests of these pairs, each a look-up by key. With `= ANY` on one of the two columns PostgreSQL may read all
/// that the other user has.
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
    let load = Statement::<Pg, RequestsSql>::new(text)
        .part(connection_requests::all_columns)
        .bind::<Array<BigInt>, _>(low)
        .bind::<Array<BigInt>, _>(high);
    Ok(load.load(&mut conn).await?)
}

/// The blocks of a user against these others.
async fn blocks_by(mut conn: &AsyncPgConnection, user: UserId, others: Vec<i64>) -> Result<Vec<BlockRow>, StoreError> {
    let text = "SELECT ? FROM unnest(?) AS other (id) \
                JOIN blocks ON blocks.user_id = ? AND blocks.other_user_id = other.id";
    let load = Statement::<Pg, BlocksSql>::new(text)
        .part(blocks::all_columns)
        .bind::<Array<BigInt>, _>(others)
        .bind::<BigInt, _>(user.get());
    Ok(load.load(&mut conn).await?)
}

async fn users_by_id(mut conn: &AsyncPgConnection, ids: BTreeSet<UserId>) -> Result<Users, StoreError> {
    let ids: Vec<i64> = ids.into_iter().map(UserId::get).collect();
    let rows: Vec<UserRow> = users::table.filter(users::id.eq_any(ids)).load(&mut conn).await?;
    let user = |row: UserRow| Ok((UserId::new(row.id), Arc::new(User::try_from(row)?)));
    rows.into_iter().map(user).collect()
}

/// The requests with their users. One whose user was deleted meanwhile is gone too, and left out.
async fn requests(
    conn: &AsyncPgConnection,
    revision: Sequence,
    rows: Vec<RequestRow>,
    asked: Option<UserId>,
) -> Result<Listed<Request>, StoreError> {
    let rows = rows.into_iter().map(Request::try_from).collect::<Result<Vec<_>, _>>()?;
    let named = rows.iter().flat_map(|row| [row.from, row.to]).chain(asked).collect();
    Ok(Listed { revision, users: users_by_id(conn, named).await?, rows })
}

async fn counts(
    mut conn: &AsyncPgConnection,
    user: UserId,
    expired: Option<Time>,
) -> Result<Option<Counts>, StoreError> {
    let Some(expired) = expired else {
        let row: Option<CountsRow> = query::counts(user.get()).first(&mut conn).await.optional()?;
        return Ok(row.map(|row| row.counts()));
    };
    let (row, oldest) =
        try_join!(async { query::counts(user.get()).first::<CountsRow>(&mut &*conn).await.optional() }, async {
            query::oldest_open().first::<Stamp>(&mut &*conn).await.optional()
        },)?;
    if row.is_none() || oldest.is_none_or(|oldest| oldest.0 > expired) {
        return Ok(row.map(|row| row.counts()));
    }
    // Something is due and not swept yet; perhaps it is this user's.
    let row: Option<CountsRow> =
        query::counts_without_due(user.get(), Stamp(expired)).get_result(&mut conn).await.optional()?;
    Ok(row.map(|row| row.counts()))
}
