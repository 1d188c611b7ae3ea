//! The first round trip of a commit: locks the head and loads the rows that the batch is decided from.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::try_join;

use super::{BEGIN, NOTHING, control};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, Needs, RESPONSE_RETENTION};
use crate::domain::epoch::{EpochChange, Lineage};
use crate::domain::id::{PairKey, RequestId, UserId};
use crate::domain::ledger::{ForgetStep, Snapshot, SweepStep, candidates, free_ids};
use crate::domain::pair::RequestState;
use crate::domain::policy::Policy;
use crate::domain::text::ExternalId;
use crate::store::clock::{DatabaseClock, Now};
use crate::store::epoch::new_epoch;
use crate::store::feed::EventRow;
use crate::store::forget::{NextDeletionRow, next_deletion};
use crate::store::pair::{self, PairRow, SidePartRow};
use crate::store::postgres::read::RequestsSql;
use crate::store::row::{
    CountsRow, ExpiredEventsRow, FeedHead, FeedRow, IdempotentResponseRow, NextOpen, RequestRow, SweepRows, UserRow,
    member,
};
use crate::store::schema::{Instant, Stamp, connection_requests, feed, request_ids, user_counts, users};
use crate::store::statement::{PgStatement, statement};
use crate::store::users::Source;
use crate::store::writer::{Loaded, Members, WriterState};
use crate::store::{LOOK_AHEAD, OLDEST_SENT_LIMIT, SWEEP_LIMIT, StoreError, Users, query};

type ResponsesSql = <request_ids::table as AsQuery>::SqlType;

/// The head, and the time.
type LockedSql = (<feed::table as AsQuery>::SqlType, Instant);

/// A connection and its lineage.
type Connected<'a> = (&'a AsyncPgConnection, Option<Lineage>);

/// Rows that only some kinds of commands need.
struct Rare {
    requests: Vec<RequestRow>,
    sides: Vec<SidePartRow>,
    /// What a sweep deletes, and the requests that it examines.
    due: Option<(SweepRows, Vec<RequestRow>)>,
}

/// Begins a transaction, locks the head and loads.
pub(super) async fn lock_and_load(
    conn: Connected<'_>,
    state: &mut WriterState,
    clock: &DatabaseClock,
    batch: &Batch,
) -> Result<Loaded, StoreError> {
    load(conn, BEGIN, state, clock, batch).await
}

/// Loads in a transaction that has locked the head.
pub(super) async fn load_locked(
    conn: Connected<'_>,
    state: &mut WriterState,
    clock: &DatabaseClock,
    batch: &Batch,
) -> Result<Loaded, StoreError> {
    load(conn, NOTHING, state, clock, batch).await
}

