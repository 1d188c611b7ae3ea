//! The commit on SQLite: one immediate transaction on the one writer, with single-row statements that stay prepared.

use std::collections::BTreeSet;
use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::Sqlite;

use super::reading::users;
use crate::domain::Time;
use crate::domain::command::{Batch, Member, Needs, RESPONSE_RETENTION, Reply};
use crate::domain::decide::Rejection;
use crate::domain::event::Event;
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::{self, Changes, CountsChange, Due, Snapshot};
use crate::domain::pair::{Request, RequestState};
use crate::domain::user::User;
use crate::store::counts::{Counted, KeptCounts};
use crate::store::feed::new_batch_id;
use crate::store::row::{
    BlockRow, CountsRow, DueRow, FeedRow, ReplayRow, RequestRow, UserRow, actor_columns, gender_name, user_status_name,
};
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::Statement;
use crate::store::users::KeptUsers;
use crate::store::{DUE_AT_ONCE, OLDEST_OF_A_SENDER, StoreError, query};

type Write<'a> = Statement<'a, Sqlite>;
type Replies = Vec<Result<Reply, Rejection>>;

/// What need not be read again.
pub(super) struct Kept {
    pub(super) users: Arc<KeptUsers>,
    pub(super) counts: KeptCounts,
}

pub(super) fn commit(conn: &mut SqliteConnection, kept: &Kept, batch: &Batch) -> Result<Replies, StoreError> {
    let (batch_id, mut is_saved) = (new_batch_id(), false);
    // Immediate: the write lock, which is SQLite's head row, comes before the first read.
    let committed = conn.immediate_transaction(|conn| {
        let snapshot = load(conn, kept, &Needs::of(batch), batch)?;
        let before = snapshot.head;
        let (replies, changes) = ledger::run(batch, snapshot);
        if !changes.is_empty() {
            save(conn, &changes, batch_id)?;
            is_saved = true;
        }
        Ok::<_, StoreError>((replies, before, changes))
    });
    // A commit that fails may have written all of itself to the log, of which only the disk did not say that it has it: it
    // is undone now, and there again when the log is read after a crash.
    let unknown = |error: StoreError| if is_saved { StoreError::OutcomeUnknown(error.into()) } else { error };
    let (replies, before, changes) = committed.map_err(unknown)?;
    if !changes.is_empty() {
        kept.users.committed(&before, &changes);
        kept.counts.change(&changes, batch_id);
    }
    Ok(replies)
}

fn load(conn: &mut SqliteConnection, kept: &Kept, needs: &Needs, batch: &Batch) -> Result<Snapshot, StoreError> {
    let head = query::head().first::<FeedRow>(conn)?.head();
    let mut snapshot = Snapshot { head: head.head, due: due(conn, needs, batch)?, ..Snapshot::default() };
    let mut wanted = needs.users.clone();
    for request in load_requests(conn, needs, batch)? {
        if needs.requests.contains(&request.id) {
            wanted.extend([request.from, request.to]);
        }
        snapshot.add_request(request);
    }
    for block in load_blocks(conn, needs, &snapshot)? {
        snapshot.add_block(UserId::new(block.user_id), UserId::new(block.other_user_id), block.block());
    }
    for name in &needs.names {
        let owner: Option<UserRow> = query::user_by_name(name.clone()).first(conn).optional()?;
        wanted.extend(owner.map(|owner| UserId::new(owner.id)));
    }
    kept.counts.check(&head);
    for (id, user) in users(conn, &kept.users, &head.mark(), wanted)? {
        let Counted { counts, sends } = counted(conn, &kept.counts, id)?;
        snapshot.members.push(Member { user, counts, sends });
    }
    for request in oldest_sent(conn, needs, batch, &snapshot)? {
        snapshot.add_request(request.try_into()?);
    }
    for key in &needs.replays {
        let row: Option<ReplayRow> = query::replay(key.caller.clone(), key.id.to_string()).first(conn).optional()?;
        snapshot.replays.extend(row.map(TryInto::try_into).transpose()?);
    }
    Ok(snapshot)
}

/// What a sweep deletes beside requests.
fn due(conn: &mut SqliteConnection, needs: &Needs, batch: &Batch) -> Result<Due, StoreError> {
    if !needs.due {
        return Ok(Due::default());
    }
    let replays = query::due_replays(Stamp(batch.now - RESPONSE_RETENTION)).get_result(conn)?;
    let events = match batch.policy.events_until(batch.now) {
        Some(until) => query::due_events(Stamp(until)).get_result(conn)?,
        None => DueRow::default(),
    };
    Ok(events.due(replays))
}

