//! Loads the rows that a batch is decided from, with single-row statements.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use diesel::prelude::*;

use crate::domain::Time;
use crate::domain::command::{Batch, Needs, RESPONSE_RETENTION};
use crate::domain::id::UserId;
use crate::domain::ledger::{ForgetStep, Snapshot, SweepStep, candidates, free_ids};
use crate::domain::pair::RequestState;
use crate::domain::policy::Policy;
use crate::store::clock::{DatabaseClock, Now};
use crate::store::feed::EventRow;
use crate::store::forget::{NextDeletionRow, next_deletion};
use crate::store::pair::{self, PairRow, SidePartRow};
use crate::store::row::{
    CountsRow, ExpiredEventsRow, FeedRow, IdempotentResponseRow, NextOpen, RequestRow, SweepRows, UserRow, member,
};
use crate::store::schema::Stamp;
use crate::store::writer::{Loaded, Members, WriterState};
use crate::store::{LOOK_AHEAD, OLDEST_SENT_LIMIT, SWEEP_LIMIT, StoreError, query};

/// Loads the snapshot of a batch. Runs in the transaction that holds the write lock.
pub(super) fn load(
    conn: &mut SqliteConnection,
    state: &mut WriterState,
    clock: &DatabaseClock,
    batch: &Batch,
) -> Result<Loaded, StoreError> {
    let needs = Needs::of(batch);
    let Needs {
        users,
        names,
        external_ids,
        unassigned,
        pairs: keys,
        requests,
        senders: _,
        all_pairs_of,
        unviewed_of,
        responses,
        sweep,
    } = &needs;
    let before = query::head().first::<FeedRow>(conn)?.head();
    state.validate(&before);
    let Now { time: now, may_sweep } = clock.locked(&before.head, None);
    let mut in_use = HashSet::new();
    for run in candidates(before.head.last_assigned, *unassigned) {
        in_use.extend(query::user_ids_in(*run.start(), *run.end()).load::<i64>(conn)?);
    }
    let mut snapshot = Snapshot {
        now,
        head: before.head,
        epoch: before.epoch.clone(),
        epoch_change: None,
        members: Vec::new(),
        free_ids: free_ids(before.head.last_assigned, &needs, &in_use),
        pairs: HashMap::new(),
        responses: Vec::new(),
        sweep: SweepStep::default(),
    };
    let mut wanted = users.clone();

    let mut pairs: Vec<PairRow> = Vec::new();
    for key in keys {
        pairs.push(pair::by_key(key.low().get(), key.high().get()).get_result(conn)?);
    }
    for id in requests.keys() {
        pairs.push(pair::by_request(id.get()).get_result(conn)?);
    }
    for row in pairs {
        let Some(pair) = row.pair()? else { continue };
        wanted.extend(pair.request.iter().flat_map(|request| needs.parties(request)));
        snapshot.add(pair);
    }
    load_rare(conn, &mut snapshot, all_pairs_of, unviewed_of)?;
    if *sweep && may_sweep {
        load_due(conn, &mut snapshot, &batch.policy)?;
    }
    for key in responses {
        let row: Option<IdempotentResponseRow> =
            query::idempotent_response(key.caller.clone(), key.id.to_string()).first(conn).optional()?;
        snapshot.responses.extend(row.map(TryInto::try_into).transpose()?);
    }

    let mut loaded = Members::new();
    for name in names {
        let row: Option<(UserRow, CountsRow)> = query::member_by_name(name.clone()).first(conn).optional()?;
        loaded.extend(row.map(member).transpose()?);
    }
    for id in external_ids {
        let row: Option<(UserRow, CountsRow)> =
            query::member_by_external_id(id.as_str().to_owned()).first(conn).optional()?;
        loaded.extend(row.map(member).transpose()?);
    }
    wanted.extend(loaded.keys());
    let (mut members, missing) = state.find(wanted.iter().copied().filter(|id| !loaded.contains_key(id)));
    for id in missing {
        let row: Option<(UserRow, CountsRow)> = query::member(id.get()).first(conn).optional()?;
        loaded.extend(row.map(member).transpose()?);
    }
    state.insert(&loaded);
    state.profiles.insert(loaded.values().map(|member| Arc::clone(&member.user).into()), &before.mark());
    members.extend(loaded);
    snapshot.members = wanted.iter().filter_map(|id| members.remove(id)).collect();
    load_oldest_sent(conn, &mut snapshot, batch, &needs)?;
    for (from, to) in snapshot.counted_when_expired(&batch.policy) {
        let row: Option<SidePartRow> = pair::ended(from.get(), to.get()).get_result(conn).optional()?;
        row.into_iter().for_each(|row| row.add_to(&mut snapshot));
    }
    Ok(Loaded { before, snapshot })
}