async fn load(
    (conn, lineage): Connected<'_>,
    begin: &'static str,
    state: &mut WriterState,
    clock: &DatabaseClock,
    batch: &Batch,
) -> Result<Loaded, StoreError> {
    let (profiles, needs) = (Arc::clone(&state.profiles), Needs::of(batch));
    let Needs {
        users,
        names,
        external_ids,
        unassigned,
        pairs,
        requests,
        senders: _,
        all_pairs_of,
        unviewed_of,
        responses,
        sweep,
    } = &needs;
    let (mut members, unknown) = state.find(users.iter().copied());
    let assumed = state.mark();
    let (mut known, unknown) = profiles.get(unknown, &assumed, Source::Primary);
    let (
        _,
        (before, Now { time: now, may_sweep }),
        between,
        by_id,
        mut loaded,
        by_name,
        by_external_id,
        in_use,
        responses,
        rare,
    ) = try_join!(
        // `biased` keeps this order on the connection.
        biased;
        control(conn, begin),
        lock(conn, clock),
        pairs_by_key(conn, pairs),
        pairs_by_request(conn, requests),
        members_by_id(conn, &known, &unknown),
        members_by_name(conn, names),
        members_by_external_id(conn, external_ids),
        ids_in_use(conn, *unassigned),
        stored_responses(conn, responses),
        rare(conn, all_pairs_of, unviewed_of, sweep.then(|| (&*batch.policy, clock.now()))),
    )?;
    let mark = before.mark();
    if !state.validate(&before) {
        members.clear();
        if !mark.has_users_of(&assumed) {
            loaded.retain(|id, _| !known.contains_key(id));
            known.clear();
        }
    }
    let mut wanted: BTreeSet<UserId> =
        users.iter().chain(by_name.keys()).chain(by_external_id.keys()).copied().collect();
    loaded.extend(by_name.into_iter().chain(by_external_id));

    let Rare { mut requests, sides, due } = rare;
    let sweep = match due.filter(|_| may_sweep) {
        Some((found, rows)) => {
            requests.extend(rows);
            found.due(&before.head)
        }
        None => SweepStep::default(),
    };
    let responses = responses.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    let free_ids = free_ids(before.head.last_assigned, &needs, &in_use);
    let epoch_change = EpochChange::of(before.lineage, lineage, before.head.sequence, new_epoch);
    let mut snapshot = Snapshot {
        now,
        head: before.head,
        epoch: before.epoch_after(epoch_change.as_ref()).clone(),
        epoch_change,
        members: Vec::new(),
        free_ids,
        pairs: HashMap::new(),
        responses,
        sweep,
    };
    for row in between.into_iter().chain(by_id) {
        let Some(pair) = row.pair()? else { continue };
        wanted.extend(pair.request.iter().flat_map(|request| needs.parties(request)));
        snapshot.add(pair);
    }
    for row in requests {
        snapshot.add_request(row.try_into()?);
    }
    sides.into_iter().for_each(|row| row.add_to(&mut snapshot));

    // Users that only the loaded pairs named. If another server committed, also all that were cached.
    let found = |id: &UserId| members.contains_key(id) || loaded.contains_key(id) || unknown.contains(id);
    let (cached, missing) = state.find(wanted.iter().copied().filter(|id| !found(id)));
    members.extend(cached);
    let (also_known, missing) = profiles.get(missing, &mark, Source::Primary);
    loaded.extend(members_by_id(conn, &also_known, &missing).await?);
    known.extend(also_known);
    state.insert(&loaded);
    let fresh = loaded.values().filter(|member| !known.contains_key(&member.user.id));
    profiles.insert(fresh.map(|member| Arc::clone(&member.user).into()), &mark);
    members.extend(loaded);
    snapshot.members = wanted.iter().filter_map(|id| members.remove(id)).collect();

    for row in oldest_sent(conn, batch, &needs, &snapshot).await? {
        snapshot.add_request(row.try_into()?);
    }
    let pairs = snapshot.counted_when_expired(&batch.policy);
    ended_between(conn, &pairs).await?.into_iter().for_each(|row| row.add_to(&mut snapshot));
    Ok(Loaded { before, snapshot })
}

/// Locks the head, and then reads the database's clock. Rows that were loaded before it may be outdated.
///
/// The clock is read outside of the subquery, because PostgreSQL computes what is inside before it waits for the lock.
async fn lock(mut conn: &AsyncPgConnection, clock: &DatabaseClock) -> Result<(FeedHead, Now), StoreError> {
    let lock: PgStatement<'_, LockedSql, _> = statement!(
        "WITH locked AS MATERIALIZED (SELECT ? FROM feed WHERE id = 1 FOR UPDATE) \
         SELECT locked.*, clock_timestamp() FROM locked"
    );
    let (row, Stamp(time)): (FeedRow, Stamp) = lock.part(feed::all_columns).get_result(&mut conn).await?;
    let before = row.head();
    let now = clock.locked(&before.head, Some(time));
    Ok((before, now))
}

async fn pairs_by_key(mut conn: &AsyncPgConnection, keys: &BTreeSet<PairKey>) -> Result<Vec<PairRow>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (low, high) = keys.iter().map(|key| (key.low().get(), key.high().get())).unzip();
    Ok(pair::by_keys(low, high).load(&mut conn).await?)
}

async fn pairs_by_request(
    mut conn: &AsyncPgConnection,
    requests: &BTreeMap<RequestId, BTreeSet<UserId>>,
) -> Result<Vec<PairRow>, StoreError> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    Ok(pair::by_requests(requests.keys().map(|id| id.get()).collect()).load(&mut conn).await?)
}

