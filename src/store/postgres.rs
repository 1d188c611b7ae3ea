//! The PostgreSQL engine, without libpq: one connection writes and a few read.
//!
//! The statements of one read are pipelined in one round trip. Each has its own snapshot, so the mark is read first:
//! the rows that follow reflect at least its revision.

mod advice;
mod batcher;
mod commit;
mod listen;
mod pool;
mod read;
mod role;

use std::sync::Arc;

use async_trait::async_trait;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::try_join;

use self::batcher::Batcher;
use self::commit::Writer;
pub(super) use self::commit::{LOCK, TOUCH};
use self::pool::Pool;
use self::read::{CountsOf, PairsOf, Pools, mark};
pub(super) use self::role::{Role, open};
use super::clock::DatabaseClock;
use super::engine::{Database, Engine, Rows, StoredCounts};
use super::feed::{self, EventRow};
use super::row::{BlockRow, ConnectionRow, CountsRow, FeedRow, IdempotentResponseRow, RequestRow, UserRow, positioned};
use super::schema::{Instant, Stamp};
use super::statement::Statement;
use super::tls::PostgresConfig;
use super::users::{Mark, UserCache};
use super::writer::WriterState;
use super::{Options, Pairs, StoreError, query};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::{Request, RequestState};
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, Consumer, EventFilter, EventQuery, FeedSlice, Mutual, Range,
    Read, RequestFilter, RequestQuery,
};
use crate::domain::user::User;

pub(super) struct PostgresEngine {
    writer: Writer,
    pools: Arc<Pools>,
    marks: Batcher<(), Mark>,
    users: Batcher<Vec<UserId>, Vec<User>>,
    pairs: Batcher<PairsOf, Read<Pairs>>,
    counts: Batcher<CountsOf, Read<StoredCounts>>,
    /// Receives notifications of other servers' commits. Ends when this is dropped.
    _listener: JoinSet<()>,
}

/// Connects to a database that has been migrated.
pub(super) async fn store(config: PostgresConfig, options: Options) -> Result<Database<PostgresEngine>, StoreError> {
    let config = Arc::new(config);
    let mut conn = open(&config, Role::ShortReads).await?;
    advice::warn(&mut conn).await?;
    let head: FeedRow = query::head().first(&mut conn).await?;
    let Stamp(time) = Statement::<Pg, Instant>::new("SELECT clock_timestamp()").get_result(&mut conn).await?;
    let clock = Arc::new(DatabaseClock::of_server(options.clock.clone(), time));
    let committed = watch::Sender::new(());
    let mut listener = JoinSet::new();
    listener.spawn(listen::follow(Arc::clone(&config), committed.clone()));
    let users = Arc::new(UserCache::new(options.user_cache));
    let pools = Arc::new(Pools::new(&config, &options));
    let max = options.read_batch_max;
    let of = || Arc::clone(&pools);
    let (of_marks, of_users, of_pairs, of_counts) = (of(), of(), of(), of());
    let engine = PostgresEngine {
        writer: Writer::new(config, Arc::clone(&clock), Arc::clone(&users), WriterState::new(options.user_cache)),
        marks: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_marks).marks(queries))),
        users: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_users).users(queries))),
        pairs: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_pairs).pairs(queries))),
        counts: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_counts).counts(queries))),
        pools,
        _listener: listener,
    };
    Ok(Database { engine, users, clock, token_key: head.token_key.into_bytes(), committed })
}

impl PostgresEngine {
    fn pools(&self) -> Arc<Pools> {
        Arc::clone(&self.pools)
    }
}

/// Reads the mark, and then rows on the same connection.
async fn rows<T>(
    conn: &AsyncPgConnection,
    rows: impl Future<Output = Result<Vec<T>, StoreError>>,
) -> Result<Rows<T>, StoreError> {
    let (mark, rows) = try_join!(biased; mark(conn), rows)?;
    Ok(Rows { mark, rows })
}