fn add(snapshot: &mut Snapshot, rows: Vec<RequestRow>) -> Result<(), StoreError> {
    for row in rows {
        snapshot.add_request(row.try_into()?);
    }
    Ok(())
}

/// Loads the rows that only some kinds of commands need.
fn load_rare(
    conn: &mut SqliteConnection,
    snapshot: &mut Snapshot,
    all_pairs_of: &BTreeSet<UserId>,
    unviewed_of: &BTreeSet<UserId>,
) -> Result<(), StoreError> {
    for user in unviewed_of {
        let (pending, ever) = (RequestState::Pending.name(), Stamp(Time::UNIX_EPOCH));
        let rows = query::requests_unviewed(user.get(), pending, ever, i64::MAX, i64::MAX).load(conn)?;
        add(snapshot, rows)?;
    }
    for user in all_pairs_of {
        add(snapshot, query::all_sent_open(user.get()).load(conn)?)?;
        add(snapshot, query::all_sent_connected(user.get()).load(conn)?)?;
        add(snapshot, query::all_received(user.get()).load(conn)?)?;
        let sides: Vec<SidePartRow> = pair::sides_of(user.get()).load(conn)?;
        sides.into_iter().for_each(|row| row.add_to(snapshot));
    }
    Ok(())
}

/// Loads the rows that a sweep expires or deletes.
fn load_due(conn: &mut SqliteConnection, snapshot: &mut Snapshot, policy: &Policy) -> Result<(), StoreError> {
    let (now, mut open) = (snapshot.now, None);
    if let Some(expired) = policy.expired_before(now) {
        let mut next = NextOpen::of(query::next_open(LOOK_AHEAD).load(conn)?, LOOK_AHEAD);
        if next.has_expired(expired) {
            next = NextOpen::of(query::next_open(SWEEP_LIMIT).load(conn)?, SWEEP_LIMIT);
        }
        open = Some(next.more_after());
        add(snapshot, next.rows)?;
        add(snapshot, query::expired_out_of_order(Stamp(expired), SWEEP_LIMIT).load(conn)?)?;
    }
    let cooled = policy.cooled_before(now).unwrap_or(now);
    let cooled = query::cooled(Stamp(cooled)).get_result(conn)?;
    let ahead = query::ahead(Stamp(now)).get_result(conn)?;
    let replays = query::expired_responses(Stamp(now - RESPONSE_RETENTION)).get_result(conn)?;
    let events = match policy.events_until(now) {
        Some(until) => query::expired_events(Stamp(until), Stamp(now)).get_result(conn)?,
        None => ExpiredEventsRow::default(),
    };
    let forget = match policy.forget_until(now) {
        Some(until) => forget(conn, until, now)?,
        None => None,
    };
    let found = SweepRows { open, cooled, ahead, replays, events, forget };
    snapshot.sweep = found.due(&snapshot.head);
    Ok(())
}

/// Finds the next deleted user to forget, and some of the events that name them.
fn forget(conn: &mut SqliteConnection, until: Time, now: Time) -> Result<Option<ForgetStep>, StoreError> {
    let next: NextDeletionRow = next_deletion(Stamp(now)).get_result(conn)?;
    let Some(search) = next.search(until) else { return Ok(next.passed()) };
    let rows: Vec<EventRow> = search.query().load(conn)?;
    Ok(Some(search.step(&rows)))
}

/// Loads expired requests of senders that may exceed their limit of open requests.
///
/// Only the oldest requests of each sender are examined.
fn load_oldest_sent(
    conn: &mut SqliteConnection,
    snapshot: &mut Snapshot,
    batch: &Batch,
    needs: &Needs,
) -> Result<(), StoreError> {
    let Some(expired) = batch.policy.expired_before(snapshot.now) else { return Ok(()) };
    for user in batch.senders_at_limit(needs, &snapshot.members) {
        let oldest: Vec<RequestRow> = query::oldest_sent(user.get(), OLDEST_SENT_LIMIT).load(conn)?;
        add(snapshot, oldest.into_iter().filter(|row| row.created.0 <= expired).collect())?;
    }
    Ok(())
}
