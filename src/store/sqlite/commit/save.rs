//! Saves the changes of a batch row by row.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};

use crate::domain::command::IdempotentResponse;
use crate::domain::event::Event;
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::{Changes, CountsChange, Head};
use crate::domain::pair::{Block, Ended, Request};
use crate::domain::user::User;
use crate::store::row::{actor_columns, gender_name, user_status_name};
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::{CacheKey, SqliteStatement, statement};
use crate::store::{SWEEP_LIMIT, StoreError, feed};

type Write<'a, Key> = SqliteStatement<'a, (), Key>;

/// Saves the changes of a batch. Runs in the transaction in which they were decided.
pub(super) fn save(conn: &mut SqliteConnection, changes: &Changes, batch_id: i64) -> Result<(), StoreError> {
    let Changes {
        head,
        users_deleted,
        users_created,
        users_updated,
        users_renamed,
        requests_created,
        requests_replaced,
        requests_updated,
        requests_viewed,
        requests_deleted,
        requests_out_of_order,
        blocks_put,
        blocks_deleted,
        cooldowns_put,
        cooldowns_deleted,
        ended_put,
        ended_deleted,
        cooled,
        counts,
        events,
        events_deleted,
        responses,
        responses_deleted,
        // For the writer's cache.
        members: _,
    } = changes;
    for id in users_deleted {
        run(conn, statement!("DELETE FROM users WHERE id = ?").bind::<BigInt, _>(id.get()))?;
        run(conn, statement!("DELETE FROM user_counts WHERE user_id = ?").bind::<BigInt, _>(id.get()))?;
        delete_responses(conn, *id)?;
    }
    // SQLite checks names row by row. So all users give up their names before any of them takes one.
    for id in users_renamed {
        let release = statement!("UPDATE users SET username_key = '/' || id WHERE id = ?");
        run(conn, release.bind::<BigInt, _>(id.get()))?;
    }
    users_updated.iter().try_for_each(|user| update_user(conn, user))?;
    users_created.iter().try_for_each(|(user, position)| create_user(conn, user, *position))?;
    for key in requests_deleted {
        let delete = statement!("DELETE FROM connection_requests WHERE low_user_id = ? AND high_user_id = ?");
        run(conn, delete.bind::<BigInt, _>(key.low().get()).bind::<BigInt, _>(key.high().get()))?;
    }
    requests_created.iter().try_for_each(|request| create_request(conn, request))?;
    requests_replaced.iter().try_for_each(|request| replace_request(conn, request))?;
    requests_updated.iter().try_for_each(|request| answer_request(conn, request))?;
    for request in requests_viewed {
        let view = statement!("UPDATE connection_requests SET viewed = ? WHERE id = ?");
        let view = view.bind::<Nullable<Instant>, _>(request.viewed.map(Stamp));
        run(conn, view.bind::<BigInt, _>(request.id.get()))?;
    }
    for id in requests_out_of_order {
        let mark = statement!("UPDATE connection_requests SET out_of_order = 1 WHERE id = ?");
        run(conn, mark.bind::<BigInt, _>(id.get()))?;
    }
    for (user, other) in blocks_deleted {
        let delete = statement!("DELETE FROM blocks WHERE user_id = ? AND other_user_id = ?");
        run(conn, delete.bind::<BigInt, _>(user.get()).bind::<BigInt, _>(other.get()))?;
    }
    blocks_put.iter().try_for_each(|(user, other, block)| put_block(conn, *user, *other, block))?;
    for (from, to) in cooldowns_deleted {
        let delete = statement!("DELETE FROM cooldowns WHERE from_user_id = ? AND to_user_id = ?");
        run(conn, delete.bind::<BigInt, _>(from.get()).bind::<BigInt, _>(to.get()))?;
    }
    for (from, to, since) in cooldowns_put {
        let put = statement!("INSERT OR REPLACE INTO cooldowns (from_user_id, to_user_id, since) VALUES (?, ?, ?)");
        let put = put.bind::<BigInt, _>(from.get()).bind::<BigInt, _>(to.get());
        run(conn, put.bind::<Instant, _>(Stamp(*since)))?;
    }
    if let Some(end) = cooled {
        let delete = statement!(
            "DELETE FROM cooldowns WHERE (from_user_id, to_user_id) IN \
             (SELECT from_user_id, to_user_id FROM cooldowns WHERE since <= ? ORDER BY since LIMIT ?)"
        );
        run(conn, delete.bind::<Instant, _>(Stamp(*end)).bind::<BigInt, _>(SWEEP_LIMIT))?;
    }
    for (from, to) in ended_deleted {
        let delete = statement!("DELETE FROM ended_requests WHERE from_user_id = ? AND to_user_id = ?");
        run(conn, delete.bind::<BigInt, _>(from.get()).bind::<BigInt, _>(to.get()))?;
    }
    for (from, to, Ended { since, count }) in ended_put {
        let put = statement!(
            "INSERT OR REPLACE INTO ended_requests (from_user_id, to_user_id, since, requests) VALUES (?, ?, ?, ?)"
        );
        let put = put.bind::<BigInt, _>(from.get()).bind::<BigInt, _>(to.get());
        run(conn, put.bind::<Instant, _>(Stamp(*since)).bind::<BigInt, _>(*count))?;
    }
    if let Some(end) = cooled {
        let delete = statement!(
            "DELETE FROM ended_requests WHERE (from_user_id, to_user_id) IN \
             (SELECT from_user_id, to_user_id FROM ended_requests WHERE since <= ? ORDER BY since LIMIT ?)"
        );
        run(conn, delete.bind::<Instant, _>(Stamp(*end)).bind::<BigInt, _>(SWEEP_LIMIT))?;
    }
    counts.iter().try_for_each(|counts| change_counts(conn, counts))?;
    events.iter().try_for_each(|event| create_event(conn, event, batch_id))?;
    responses.iter().try_for_each(|replay| put_response(conn, replay))?;
    if let Some(end) = responses_deleted {
        let delete = statement!(
            "DELETE FROM request_ids WHERE (caller, id) IN \
             (SELECT caller, id FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?)"
        );
        run(conn, delete.bind::<Instant, _>(Stamp(*end)).bind::<BigInt, _>(SWEEP_LIMIT))?;
    }
    if let Some(until) = events_deleted {
        run(conn, statement!("DELETE FROM events WHERE sequence <= ?").bind::<BigInt, _>(until.get()))?;
    }
    move_head(conn, head, batch_id)
}

