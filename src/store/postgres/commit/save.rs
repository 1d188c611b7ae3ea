//! The second round trip of a commit: saves what the batch changed, and commits.
//!
//! For each table and kind of change there is one part of a statement, whatever the number of rows.

use std::sync::Arc;

use diesel::sql_types::{Array, BigInt, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::join;

use super::{COMMIT, NOTHING, ROLLBACK, control};
use crate::domain::epoch::{EpochChange, Lineage};
use crate::domain::id::UserId;
use crate::domain::ledger::{Changes, Head};
use crate::domain::totals::Totals;
use crate::store::StoreError;
use crate::store::columns::{
    Answer, Columns, CountsChanged, Directed, NewBlock, NewCooldown, NewEnded, NewEvent, NewRequest, NewResponse, Pair,
    Profile, RequestKey, UserKey, View, begin_now, delete_over,
};
use crate::store::forget::erase_all;
use crate::store::row::FeedHead;
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::PgStatement;

type Write<'a> = PgStatement<'a>;

const BEGIN_EPOCH: &str = "INSERT INTO epochs (number, epoch, first_sequence, system_identifier, timeline) \
    SELECT coalesce(max(number), 0) + 1, ?, ?, ?, ? FROM epochs";

const ADOPT_LINEAGE: &str = "UPDATE epochs SET (system_identifier, timeline) = (adopted.system, adopted.timeline) \
     FROM (VALUES (?, ?, ?)) AS adopted (epoch, system, timeline) WHERE epochs.epoch = adopted.epoch";

const NAME_EPOCH: &str = "UPDATE feed SET (epoch, system_identifier, timeline) = (newest.epoch, newest.system, newest.timeline) \
     FROM (VALUES (?, ?, ?)) AS newest (epoch, system, timeline) WHERE id = 1";

const DELETE_RESPONSES: &str =
    "DELETE FROM request_ids WHERE actor_user_id = ANY(?) AND (user_id = ANY(?) OR other_user_id = ANY(?))";

const FORGET_PROFILES: &str =
    "UPDATE request_ids SET response = without_profiles WHERE user_id = ANY(?) OR other_user_id = ANY(?)";

const UPDATE_USERS: &str = "UPDATE users SET username = new.username, username_key = new.username_key, \
    real_name = new.real_name, email = new.email, email_isvalid = new.email_isvalid, date_joined = new.date_joined, \
    bio = new.bio, location = new.location, birthday = new.birthday, description = new.description, \
    gender = new.gender, status = new.status, website = new.website, avatar = new.avatar, cover = new.cover, \
    external_id = new.external_id, changed = new.changed \
    FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (username, username_key, real_name, email, \
    email_isvalid, date_joined, bio, location, birthday, description, gender, status, website, avatar, cover, \
    external_id, changed, id) WHERE users.id = new.id";

const CREATE_USERS: &str = "INSERT INTO users (position, username, username_key, real_name, email, email_isvalid, \
    date_joined, bio, location, birthday, description, gender, status, website, avatar, cover, external_id, changed, \
    id) SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const CREATE_COUNTS: &str = "INSERT INTO user_counts (user_id) SELECT * FROM unnest(?)";

/// Deletes rows of a table by the two users in its key.
macro_rules! by_key {
    ($table:literal, $one:literal, $other:literal) => {
        Write::new(concat!(
            "DELETE FROM ",
            $table,
            " USING moved, unnest(?, ?) AS gone (one, other) \
             WHERE ",
            $one,
            " = gone.one AND ",
            $other,
            " = gone.other"
        ))
    };
}

const CREATE_REQUESTS: &str = "INSERT INTO connection_requests (id, from_user_id, to_user_id, state, position, \
    message, created, viewed, rejected, accepted, reply, low_user_id, high_user_id) \
    SELECT new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";

const REPLACE_REQUESTS: &str = "UPDATE connection_requests AS old SET id = new.id, from_user_id = new.from_user_id, \
    to_user_id = new.to_user_id, state = new.state, position = new.position, message = new.message, \
    created = new.created, viewed = new.viewed, rejected = new.rejected, accepted = new.accepted, reply = new.reply, \
    out_of_order = false \
    FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (id, from_user_id, to_user_id, state, position, \
    message, created, viewed, rejected, accepted, reply, low_user_id, high_user_id) \
    WHERE old.low_user_id = new.low_user_id AND old.high_user_id = new.high_user_id";

/// Updates only the columns that may change, so that indexes on the others are not written.
const ANSWER_REQUESTS: &str = "UPDATE connection_requests AS old SET state = new.state, position = new.position, \
    viewed = new.viewed, rejected = new.rejected, accepted = new.accepted, reply = new.reply \
    FROM moved, unnest(?, ?, ?, ?, ?, ?, ?) AS new (state, position, viewed, rejected, accepted, reply, id) \
    WHERE old.id = new.id";

const VIEW_REQUESTS: &str = "UPDATE connection_requests AS old SET viewed = new.viewed \
    FROM moved, unnest(?, ?) AS new (viewed, id) WHERE old.id = new.id";

const MARK_REQUESTS: &str = "UPDATE connection_requests SET out_of_order = true FROM moved WHERE id = ANY(?)";

const PUT_BLOCKS: &str = "INSERT INTO blocks (user_id, other_user_id, created, position) \
    SELECT new.* FROM moved, unnest(?, ?, ?, ?) AS new ON CONFLICT (user_id, other_user_id) DO UPDATE \
    SET created = excluded.created, position = excluded.position";

const PUT_COOLDOWNS: &str = "INSERT INTO cooldowns (from_user_id, to_user_id, since) \
    SELECT new.* FROM moved, unnest(?, ?, ?) AS new ON CONFLICT (from_user_id, to_user_id) DO UPDATE \
    SET since = excluded.since";

const PUT_ENDED: &str = "INSERT INTO ended_requests (from_user_id, to_user_id, since, requests) \
    SELECT new.* FROM moved, unnest(?, ?, ?, ?) AS new ON CONFLICT (from_user_id, to_user_id) DO UPDATE \
    SET since = excluded.since, requests = excluded.requests";

const CHANGE_COUNTS: &str = "UPDATE user_counts AS old SET requests_sent = old.requests_sent + new.requests_sent, \
    requests_received = old.requests_received + new.requests_received, \
    requests_unviewed = old.requests_unviewed + new.requests_unviewed, \
    connections = old.connections + new.connections, \
    sends = coalesce(new.sends, old.sends), sends_since = coalesce(new.sends_since, old.sends_since), \
    last_visible = coalesce(new.last_visible, old.last_visible) \
    FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?) AS new (requests_sent, requests_received, requests_unviewed, connections, \
    sends, sends_since, last_visible, user_id) WHERE old.user_id = new.user_id";

const CREATE_EVENTS: &str = "INSERT INTO events (batch_id, sequence, stretch, time, kind, cause, actor, actor_user_id, \
    user_id, other_user_id, request_id, silenced, principal) \
    SELECT ?, new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";

const DELETE_EVENTS: &str = "DELETE FROM events USING moved WHERE sequence <= ?";

const PUT_RESPONSES: &str = "INSERT INTO request_ids (caller, id, fingerprint, response, without_profiles, created, \
    actor_user_id, user_id, other_user_id) SELECT new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?) AS new \
    ON CONFLICT (caller, id) DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, \
    without_profiles = excluded.without_profiles, created = excluded.created, \
    actor_user_id = excluded.actor_user_id, user_id = excluded.user_id, other_user_id = excluded.other_user_id";

/// How a commit failed.
pub(super) enum NotSaved {
    /// Nothing was stored, and the transaction has ended.
    RolledBack(StoreError),
    /// It is not known whether the transaction was committed.
    Unknown(StoreError),
}

/// Saves what a batch changed and ends the transaction.
pub(super) async fn save_and_commit(
    conn: &AsyncPgConnection,
    before: &FeedHead,
    changes: &Changes,
    batch_id: i64,
) -> Result<(), NotSaved> {
    if changes.is_empty(&before.head) {
        let (nothing, ended) = join!(biased; control(conn, NOTHING), control(conn, ROLLBACK));
        return nothing.and(ended).map_err(NotSaved::Unknown);
    }
    let (first, rest) = statements(before, changes, batch_id);
    for write in first {
        // Not pipelined with COMMIT: if one of these could not be sent, the COMMIT would commit the others without it.
        if let Err(error) = run(conn, write).await {
            control(conn, ROLLBACK).await.map_err(NotSaved::Unknown)?;
            return Err(NotSaved::RolledBack(error));
        }
    }
    let (saved, committed) = join!(biased; run(conn, rest), control(conn, COMMIT));
    match (saved, committed) {
        (Ok(()), Ok(())) => Ok(()),
        // The COMMIT of a transaction in which a statement was refused is a rollback.
        (Err(error), Ok(())) => Err(NotSaved::RolledBack(error)),
        (Ok(()), Err(error @ StoreError::Refused(_))) => Err(NotSaved::RolledBack(error)),
        (_, Err(error)) => Err(NotSaved::Unknown(error)),
    }
}

/// Saves a change of the newest epoch, in the transaction that has locked this head.
pub(super) async fn save_epoch(
    conn: &AsyncPgConnection,
    before: &FeedHead,
    change: &EpochChange,
) -> Result<(), StoreError> {
    for write in change_epoch(before, change) {
        run(conn, write).await?;
    }
    Ok(())
}

/// Saves what a batch changed in a transaction that goes on. If it fails, the transaction has failed.
pub(super) async fn save(
    conn: &AsyncPgConnection,
    before: &FeedHead,
    changes: &Changes,
    batch_id: i64,
) -> Result<(), StoreError> {
    let (first, rest) = statements(before, changes, batch_id);
    for write in first {
        run(conn, write).await?;
    }
    run(conn, rest).await
}

async fn run(mut conn: &AsyncPgConnection, write: Write<'_>) -> Result<(), StoreError> {
    write.execute(&mut conn).await?;
    Ok(())
}

/// Returns the statements of a save: those that run first, and all others combined into one.
///
/// The first ones change rows that the combined statement changes too, which one statement cannot do. All parts of the
/// combined statement depend on its first part, the update of the head.
fn statements<'a>(before: &'a FeedHead, changes: &'a Changes, batch_id: i64) -> (Vec<Write<'a>>, Write<'a>) {
    let Changes {
        head,
        epoch,
        users_deleted,
        users_created,
        users_updated,
        // The constraint on names is checked at the end of the statement that updates all users.
        users_renamed: _,
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
        // The head is written in any case.
        probed: _,
        // For the writer's cache.
        members: _,
    } = changes;
    let positions: Vec<_> = users_created.iter().map(|(_, position)| position.get()).collect();
    let create_users = Write::new(CREATE_USERS).bind::<Array<BigInt>, _>(positions);
    let created = || users_created.iter().map(|(user, _)| user.as_ref());
    let first = [
        of_users("DELETE FROM users WHERE id = ANY(?)", users_deleted),
        of_users("DELETE FROM user_counts WHERE user_id = ANY(?)", users_deleted),
        of_users(DELETE_RESPONSES, users_deleted),
        of_users(FORGET_PROFILES, users_deleted),
        rows::<Profile>(Write::new(UPDATE_USERS), users_updated.iter().map(Arc::as_ref)),
        rows::<Profile>(create_users, created()),
        rows::<UserKey>(Write::new(CREATE_COUNTS), created().map(|user| &user.id)),
    ];
    let create_events = Write::new(CREATE_EVENTS).bind::<BigInt, _>(batch_id);
    let rest = [
        rows::<Pair>(by_key!("connection_requests", "low_user_id", "high_user_id"), requests_deleted.iter()),
        rows::<NewRequest>(Write::new(CREATE_REQUESTS), requests_created.iter()),
        rows::<NewRequest>(Write::new(REPLACE_REQUESTS), requests_replaced.iter()),
        rows::<Answer>(Write::new(ANSWER_REQUESTS), requests_updated.iter()),
        rows::<View>(Write::new(VIEW_REQUESTS), requests_viewed.iter()),
        rows::<RequestKey>(Write::new(MARK_REQUESTS), requests_out_of_order.iter()),
        rows::<Directed>(by_key!("blocks", "user_id", "other_user_id"), blocks_deleted.iter()),
        rows::<NewBlock>(Write::new(PUT_BLOCKS), blocks_put.iter()),
        rows::<Directed>(by_key!("cooldowns", "from_user_id", "to_user_id"), cooldowns_deleted.iter()),
        rows::<NewCooldown>(Write::new(PUT_COOLDOWNS), cooldowns_put.iter()),
        rows::<Directed>(by_key!("ended_requests", "from_user_id", "to_user_id"), ended_deleted.iter()),
        rows::<NewEnded>(Write::new(PUT_ENDED), ended_put.iter()),
        rows::<CountsChanged>(Write::new(CHANGE_COUNTS), counts.iter()),
        rows::<NewEvent>(create_events, events.iter()),
        events_deleted.map(|until| Write::new(DELETE_EVENTS).bind::<BigInt, _>(until.get())),
        rows::<NewResponse>(Write::new(PUT_RESPONSES), responses.iter()),
    ];
    // Not combined with the deletion of events: both may concern the same one.
    let erase = forgotten.iter().map(|(user, events)| erase_all(*user, events));
    let epoch = epoch.iter().flat_map(|change| change_epoch(before, change));
    let first = epoch.chain(first.into_iter().flatten()).chain(erase).chain(delete_over(*cooled, *responses_deleted));
    let rest = rest.into_iter().flatten().collect();
    (first.chain(begin_now(*ahead)).collect(), move_head(before, head, batch_id).followed_by(rest))
}

