//! Loads what a batch is decided from.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::try_join;

use super::Kept;
use super::locked::{BEGIN, order};
use crate::domain::Time;
use crate::domain::command::{Batch, Member, Needs, RESPONSE_RETENTION};
use crate::domain::id::UserId;
use crate::domain::ledger::{Changes, Due, Snapshot};
use crate::domain::pair::RequestState;
use crate::store::counts::Counted;
use crate::store::postgres::read::{BlocksSql, RequestsSql, blocks_of, requests_of_pairs, users, users_by_id, whole};
use crate::store::row::{BlockRow, CountsRow, DueRow, FeedHead, FeedRow, ReplayRow, RequestRow, UserRow};
use crate::store::schema::{Instant, Stamp, blocks, connection_requests, request_ids, user_counts, users};
use crate::store::statement::Statement;
use crate::store::{DUE_AT_ONCE, OLDEST_OF_A_SENDER, StoreError, Users, query};

type ResponsesSql = <request_ids::table as AsQuery>::SqlType;

/// What the first flight brings.
pub(super) struct Loaded {
    pub(super) head: FeedHead,
    requests: Vec<RequestRow>,
    blocks: Vec<BlockRow>,
    /// The users whose counts were asked for, and the counts of those that exist.
    asked: Vec<UserId>,
    counted: HashMap<UserId, Counted>,
    /// The users of the requests that were asked for by id.
    parties: Vec<UserId>,
    known: Users,
    replays: Vec<ReplayRow>,
    due: Due,
}

/// How to load.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    /// Within a transaction that begins with it, and with the head locked first.
    Locked,
    /// As it is. It is true if the head is still the same when the batch is saved. Laid over it is to be what the
    /// batch changes that is being saved meanwhile.
    AsItIs(Option<&'a Changes>),
}

impl<'a> How<'a> {
    /// What a batch changes that is being saved meanwhile.
    fn saving(self) -> Option<&'a Changes> {
        match self {
            Self::Locked => None,
            Self::AsItIs(saving) => saving,
        }
    }
}

/// Loads, and the head before all else: what is loaded before it may be older.
pub(super) async fn begin(
    conn: &AsyncPgConnection,
    kept: &Kept,
    how: How<'_>,
    needs: &Needs,
    batch: &Batch,
) -> Result<Loaded, StoreError> {
    let (low, high): (Vec<_>, Vec<_>) = needs.pairs.iter().map(|key| (key.low().get(), key.high().get())).unzip();
    let requests: Vec<i64> = needs.requests.iter().map(|id| id.get()).collect();
    // Of the others it is likely that they are still true, and it is seen when the head is.
    let asked = kept.counts.absent(needs.users.iter().copied());
    let unknown = kept.users.absent(needs.users.iter().copied());
    let (one, other) = ([low.as_slice(), &high].concat(), [high.as_slice(), &low].concat());
    let (_, head, by_pair, by_id, blocks, of_requests, counted, known, named, replays, rare, due) = try_join!(
        // In this order on the wire.
        biased;
        begin_transaction(conn, how),
        first_head(conn, how),
        requests_of_pairs(conn, low, high),
        requests_by_id(conn, requests.clone()),
        blocks_of(conn, one, other),
        blocks_of_requests(conn, requests),
        counts(conn, asked.clone()),
        users_by_id(conn, unknown),
        users_by_name(conn, needs),
        replays(conn, needs),
        load_rare(conn, needs, batch),
        due(conn, needs, batch),
    )?;
    let parties = by_id.iter().flat_map(|row| [row.from_user_id, row.to_user_id]).map(UserId::new).collect();
    let requests = by_pair.into_iter().chain(by_id).chain(rare.0).collect();
    let blocks = blocks.into_iter().chain(of_requests).chain(rare.1).collect();
    let known = known.into_iter().chain(named).collect();
    Ok(Loaded { head, requests, blocks, asked, counted, parties, known, replays, due })
}