fn move_head(conn: &mut SqliteConnection, head: &Head, batch_id: i64) -> Result<(), StoreError> {
    let Head { sequence, time, last_assigned, users_changed, swept } = *head;
    let write = statement!(
        "UPDATE feed SET last_sequence = ?, last_time = ?, last_assigned_user_id = ?, users_changed = ?, \
         swept_id = ?, last_batch_id = ? WHERE id = 1"
    );
    let write = write
        .bind::<BigInt, _>(sequence.get())
        .bind::<Instant, _>(Stamp(time))
        .bind::<BigInt, _>(last_assigned.get())
        .bind::<BigInt, _>(users_changed.get())
        .bind::<BigInt, _>(swept.get())
        .bind::<BigInt, _>(batch_id);
    run(conn, write)
}

fn put_block(conn: &mut SqliteConnection, user: UserId, other: UserId, block: &Block) -> Result<(), StoreError> {
    let Block { created, position } = *block;
    let write =
        statement!("INSERT OR REPLACE INTO blocks (user_id, other_user_id, created, position) VALUES (?, ?, ?, ?)");
    let write = write
        .bind::<BigInt, _>(user.get())
        .bind::<BigInt, _>(other.get())
        .bind::<Instant, _>(Stamp(created))
        .bind::<BigInt, _>(position.get());
    run(conn, write)
}