/// Returns the statements that save a change of the newest epoch.
fn change_epoch<'a>(before: &'a FeedHead, change: &'a EpochChange) -> [Write<'a>; 2] {
    let (head, epoch, lineage) = match change {
        EpochChange::Begun { epoch, first, lineage } => {
            let begin = Write::new(BEGIN_EPOCH).bind::<Text, _>(epoch.as_str()).bind::<BigInt, _>(first.get());
            (begin, epoch, lineage)
        }
        EpochChange::Adopted(lineage) => {
            (Write::new(ADOPT_LINEAGE).bind::<Text, _>(before.epoch.as_str()), &before.epoch, lineage)
        }
    };
    let Lineage { system_identifier, timeline } = *lineage;
    let of_lineage =
        |write: Write<'a>| write.bind::<Nullable<BigInt>, _>(system_identifier).bind::<BigInt, _>(timeline);
    [of_lineage(head), of_lineage(Write::new(NAME_EPOCH).bind::<Text, _>(epoch.as_str()))]
}

/// Completes a part of the save; `None` if it has no rows.
fn rows<'a, C: Columns>(
    write: Write<'a>,
    rows: impl ExactSizeIterator<Item = &'a C::Row> + Clone,
) -> Option<Write<'a>> {
    (rows.len() > 0).then(|| C::all(write, rows))
}