#[async_trait]
impl Engine for PostgresEngine {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        self.writer.commit(&batch).await
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        self.marks.get(()).await
    }

    async fn changed_users(&self, after: Sequence, until: Sequence) -> Result<Option<Vec<UserId>>, StoreError> {
        let mut conn = &*self.pools.short.lease().await?;
        let changed: Vec<i64> = feed::users_changed(after.get(), until.get()).load(&mut conn).await?;
        // Read last. An event that was deleted before the query above is detected here.
        let oldest: Option<i64> = feed::oldest().first(&mut conn).await.optional()?;
        let is_complete = oldest.is_some_and(|oldest| oldest <= after.get() + 1);
        Ok(is_complete.then(|| changed.into_iter().map(UserId::new).collect()))
    }

    async fn users_by_id(&self, ids: Vec<UserId>) -> Result<Vec<User>, StoreError> {
        self.users.get(ids).await
    }

    async fn user_by_name(&self, key: String) -> Result<Rows<User>, StoreError> {
        let conn = &*self.pools.short.lease().await?;
        let users = async {
            let users: Vec<UserRow> = query::user_by_name(key).load(&mut &*conn).await?;
            users.into_iter().map(User::try_from).collect()
        };
        rows(conn, users).await
    }

    async fn request(&self, id: RequestId) -> Result<Rows<Request>, StoreError> {
        let conn = &*self.pools.short.lease().await?;
        let requests = async { requests(query::request(id.get()).load(&mut &*conn).await?) };
        rows(conn, requests).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        self.pairs.get(PairsOf { user, others }).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<StoredCounts>, StoreError> {
        self.counts.get(CountsOf { user, expired }).await
    }

    async fn counts_without_expired(&self, user: UserId, expired: Time) -> Result<Option<Counts>, StoreError> {
        let pools = self.pools();
        to_completion(async move {
            let conn = &*pools.long.lease().await?;
            let load = query::counts_without_expired_requests(user.get(), Stamp(expired));
            let row: Option<CountsRow> = load.get_result(&mut &*conn).await.optional()?;
            Ok(row.map(|row| row.counts()))
        })
        .await
    }

    async fn list_users(&self, Range { before, limit }: Range) -> Result<Rows<(User, Sequence)>, StoreError> {
        let pools = self.pools();
        to_completion(async move {
            let conn = &*pools.long.lease().await?;
            let users = async { positioned(query::users_page(query::first(before), limit).load(&mut &*conn).await?) };
            rows(conn, users).await
        })
        .await
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Rows<Request>, StoreError> {
        let RequestQuery { user, filter, created_after, range: Range { before, limit } } = query;
        let (id, after, before) = (user.get(), Stamp(created_after), query::first(before));
        let conn = &*self.pools.short.lease().await?;
        let requests = async {
            let mut conn = conn;
            let pending = RequestState::Pending.name();
            requests(match filter {
                RequestFilter::Received(state) => {
                    query::requests_received(id, state.name(), after, before, limit).load(&mut conn).await?
                }
                RequestFilter::Unviewed => {
                    query::requests_unviewed(id, pending, after, before, limit).load(&mut conn).await?
                }
                RequestFilter::Sent => query::requests_sent(id, after, before, limit).load(&mut conn).await?,
                RequestFilter::SentAnd { rejected } => {
                    query::requests_sent_and(id, rejected, after, before, limit).load(&mut conn).await?
                }
            })
        };
        rows(conn, requests).await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Rows<Connection>, StoreError> {
        if query.mutual == Mutual::Any {
            return connections(&self.pools.short, query).await;
        }
        // With a viewer the query may read all connections of the user.
        let pools = self.pools();
        to_completion(async move { connections(&pools.long, query).await }).await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        let pools = self.pools();
        to_completion(async move {
            let conn = &*pools.long.lease().await?;
            Ok(query::connections_shared_total(user.get(), other.get()).first(&mut &*conn).await?)
        })
        .await
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Rows<Blocked>, StoreError> {
        let BlockQuery { user, range: Range { before, limit } } = query;
        let conn = &*self.pools.short.lease().await?;
        let blocks = async {
            let load = query::blocks_page(user.get(), query::first(before), limit);
            let blocks: Vec<BlockRow> = load.load(&mut &*conn).await?;
            Ok(blocks.iter().map(BlockRow::blocked).collect())
        };
        rows(conn, blocks).await
    }

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        let conn = &*self.pools.short.lease().await?;
        let position: Option<i64> = query::user_position(user.get()).first(&mut &*conn).await.optional()?;
        Ok(position.map(Sequence::new))
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        let conn = &*self.pools.short.lease().await?;
        let IdempotencyKey { caller, id } = key;
        let row: Option<IdempotentResponseRow> =
            query::idempotent_response(caller, id.to_string()).first(&mut &*conn).await.optional()?;
        row.map(IdempotentResponse::try_from).transpose()
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        let pools = self.pools();
        to_completion(async move {
            let pool = match query.consumer {
                Consumer::Watchers => &pools.feed,
                Consumer::Call => &pools.long,
            };
            events(&*pool.lease().await?, query).await
        })
        .await
    }
}

/// Runs a read that may take long in its own task, to its end even if the caller is dropped.
///
/// PostgreSQL executes a statement that was sent even if nobody waits for it. The task holds the slot of the connection
/// until then.
async fn to_completion<T: Send + 'static>(
    read: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(read).await.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into())))
}

fn requests(rows: Vec<RequestRow>) -> Result<Vec<Request>, StoreError> {
    rows.into_iter().map(Request::try_from).collect()
}

async fn connections(pool: &Pool, query: ConnectionQuery) -> Result<Rows<Connection>, StoreError> {
    let ConnectionQuery { user, mutual, range: Range { before, limit } } = query;
    let conn = &*pool.lease().await?;
    let connections = async {
        let load = query::connections_page(user.get(), mutual, query::first(before), limit);
        let connections: Vec<ConnectionRow> = load.load(&mut &*conn).await?;
        Ok(connections.into_iter().map(Connection::from).collect())
    };
    rows(conn, connections).await
}

async fn events(conn: &AsyncPgConnection, query: EventQuery) -> Result<FeedSlice, StoreError> {
    let EventQuery { filter, after, limit, consumer: _ } = query;
    let head = async { Ok::<FeedRow, StoreError>(query::head().first(&mut &*conn).await?) };
    let (head, rows) = match filter {
        EventFilter::All => {
            let rows = async { Ok(feed::all_after(after.get(), limit).load(&mut &*conn).await?) };
            try_join!(biased; head, rows)?
        }
        EventFilter::Of(user) => {
            let head = head.await?;
            let rows = events_of(conn, user, after.get(), head.last_sequence, limit).await?;
            (head, rows)
        }
    };
    // Read last, so that events that a sweep deletes concurrently do not look like a gap. In a separate round trip,
    // because in the same one this statement could overtake the others while they are not prepared yet.
    feed::slice(head, rows, oldest_event(conn).await?)
}

async fn oldest_event(mut conn: &AsyncPgConnection) -> Result<Option<i64>, StoreError> {
    Ok(feed::oldest().first(&mut conn).await.optional()?)
}

/// Reads the first events of a user after `after` and up to `until`.
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
