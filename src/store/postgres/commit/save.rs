//! Saves what a batch changes: for each table and kind of change one part of a statement, whatever the number of rows.

use diesel::pg::Pg;
use diesel::result::QueryResult;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join_all;

use super::NotSaved;
use crate::domain::command::Needs;
use crate::domain::event::Event;
use crate::domain::id::{PairKey, UserId};
use crate::domain::ledger::{Changes, CountsChange};
use crate::domain::pair::Request;
use crate::domain::user::User;
use crate::store::DUE_AT_ONCE;
use crate::store::row::{FeedHead, actor_columns, gender_name, user_status_name};
use crate::store::schema::{Instant, Stamp};
use crate::store::statement::Statement;

type Write<'a> = Statement<'a, Pg>;

type Bigints = Array<BigInt>;
type MaybeBigints = Array<Nullable<BigInt>>;
type Texts = Array<Text>;
type Instants = Array<Instant>;
type MaybeInstants = Array<Nullable<Instant>>;

/// What is to be saved: what must come before the rest, since it is about the same rows, and the rest as one statement.
pub(super) struct Saves<'a> {
    first: Vec<Write<'a>>,
    rest: Write<'a>,
}

impl<'a> Saves<'a> {
    /// Of a batch that was decided from `before`. If the head is another one by now the rest saves nothing.
    pub(super) fn new(before: &'a FeedHead, changes: &'a Changes, batch_id: i64) -> Self {
        Self::following(head(before, changes, batch_id), changes, batch_id)
    }

    /// Of a batch that was decided from `before` as if the pair had no request and no block, and no answer were kept
    /// under its ids. If the head is another one by now, or that is not so, the rest saves nothing.
    pub(super) fn if_nothing(
        before: &'a FeedHead,
        changes: &'a Changes,
        batch_id: i64,
        pair: PairKey,
        needs: &Needs,
    ) -> Self {
        Self::following(nothing(head(before, changes, batch_id), pair, needs), changes, batch_id)
    }

    fn following(moved: Write<'a>, changes: &'a Changes, batch_id: i64) -> Self {
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        users(&mut first, changes);
        replays_deleted(&mut first, changes);
        requests(&mut rest, changes);
        blocks(&mut rest, changes);
        counts(&mut rest, &changes.counts);
        events(&mut rest, changes, batch_id);
        replays(&mut rest, changes);
        let rest = moved.then(" RETURNING pg_notify('kith_feed', '')").followed_by(rest);
        Self { first, rest }
    }

    /// Whether one statement saves all.
    pub(super) fn is_one(&self) -> bool {
        self.first.is_empty()
    }

    /// All in one flight.
    pub(super) async fn save(self, conn: &AsyncPgConnection) -> Result<(), NotSaved> {
        let writes = self.first.into_iter().chain([self.rest]);
        let outcomes = join_all(writes.map(|write| run(conn, write))).await;
        // The first failure is the cause. After it all that follow in the transaction fail, for no reason of their own.
        let moved = outcomes.into_iter().try_fold(0, |_, outcome| outcome)?;
        if moved == 0 { Err(NotSaved::Stale) } else { Ok(()) }
    }
}

async fn run(mut conn: &AsyncPgConnection, write: Write<'_>) -> QueryResult<usize> {
    write.execute(&mut conn).await
}

