//! Saves what a batch changes: one statement a table and kind of change, whatever the number of rows.

use std::sync::Arc;

use diesel::pg::Pg;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::{join, try_join};

use crate::domain::event::Event;
use crate::domain::id::{PairKey, UserId};
use crate::domain::ledger::Changes;
use crate::domain::pair::Request;
use crate::domain::user::User;
use crate::store::row::{actor_columns, gender_name, user_status_name};
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::Statement;
use crate::store::{DUE_AT_ONCE, StoreError};

type Write<'a> = Statement<'a, Pg>;

type Bigints = Array<BigInt>;
type MaybeBigints = Array<Nullable<BigInt>>;
type Texts = Array<Text>;
type Instants = Array<Instant>;
type MaybeInstants = Array<Nullable<Instant>>;

/// All in one flight, in this order on the wire once they are prepared; no two of them meet in a row but the
/// deletion of users, which the others wait for.
pub(super) async fn save(conn: &AsyncPgConnection, changes: &Changes, batch_id: i64) -> Result<(), StoreError> {
    users_deleted(conn, &changes.users_deleted).await?;
    let news = !changes.users_created.is_empty();
    let (a, b, c, d, e, f, g, h, i, j, k) = join!(
        biased;
        users_updated(conn, &changes.users_updated),
        users_created(conn, changes),
        requests_deleted(conn, &changes.requests_deleted),
        requests_put(conn, &changes.requests_put),
        blocks_deleted(conn, &changes.blocks_deleted),
        blocks_put(conn, changes),
        events(conn, &changes.events, batch_id),
        events_deleted(conn, changes),
        replays(conn, changes),
        head(conn, changes),
        async { if news { Ok(()) } else { counts(conn, changes).await } },
    );
    cause([a, b, c, d, e, f, g, h, i, j, k])?;
    // The rows of new users have to be there first.
    if news { counts(conn, changes).await } else { Ok(()) }
}

/// What went wrong, if anything did. After one statement is refused, all that follow it in the transaction fail for
/// no reason of their own, and may be heard of first.
fn cause<const N: usize>(outcomes: [Result<(), StoreError>; N]) -> Result<(), StoreError> {
    let (refused, others): (Vec<_>, Vec<_>) =
        outcomes.into_iter().filter_map(Result::err).partition(|error| matches!(error, StoreError::Refused(_)));
    refused.into_iter().chain(others).next().map_or(Ok(()), Err)
}

async fn run(mut conn: &AsyncPgConnection, write: Write<'_>) -> Result<(), StoreError> {
    write.execute(&mut conn).await?;
    Ok(())
}

async fn users_deleted(conn: &AsyncPgConnection, ids: &[UserId]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = ids.iter().map(|id| id.get()).collect();
    let counts = Write::new("DELETE FROM user_counts WHERE user_id = ANY(?)").bind::<Bigints, _>(ids.clone());
    let users = Write::new("DELETE FROM users WHERE id = ANY(?)").bind::<Bigints, _>(ids);
    try_join!(run(conn, counts), run(conn, users))?;
    Ok(())
}

async fn users_updated(conn: &AsyncPgConnection, users: &[Arc<User>]) -> Result<(), StoreError> {
    if users.is_empty() {
        return Ok(());
    }
    let text = "UPDATE users SET username = new.username, real_name = new.real_name, email = new.email, \
                email_isvalid = new.email_isvalid, date_joined = new.date_joined, bio = new.bio, \
                location = new.location, birthday = new.birthday, description = new.description, \
                gender = new.gender, status = new.status, website = new.website, avatar = new.avatar, \
                cover = new.cover \
                FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (username, real_name, email, \
                email_isvalid, date_joined, bio, location, birthday, description, gender, status, website, avatar, \
                cover, id) WHERE users.id = new.id";
    run(conn, profiles(Write::new(text), users).bind::<Bigints, _>(user_ids(users))).await
}

async fn users_created(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), StoreError> {
    if changes.users_created.is_empty() {
        return Ok(());
    }
    let (users, positions): (Vec<_>, Vec<_>) =
        changes.users_created.iter().map(|(user, position)| (Arc::clone(user), position.get())).unzip();
    let text = "INSERT INTO users (username, real_name, email, email_isvalid, date_joined, bio, location, birthday, \
                description, gender, status, website, avatar, cover, id, position) \
                SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let ids = user_ids(&users);
    let insert = profiles(Write::new(text), &users).bind::<Bigints, _>(ids.clone()).bind::<Bigints, _>(positions);
    let counts = Write::new("INSERT INTO user_counts (user_id) SELECT * FROM unnest(?)").bind::<Bigints, _>(ids);
    let (users, counts) = join!(run(conn, insert), run(conn, counts));
    cause([users, counts])
}