/// Puts together what was loaded and what is kept, and loads what is still missing.
pub(super) async fn finish(
    conn: &AsyncPgConnection,
    kept: &Kept,
    how: How<'_>,
    needs: &Needs,
    batch: &Batch,
    loaded: Loaded,
) -> Result<Snapshot, StoreError> {
    let Loaded { head, requests, blocks, asked, counted, parties, known, replays, due } = loaded;
    let mut snapshot = Snapshot { head: head.head, due, ..Snapshot::default() };
    for row in requests {
        snapshot.add_request(row.try_into()?);
    }
    for row in blocks {
        snapshot.add_block(UserId::new(row.user_id), UserId::new(row.other_user_id), row.block());
    }
    let ids = needs.users.iter().copied().chain(parties).chain(known.keys().copied()).collect();
    snapshot.members = members(conn, kept, how, &head, ids, (asked, counted), known).await?;
    snapshot.replays = replays.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    how.saving().into_iter().for_each(|saving| snapshot.lay_over(saving));
    let oldest = oldest_sent(conn, needs, batch, &snapshot).await?;
    if !oldest.is_empty() {
        for row in oldest {
            snapshot.add_request(row.try_into()?);
        }
        how.saving().into_iter().for_each(|saving| snapshot.lay_over(saving));
    }
    Ok(snapshot)
}

/// Those of the users that exist, with their counts: from what is kept and what was read already, and the rest from the
/// database.
async fn members(
    conn: &AsyncPgConnection,
    kept: &Kept,
    how: How<'_>,
    head: &FeedHead,
    ids: BTreeSet<UserId>,
    (asked, mut counted): (Vec<UserId>, HashMap<UserId, Counted>),
    read: Users,
) -> Result<Vec<Member>, StoreError> {
    let mark = head.mark();
    kept.counts.keep(counted.clone(), how.saving());
    kept.users.keep(&read, &mark);
    // Taken out now: what is kept later may need their place.
    counted.extend(ids.iter().filter_map(|id| Some((*id, kept.counts.get(*id)?))));
    let uncounted = ids.iter().copied().filter(|id| !counted.contains_key(id) && !asked.contains(id)).collect();
    let others = ids.iter().copied().filter(|id| !read.contains_key(id)).collect();
    let (more, mut known) = try_join!(biased; counts(conn, uncounted), users(conn, &kept.users, &mark, others))?;
    kept.counts.keep(more.clone(), how.saving());
    counted.extend(more);
    known.extend(read);
    let member = |id: UserId| {
        let Counted { counts, sends } = *counted.get(&id)?;
        Some(Member { user: Arc::clone(known.get(&id)?), counts, sends })
    };
    Ok(ids.into_iter().filter_map(member).collect())
}

async fn begin_transaction(conn: &AsyncPgConnection, how: How<'_>) -> Result<(), StoreError> {
    if matches!(how, How::Locked) { order(conn, BEGIN).await } else { Ok(()) }
}

async fn first_head(mut conn: &AsyncPgConnection, how: How<'_>) -> Result<FeedHead, StoreError> {
    match how {
        How::Locked => Ok(query::head().for_update().first::<FeedRow>(&mut conn).await?.head()),
        How::AsItIs(_) => head(conn).await,
    }
}

pub(super) async fn head(mut conn: &AsyncPgConnection) -> Result<FeedHead, StoreError> {
    Ok(query::head().first::<FeedRow>(&mut conn).await?.head())
}

async fn requests_by_id(mut conn: &AsyncPgConnection, ids: Vec<i64>) -> Result<Vec<RequestRow>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(connection_requests::table.filter(connection_requests::id.eq_any(ids)).load(&mut conn).await?)
}

/// The blocks both ways of the pairs of these requests.
async fn blocks_of_requests(mut conn: &AsyncPgConnection, requests: Vec<i64>) -> Result<Vec<BlockRow>, StoreError> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let text = "SELECT ? FROM connection_requests AS request \
                CROSS JOIN LATERAL (VALUES (low_user_id, high_user_id), (high_user_id, low_user_id)) AS key (one, other) \
                JOIN blocks ON blocks.user_id = key.one AND blocks.other_user_id = key.other \
                WHERE request.id = ANY(?)";
    let load = Statement::<Pg, BlocksSql>::new(text).part(blocks::all_columns).bind::<Array<BigInt>, _>(requests);
    Ok(load.load(&mut conn).await?)
}