fn users<'a>(writes: &mut Vec<Write<'a>>, changes: &'a Changes) {
    let Changes { users_deleted, users_created, users_updated, .. } = changes;
    if !users_deleted.is_empty() {
        let ids: Vec<i64> = users_deleted.iter().map(|id| id.get()).collect();
        let counts = Write::new("DELETE FROM user_counts WHERE user_id = ANY(?)");
        writes.push(counts.bind::<Bigints, _>(ids.clone()));
        writes.push(Write::new("DELETE FROM users WHERE id = ANY(?)").bind::<Bigints, _>(ids));
    }
    if !users_updated.is_empty() {
        let text = "UPDATE users SET username = new.username, real_name = new.real_name, email = new.email, \
                    email_isvalid = new.email_isvalid, date_joined = new.date_joined, bio = new.bio, \
                    location = new.location, birthday = new.birthday, description = new.description, \
                    gender = new.gender, status = new.status, website = new.website, avatar = new.avatar, \
                    cover = new.cover \
                    FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (username, real_name, email, \
                    email_isvalid, date_joined, bio, location, birthday, description, gender, status, website, \
                    avatar, cover, id) WHERE users.id = new.id";
        let users: Vec<&User> = users_updated.iter().map(AsRef::as_ref).collect();
        writes.push(profiles(Write::new(text), &users).bind::<Bigints, _>(column(&users, |user| user.id.get())));
    }
    if !users_created.is_empty() {
        let text = "INSERT INTO users (username, real_name, email, email_isvalid, date_joined, bio, location, \
                    birthday, description, gender, status, website, avatar, cover, id, position) \
                    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let users: Vec<&User> = users_created.iter().map(|(user, _)| user.as_ref()).collect();
        let ids = column(&users, |user| user.id.get());
        let positions: Vec<_> = users_created.iter().map(|(_, position)| position.get()).collect();
        let insert = profiles(Write::new(text), &users).bind::<Bigints, _>(ids.clone());
        writes.push(insert.bind::<Bigints, _>(positions));
        let counts = Write::new("INSERT INTO user_counts (user_id) SELECT * FROM unnest(?)");
        writes.push(counts.bind::<Bigints, _>(ids));
    }
}

fn column<T, V>(rows: &[T], value: impl Fn(&T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

fn profiles<'a>(write: Write<'a>, users: &[&'a User]) -> Write<'a> {
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

fn requests<'a>(writes: &mut Vec<Write<'a>>, changes: &'a Changes) {
    let Changes { requests_deleted, requests_created, requests_replaced, requests_answered, requests_viewed, .. } =
        changes;
    if !requests_deleted.is_empty() {
        let text = "DELETE FROM connection_requests USING moved, unnest(?, ?) AS gone (low, high) \
                    WHERE low_user_id = gone.low AND high_user_id = gone.high";
        writes.push(pairs(Write::new(text), requests_deleted));
    }
    if !requests_created.is_empty() {
        let text = "INSERT INTO connection_requests (id, from_user_id, to_user_id, state, position, message, created, \
                    viewed, rejected, accepted, low_user_id, high_user_id) \
                    SELECT new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";
        writes.push(whole_requests(Write::new(text), requests_created));
    }
    if !requests_replaced.is_empty() {
        let text = "UPDATE connection_requests AS old SET id = new.id, from_user_id = new.from_user_id, \
                    to_user_id = new.to_user_id, state = new.state, position = new.position, message = new.message, \
                    created = new.created, viewed = new.viewed, rejected = new.rejected, accepted = new.accepted \
                    FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS new (id, from_user_id, to_user_id, \
                    state, position, message, created, viewed, rejected, accepted, low_user_id, high_user_id) \
                    WHERE old.low_user_id = new.low_user_id AND old.high_user_id = new.high_user_id";
        writes.push(whole_requests(Write::new(text), requests_replaced));
    }
    if !requests_answered.is_empty() {
        let text = "UPDATE connection_requests AS old SET state = new.state, position = new.position, \
                    viewed = new.viewed, rejected = new.rejected, accepted = new.accepted \
                    FROM moved, unnest(?, ?, ?, ?, ?, ?) AS new (id, state, position, viewed, rejected, accepted) \
                    WHERE old.id = new.id";
        let write = Write::new(text)
            .bind::<Bigints, _>(column(requests_answered, |request| request.id.get()))
            .bind::<Texts, _>(column(requests_answered, |request| request.state.name()))
            .bind::<Bigints, _>(column(requests_answered, |request| request.position.get()));
        writes.push(times(write, requests_answered));
    }
    if !requests_viewed.is_empty() {
        let text = "UPDATE connection_requests AS old SET viewed = new.viewed \
                    FROM moved, unnest(?, ?) AS new (id, viewed) WHERE old.id = new.id";
        let write = Write::new(text)
            .bind::<Bigints, _>(column(requests_viewed, |request| request.id.get()))
            .bind::<MaybeInstants, _>(column(requests_viewed, |request| request.viewed.map(Stamp)));
        writes.push(write);
    }
}

fn whole_requests<'a>(write: Write<'a>, requests: &'a [Request]) -> Write<'a> {
    let keys: Vec<_> = requests.iter().filter_map(Request::key).collect();
    let write = write
        .bind::<Bigints, _>(column(requests, |request| request.id.get()))
        .bind::<Bigints, _>(column(requests, |request| request.from.get()))
        .bind::<Bigints, _>(column(requests, |request| request.to.get()))
        .bind::<Texts, _>(column(requests, |request| request.state.name()))
        .bind::<Bigints, _>(column(requests, |request| request.position.get()))
        .bind::<Texts, _>(requests.iter().map(|request| request.message.as_str()).collect::<Vec<_>>())
        .bind::<Instants, _>(column(requests, |request| Stamp(request.created)));
    pairs(times(write, requests), &keys)
}

fn times<'a>(write: Write<'a>, requests: &[Request]) -> Write<'a> {
    write
        .bind::<MaybeInstants, _>(column(requests, |request| request.viewed.map(Stamp)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.rejected.map(Stamp)))
        .bind::<MaybeInstants, _>(column(requests, |request| request.accepted.map(Stamp)))
}

fn pairs<'a>(write: Write<'a>, keys: &[PairKey]) -> Write<'a> {
    write
        .bind::<Bigints, _>(column(keys, |key| key.low().get()))
        .bind::<Bigints, _>(column(keys, |key| key.high().get()))
}

