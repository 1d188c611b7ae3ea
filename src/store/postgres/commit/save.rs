//! The second round trip of a commit: saves what the batch changed, and commits.
//!
//! For each table and kind of change there is one part of a statement, whatever the number of rows.

use std::sync::Arc;

use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::join;

use super::{COMMIT, ROLLBACK, control};
use crate::domain::Time;
use crate::domain::command::IdempotentResponse;
use crate::domain::event::Event;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::ledger::{Changes, CountsChange, Head};
use crate::domain::pair::{Block, Ended, Request};
use crate::domain::user::User;
use crate::store::row::{FeedHead, actor_columns, gender_name, user_status_name};
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::PgStatement;
use crate::store::{SWEEP_LIMIT, StoreError, feed};

type Write<'a> = PgStatement<'a>;

type Bigints = Array<BigInt>;
type MaybeBigints = Array<Nullable<BigInt>>;
type Texts = Array<Text>;
type Instants = Array<Instant>;
type MaybeInstants = Array<Nullable<Instant>>;

/// Replaces the save of a batch without changes.
///
/// It makes the round trip the same as with changes: see the [module](super).
const NOTHING: &str = "SELECT";

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
        counts,
        events,
        events_deleted,
        responses,
        responses_deleted,
        // For the writer's cache.
        members: _,
    } = changes;
    let first = [
        delete_users(users_deleted),
        delete_counts(users_deleted),
        delete_responses_to(users_deleted),
        forget_profiles(users_deleted),
        update_users(users_updated),
        create_users(users_created),
        create_counts(users_created),
        responses_deleted.map(delete_responses),
        cooled.map(end_cooldowns),
        cooled.map(end_ended),
    ];
    let rest = [
        delete_requests(requests_deleted),
        create_requests(requests_created),
        replace_requests(requests_replaced),
        answer_requests(requests_updated),
        view_requests(requests_viewed),
        mark_requests(requests_out_of_order),
        delete_blocks(blocks_deleted),
        put_blocks(blocks_put),
        delete_cooldowns(cooldowns_deleted),
        put_cooldowns(cooldowns_put),
        delete_ended(ended_deleted),
        put_ended(ended_put),
        change_counts(counts),
        create_events(events, batch_id),
        events_deleted.map(delete_events),
        put_responses(responses),
    ];
    let rest = rest.into_iter().flatten().collect();
    (first.into_iter().flatten().collect(), move_head(before, head, batch_id).followed_by(rest))
}

/// Writes the head and notifies listeners.
///
/// If the head is not the one that was locked, the sequence becomes null. The table refuses that, and the transaction
/// fails.
fn move_head<'a>(before: &'a FeedHead, after: &'a Head, batch_id: i64) -> Write<'a> {
    let Head { sequence, time, last_assigned, users_changed, swept } = *after;
    let text = "UPDATE feed SET last_sequence = CASE last_batch_id WHEN ? THEN ? END, last_time = ?, \
                last_assigned_user_id = ?, users_changed = ?, swept_id = ?, last_batch_id = ? \
                WHERE id = 1 RETURNING pg_notify('kith_feed', '')";
    Write::new(text)
        .bind::<BigInt, _>(before.batch_id)
        .bind::<BigInt, _>(sequence.get())
        .bind::<Instant, _>(Stamp(time))
        .bind::<BigInt, _>(last_assigned.get())
        .bind::<BigInt, _>(users_changed.get())
        .bind::<BigInt, _>(swept.get())
        .bind::<BigInt, _>(batch_id)
}

// --- users ---

fn delete_users<'a>(deleted: &[UserId]) -> Option<Write<'a>> {
    let text = "DELETE FROM users WHERE id = ANY(?)";
    some(deleted, |ids| Write::new(text).bind::<Bigints, _>(column(ids, |id| id.get())))
}

fn delete_counts<'a>(deleted: &[UserId]) -> Option<Write<'a>> {
    let text = "DELETE FROM user_counts WHERE user_id = ANY(?)";
    some(deleted, |ids| Write::new(text).bind::<Bigints, _>(column(ids, |id| id.get())))
}

fn update_users(updated: &[Arc<User>]) -> Option<Write<'_>> {
    let text = "UPDATE users SET username = new.username, username_key = new.username_key, \
                real_name = new.real_name, email = new.email, email_isvalid = new.email_isvalid, \
                date_joined = new.date_joined, bio = new.bio, location = new.location, birthday = new.birthday, \
                description = new.description, gender = new.gender, status = new.status, website = new.website, \
                avatar = new.avatar, cover = new.cover, changed = new.changed \
                FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (id, username, \
                username_key, real_name, email, email_isvalid, date_joined, bio, location, birthday, description, \
                gender, status, website, avatar, cover, changed) WHERE users.id = new.id";
    some(updated, |users| profiles(Write::new(text), &column(users, |user| user.as_ref())))
}

