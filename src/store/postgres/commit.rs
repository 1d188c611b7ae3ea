//! The commit on PostgreSQL: three flights for a batch of any size (four for one that creates or deletes users).
//!
//! The first begins, locks the head and loads; the second saves; the third commits. Statements work on arrays, so
//! that their text never depends on how much a batch holds and they stay prepared.

mod save;

use std::error::Error;
use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::sync::Mutex;
use tokio::try_join;
use uuid::Uuid;

use super::listen::NOTIFY_AND_COMMIT;
use super::{BlocksSql, RequestsSql, open, requests_of_pairs};
use crate::domain::Time;
use crate::domain::command::{Batch, Needs, REPLAY_KEPT, Reply};
use crate::domain::decide::Rejection;
use crate::domain::id::UserId;
use crate::domain::ledger::{self, Due, Head, Snapshot};
use crate::domain::pair::RequestState;
use crate::store::row::{BlockRow, CountsRow, DueRow, FeedRow, ReplayRow, RequestRow, UserRow, member};
use crate::store::schema::{Instant, Stamp, blocks, connection_requests, events, request_ids, user_counts, users};
use crate::store::statement::Statement;
use crate::store::tls::PostgresConfig;
use crate::store::{DUE_AT_ONCE, OLDEST_OF_A_SENDER, StoreError, query};

type Replies = Vec<Result<Reply, Rejection>>;
type MembersSql = (
    <users::table as diesel::query_builder::AsQuery>::SqlType,
    <user_counts::table as diesel::query_builder::AsQuery>::SqlType,
);

/// Begins, and locks the head before anything else is read. One message of plain text: nothing that follows it on
/// the wire can overtake it, whether prepared or not. At READ COMMITTED each later statement sees what the batch
/// before committed.
pub(in crate::store) const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT 1 FROM feed WHERE id = 1 FOR UPDATE;";

/// What the writer has beyond every connection's settings: it waits for the head as long as another server may hold
/// it, and no longer; what it acknowledges is on disk; and when its server stands still within a transaction, the
/// database ends that, before the callers of the other servers have lost their patience.
pub(in crate::store) const WRITER: &str = "SET lock_timeout = '15s'; SET synchronous_commit = on; \
                      SET idle_in_transaction_session_timeout = '5s';";

/// The one connection that writes. It is made when needed, and dropped when in doubt.
pub(super) struct Writer {
    config: Arc<PostgresConfig>,
    conn: Mutex<Option<AsyncPgConnection>>,
}

/// How a transaction failed.
enum Failure {
    /// Nothing was stored.
    Before(StoreError),
    /// The commit was sent and not answered. The head before it, and the batch's mark on its events.
    During { error: StoreError, before: Head, batch_id: i64, replies: Replies },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Before(error)
    }
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Before(error.into())
    }
}

impl Writer {
    pub(super) fn new(config: Arc<PostgresConfig>) -> Self {
        Self { config, conn: Mutex::new(None) }
    }

    pub(super) async fn commit(&self, batch: &Batch) -> Result<Replies, StoreError> {
        // Held to the end: batches of this server do not overlap. The connection is taken out, so that a future
        // that is dropped half-way drops it with its transaction.
        let mut slot = self.conn.lock().await;
        let conn = match slot.take() {
            Some(conn) => conn,
            None => self.connect().await?,
        };
        match transact(&conn, batch).await {
            Ok(replies) => {
                *slot = Some(conn);
                Ok(replies)
            }
            Err(Failure::Before(error)) => {
                // What cannot be rolled back is dropped, and the database rolls it back.
                if (&conn).batch_execute("ROLLBACK").await.is_ok() {
                    *slot = Some(conn);
                }
                Err(error)
            }
            Err(Failure::During { error, before, batch_id, replies }) => {
                drop(conn);
                tracing::warn!(error = &error as &dyn Error, "a commit was not answered; asking the database again");
                self.settle(before, batch_id).await.map_or_else(
                    |unsettled| Err(StoreError::OutcomeUnknown(unsettled.into())),
                    |committed| if committed { Ok(replies) } else { Err(error) },
                )
            }
        }
    }

    async fn connect(&self) -> Result<AsyncPgConnection, StoreError> {
        let mut conn = open(&self.config).await?;
        conn.batch_execute(WRITER).await?;
        Ok(conn)
    }

    /// Whether a commit that was not answered took place: whether the first event after `before` bears its mark.
    async fn settle(&self, before: Head, batch_id: i64) -> Result<bool, StoreError> {
        let conn = self.connect().await?;
        // The lock waits until the lost transaction has ended one way or the other.
        (&conn).batch_execute(BEGIN).await?;
        let first = events::table.find(before.sequence.next().get()).select(events::batch_id);
        let found: Option<i64> = first.first(&mut &conn).await.optional()?;
        (&conn).batch_execute("ROLLBACK").await?;
        Ok(found == Some(batch_id))
    }
}

