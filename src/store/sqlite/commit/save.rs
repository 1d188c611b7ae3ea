//! Saves the changes of a batch row by row.

use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::domain::id::UserId;
use crate::domain::ledger::{Changes, Head};
use crate::domain::totals::Totals;
use crate::store::StoreError;
use crate::store::columns::{
    Answer, Columns, CountsChanged, Directed, NewBlock, NewCooldown, NewEnded, NewEvent, NewRequest, NewResponse, Pair,
    Profile, RequestKey, UserKey, View, begin_now, delete_over,
};
use crate::store::forget::erase_one;
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::{CacheKey, SqliteStatement, statement};

const UPDATE_USER: &str = "UPDATE users SET username = ?, username_key = ?, real_name = ?, email = ?, \
    email_isvalid = ?, date_joined = ?, bio = ?, location = ?, birthday = ?, description = ?, gender = ?, status = ?, \
    website = ?, avatar = ?, cover = ?, external_id = ?, changed = ? WHERE id = ?";

const CREATE_USER: &str = "INSERT INTO users (username, username_key, real_name, email, email_isvalid, date_joined, \
    bio, location, birthday, description, gender, status, website, avatar, cover, external_id, changed, id, position) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const CREATE_REQUEST: &str = "INSERT INTO connection_requests (id, from_user_id, to_user_id, state, position, message, \
    created, viewed, rejected, accepted, reply, low_user_id, high_user_id) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const REPLACE_REQUEST: &str = "UPDATE connection_requests SET id = ?, from_user_id = ?, to_user_id = ?, state = ?, \
    position = ?, message = ?, created = ?, viewed = ?, rejected = ?, accepted = ?, reply = ?, out_of_order = 0 \
    WHERE low_user_id = ? AND high_user_id = ?";

/// Updates only the columns that may change, so that the indexes of the others are not written.
const ANSWER_REQUEST: &str = "UPDATE connection_requests SET state = ?, position = ?, viewed = ?, rejected = ?, \
    accepted = ?, reply = ? WHERE id = ?";

const PUT_BLOCK: &str = "INSERT OR REPLACE INTO blocks (user_id, other_user_id, created, position) VALUES (?, ?, ?, ?)";

const PUT_COOLDOWN: &str = "INSERT OR REPLACE INTO cooldowns (from_user_id, to_user_id, since) VALUES (?, ?, ?)";

const PUT_ENDED: &str =
    "INSERT OR REPLACE INTO ended_requests (from_user_id, to_user_id, since, requests) VALUES (?, ?, ?, ?)";

const CHANGE_COUNTS: &str = "UPDATE user_counts SET requests_sent = requests_sent + ?, \
    requests_received = requests_received + ?, requests_unviewed = requests_unviewed + ?, \
    connections = connections + ?, sends = coalesce(?, sends), sends_since = coalesce(?, sends_since), \
    last_visible = coalesce(?, last_visible) WHERE user_id = ?";