fn create_users(created: &[(Arc<User>, Sequence)]) -> Option<Write<'_>> {
    let text = "INSERT INTO users (position, id, username, username_key, real_name, email, email_isvalid, \
                date_joined, bio, location, birthday, description, gender, status, website, avatar, cover, changed) \
                SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    some(created, |users| {
        let insert = Write::new(text).bind::<Bigints, _>(column(users, |(_, position)| position.get()));
        profiles(insert, &column(users, |(user, _)| user.as_ref()))
    })
}

fn create_counts<'a>(created: &[(Arc<User>, Sequence)]) -> Option<Write<'a>> {
    let text = "INSERT INTO user_counts (user_id) SELECT * FROM unnest(?)";
    some(created, |users| Write::new(text).bind::<Bigints, _>(column(users, |(user, _)| user.id.get())))
}

fn profiles<'a>(write: Write<'a>, users: &[&'a User]) -> Write<'a> {
    write
        .bind::<Bigints, _>(column(users, |user| user.id.get()))
        .bind::<Texts, _>(column(users, |user| user.username.as_str()))
        .bind::<Texts, _>(column(users, |user| user.username.key()))
        .bind::<Texts, _>(column(users, |user| user.real_name.as_str()))
        .bind::<Texts, _>(column(users, |user| user.email.as_str()))
        .bind::<Array<Bool>, _>(column(users, |user| user.email_isvalid))
        .bind::<Instants, _>(column(users, |user| Stamp(user.date_joined)))
        .bind::<Texts, _>(column(users, |user| user.bio.as_str()))
        .bind::<Texts, _>(column(users, |user| user.location.as_str()))
        .bind::<Texts, _>(column(users, |user| user.birthday.as_str()))
        .bind::<Texts, _>(column(users, |user| user.description.as_str()))
        .bind::<Texts, _>(column(users, |user| gender_name(user.gender)))
        .bind::<Texts, _>(column(users, |user| user_status_name(user.status)))
        .bind::<Texts, _>(column(users, |user| user.website.as_str()))
        .bind::<Texts, _>(column(users, |user| user.avatar.as_str()))
        .bind::<Texts, _>(column(users, |user| user.cover.as_str()))
        .bind::<Bigints, _>(column(users, |user| user.changed.get()))
}

// --- requests ---

fn delete_requests<'a>(deleted: &[PairKey]) -> Option<Write<'a>> {
    let text = "DELETE FROM connection_requests USING moved, unnest(?, ?) AS gone (low, high) \
                WHERE low_user_id = gone.low AND high_user_id = gone.high";
    some(deleted, |keys| pairs(Write::new(text), keys))
}

fn create_requests(created: &[Request]) -> Option<Write<'_>> {
    let text = "INSERT INTO connection_requests (id, from_user_id, to_user_id, state, position, message, created, \
                viewed, rejected, accepted, reply, low_user_id, high_user_id) \
                SELECT new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";
    some(created, |requests| all_columns(Write::new(text), requests))
}

fn replace_requests(replaced: &[Request]) -> Option<Write<'_>> {
    let text = "UPDATE connection_requests AS old SET id = new.id, from_user_id = new.from_user_id, \
                to_user_id = new.to_user_id, state = new.state, position = new.position, message = new.message, \
                created = new.created, viewed = new.viewed, rejected = new.rejected, accepted = new.accepted, \
                reply = new.reply, out_of_order = false \
                FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (id, from_user_id, to_user_id, \
                state, position, message, created, viewed, rejected, accepted, reply, low_user_id, high_user_id) \
                WHERE old.low_user_id = new.low_user_id AND old.high_user_id = new.high_user_id";
    some(replaced, |requests| all_columns(Write::new(text), requests))
}

/// Updates only the columns that may change, so that indexes on the others are not written.
fn answer_requests(answered: &[Request]) -> Option<Write<'_>> {
    let text = "UPDATE connection_requests AS old SET state = new.state, position = new.position, \
                viewed = new.viewed, rejected = new.rejected, accepted = new.accepted, reply = new.reply \
                FROM moved, unnest(?, ?, ?, ?, ?, ?, ?) AS new (id, state, position, viewed, rejected, accepted, reply) \
                WHERE old.id = new.id";
    some(answered, |requests| {
        let write = Write::new(text)
            .bind::<Bigints, _>(column(requests, |request| request.id.get()))
            .bind::<Texts, _>(column(requests, |request| request.state.name()))
            .bind::<Bigints, _>(column(requests, |request| request.position.get()));
        answers(write, requests)
    })
}