fn load_requests(conn: &mut SqliteConnection, needs: &Needs, batch: &Batch) -> Result<Vec<Request>, StoreError> {
    let mut rows: Vec<RequestRow> = Vec::new();
    for key in &needs.pairs {
        rows.extend(query::request_of_pair(key.low().get(), key.high().get()).load(conn)?);
    }
    for id in &needs.requests {
        rows.extend(query::request(id.get()).load(conn)?);
    }
    for user in &needs.unviewed_of {
        let (pending, ever) = (RequestState::Pending.name(), Stamp(Time::UNIX_EPOCH));
        rows.extend(query::requests_unviewed(user.get(), pending, ever, i64::MAX, i64::MAX).load(conn)?);
    }
    for user in &needs.all_pairs_of {
        rows.extend(query::all_sent_open(user.get()).load(conn)?);
        rows.extend(query::all_sent_connected(user.get()).load(conn)?);
        rows.extend(query::all_sent_withdrawn(user.get()).load(conn)?);
        rows.extend(query::all_received(user.get()).load(conn)?);
    }
    if let Some(expired) = batch.policy.expired_before(batch.now).filter(|_| needs.due) {
        rows.extend(query::due_open(Stamp(expired), DUE_AT_ONCE).load(conn)?);
    }
    if needs.due {
        let cooled = batch.policy.cooled_before(batch.now).unwrap_or(batch.now);
        rows.extend(query::due_withdrawn(Stamp(cooled), DUE_AT_ONCE).load(conn)?);
    }
    rows.into_iter().map(Request::try_from).collect()
}

fn counted(conn: &mut SqliteConnection, kept: &KeptCounts, id: UserId) -> Result<Counted, StoreError> {
    if let Some(counted) = kept.get(id) {
        return Ok(counted);
    }
    let row: CountsRow = query::counts(id.get()).first(conn)?;
    let counted = Counted::from(&row);
    kept.keep([(id, counted)], None);
    Ok(counted)
}

/// Of the oldest open requests of each sender who may pass their limit, those that are due.
fn oldest_sent(
    conn: &mut SqliteConnection,
    needs: &Needs,
    batch: &Batch,
    loaded: &Snapshot,
) -> Result<Vec<RequestRow>, StoreError> {
    let Some(expired) = batch.policy.expired_before(batch.now) else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for user in batch.full_senders(needs, &loaded.members) {
        let oldest: Vec<RequestRow> = query::oldest_sent(user.get(), OLDEST_OF_A_SENDER).load(conn)?;
        rows.extend(oldest.into_iter().filter(|row| row.created.0 <= expired));
    }
    Ok(rows)
}

fn load_blocks(conn: &mut SqliteConnection, needs: &Needs, loaded: &Snapshot) -> Result<Vec<BlockRow>, StoreError> {
    let mut rows: Vec<BlockRow> = Vec::new();
    // Of the pairs that a command is about; the others are only settled, viewed or deleted.
    let is_asked = |request: &Request| needs.requests.contains(&request.id);
    let by_request = loaded.pairs.values().filter(|pair| pair.request.as_ref().is_some_and(is_asked));
    let asked: BTreeSet<_> = by_request.map(|pair| pair.key).chain(needs.pairs.iter().copied()).collect();
    for key in asked {
        let (low, high) = (key.low().get(), key.high().get());
        rows.extend(query::block(low, high).load(conn)?);
        rows.extend(query::block(high, low).load(conn)?);
    }
    for user in &needs.all_pairs_of {
        rows.extend(query::blocks_by(user.get()).load(conn)?);
        rows.extend(query::blocks_against(user.get()).load(conn)?);
    }
    Ok(rows)
}

