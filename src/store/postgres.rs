//! PostgreSQL, without libpq: one connection writes, a few read.
//!
//! The statements of one read go out together and come back together. Each sees the database at its own moment, so
//! the mark is asked first: what follows reflects at least its revision.

mod advice;
mod commit;
mod gather;
mod listen;
mod read;
mod shared;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::try_join;

use self::commit::Writer;
pub(super) use self::commit::{LOCK, TOUCH, WRITER};
use self::gather::Gather;
use self::read::{CountsFound, Pairs, Reads, mark};
use super::feed::{self, EventRow};
use super::row::{BlockRow, ConnectionRow, FeedRow, ReplayRow, RequestRow, UserRow};
use super::schema::Stamp;
use super::tls::PostgresConfig;
use super::users::KeptUsers;
use super::writer::WriterState;
use super::{
    Connection, Events, FeedSlice, Listed, Options, Read, Requests, Sharing, Slice, Store, StoreError, UserKey, Users,
    query,
};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::pair::{Block, Pair, Request, RequestState};
use crate::domain::user::User;

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
    reads: Arc<Reads>,
    users: Gather<Vec<UserId>, Read<Users>>,
    pairs: Gather<(UserId, Vec<UserId>), Read<Pairs>>,
    counts: Gather<(UserId, Option<Time>), Read<CountsFound>>,
    token_key: Vec<u8>,
    committed: watch::Sender<()>,
    /// Hears of other servers' commits. Ends when this is dropped.
    _listener: JoinSet<()>,
}

impl PostgresStore {
    /// Connects to a database that has been migrated.
    pub(super) async fn connect(config: PostgresConfig, options: Options) -> Result<Self, StoreError> {
        let config = Arc::new(config);
        let mut conn = open(&config).await?;
        advice::warn(&mut conn).await?;
        let head: FeedRow = query::head().first(&mut conn).await?;
        let committed = watch::Sender::new(());
        let mut listener = JoinSet::new();
        listener.spawn(listen::follow(Arc::clone(&config), committed.clone()));
        let kept = Arc::new(KeptUsers::new(options.user_cache));
        let reads = Arc::new(Reads::new(Arc::clone(&config), options, Arc::clone(&kept)));
        let most = options.reads_per_flight;
        let (of_users, of_pairs, of_counts) = (Arc::clone(&reads), Arc::clone(&reads), Arc::clone(&reads));
        Ok(Self {
            writer: Writer::new(config, kept, WriterState::new(options.user_cache)),
            users: Gather::new(most, move |asked| Box::pin(Arc::clone(&of_users).users_of_all(asked))),
            pairs: Gather::new(most, move |asked| Box::pin(Arc::clone(&of_pairs).pairs_of_all(asked))),
            counts: Gather::new(most, move |asked| Box::pin(Arc::clone(&of_counts).counts_of_all(asked))),
            reads,
            token_key: head.token_key.into_bytes(),
            committed,
            _listener: listener,
        })
    }
}