fn user_ids(users: &[Arc<User>]) -> Vec<i64> {
    users.iter().map(|user| user.id.get()).collect()
}

fn profiles<'a>(write: Write<'a>, users: &'a [Arc<User>]) -> Write<'a> {
    fn column<'a, T>(users: &'a [Arc<User>], value: impl Fn(&'a User) -> T) -> Vec<T> {
        users.iter().map(|user| value(user)).collect()
    }
    write
        .bind::<Texts, _>(column(users, |user| user.username.as_str()))
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
}

async fn requests_deleted(conn: &AsyncPgConnection, keys: &[PairKey]) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let (low, high): (Vec<_>, Vec<_>) = keys.iter().map(|key| (key.low().get(), key.high().get())).unzip();
    let text = "DELETE FROM connection_requests USING unnest(?, ?) AS gone (low, high) \
                WHERE low_user_id = gone.low AND high_user_id = gone.high";
    run(conn, Write::new(text).bind::<Bigints, _>(low).bind::<Bigints, _>(high)).await
}

async fn requests_put(conn: &AsyncPgConnection, requests: &[Request]) -> Result<(), StoreError> {
    if requests.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(requests: &'a [Request], value: impl Fn(&'a Request) -> T) -> Vec<T> {
        requests.iter().map(value).collect()
    }
    let text = "INSERT INTO connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, \
                position, message, created, viewed, rejected, accepted) \
                SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
                ON CONFLICT (low_user_id, high_user_id) DO UPDATE SET id = excluded.id, \
                from_user_id = excluded.from_user_id, to_user_id = excluded.to_user_id, state = excluded.state, \
                position = excluded.position, message = excluded.message, created = excluded.created, \
                viewed = excluded.viewed, rejected = excluded.rejected, accepted = excluded.accepted";
    let write = Write::new(text)
        .bind::<Bigints, _>(column(requests, |request| request.from.min(request.to).get()))
        .bind::<Bigints, _>(column(requests, |request| request.from.max(request.to).get()))
        .bind::<Bigints, _>(column(requests, |request| request.id.get()))
        .bind::<Bigints, _>(column(requests, |request| request.from.get()))
        .bind::<Bigints, _>(column(requests, |request| request.to.get()))
        .bind::<Texts, _>(column(requests, |request| request.state.name()))
        .bind::<Bigints, _>(column(requests, |request| request.position.get()))
        .bind::<Texts, _>(column(requests, |request| request.message.as_str()))
        .bind::<Instants, _>(column(requests, |request| Stamp(request.created)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.viewed.map(Stamp)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.rejected.map(Stamp)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.accepted.map(Stamp)));
    run(conn, write).await
}

async fn blocks_deleted(conn: &AsyncPgConnection, blocks: &[(UserId, UserId)]) -> Result<(), StoreError> {
    if blocks.is_empty() {
        return Ok(());
    }
    let (users, others): (Vec<_>, Vec<_>) = blocks.iter().map(|(user, other)| (user.get(), other.get())).unzip();
    let text = "DELETE FROM blocks USING unnest(?, ?) AS gone (one, other) \
                WHERE user_id = gone.one AND other_user_id = gone.other";
    run(conn, Write::new(text).bind::<Bigints, _>(users).bind::<Bigints, _>(others)).await
}

async fn blocks_put(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), StoreError> {
    let blocks = &changes.blocks_put;
    if blocks.is_empty() {
        return Ok(());
    }
    let text = "INSERT INTO blocks (user_id, other_user_id, created, position) SELECT * FROM unnest(?, ?, ?, ?) \
                ON CONFLICT (user_id, other_user_id) DO UPDATE \
                SET created = excluded.created, position = excluded.position";
    let write = Write::new(text)
        .bind::<Bigints, _>(blocks.iter().map(|(user, _, _)| user.get()).collect::<Vec<_>>())
        .bind::<Bigints, _>(blocks.iter().map(|(_, other, _)| other.get()).collect::<Vec<_>>())
        .bind::<Instants, _>(blocks.iter().map(|(_, _, block)| Stamp(block.created)).collect::<Vec<_>>())
        .bind::<Bigints, _>(blocks.iter().map(|(_, _, block)| block.position.get()).collect::<Vec<_>>());
    run(conn, write).await
}