/// Completes a statement in which each `?` stands for the ids of the deleted users.
fn of_users<'a>(text: &'static str, deleted: &'a [UserId]) -> Option<Write<'a>> {
    let all = |write, _| UserKey::all(write, deleted.iter());
    (!deleted.is_empty()).then(|| text.matches('?').fold(Write::new(text), all))
}

/// Writes the head and notifies listeners.
///
/// The result of the notification is cast, since Citus refuses a column of its type, `void`.
///
/// If the head is not the one that was locked, the sequence becomes null. The table refuses that, and the transaction
/// fails.
fn move_head<'a>(before: &'a FeedHead, after: &'a Head, batch_id: i64) -> Write<'a> {
    let Head { sequence, time, last_assigned, users_changed, swept, forgotten, forgetting, totals } = *after;
    let Totals { users, pending, silenced, rejected, connected, blocks } = totals;
    let text = "UPDATE feed SET last_sequence = CASE last_batch_id WHEN ? THEN ? END, last_time = ?, \
                last_assigned_user_id = ?, users_changed = ?, swept_id = ?, forgotten = ?, forgetting = ?, \
                total_users = ?, total_pending = ?, total_silenced = ?, total_rejected = ?, total_connected = ?, \
                total_blocks = ?, last_batch_id = ? WHERE id = 1 \
                RETURNING pg_notify('kith_feed', '')::text AS notified";
    Write::new(text)
        .bind::<BigInt, _>(before.batch_id)
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
        .bind::<BigInt, _>(batch_id)
}