/// Opens a connection with the settings that every connection has.
pub(super) async fn open(config: &PostgresConfig) -> Result<AsyncPgConnection, StoreError> {
    let mut conn = config.connect().await.map_err(StoreError::Unavailable)?;
    conn.batch_execute(SESSION).await?;
    Ok(conn)
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let replies = self.writer.commit(&batch).await;
        self.committed.send_replace(());
        replies
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        Ok(mark(&*self.reads.fast.lease().await?).await?.revision)
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<Arc<User>>>, StoreError> {
        let name = match key {
            UserKey::Id(id) => {
                let Read { revision, mut value } = self.users.ask(vec![id]).await?;
                return Ok(Read { revision, value: value.remove(&id) });
            }
            UserKey::Name(name) => name,
        };
        let conn = &*self.reads.fast.lease().await?;
        let user = async {
            let row: Option<UserRow> = query::user_by_name(name).first(&mut &*conn).await.optional()?;
            row.map(User::try_from).transpose()
        };
        let (mark, user) = try_join!(biased; mark(conn), user)?;
        Ok(Read { revision: mark.revision, value: user.map(Arc::new) })
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        self.users.ask(ids).await
    }

    async fn users_page(&self, slice: Slice) -> Result<Read<Vec<(Arc<User>, Sequence)>>, StoreError> {
        let reads = Arc::clone(&self.reads);
        to_its_end(async move {
            let conn = &*reads.slow.lease().await?;
            let rows = async {
                let rows: Vec<UserRow> = query::users_page(slice.before(), slice.limit).load(&mut &*conn).await?;
                super::row::positioned(rows)
            };
            let (mark, value) = try_join!(biased; mark(conn), rows)?;
            Ok(Read { revision: mark.revision, value })
        })
        .await
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        let conn = &*self.reads.fast.lease().await?;
        let rows = async { Ok(query::request(id.get()).load(&mut &*conn).await?) };
        let (mark, rows) = try_join!(biased; mark(conn), rows)?;
        self.reads.requests(conn, mark, rows, None).await
    }

    async fn requests(
        &self,
        user: UserId,
        which: Requests,
        after: Time,
        slice: Slice,
    ) -> Result<Listed<Request>, StoreError> {
        let conn = &*self.reads.fast.lease().await?;
        let (id, after, before, limit) = (user.get(), Stamp(after), slice.before(), slice.limit);
        let rows = async {
            let mut conn = conn;
            let pending = RequestState::Pending.name();
            let rows: Vec<RequestRow> = match which {
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
            };
            Ok(rows)
        };
        let (mark, rows) = try_join!(biased; mark(conn), rows)?;
        self.reads.requests(conn, mark, rows, Some(user)).await
    }

    async fn connections(
        &self,
        user: UserId,
        sharing: Sharing,
        slice: Slice,
    ) -> Result<Listed<Connection>, StoreError> {
        let read = connections(Arc::clone(&self.reads), user, sharing, slice);
        // With a viewer it is as long as the user's list: nobody shall wait behind that.
        if sharing == Sharing::Any { read.await } else { to_its_end(read).await }
    }

    async fn shared_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        let reads = Arc::clone(&self.reads);
        to_its_end(async move {
            let conn = &*reads.slow.lease().await?;
            Ok(query::connections_shared_total(user.get(), other.get()).first(&mut &*conn).await?)
        })
        .await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<HashMap<PairKey, Pair>>, StoreError> {
        self.pairs.ask((user, others)).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        let Read { revision, value } = self.counts.ask((user, expired)).await?;
        let CountsFound { counts, something_due } = value;
        match expired.filter(|_| something_due && counts.is_some()) {
            // Something is due and not swept yet; perhaps it is this user's.
            Some(expired) => {
                let reads = Arc::clone(&self.reads);
                let value = to_its_end(async move { reads.counts_without_due(user, expired).await }).await?;
                Ok(Read { revision, value })
            }
            None => Ok(Read { revision, value: counts }),
        }
    }

    async fn blocks(&self, user: UserId, slice: Slice) -> Result<Listed<(UserId, Block)>, StoreError> {
        let conn = &*self.reads.fast.lease().await?;
        let rows = async {
            let rows: Vec<BlockRow> =
                query::blocks_page(user.get(), slice.before(), slice.limit).load(&mut &*conn).await?;
            Ok(rows.iter().map(|row| (UserId::new(row.other_user_id), row.block())).collect::<Vec<_>>())
        };
        let (mark, rows) = try_join!(biased; mark(conn), rows)?;
        let named = rows.iter().map(|(other, _)| *other).chain([user]).collect();
        let users = self.reads.users(conn, &mark, named).await?;
        Ok(Listed { revision: mark.revision, users, rows })
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        let conn = &*self.reads.fast.lease().await?;
        let row: Option<ReplayRow> =
            query::replay(key.caller, key.id.to_string()).first(&mut &*conn).await.optional()?;
        row.map(IdempotentResponse::try_from).transpose()
    }

    async fn events(&self, which: Events, after: Sequence, limit: i64) -> Result<FeedSlice, StoreError> {
        let reads = Arc::clone(&self.reads);
        to_its_end(async move {
            let conn = &*reads.slow.lease().await?;
            let head = async { Ok::<FeedRow, StoreError>(query::head().first(&mut &*conn).await?) };
            let (head, rows) = match which {
                Events::All => {
                    let rows = async { Ok(feed::all_after(after.get(), limit).load(&mut &*conn).await?) };
                    try_join!(biased; head, rows)?
                }
                Events::Of(user) => {
                    let head = head.await?;
                    let rows = events_of(conn, user, after.get(), head.last_sequence, limit).await?;
                    (head, rows)
                }
            };
            // Only now: what a sweep deletes while the events are read is not taken for something that never was. In the
            // same flight this could overtake them, while they are not prepared yet.
            FeedSlice::new(head, rows, oldest_event(conn).await?)
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.committed.subscribe()
    }

    fn token_key(&self) -> &[u8] {
        &self.token_key
    }
}

/// A read that may take long, in a task that goes on to its end when nobody waits for it any more: PostgreSQL carries out
/// what was sent to it, and until then its place at the connection is taken.
async fn to_its_end<T: Send + 'static>(
    read: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(read).await.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into())))
}

async fn connections(
    reads: Arc<Reads>,
    user: UserId,
    sharing: Sharing,
    slice: Slice,
) -> Result<Listed<Connection>, StoreError> {
    let conn = if sharing == Sharing::Any { &reads.fast } else { &reads.slow };
    let conn = &*conn.lease().await?;
    let (id, before, limit) = (user.get(), slice.before(), slice.limit);
    let rows = async {
        let mut conn = conn;
        let rows: Vec<ConnectionRow> = query::connections_page(id, sharing, before, limit).load(&mut conn).await?;
        Ok(rows.into_iter().map(Connection::from).collect::<Vec<_>>())
    };
    let (mark, rows) = try_join!(biased; mark(conn), rows)?;
    let mut named: BTreeSet<_> = rows.iter().map(|row| row.other).collect();
    named.extend(sharing.viewer().into_iter().chain([user]));
    let users = reads.users(conn, &mark, named).await?;
    Ok(Listed { revision: mark.revision, users, rows })
}

async fn oldest_event(mut conn: &AsyncPgConnection) -> Result<Option<i64>, StoreError> {
    Ok(feed::oldest().first(&mut conn).await.optional()?)
}

/// The first events of a user after one event, and up to another.
async fn events_of(
    mut conn: &AsyncPgConnection,
    user: UserId,
    after: i64,
    until: i64,
    limit: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let mut rows: Vec<EventRow> = Vec::new();
    for stretches in feed::stretches(after, until, oldest_event(conn).await?) {
        let missing = limit - rows.len() as i64;
        if missing == 0 {
            break;
        }
        rows.extend(feed::of_user_in(stretches, user.get(), after, missing).load(&mut conn).await?);
    }
    Ok(rows)
}