async fn counts(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), StoreError> {
    let counts = &changes.counts;
    if counts.is_empty() {
        return Ok(());
    }
    let text = "UPDATE user_counts AS old SET requests_sent = old.requests_sent + new.requests_sent, \
                requests_received = old.requests_received + new.requests_received, \
                requests_unviewed = old.requests_unviewed + new.requests_unviewed, \
                connections = old.connections + new.connections, \
                sends = coalesce(new.sends, old.sends), sends_since = coalesce(new.sends_since, old.sends_since) \
                FROM unnest(?, ?, ?, ?, ?, ?, ?) AS new (requests_sent, requests_received, requests_unviewed, \
                connections, sends, sends_since, user_id) WHERE old.user_id = new.user_id";
    let number = |value: fn(&crate::domain::counts::Counts) -> i64| -> Vec<i64> {
        counts.iter().map(|(_, counts, _)| value(counts)).collect()
    };
    let sends: Vec<_> = counts.iter().map(|(_, _, sends)| sends.map(|sends| sends.count)).collect();
    let since: Vec<_> = counts.iter().map(|(_, _, sends)| sends.and_then(|sends| sends.since).map(Stamp)).collect();
    let write = Write::new(text)
        .bind::<Bigints, _>(number(|counts| counts.requests_sent))
        .bind::<Bigints, _>(number(|counts| counts.requests_received))
        .bind::<Bigints, _>(number(|counts| counts.requests_unviewed))
        .bind::<Bigints, _>(number(|counts| counts.connections))
        .bind::<MaybeBigints, _>(sends)
        .bind::<MaybeInstants, _>(since)
        .bind::<Bigints, _>(counts.iter().map(|(user, _, _)| user.get()).collect::<Vec<_>>());
    run(conn, write).await
}

async fn events(conn: &AsyncPgConnection, events: &[Event], batch_id: i64) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    fn column<'a, T>(events: &'a [Event], value: impl Fn(&'a Event) -> T) -> Vec<T> {
        events.iter().map(value).collect()
    }
    let text = "INSERT INTO events (batch_id, sequence, time, kind, cause, actor, actor_user_id, user_id, \
                other_user_id, request_id) \
                SELECT ?, new.* FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";
    let write = Write::new(text)
        .bind::<BigInt, _>(batch_id)
        .bind::<Bigints, _>(column(events, |event| event.sequence.get()))
        .bind::<Instants, _>(column(events, |event| Stamp(event.time)))
        .bind::<Texts, _>(column(events, |event| event.kind.name()))
        .bind::<Array<Nullable<Text>>, _>(column(events, |event| event.cause.map(|cause| cause.name())))
        .bind::<Texts, _>(column(events, |event| actor_columns(event.actor).0))
        .bind::<MaybeBigints, _>(column(events, |event| actor_columns(event.actor).1))
        .bind::<Bigints, _>(column(events, |event| event.user.get()))
        .bind::<MaybeBigints, _>(column(events, |event| event.other.map(UserId::get)))
        .bind::<MaybeBigints, _>(column(events, |event| event.request.map(|request| request.get())));
    run(conn, write).await
}

async fn events_deleted(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), StoreError> {
    let Some(until) = changes.events_deleted else { return Ok(()) };
    run(conn, Write::new("DELETE FROM events WHERE sequence <= ?").bind::<BigInt, _>(until.get())).await
}

async fn replays(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), StoreError> {
    if let Some(end) = changes.replays_end {
        let text = "DELETE FROM request_ids WHERE id IN \
                    (SELECT id FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?)";
        run(conn, Write::new(text).bind::<Instant, _>(Stamp(end)).bind::<BigInt, _>(DUE_AT_ONCE)).await?;
    }
    let replays = &changes.replays;
    if replays.is_empty() {
        return Ok(());
    }
    let text = "INSERT INTO request_ids (id, fingerprint, response, created) SELECT * FROM unnest(?, ?, ?, ?) \
                ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, \
                created = excluded.created";
    let write = Write::new(text)
        .bind::<Texts, _>(replays.iter().map(|replay| replay.id.to_string()).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(replays.iter().map(|replay| replay.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(replays.iter().map(|replay| replay.response.as_slice()).collect::<Vec<_>>())
        .bind::<Instants, _>(replays.iter().map(|replay| Stamp(replay.created)).collect::<Vec<_>>());
    run(conn, write).await
}

async fn head(conn: &AsyncPgConnection, changes: &Changes) -> Result<(), StoreError> {
    let text = "UPDATE feed SET last_sequence = ?, last_time = ?, last_user_id = ? WHERE id = 1";
    let write = Write::new(text)
        .bind::<BigInt, _>(changes.head.sequence.get())
        .bind::<Instant, _>(Stamp(changes.head.time))
        .bind::<BigInt, _>(changes.head.last_user.get());
    run(conn, write).await
}