const CREATE_EVENT: &str = "INSERT INTO events (batch_id, sequence, stretch, time, kind, cause, actor, actor_user_id, \
    user_id, other_user_id, request_id, silenced, principal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const PUT_RESPONSE: &str = "INSERT OR REPLACE INTO request_ids (caller, id, fingerprint, response, without_profiles, \
    created, actor_user_id, user_id, other_user_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Deletes a row of a table by the two users in its key.
macro_rules! by_key {
    ($table:literal, $one:literal, $other:literal) => {
        concat!("DELETE FROM ", $table, " WHERE ", $one, " = ? AND ", $other, " = ?")
    };
}

/// Runs a statement for each of these rows.
macro_rules! each {
    ($conn:ident, $text:expr, $columns:ident, $rows:ident) => {
        for row in $rows {
            run($conn, $columns::one(statement!($text), row))?;
        }
    };
}

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
        ahead,
        counts,
        events,
        events_deleted,
        forgotten,
        responses,
        responses_deleted,
        // A file has no lineage: only `kith restore-epoch` begins an epoch.
        epoch: _,
        // The head is written in any case.
        probed: _,
        // For the writer's cache.
        members: _,
    } = changes;
    each!(conn, "DELETE FROM users WHERE id = ?", UserKey, users_deleted);
    each!(conn, "DELETE FROM user_counts WHERE user_id = ?", UserKey, users_deleted);
    users_deleted.iter().try_for_each(|id| delete_responses(conn, *id))?;
    // SQLite checks names row by row. So all users give up their names before any of them takes one.
    each!(conn, "UPDATE users SET username_key = '/' || id WHERE id = ?", UserKey, users_renamed);
    each!(conn, UPDATE_USER, Profile, users_updated);
    for (user, position) in users_created {
        run(conn, Profile::one(statement!(CREATE_USER), user).bind::<BigInt, _>(position.get()))?;
        run(conn, UserKey::one(statement!("INSERT INTO user_counts (user_id) VALUES (?)"), &user.id))?;
    }
    each!(conn, by_key!("connection_requests", "low_user_id", "high_user_id"), Pair, requests_deleted);
    each!(conn, CREATE_REQUEST, NewRequest, requests_created);
    each!(conn, REPLACE_REQUEST, NewRequest, requests_replaced);
    each!(conn, ANSWER_REQUEST, Answer, requests_updated);
    each!(conn, "UPDATE connection_requests SET viewed = ? WHERE id = ?", View, requests_viewed);
    each!(conn, "UPDATE connection_requests SET out_of_order = 1 WHERE id = ?", RequestKey, requests_out_of_order);
    each!(conn, by_key!("blocks", "user_id", "other_user_id"), Directed, blocks_deleted);
    each!(conn, PUT_BLOCK, NewBlock, blocks_put);
    each!(conn, by_key!("cooldowns", "from_user_id", "to_user_id"), Directed, cooldowns_deleted);
    each!(conn, PUT_COOLDOWN, NewCooldown, cooldowns_put);
    each!(conn, by_key!("ended_requests", "from_user_id", "to_user_id"), Directed, ended_deleted);
    each!(conn, PUT_ENDED, NewEnded, ended_put);
    each!(conn, CHANGE_COUNTS, CountsChanged, counts);
    for event in events {
        run(conn, NewEvent::one(statement!(CREATE_EVENT).bind::<BigInt, _>(batch_id), event))?;
    }
    each!(conn, PUT_RESPONSE, NewResponse, responses);
    delete_over(*cooled, *responses_deleted).chain(begin_now(*ahead)).try_for_each(|write| run(conn, write))?;
    if let Some((user, events)) = forgotten {
        events.iter().try_for_each(|event| run(conn, erase_one(*user, *event)))?;
    }
    if let Some(until) = events_deleted {
        run(conn, statement!("DELETE FROM events WHERE sequence <= ?").bind::<BigInt, _>(until.get()))?;
    }
    move_head(conn, head, batch_id)
}

fn move_head(conn: &mut SqliteConnection, head: &Head, batch_id: i64) -> Result<(), StoreError> {
    let Head { sequence, time, last_assigned, users_changed, swept, forgotten, forgetting, totals } = *head;
    let Totals { users, pending, silenced, rejected, connected, blocks } = totals;
    let write = statement!(
        "UPDATE feed SET last_sequence = ?, last_time = ?, last_assigned_user_id = ?, users_changed = ?, \
         swept_id = ?, forgotten = ?, forgetting = ?, total_users = ?, total_pending = ?, total_silenced = ?, \
         total_rejected = ?, total_connected = ?, total_blocks = ?, last_batch_id = ? WHERE id = 1"
    );
    let write = write
        .bind::<BigInt, _>(sequence.get())
        .bind::<Instant, _>(Stamp(time))
        .bind::<BigInt, _>(last_assigned.get())
        .bind::<BigInt, _>(users_changed.get())
        .bind::<BigInt, _>(swept.get())
        .bind::<BigInt, _>(forgotten.get())
        .bind::<BigInt, _>(forgetting.get())
        .bind::<BigInt, _>(users)
        .bind::<BigInt, _>(pending)
        .bind::<BigInt, _>(silenced)
        .bind::<BigInt, _>(rejected)
        .bind::<BigInt, _>(connected)
        .bind::<BigInt, _>(blocks)
        .bind::<BigInt, _>(batch_id);
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

fn run(conn: &mut SqliteConnection, write: SqliteStatement<'_, (), impl CacheKey>) -> Result<(), StoreError> {
    write.execute(conn)?;
    Ok(())
}