/// Reads users with their counts: only the counts of those whose profiles are known.
async fn members_by_id(mut conn: &AsyncPgConnection, known: &Users, unknown: &[UserId]) -> Result<Members, StoreError> {
    let mut counts_conn = conn;
    let counts = async {
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<i64> = known.keys().map(|id| id.get()).collect();
        let load = user_counts::table.filter(user_counts::user_id.eq_any(ids));
        load.load::<CountsRow>(&mut counts_conn).await
    };
    let users = async {
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<i64> = unknown.iter().map(|id| id.get()).collect();
        let load = users::table.inner_join(user_counts::table).filter(users::id.eq_any(ids));
        load.load::<(UserRow, CountsRow)>(&mut conn).await
    };
    let (counts, users) = try_join!(biased; counts, users)?;
    let mut members: Members = users.into_iter().map(member).collect::<Result<_, _>>()?;
    for row in counts {
        let id = UserId::new(row.user_id);
        members.extend(known.get(&id).map(|user| (id, row.of(user.shared()))));
    }
    Ok(members)
}

async fn members_by_name(mut conn: &AsyncPgConnection, names: &BTreeSet<String>) -> Result<Members, StoreError> {
    if names.is_empty() {
        return Ok(Members::new());
    }
    let names: Vec<_> = names.iter().cloned().collect();
    let load = users::table.inner_join(user_counts::table).filter(users::username_key.eq_any(names));
    let rows: Vec<(UserRow, CountsRow)> = load.load(&mut conn).await?;
    rows.into_iter().map(member).collect()
}

async fn members_by_external_id(
    mut conn: &AsyncPgConnection,
    external_ids: &BTreeSet<ExternalId>,
) -> Result<Members, StoreError> {
    if external_ids.is_empty() {
        return Ok(Members::new());
    }
    let ids: Vec<_> = external_ids.iter().map(ExternalId::as_str).collect();
    let load = users::table.inner_join(user_counts::table).filter(users::external_id.eq_any(ids));
    let rows: Vec<(UserRow, CountsRow)> = load.load(&mut conn).await?;
    rows.into_iter().map(member).collect()
}

/// Reads which candidates for the ids of new users are in use.
///
/// The statement reads the counter that the candidates follow, so that no round trip is needed to learn it first.
async fn ids_in_use(mut conn: &AsyncPgConnection, unassigned: usize) -> Result<HashSet<i64>, StoreError> {
    if unassigned == 0 {
        return Ok(HashSet::new());
    }
    let runs = candidates(UserId::default(), unassigned);
    let (first, last): (Vec<i64>, Vec<i64>) = runs.iter().map(|run| (*run.start(), *run.end())).unzip();
    let load: PgStatement<'_, BigInt, _> = statement!(
        "SELECT users.id FROM feed CROSS JOIN unnest(?, ?) AS run (first, last) \
         JOIN users ON users.id BETWEEN last_assigned_user_id + run.first AND last_assigned_user_id + run.last"
    );
    let load = load.bind::<Array<BigInt>, _>(first).bind::<Array<BigInt>, _>(last);
    Ok(load.load(&mut conn).await?.into_iter().collect())
}

async fn stored_responses(
    mut conn: &AsyncPgConnection,
    keys: &BTreeSet<IdempotencyKey>,
) -> Result<Vec<IdempotentResponseRow>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (callers, ids): (Vec<_>, Vec<_>) = keys.iter().map(|key| (key.caller.as_str(), key.id.to_string())).unzip();
    let load: PgStatement<'_, ResponsesSql, _> =
        statement!("SELECT ? FROM request_ids JOIN unnest(?, ?) AS key (caller, id) USING (caller, id)");
    let load = load.part(request_ids::all_columns).bind::<Array<Text>, _>(callers).bind::<Array<Text>, _>(ids);
    Ok(load.load(&mut conn).await?)
}