async fn transact(mut conn: &AsyncPgConnection, batch: &Batch) -> Result<Replies, Failure> {
    let snapshot = load(conn, &Needs::of(batch), batch).await?;
    let before = snapshot.head;
    let (replies, changes) = ledger::run(batch, snapshot);
    if changes.is_empty() {
        // Nothing to make durable.
        conn.batch_execute("ROLLBACK").await?;
        return Ok(replies);
    }
    let batch_id = Uuid::new_v4().as_u64_pair().0.cast_signed();
    save::save(conn, &changes, batch_id).await?;
    // Only now that every statement has been answered: a failed one would make this a rollback without a word.
    match conn.batch_execute(NOTIFY_AND_COMMIT).await {
        Ok(()) => Ok(replies),
        Err(error) => {
            let error = error.into();
            if matches!(error, StoreError::Refused(_)) {
                return Err(Failure::Before(error));
            }
            Err(Failure::During { error, before, batch_id, replies })
        }
    }
}

async fn load(conn: &AsyncPgConnection, needs: &Needs, batch: &Batch) -> Result<Snapshot, StoreError> {
    let (low, high): (Vec<_>, Vec<_>) = needs.pairs.iter().map(|key| (key.low().get(), key.high().get())).unzip();
    let requests: Vec<i64> = needs.requests.iter().map(|id| id.get()).collect();
    let (_, head, by_pair, by_id, blocks, members, replays, rare, due) = try_join!(
        // In this order on the wire: what is loaded before the lock is held may not be true.
        biased;
        begin(conn),
        head(conn),
        requests_of_pairs(conn, low.clone(), high.clone()),
        requests_by_id(conn, requests.clone()),
        blocks_of(conn, low, high, requests.clone()),
        members(conn, needs, requests),
        replays(conn, needs),
        load_rare(conn, needs, batch),
        due(conn, needs, batch),
    )?;
    let mut snapshot = Snapshot { head: head.head(), due, ..Snapshot::default() };
    for row in by_pair.into_iter().chain(by_id).chain(rare.0) {
        snapshot.add_request(row.try_into()?);
    }
    for row in blocks.into_iter().chain(rare.1) {
        snapshot.add_block(UserId::new(row.user_id), UserId::new(row.other_user_id), row.block());
    }
    snapshot.members = members.into_iter().map(member).collect::<Result<_, _>>()?;
    snapshot.replays = replays.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    Ok(snapshot)
}

async fn begin(mut conn: &AsyncPgConnection) -> Result<(), StoreError> {
    Ok(conn.batch_execute(BEGIN).await?)
}

async fn head(mut conn: &AsyncPgConnection) -> Result<FeedRow, StoreError> {
    Ok(query::head().first(&mut conn).await?)
}

async fn requests_by_id(mut conn: &AsyncPgConnection, ids: Vec<i64>) -> Result<Vec<RequestRow>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(connection_requests::table.filter(connection_requests::id.eq_any(ids)).load(&mut conn).await?)
}

/// The blocks both ways of these pairs, and of the pairs of these requests.
async fn blocks_of(
    mut conn: &AsyncPgConnection,
    low: Vec<i64>,
    high: Vec<i64>,
    requests: Vec<i64>,
) -> Result<Vec<BlockRow>, StoreError> {
    if low.is_empty() && requests.is_empty() {
        return Ok(Vec::new());
    }
    let text = "WITH pair (one, two) AS ( \
                    SELECT low, high FROM unnest(?, ?) AS key (low, high) \
                    UNION ALL SELECT low_user_id, high_user_id FROM connection_requests WHERE id = ANY(?) \
                ), key (user_id, other_user_id) AS ( \
                    SELECT one, two FROM pair UNION ALL SELECT two, one FROM pair \
                ) \
                SELECT ? FROM key \
                JOIN blocks ON blocks.user_id = key.user_id AND blocks.other_user_id = key.other_user_id";
    let load = Statement::<Pg, BlocksSql>::new(text)
        .bind::<Array<BigInt>, _>(low)
        .bind::<Array<BigInt>, _>(high)
        .bind::<Array<BigInt>, _>(requests)
        .part(blocks::all_columns);
    Ok(load.load(&mut conn).await?)
}