async fn counts(mut conn: &AsyncPgConnection, ids: Vec<UserId>) -> Result<HashMap<UserId, Counted>, StoreError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<i64> = ids.into_iter().map(UserId::get).collect();
    let rows: Vec<CountsRow> = user_counts::table.filter(user_counts::user_id.eq_any(ids)).load(&mut conn).await?;
    Ok(rows.iter().map(|row| (UserId::new(row.user_id), row.into())).collect())
}

async fn users_by_name(mut conn: &AsyncPgConnection, needs: &Needs) -> Result<Users, StoreError> {
    if needs.names.is_empty() {
        return Ok(Users::new());
    }
    let names: Vec<_> = needs.names.iter().cloned().collect();
    let rows: Vec<UserRow> = users::table.filter(users::username_key.eq_any(names)).load(&mut conn).await?;
    whole(rows)
}

async fn replays(mut conn: &AsyncPgConnection, needs: &Needs) -> Result<Vec<ReplayRow>, StoreError> {
    if needs.replays.is_empty() {
        return Ok(Vec::new());
    }
    let (callers, ids): (Vec<_>, Vec<_>) =
        needs.replays.iter().map(|key| (key.caller.as_str(), key.id.to_string())).unzip();
    let text = "SELECT ? FROM request_ids JOIN unnest(?, ?) AS key (caller, id) USING (caller, id)";
    let load = Statement::<Pg, ResponsesSql>::new(text)
        .part(request_ids::all_columns)
        .bind::<Array<Text>, _>(callers)
        .bind::<Array<Text>, _>(ids);
    Ok(load.load(&mut conn).await?)
}

/// What a sweep deletes beside requests.
async fn due(mut conn: &AsyncPgConnection, needs: &Needs, batch: &Batch) -> Result<Due, StoreError> {
    if !needs.due {
        return Ok(Due::default());
    }
    let replays = query::due_replays(Stamp(batch.now - RESPONSE_RETENTION)).get_result(&mut conn).await?;
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
    if let Some(expired) = batch.policy.expired_before(batch.now).filter(|_| needs.due) {
        rows.extend(query::due_open(Stamp(expired), DUE_AT_ONCE).load(conn).await?);
    }
    if needs.due {
        let cooled = batch.policy.cooled_before(batch.now).unwrap_or(batch.now);
        rows.extend(query::due_withdrawn(Stamp(cooled), DUE_AT_ONCE).load(conn).await?);
    }
    Ok((rows, blocks))
}

/// Of the oldest open requests of each sender who may pass their limit, those that are due.
async fn oldest_sent(
    mut conn: &AsyncPgConnection,
    needs: &Needs,
    batch: &Batch,
    loaded: &Snapshot,
) -> Result<Vec<RequestRow>, StoreError> {
    let senders = batch.full_senders(needs, &loaded.members);
    let Some(expired) = batch.policy.expired_before(batch.now).filter(|_| !senders.is_empty()) else {
        return Ok(Vec::new());
    };
    let text = "SELECT ? FROM unnest(?) AS sender (id) CROSS JOIN LATERAL ( \
                    SELECT ? FROM connection_requests \
                    WHERE from_user_id = sender.id AND state IN ('PENDING', 'REJECTED') \
                    ORDER BY connection_requests.id LIMIT ? \
                ) AS connection_requests WHERE created <= ?";
    let load = Statement::<Pg, RequestsSql>::new(text)
        .part(connection_requests::all_columns)
        .bind::<Array<BigInt>, _>(senders.into_iter().map(UserId::get).collect::<Vec<_>>())
        .part(connection_requests::all_columns)
        .bind::<BigInt, _>(OLDEST_OF_A_SENDER)
        .bind::<Instant, _>(Stamp(expired));
    Ok(load.load(&mut conn).await?)
}