fn view_requests<'a>(viewed: &[Request]) -> Option<Write<'a>> {
    let text = "UPDATE connection_requests AS old SET viewed = new.viewed \
                FROM moved, unnest(?, ?) AS new (id, viewed) WHERE old.id = new.id";
    some(viewed, |requests| {
        Write::new(text)
            .bind::<Bigints, _>(column(requests, |request| request.id.get()))
            .bind::<MaybeInstants, _>(column(requests, |request| request.viewed.map(Stamp)))
    })
}

fn mark_requests<'a>(out_of_order: &[RequestId]) -> Option<Write<'a>> {
    let text = "UPDATE connection_requests SET out_of_order = true FROM moved WHERE id = ANY(?)";
    some(out_of_order, |ids| Write::new(text).bind::<Bigints, _>(column(ids, |id| id.get())))
}

fn all_columns<'a>(write: Write<'a>, requests: &'a [Request]) -> Write<'a> {
    let keys: Vec<_> = requests.iter().filter_map(Request::key).collect();
    let write = write
        .bind::<Bigints, _>(column(requests, |request| request.id.get()))
        .bind::<Bigints, _>(column(requests, |request| request.from.get()))
        .bind::<Bigints, _>(column(requests, |request| request.to.get()))
        .bind::<Texts, _>(column(requests, |request| request.state.name()))
        .bind::<Bigints, _>(column(requests, |request| request.position.get()))
        .bind::<Texts, _>(requests.iter().map(|request| request.message.as_str()).collect::<Vec<_>>())
        .bind::<Instants, _>(column(requests, |request| Stamp(request.created)));
    pairs(answers(write, requests), &keys)
}

fn answers<'a>(write: Write<'a>, requests: &'a [Request]) -> Write<'a> {
    write
        .bind::<MaybeInstants, _>(column(requests, |request| request.viewed.map(Stamp)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.rejected.map(Stamp)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.accepted.map(Stamp)))
        .bind::<Texts, _>(column(requests, |request| request.reply.as_str()))
}

fn pairs<'a>(write: Write<'a>, keys: &[PairKey]) -> Write<'a> {
    write
        .bind::<Bigints, _>(column(keys, |key| key.low().get()))
        .bind::<Bigints, _>(column(keys, |key| key.high().get()))
}

fn directed<'a>(write: Write<'a>, rows: &[(UserId, UserId)]) -> Write<'a> {
    write
        .bind::<Bigints, _>(column(rows, |(user, _)| user.get()))
        .bind::<Bigints, _>(column(rows, |(_, other)| other.get()))
}

// --- blocks ---

fn delete_blocks<'a>(deleted: &[(UserId, UserId)]) -> Option<Write<'a>> {
    let text = "DELETE FROM blocks USING moved, unnest(?, ?) AS gone (one, other) \
                WHERE user_id = gone.one AND other_user_id = gone.other";
    some(deleted, |blocks| directed(Write::new(text), blocks))
}

fn put_blocks<'a>(put: &[(UserId, UserId, Block)]) -> Option<Write<'a>> {
    let text = "INSERT INTO blocks (user_id, other_user_id, created, position) \
                SELECT new.* FROM moved, unnest(?, ?, ?, ?) AS new ON CONFLICT (user_id, other_user_id) DO UPDATE \
                SET created = excluded.created, position = excluded.position";
    some(put, |blocks| {
        Write::new(text)
            .bind::<Bigints, _>(column(blocks, |(user, _, _)| user.get()))
            .bind::<Bigints, _>(column(blocks, |(_, other, _)| other.get()))
            .bind::<Instants, _>(column(blocks, |(_, _, block)| Stamp(block.created)))
            .bind::<Bigints, _>(column(blocks, |(_, _, block)| block.position.get()))
    })
}

// --- cooldowns ---

fn delete_cooldowns<'a>(deleted: &[(UserId, UserId)]) -> Option<Write<'a>> {
    let text = "DELETE FROM cooldowns USING moved, unnest(?, ?) AS gone (one, other) \
                WHERE from_user_id = gone.one AND to_user_id = gone.other";
    some(deleted, |cooldowns| directed(Write::new(text), cooldowns))
}