/// The users that are asked for by id, by name, or as the users of requests; with their counts.
async fn members(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
    requests: Vec<i64>,
) -> Result<Vec<(UserRow, CountsRow)>, StoreError> {
    let ids: Vec<i64> = needs.users.iter().map(|id| id.get()).collect();
    if requests.is_empty() && needs.names.is_empty() {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let load = users::table.inner_join(user_counts::table).filter(users::id.eq_any(ids));
        return Ok(load.load(&mut conn).await?);
    }
    let text = "SELECT ?, ? FROM ( \
                    SELECT id FROM unnest(?) AS key (id) \
                    UNION SELECT from_user_id FROM connection_requests WHERE id = ANY(?) \
                    UNION SELECT to_user_id FROM connection_requests WHERE id = ANY(?) \
                    UNION SELECT id FROM users WHERE username_key = ANY(?) \
                ) AS key \
                JOIN users ON users.id = key.id JOIN user_counts ON user_counts.user_id = users.id";
    let load = Statement::<Pg, MembersSql>::new(text)
        .part(users::all_columns)
        .part(user_counts::all_columns)
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<BigInt>, _>(requests.clone())
        .bind::<Array<BigInt>, _>(requests)
        .bind::<Array<Text>, _>(needs.names.iter().cloned().collect::<Vec<_>>());
    Ok(load.load(&mut conn).await?)
}

async fn replays(mut conn: &AsyncPgConnection, needs: &Needs) -> Result<Vec<ReplayRow>, StoreError> {
    if needs.replays.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = needs.replays.iter().map(Uuid::to_string).collect();
    Ok(request_ids::table.filter(request_ids::id.eq_any(ids)).load(&mut conn).await?)
}

/// What a sweep deletes beside requests.
async fn due(mut conn: &AsyncPgConnection, needs: &Needs, batch: &Batch) -> Result<Due, StoreError> {
    if !needs.due {
        return Ok(Due::default());
    }
    let replays = query::due_replays(Stamp(batch.now - REPLAY_KEPT)).get_result(&mut conn).await?;
    let events = match batch.policy.events_until(batch.now) {
        Some(until) => query::due_events(Stamp(until)).get_result(&mut conn).await?,
        None => DueRow::default(),
    };
    Ok(events.due(replays))
}

/// What only some commands need: one after the other, since they are rare.
async fn load_rare(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
    batch: &Batch,
) -> Result<(Vec<RequestRow>, Vec<BlockRow>), StoreError> {
    let conn = &mut conn;
    let (mut rows, mut blocks): (Vec<RequestRow>, Vec<BlockRow>) = Default::default();
    let ever = Stamp(Time::UNIX_EPOCH);
    for user in &needs.unviewed_of {
        let pending = RequestState::Pending.name();
        rows.extend(query::requests_unviewed(user.get(), pending, ever, i64::MAX, i64::MAX).load(conn).await?);
    }
    for user in &needs.all_pairs_of {
        rows.extend(query::all_sent_open(user.get()).load(conn).await?);
        rows.extend(query::all_sent_connected(user.get()).load(conn).await?);
        rows.extend(query::all_sent_withdrawn(user.get()).load(conn).await?);
        rows.extend(query::all_received(user.get()).load(conn).await?);
        blocks.extend(query::blocks_by(user.get()).load(conn).await?);
        blocks.extend(query::blocks_against(user.get()).load(conn).await?);
    }
    if let Some(expired) = batch.policy.expired_before(batch.now) {
        if !needs.senders.is_empty() {
            rows.extend(oldest_sent(conn, needs, expired).await?);
        }
        if needs.due {
            rows.extend(query::due_open(Stamp(expired), DUE_AT_ONCE).load(conn).await?);
        }
    }
    if needs.due {
        let cooled = batch.policy.cooled_before(batch.now).unwrap_or(batch.now);
        rows.extend(query::due_withdrawn(Stamp(cooled), DUE_AT_ONCE).load(conn).await?);
    }
    Ok((rows, blocks))
}

/// Of the oldest open requests of each sender, those that are due.
async fn oldest_sent(
    conn: &mut &AsyncPgConnection,
    needs: &Needs,
    expired: Time,
) -> Result<Vec<RequestRow>, StoreError> {
    let text = "SELECT ? FROM unnest(?) AS sender (id) CROSS JOIN LATERAL ( \
                    SELECT ? FROM connection_requests \
                    WHERE from_user_id = sender.id AND state IN ('PENDING', 'REJECTED') \
                    ORDER BY connection_requests.id LIMIT ? \
                ) AS connection_requests WHERE created <= ?";
    let load = Statement::<Pg, RequestsSql>::new(text)
        .part(connection_requests::all_columns)
        .bind::<Array<BigInt>, _>(needs.senders.iter().map(|id| id.get()).collect::<Vec<_>>())
        .part(connection_requests::all_columns)
        .bind::<BigInt, _>(OLDEST_OF_A_SENDER)
        .bind::<Instant, _>(Stamp(expired));
    Ok(load.load(conn).await?)
}