fn save(conn: &mut SqliteConnection, changes: &Changes, batch_id: i64) -> Result<(), StoreError> {
    for id in &changes.users_deleted {
        run(conn, Write::new("DELETE FROM users WHERE id = ?").bind::<BigInt, _>(id.get()))?;
        run(conn, Write::new("DELETE FROM user_counts WHERE user_id = ?").bind::<BigInt, _>(id.get()))?;
    }
    for user in &changes.users_updated {
        save_updated(conn, user)?;
    }
    for (user, position) in &changes.users_created {
        save_created(conn, user, *position)?;
    }
    for key in &changes.requests_deleted {
        let text = "DELETE FROM connection_requests WHERE low_user_id = ? AND high_user_id = ?";
        run(conn, Write::new(text).bind::<BigInt, _>(key.low().get()).bind::<BigInt, _>(key.high().get()))?;
    }
    for request in &changes.requests_created {
        create_request(conn, request)?;
    }
    for request in &changes.requests_replaced {
        replace_request(conn, request)?;
    }
    for request in &changes.requests_answered {
        answer_request(conn, request)?;
    }
    for request in &changes.requests_viewed {
        let text = "UPDATE connection_requests SET viewed = ? WHERE id = ?";
        let write = Write::new(text).bind::<Nullable<Instant>, _>(request.viewed.map(Stamp));
        run(conn, write.bind::<BigInt, _>(request.id.get()))?;
    }
    for (user, other) in &changes.blocks_deleted {
        let text = "DELETE FROM blocks WHERE user_id = ? AND other_user_id = ?";
        run(conn, Write::new(text).bind::<BigInt, _>(user.get()).bind::<BigInt, _>(other.get()))?;
    }
    for (user, other, block) in &changes.blocks_put {
        let text = "INSERT OR REPLACE INTO blocks (user_id, other_user_id, created, position) VALUES (?, ?, ?, ?)";
        let write = Write::new(text)
            .bind::<BigInt, _>(user.get())
            .bind::<BigInt, _>(other.get())
            .bind::<Instant, _>(Stamp(block.created))
            .bind::<BigInt, _>(block.position.get());
        run(conn, write)?;
    }
    for counts in &changes.counts {
        save_counts(conn, counts)?;
    }
    for event in &changes.events {
        save_event(conn, event, batch_id)?;
    }
    for replay in &changes.replays {
        let text = "INSERT OR REPLACE INTO request_ids (caller, id, fingerprint, response, created) \
                    VALUES (?, ?, ?, ?, ?)";
        let write = Write::new(text)
            .bind::<Text, _>(replay.key.caller.as_str())
            .bind::<Text, _>(replay.key.id.to_string())
            .bind::<Binary, _>(replay.fingerprint.as_slice())
            .bind::<Binary, _>(replay.response.as_slice())
            .bind::<Instant, _>(Stamp(replay.created));
        run(conn, write)?;
    }
    if let Some(end) = changes.replays_end {
        let text = "DELETE FROM request_ids WHERE (caller, id) IN \
                    (SELECT caller, id FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?)";
        run(conn, Write::new(text).bind::<Instant, _>(Stamp(end)).bind::<BigInt, _>(DUE_AT_ONCE))?;
    }
    if let Some(until) = changes.events_deleted {
        run(conn, Write::new("DELETE FROM events WHERE sequence <= ?").bind::<BigInt, _>(until.get()))?;
    }
    let text = "UPDATE feed SET last_sequence = ?, last_time = ?, last_user_id = ?, users_changed = ?, \
                last_batch_id = ? WHERE id = 1";
    let head = Write::new(text)
        .bind::<BigInt, _>(changes.head.sequence.get())
        .bind::<Instant, _>(Stamp(changes.head.time))
        .bind::<BigInt, _>(changes.head.last_user.get())
        .bind::<BigInt, _>(changes.head.users_changed.get())
        .bind::<BigInt, _>(batch_id);
    run(conn, head)
}

fn save_created(conn: &mut SqliteConnection, user: &User, position: Sequence) -> Result<(), StoreError> {
    let text = "INSERT INTO users (username, real_name, email, email_isvalid, date_joined, bio, location, birthday, \
                description, gender, status, website, avatar, cover, id, position) \
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    run(conn, profile(Write::new(text), user).bind::<BigInt, _>(user.id.get()).bind::<BigInt, _>(position.get()))?;
    run(conn, Write::new("INSERT INTO user_counts (user_id) VALUES (?)").bind::<BigInt, _>(user.id.get()))
}

fn save_updated(conn: &mut SqliteConnection, user: &User) -> Result<(), StoreError> {
    let text = "UPDATE users SET username = ?, real_name = ?, email = ?, email_isvalid = ?, date_joined = ?, bio = ?, \
                location = ?, birthday = ?, description = ?, gender = ?, status = ?, website = ?, avatar = ?, \
                cover = ? WHERE id = ?";
    run(conn, profile(Write::new(text), user).bind::<BigInt, _>(user.id.get()))
}

fn profile<'a>(write: Write<'a>, user: &'a User) -> Write<'a> {
    write
        .bind::<Text, _>(user.username.as_str())
        .bind::<Text, _>(user.real_name.as_str())
        .bind::<Text, _>(user.email.as_str())
        .bind::<Bool, _>(user.email_isvalid)
        .bind::<Instant, _>(Stamp(user.date_joined))
        .bind::<Text, _>(user.bio.as_str())
        .bind::<Text, _>(user.location.as_str())
        .bind::<Text, _>(user.birthday.as_str())
        .bind::<Text, _>(user.description.as_str())
        .bind::<Text, _>(gender_name(user.gender))
        .bind::<Text, _>(user_status_name(user.status))
        .bind::<Text, _>(user.website.as_str())
        .bind::<Text, _>(user.avatar.as_str())
        .bind::<Text, _>(user.cover.as_str())
}