fn put_cooldowns<'a>(put: &[(UserId, UserId, Time)]) -> Option<Write<'a>> {
    let text = "INSERT INTO cooldowns (from_user_id, to_user_id, since) \
                SELECT new.* FROM moved, unnest(?, ?, ?) AS new \
                ON CONFLICT (from_user_id, to_user_id) DO UPDATE SET since = excluded.since";
    some(put, |cooldowns| {
        Write::new(text)
            .bind::<Bigints, _>(column(cooldowns, |(from, ..)| from.get()))
            .bind::<Bigints, _>(column(cooldowns, |(_, to, _)| to.get()))
            .bind::<Instants, _>(column(cooldowns, |(.., since)| Stamp(*since)))
    })
}

fn end_cooldowns<'a>(end: Time) -> Write<'a> {
    let text = "DELETE FROM cooldowns WHERE (from_user_id, to_user_id) IN \
                (SELECT from_user_id, to_user_id FROM cooldowns WHERE since <= ? ORDER BY since LIMIT ?)";
    Write::new(text).bind::<Instant, _>(Stamp(end)).bind::<BigInt, _>(SWEEP_LIMIT)
}

// --- ended requests ---

fn delete_ended<'a>(deleted: &[(UserId, UserId)]) -> Option<Write<'a>> {
    let text = "DELETE FROM ended_requests USING moved, unnest(?, ?) AS gone (one, other) \
                WHERE from_user_id = gone.one AND to_user_id = gone.other";
    some(deleted, |ended| directed(Write::new(text), ended))
}

fn put_ended<'a>(put: &[(UserId, UserId, Ended)]) -> Option<Write<'a>> {
    let text = "INSERT INTO ended_requests (from_user_id, to_user_id, since, requests) \
                SELECT new.* FROM moved, unnest(?, ?, ?, ?) AS new ON CONFLICT (from_user_id, to_user_id) DO UPDATE \
                SET since = excluded.since, requests = excluded.requests";
    some(put, |ended| {
        Write::new(text)
            .bind::<Bigints, _>(column(ended, |(from, ..)| from.get()))
            .bind::<Bigints, _>(column(ended, |(_, to, _)| to.get()))
            .bind::<Instants, _>(column(ended, |(.., ended)| Stamp(ended.since)))
            .bind::<Bigints, _>(column(ended, |(.., ended)| ended.count))
    })
}

fn end_ended<'a>(end: Time) -> Write<'a> {
    let text = "DELETE FROM ended_requests WHERE (from_user_id, to_user_id) IN \
                (SELECT from_user_id, to_user_id FROM ended_requests WHERE since <= ? ORDER BY since LIMIT ?)";
    Write::new(text).bind::<Instant, _>(Stamp(end)).bind::<BigInt, _>(SWEEP_LIMIT)
}

// --- counts, events, stored responses ---

fn change_counts<'a>(counts: &[CountsChange]) -> Option<Write<'a>> {
    let text = "UPDATE user_counts AS old SET requests_sent = old.requests_sent + new.requests_sent, \
                requests_received = old.requests_received + new.requests_received, \
                requests_unviewed = old.requests_unviewed + new.requests_unviewed, \
                connections = old.connections + new.connections, \
                sends = coalesce(new.sends, old.sends), sends_since = coalesce(new.sends_since, old.sends_since) \
                FROM moved, unnest(?, ?, ?, ?, ?, ?, ?) AS new (requests_sent, requests_received, requests_unviewed, \
                connections, sends, sends_since, user_id) WHERE old.user_id = new.user_id";
    some(counts, |counts| {
        Write::new(text)
            .bind::<Bigints, _>(column(counts, |counts| counts.change.requests_sent))
            .bind::<Bigints, _>(column(counts, |counts| counts.change.requests_received))
            .bind::<Bigints, _>(column(counts, |counts| counts.change.requests_unviewed))
            .bind::<Bigints, _>(column(counts, |counts| counts.change.connections))
            .bind::<MaybeBigints, _>(column(counts, |counts| counts.sends.map(|sends| sends.count)))
            .bind::<MaybeInstants, _>(column(counts, |counts| counts.sends.and_then(|sends| sends.since).map(Stamp)))
            .bind::<Bigints, _>(column(counts, |counts| counts.user.get()))
    })
}