fn blocks<'a>(writes: &mut Vec<Write<'a>>, changes: &'a Changes) {
    let Changes { blocks_deleted, blocks_put, .. } = changes;
    if !blocks_deleted.is_empty() {
        let text = "DELETE FROM blocks USING moved, unnest(?, ?) AS gone (one, other) \
                    WHERE user_id = gone.one AND other_user_id = gone.other";
        let write = Write::new(text)
            .bind::<Bigints, _>(column(blocks_deleted, |(user, _)| user.get()))
            .bind::<Bigints, _>(column(blocks_deleted, |(_, other)| other.get()));
        writes.push(write);
    }
    if !blocks_put.is_empty() {
        let text = "INSERT INTO blocks (user_id, other_user_id, created, position) \
                    SELECT new.* FROM moved, unnest(?, ?, ?, ?) AS new ON CONFLICT (user_id, other_user_id) DO UPDATE \
                    SET created = excluded.created, position = excluded.position";
        let write = Write::new(text)
            .bind::<Bigints, _>(column(blocks_put, |(user, _, _)| user.get()))
            .bind::<Bigints, _>(column(blocks_put, |(_, other, _)| other.get()))
            .bind::<Instants, _>(column(blocks_put, |(_, _, block)| Stamp(block.created)))
            .bind::<Bigints, _>(column(blocks_put, |(_, _, block)| block.position.get()));
        writes.push(write);
    }
}

fn counts<'a>(writes: &mut Vec<Write<'a>>, counts: &'a [CountsChange]) {
    if counts.is_empty() {
        return;
    }
    let text = "UPDATE user_counts AS old SET requests_sent = old.requests_sent + new.requests_sent, \
                requests_received = old.requests_received + new.requests_received, \
                requests_unviewed = old.requests_unviewed + new.requests_unviewed, \
                connections = old.connections + new.connections, \
                sends = coalesce(new.sends, old.sends), sends_since = coalesce(new.sends_since, old.sends_since) \
                FROM moved, unnest(?, ?, ?, ?, ?, ?, ?) AS new (requests_sent, requests_received, requests_unviewed, \
                connections, sends, sends_since, user_id) WHERE old.user_id = new.user_id";
    let write = Write::new(text)
        .bind::<Bigints, _>(column(counts, |counts| counts.change.requests_sent))
        .bind::<Bigints, _>(column(counts, |counts| counts.change.requests_received))
        .bind::<Bigints, _>(column(counts, |counts| counts.change.requests_unviewed))
        .bind::<Bigints, _>(column(counts, |counts| counts.change.connections))
        .bind::<MaybeBigints, _>(column(counts, |counts| counts.sends.map(|sends| sends.count)))
        .bind::<MaybeInstants, _>(column(counts, |counts| counts.sends.and_then(|sends| sends.since).map(Stamp)))
        .bind::<Bigints, _>(column(counts, |counts| counts.user.get()));
    writes.push(write);
}

fn events<'a>(writes: &mut Vec<Write<'a>>, changes: &'a Changes, batch_id: i64) {
    let events: &[Event] = &changes.events;
    if !events.is_empty() {
        let text = "INSERT INTO events (batch_id, sequence, time, kind, cause, actor, actor_user_id, user_id, \
                    other_user_id, request_id) \
                    SELECT ?, new.* FROM moved, unnest(?, ?, ?, ?, ?, ?, ?, ?, ?) AS new";
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
        writes.push(write);
    }
    if let Some(until) = changes.events_deleted {
        writes.push(Write::new("DELETE FROM events USING moved WHERE sequence <= ?").bind::<BigInt, _>(until.get()));
    }
}