fn create_request(conn: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let text = "INSERT INTO connection_requests (id, from_user_id, to_user_id, state, position, message, created, \
                viewed, rejected, accepted, low_user_id, high_user_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    run(conn, whole_request(Write::new(text), request))
}

fn replace_request(conn: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let text = "UPDATE connection_requests SET id = ?, from_user_id = ?, to_user_id = ?, state = ?, position = ?, \
                message = ?, created = ?, viewed = ?, rejected = ?, accepted = ? \
                WHERE low_user_id = ? AND high_user_id = ?";
    run(conn, whole_request(Write::new(text), request))
}

/// Without the columns that do not change, so that their indexes are left alone.
fn answer_request(conn: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let text = "UPDATE connection_requests SET state = ?, position = ?, viewed = ?, rejected = ?, accepted = ? \
                WHERE id = ?";
    let write = Write::new(text).bind::<Text, _>(request.state.name()).bind::<BigInt, _>(request.position.get());
    run(conn, times(write, request).bind::<BigInt, _>(request.id.get()))
}

fn times<'a>(write: Write<'a>, request: &Request) -> Write<'a> {
    write
        .bind::<Nullable<Instant>, _>(request.viewed.map(Stamp))
        .bind::<Nullable<Instant>, _>(request.rejected.map(Stamp))
        .bind::<Nullable<Instant>, _>(request.accepted.map(Stamp))
}

fn whole_request<'a>(write: Write<'a>, request: &'a Request) -> Write<'a> {
    let (low, high) = (request.from.min(request.to), request.from.max(request.to));
    let write = write
        .bind::<BigInt, _>(request.id.get())
        .bind::<BigInt, _>(request.from.get())
        .bind::<BigInt, _>(request.to.get())
        .bind::<Text, _>(request.state.name())
        .bind::<BigInt, _>(request.position.get())
        .bind::<Text, _>(request.message.as_str())
        .bind::<Instant, _>(Stamp(request.created));
    times(write, request).bind::<BigInt, _>(low.get()).bind::<BigInt, _>(high.get())
}

fn save_counts(conn: &mut SqliteConnection, counts: &CountsChange) -> Result<(), StoreError> {
    let CountsChange { user, change, sends, .. } = counts;
    let text = "UPDATE user_counts SET requests_sent = requests_sent + ?, requests_received = requests_received + ?, \
                requests_unviewed = requests_unviewed + ?, connections = connections + ?, \
                sends = coalesce(?, sends), sends_since = coalesce(?, sends_since) WHERE user_id = ?";
    let write = Write::new(text)
        .bind::<BigInt, _>(change.requests_sent)
        .bind::<BigInt, _>(change.requests_received)
        .bind::<BigInt, _>(change.requests_unviewed)
        .bind::<BigInt, _>(change.connections)
        .bind::<Nullable<BigInt>, _>(sends.map(|sends| sends.count))
        .bind::<Nullable<Instant>, _>(sends.and_then(|sends| sends.since).map(Stamp))
        .bind::<BigInt, _>(user.get());
    run(conn, write)
}

fn save_event(conn: &mut SqliteConnection, event: &Event, batch_id: i64) -> Result<(), StoreError> {
    let text = "INSERT INTO events (sequence, time, batch_id, kind, cause, actor, actor_user_id, user_id, \
                other_user_id, request_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let (actor, actor_user) = actor_columns(event.actor);
    let write = Write::new(text)
        .bind::<BigInt, _>(event.sequence.get())
        .bind::<Instant, _>(Stamp(event.time))
        .bind::<BigInt, _>(batch_id)
        .bind::<Text, _>(event.kind.name())
        .bind::<Nullable<Text>, _>(event.cause.map(|cause| cause.name()))
        .bind::<Text, _>(actor)
        .bind::<Nullable<BigInt>, _>(actor_user)
        .bind::<BigInt, _>(event.user.get())
        .bind::<Nullable<BigInt>, _>(event.other.map(UserId::get))
        .bind::<Nullable<BigInt>, _>(event.request.map(|request| request.get()));
    run(conn, write)
}

fn run(conn: &mut SqliteConnection, write: Write<'_>) -> Result<(), StoreError> {
    write.execute(conn)?;
    Ok(())
}