/// Deletes the responses to calls on behalf of a deleted user, and their profile from others.
fn delete_responses(conn: &mut SqliteConnection, user: UserId) -> Result<(), StoreError> {
    let id = user.get();
    let delete = statement!("DELETE FROM request_ids WHERE actor_user_id = ? AND (user_id = ? OR other_user_id = ?)");
    run(conn, delete.bind::<BigInt, _>(id).bind::<BigInt, _>(id).bind::<BigInt, _>(id))?;
    let forget =
        statement!("UPDATE request_ids SET response = without_profiles WHERE user_id = ? OR other_user_id = ?");
    run(conn, forget.bind::<BigInt, _>(id).bind::<BigInt, _>(id))
}

fn put_response(conn: &mut SqliteConnection, replay: &IdempotentResponse) -> Result<(), StoreError> {
    let IdempotentResponse { key, fingerprint, encoded, created, actor, users: (user, other) } = replay;
    let write = statement!(
        "INSERT OR REPLACE INTO request_ids (caller, id, fingerprint, response, without_profiles, created, \
                actor_user_id, user_id, other_user_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let write = write
        .bind::<Text, _>(key.caller.as_str())
        .bind::<Text, _>(key.id.to_string())
        .bind::<Binary, _>(fingerprint.as_slice())
        .bind::<Binary, _>(encoded.response.as_slice())
        .bind::<Binary, _>(encoded.without_profiles.as_slice())
        .bind::<Instant, _>(Stamp(*created))
        .bind::<Nullable<BigInt>, _>(actor.map(UserId::get))
        .bind::<Nullable<BigInt>, _>(user.map(UserId::get))
        .bind::<Nullable<BigInt>, _>(other.map(UserId::get));
    run(conn, write)
}

fn create_user(conn: &mut SqliteConnection, user: &User, position: Sequence) -> Result<(), StoreError> {
    let write = statement!(
        "INSERT INTO users (username, username_key, real_name, email, email_isvalid, date_joined, bio, location, \
                birthday, description, gender, status, website, avatar, cover, changed, id, position) \
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    run(conn, profile(write, user).bind::<BigInt, _>(user.id.get()).bind::<BigInt, _>(position.get()))?;
    run(conn, statement!("INSERT INTO user_counts (user_id) VALUES (?)").bind::<BigInt, _>(user.id.get()))
}

fn update_user(conn: &mut SqliteConnection, user: &User) -> Result<(), StoreError> {
    let write = statement!(
        "UPDATE users SET username = ?, username_key = ?, real_name = ?, email = ?, email_isvalid = ?, \
                date_joined = ?, bio = ?, location = ?, birthday = ?, description = ?, gender = ?, status = ?, \
                website = ?, avatar = ?, cover = ?, changed = ? WHERE id = ?"
    );
    run(conn, profile(write, user).bind::<BigInt, _>(user.id.get()))
}

fn profile<'a, Key>(write: Write<'a, Key>, user: &'a User) -> Write<'a, Key> {
    write
        .bind::<Text, _>(user.username.as_str())
        .bind::<Text, _>(user.username.key())
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
        .bind::<BigInt, _>(user.changed.get())
}

fn create_request(conn: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let write = statement!(
        "INSERT INTO connection_requests (id, from_user_id, to_user_id, state, position, message, created, \
                viewed, rejected, accepted, reply, low_user_id, high_user_id) \
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    run(conn, all_columns(write, request))
}

fn replace_request(conn: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let write = statement!(
        "UPDATE connection_requests SET id = ?, from_user_id = ?, to_user_id = ?, state = ?, position = ?, \
                message = ?, created = ?, viewed = ?, rejected = ?, accepted = ?, reply = ?, out_of_order = 0 \
                WHERE low_user_id = ? AND high_user_id = ?"
    );
    run(conn, all_columns(write, request))
}

/// Updates only the columns that may change, so that the indexes of the others are not written.
fn answer_request(conn: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let write = statement!(
        "UPDATE connection_requests SET state = ?, position = ?, viewed = ?, rejected = ?, accepted = ?, reply = ? \
                WHERE id = ?"
    );
    let write = write.bind::<Text, _>(request.state.name()).bind::<BigInt, _>(request.position.get());
    run(conn, answers(write, request).bind::<BigInt, _>(request.id.get()))
}

fn answers<'a, Key>(write: Write<'a, Key>, request: &'a Request) -> Write<'a, Key> {
    write
        .bind::<Nullable<Instant>, _>(request.viewed.map(Stamp))
        .bind::<Nullable<Instant>, _>(request.rejected.map(Stamp))
        .bind::<Nullable<Instant>, _>(request.accepted.map(Stamp))
        .bind::<Text, _>(request.reply.as_str())
}

fn all_columns<'a, Key>(write: Write<'a, Key>, request: &'a Request) -> Write<'a, Key> {
    let (low, high) = (request.from.min(request.to), request.from.max(request.to));
    let write = write
        .bind::<BigInt, _>(request.id.get())
        .bind::<BigInt, _>(request.from.get())
        .bind::<BigInt, _>(request.to.get())
        .bind::<Text, _>(request.state.name())
        .bind::<BigInt, _>(request.position.get())
        .bind::<Text, _>(request.message.as_str())
        .bind::<Instant, _>(Stamp(request.created));
    answers(write, request).bind::<BigInt, _>(low.get()).bind::<BigInt, _>(high.get())
}

fn change_counts(conn: &mut SqliteConnection, counts: &CountsChange) -> Result<(), StoreError> {
    let CountsChange { user, change, sends } = counts;
    let write = statement!(
        "UPDATE user_counts SET requests_sent = requests_sent + ?, requests_received = requests_received + ?, \
                requests_unviewed = requests_unviewed + ?, connections = connections + ?, \
                sends = coalesce(?, sends), sends_since = coalesce(?, sends_since) WHERE user_id = ?"
    );
    let write = write
        .bind::<BigInt, _>(change.requests_sent)
        .bind::<BigInt, _>(change.requests_received)
        .bind::<BigInt, _>(change.requests_unviewed)
        .bind::<BigInt, _>(change.connections)
        .bind::<Nullable<BigInt>, _>(sends.map(|sends| sends.count))
        .bind::<Nullable<Instant>, _>(sends.and_then(|sends| sends.since).map(Stamp))
        .bind::<BigInt, _>(user.get());
    run(conn, write)
}

fn create_event(conn: &mut SqliteConnection, event: &Event, batch_id: i64) -> Result<(), StoreError> {
    let write = statement!(
        "INSERT INTO events (sequence, stretch, time, batch_id, kind, cause, actor, actor_user_id, user_id, \
                other_user_id, request_id, silenced) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let (actor, actor_user) = actor_columns(event.actor);
    let write = write
        .bind::<BigInt, _>(event.sequence.get())
        .bind::<BigInt, _>(feed::stretch(event.sequence))
        .bind::<Instant, _>(Stamp(event.time))
        .bind::<BigInt, _>(batch_id)
        .bind::<Text, _>(event.kind.name())
        .bind::<Nullable<Text>, _>(event.cause.map(|cause| cause.name()))
        .bind::<Text, _>(actor)
        .bind::<Nullable<BigInt>, _>(actor_user)
        .bind::<BigInt, _>(event.user.get())
        .bind::<Nullable<BigInt>, _>(event.other.map(UserId::get))
        .bind::<Nullable<BigInt>, _>(event.request.map(|request| request.get()))
        .bind::<Bool, _>(event.silenced);
    run(conn, write)
}

fn run(conn: &mut SqliteConnection, write: Write<'_, impl CacheKey>) -> Result<(), StoreError> {
    write.execute(conn)?;
    Ok(())
}