fn replays_deleted<'a>(writes: &mut Vec<Write<'a>>, changes: &'a Changes) {
    if let Some(end) = changes.replays_end {
        let text = "DELETE FROM request_ids WHERE (caller, id) IN \
                    (SELECT caller, id FROM request_ids WHERE created <= ? ORDER BY created LIMIT ?)";
        writes.push(Write::new(text).bind::<Instant, _>(Stamp(end)).bind::<BigInt, _>(DUE_AT_ONCE));
    }
}

fn replays<'a>(writes: &mut Vec<Write<'a>>, changes: &'a Changes) {
    let replays = &changes.replays;
    if !replays.is_empty() {
        let text = "INSERT INTO request_ids (caller, id, fingerprint, response, created) \
                    SELECT new.* FROM moved, unnest(?, ?, ?, ?, ?) AS new \
                    ON CONFLICT (caller, id) DO UPDATE SET fingerprint = excluded.fingerprint, \
                    response = excluded.response, created = excluded.created";
        let write = Write::new(text)
            .bind::<Texts, _>(column(replays, |replay| replay.key.caller.clone()))
            .bind::<Texts, _>(column(replays, |replay| replay.key.id.to_string()))
            .bind::<Array<Binary>, _>(replays.iter().map(|replay| replay.fingerprint.as_slice()).collect::<Vec<_>>())
            .bind::<Array<Binary>, _>(replays.iter().map(|replay| replay.response.as_slice()).collect::<Vec<_>>())
            .bind::<Instants, _>(column(replays, |replay| Stamp(replay.created)));
        writes.push(write);
    }
}

/// The head, and with it the word to those who listen, which they get when the commit is done. Only from what the batch
/// was decided from. (PostgreSQL carries this out first, since the statement's result is made of it: whoever saves has
/// the head before all else, so that nobody waits for each other.)
fn head<'a>(before: &'a FeedHead, changes: &'a Changes, batch_id: i64) -> Write<'a> {
    let FeedHead { epoch, head: before, batch_id: batch_before } = before;
    let text = "UPDATE feed SET last_sequence = ?, last_time = ?, last_user_id = ?, users_changed = ?, \
                last_batch_id = ? \
                WHERE id = 1 AND epoch = ? AND last_sequence = ? AND last_time = ? AND last_batch_id = ?";
    Write::new(text)
        .bind::<BigInt, _>(changes.head.sequence.get())
        .bind::<Instant, _>(Stamp(changes.head.time))
        .bind::<BigInt, _>(changes.head.last_user.get())
        .bind::<BigInt, _>(changes.head.users_changed.get())
        .bind::<BigInt, _>(batch_id)
        .bind::<Text, _>(epoch.as_str())
        .bind::<BigInt, _>(before.sequence.get())
        .bind::<Instant, _>(Stamp(before.time))
        .bind::<BigInt, _>(*batch_before)
}

/// Moves the head only where nothing is between the two, and no answer is kept under the ids that the batch names.
fn nothing<'a>(head: Write<'a>, pair: PairKey, needs: &Needs) -> Write<'a> {
    let text = " AND NOT EXISTS (SELECT FROM connection_requests WHERE low_user_id = ? AND high_user_id = ?) \
                AND NOT EXISTS (SELECT FROM blocks WHERE user_id = ? AND other_user_id = ?) \
                AND NOT EXISTS (SELECT FROM blocks WHERE user_id = ? AND other_user_id = ?) \
                AND NOT EXISTS (SELECT FROM request_ids WHERE (caller, id) IN (SELECT * FROM unnest(?, ?)))";
    let (low, high) = (pair.low().get(), pair.high().get());
    let (callers, ids): (Vec<_>, Vec<_>) =
        needs.replays.iter().map(|key| (key.caller.clone(), key.id.to_string())).unzip();
    let both_ways = [low, high, low, high, high, low];
    let moved = both_ways.into_iter().fold(head.then(text), |moved, user| moved.bind::<BigInt, _>(user));
    moved.bind::<Texts, _>(callers).bind::<Texts, _>(ids)
}