/// Loads the rows that only some kinds of commands need; for a sweep, those that are due at about this time.
///
/// The queries run one after the other, because such commands are rare.
async fn rare(
    mut conn: &AsyncPgConnection,
    all_pairs_of: &BTreeSet<UserId>,
    unviewed_of: &BTreeSet<UserId>,
    due: Option<(&Policy, Time)>,
) -> Result<Rare, StoreError> {
    let conn = &mut conn;
    let (mut requests, mut sides): (Vec<RequestRow>, Vec<SidePartRow>) = Default::default();
    for user in unviewed_of {
        let (pending, ever) = (RequestState::Pending.name(), Stamp(Time::UNIX_EPOCH));
        requests.extend(query::requests_unviewed(user.get(), pending, ever, i64::MAX, i64::MAX).load(conn).await?);
    }
    for user in all_pairs_of {
        requests.extend(query::all_sent_open(user.get()).load(conn).await?);
        requests.extend(query::all_sent_connected(user.get()).load(conn).await?);
        requests.extend(query::all_received(user.get()).load(conn).await?);
        sides.extend(pair::sides_of(user.get()).load(conn).await?);
    }
    let Some((policy, now)) = due else {
        return Ok(Rare { requests, sides, due: None });
    };
    let (mut open, mut examined) = (None, Vec::new());
    if let Some(expired) = policy.expired_before(now) {
        let mut next = NextOpen::of(query::next_open(LOOK_AHEAD).load(conn).await?, LOOK_AHEAD);
        if next.has_expired(expired) {
            next = NextOpen::of(query::next_open(SWEEP_LIMIT).load(conn).await?, SWEEP_LIMIT);
        }
        open = Some(next.more_after());
        examined.extend(next.rows);
        examined.extend(query::expired_out_of_order(Stamp(expired), SWEEP_LIMIT).load(conn).await?);
    }
    let cooled = policy.cooled_before(now).unwrap_or(now);
    let cooled = query::cooled(Stamp(cooled)).get_result(conn).await?;
    let ahead = query::ahead(Stamp(now)).get_result(conn).await?;
    let replays = query::expired_responses(Stamp(now - RESPONSE_RETENTION)).get_result(conn).await?;
    let events = match policy.events_until(now) {
        Some(until) => query::expired_events(Stamp(until), Stamp(now)).get_result(conn).await?,
        None => ExpiredEventsRow::default(),
    };
    let forget = match policy.forget_until(now) {
        Some(until) => forget(conn, until, now).await?,
        None => None,
    };
    let due = SweepRows { open, cooled, ahead, replays, events, forget };
    Ok(Rare { requests, sides, due: Some((due, examined)) })
}

/// Finds the next deleted user to forget, and some of the events that name them.
async fn forget(mut conn: &AsyncPgConnection, until: Time, now: Time) -> Result<Option<ForgetStep>, StoreError> {
    let next: NextDeletionRow = next_deletion(Stamp(now)).get_result(&mut conn).await?;
    let Some(search) = next.search(until) else { return Ok(next.passed()) };
    let rows: Vec<EventRow> = search.query().load(&mut conn).await?;
    Ok(Some(search.step(&rows)))
}

/// Reads the numbers of ended requests of these senders to these receivers.
async fn ended_between(
    mut conn: &AsyncPgConnection,
    pairs: &[(UserId, UserId)],
) -> Result<Vec<SidePartRow>, StoreError> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let (from, to) = pairs.iter().map(|(from, to)| (from.get(), to.get())).unzip();
    Ok(pair::ended_between(from, to).load(&mut conn).await?)
}

/// Reads expired requests of senders that may exceed their limit of open requests.
///
/// Only the oldest requests of each sender are examined.
async fn oldest_sent(
    mut conn: &AsyncPgConnection,
    batch: &Batch,
    needs: &Needs,
    loaded: &Snapshot,
) -> Result<Vec<RequestRow>, StoreError> {
    let senders = batch.senders_at_limit(needs, &loaded.members);
    let Some(expired) = batch.policy.expired_before(loaded.now).filter(|_| !senders.is_empty()) else {
        return Ok(Vec::new());
    };
    let load: PgStatement<'_, RequestsSql, _> = statement!(
        "SELECT ? FROM unnest(?) AS sender (id) CROSS JOIN LATERAL ( \
             SELECT ? FROM connection_requests \
             WHERE from_user_id = sender.id AND state IN ('PENDING', 'SILENCED', 'REJECTED') \
             ORDER BY connection_requests.id LIMIT ? \
         ) AS connection_requests WHERE created <= ?"
    );
    let load = load
        .part(connection_requests::all_columns)
        .bind::<Array<BigInt>, _>(senders.into_iter().map(UserId::get).collect::<Vec<_>>())
        .part(connection_requests::all_columns)
        .bind::<BigInt, _>(OLDEST_SENT_LIMIT)
        .bind::<Instant, _>(Stamp(expired));
    Ok(load.load(&mut conn).await?)
}