fn create_events<'a>(events: &[Event], batch_id: i64) -> Option<Write<'a>> {
    let text = "INSERT INTO events (batch_id, sequence, stretch, time, kind, cause, actor, actor_user_id, user_id, \
                other_user_id, request_id, silenced) \
                SELECT ?, new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";
    some(events, |events| {
        Write::new(text)
            .bind::<BigInt, _>(batch_id)
            .bind::<Bigints, _>(column(events, |event| event.sequence.get()))
            .bind::<Bigints, _>(column(events, |event| feed::stretch(event.sequence)))
            .bind::<Instants, _>(column(events, |event| Stamp(event.time)))
            .bind::<Texts, _>(column(events, |event| event.kind.name()))
            .bind::<Array<Nullable<Text>>, _>(column(events, |event| event.cause.map(|cause| cause.name())))
            .bind::<Texts, _>(column(events, |event| actor_columns(event.actor).0))
            .bind::<MaybeBigints, _>(column(events, |event| actor_columns(event.actor).1))
            .bind::<Bigints, _>(column(events, |event| event.user.get()))
            .bind::<MaybeBigints, _>(column(events, |event| event.other.map(UserId::get)))
            .bind::<MaybeBigints, _>(column(events, |event| event.request.map(|request| request.get())))
            .bind::<Array<Bool>, _>(column(events, |event| event.silenced))
    })
}

fn delete_events<'a>(until: Sequence) -> Write<'a> {
    Write::new("DELETE FROM events USING moved WHERE sequence <= ?").bind::<BigInt, _>(until.get())
}

fn put_responses(replays: &[IdempotentResponse]) -> Option<Write<'_>> {
    let text = "INSERT INTO request_ids (caller, id, fingerprint, response, without_profiles, created, actor_user_id, \
                user_id, other_user_id) SELECT new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?) AS new \
                ON CONFLICT (caller, id) DO UPDATE SET fingerprint = excluded.fingerprint, \
                response = excluded.response, without_profiles = excluded.without_profiles, \
                created = excluded.created, actor_user_id = excluded.actor_user_id, user_id = excluded.user_id, \
                other_user_id = excluded.other_user_id";
    some(replays, |replays| {
        Write::new(text)
            .bind::<Texts, _>(column(replays, |replay| replay.key.caller.as_str()))
            .bind::<Texts, _>(column(replays, |replay| replay.key.id.to_string()))
            .bind::<Array<Binary>, _>(replays.iter().map(|replay| replay.fingerprint.as_slice()).collect::<Vec<_>>())
            .bind::<Array<Binary>, _>(column(replays, |replay| replay.encoded.response.as_slice()))
            .bind::<Array<Binary>, _>(column(replays, |replay| replay.encoded.without_profiles.as_slice()))
            .bind::<Instants, _>(column(replays, |replay| Stamp(replay.created)))
            .bind::<MaybeBigints, _>(column(replays, |replay| replay.actor.map(UserId::get)))
            .bind::<MaybeBigints, _>(column(replays, |replay| replay.users.0.map(UserId::get)))
            .bind::<MaybeBigints, _>(column(replays, |replay| replay.users.1.map(UserId::get)))
    })
}

fn delete_responses_to<'a>(deleted: &[UserId]) -> Option<Write<'a>> {
    let text = "DELETE FROM request_ids WHERE actor_user_id = ANY(?) AND (user_id = ANY(?) OR other_user_id = ANY(?))";
    some(deleted, |ids| {
        let ids = column(ids, |id| id.get());
        Write::new(text).bind::<Bigints, _>(ids.clone()).bind::<Bigints, _>(ids.clone()).bind::<Bigints, _>(ids)
    })
}

fn forget_profiles<'a>(deleted: &[UserId]) -> Option<Write<'a>> {
    let text = "UPDATE request_ids SET response = without_profiles WHERE user_id = ANY(?) OR other_user_id = ANY(?)";
    some(deleted, |ids| {
        let ids = column(ids, |id| id.get());
        Write::new(text).bind::<Bigints, _>(ids.clone()).bind::<Bigints, _>(ids)
    })
}

fn delete_responses<'a>(end: Time) -> Write<'a> {
    let text = "DELETE FROM request_ids WHERE (caller, id) IN \
                (SELECT caller, id FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?)";
    Write::new(text).bind::<Instant, _>(Stamp(end)).bind::<BigInt, _>(SWEEP_LIMIT)
}

/// Returns a part of the save; `None` if it has no rows.
fn some<'a, 'b, T>(rows: &'b [T], write: impl FnOnce(&'b [T]) -> Write<'a>) -> Option<Write<'a>> {
    (!rows.is_empty()).then(|| write(rows))
}

fn column<'b, T, V>(rows: &'b [T], value: impl Fn(&'b T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}
