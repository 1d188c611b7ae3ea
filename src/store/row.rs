//! Rows as they are stored, and what they mean: once for both engines.

use std::sync::Arc;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use super::schema::{Stamp, blocks, connection_requests, connections, feed, request_ids, user_counts, users};
use super::users::Mark;
use super::{Connection, StoreError};
use crate::domain::command::{IdempotencyKey, IdempotentResponse};
use crate::domain::counts::Counts;
use crate::domain::event::Actor;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::ledger::{Due, Head};
use crate::domain::pair::{Block, Message, Request, RequestState};
use crate::domain::text::{Birthday, Email, Line, Prose, Url, Username};
use crate::domain::user::{Encoded, Gender, User, UserStatus};

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = feed, check_for_backend(Pg, Sqlite))]
pub(super) struct FeedRow {
    #[expect(dead_code, reason = "always 1")]
    pub(super) id: i64,
    pub(super) epoch: String,
    pub(super) token_key: String,
    pub(super) last_sequence: i64,
    pub(super) last_time: Stamp,
    pub(super) last_user_id: i64,
    pub(super) users_changed: i64,
    last_batch_id: i64,
}

impl FeedRow {
    pub(super) fn head(self) -> FeedHead {
        let head = Head {
            sequence: Sequence::new(self.last_sequence),
            time: self.last_time.0,
            last_user: UserId::new(self.last_user_id),
            users_changed: Sequence::new(self.users_changed),
        };
        FeedHead { epoch: self.epoch, head, batch_id: self.last_batch_id }
    }
}

/// A head, the epoch of the feed that it is of, and the id of the batch that left it: no two batches leave the same,
/// also where only one of them can be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedHead {
    pub(super) epoch: String,
    pub(super) head: Head,
    pub(super) batch_id: i64,
}

impl FeedHead {
    pub(super) fn mark(&self) -> Mark {
        let Head { sequence, users_changed, .. } = self.head;
        Mark { epoch: self.epoch.clone(), revision: sequence, users_changed }
    }
}

/// The columns of a [`Mark`].
#[derive(Clone, Debug, Queryable)]
#[diesel(check_for_backend(Pg, Sqlite))]
pub(super) struct MarkRow {
    epoch: String,
    last_sequence: i64,
    users_changed: i64,
}

impl MarkRow {
    pub(super) fn mark(self) -> Mark {
        let Self { epoch, last_sequence, users_changed } = self;
        Mark { epoch, revision: Sequence::new(last_sequence), users_changed: Sequence::new(users_changed) }
    }
}

/// The newest of the oldest events that are due, and how many they are.
#[derive(Clone, Copy, Debug, Default, Queryable)]
#[diesel(check_for_backend(Pg, Sqlite))]
pub(super) struct DueRow {
    until: Option<i64>,
    events: i64,
}

impl DueRow {
    pub(super) fn due(self, replays: i64) -> Due {
        Due { events_until: self.until.map(Sequence::new), events: self.events, replays }
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(Pg, Sqlite))]
pub(super) struct UserRow {
    pub(super) id: i64,
    pub(super) position: i64,
    pub(super) username: String,
    #[expect(dead_code, reason = "follows from the username")]
    pub(super) username_key: String,
    pub(super) real_name: String,
    pub(super) email: String,
    pub(super) email_isvalid: bool,
    pub(super) date_joined: Stamp,
    pub(super) bio: String,
    pub(super) location: String,
    pub(super) birthday: String,
    pub(super) description: String,
    pub(super) gender: String,
    pub(super) status: String,
    pub(super) website: String,
    pub(super) avatar: String,
    pub(super) cover: String,
}

/// Users with their places in the list.
pub(super) fn positioned(rows: Vec<UserRow>) -> Result<Vec<(Arc<User>, Sequence)>, StoreError> {
    let positioned = |row: UserRow| {
        let position = Sequence::new(row.position);
        Ok((Arc::new(User::try_from(row)?), position))
    };
    rows.into_iter().map(positioned).collect()
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: UserId::new(row.id),
            username: Username::stored(row.username),
            real_name: Line::stored(row.real_name),
            email: Email::stored(row.email),
            email_isvalid: row.email_isvalid,
            date_joined: row.date_joined.0,
            bio: Prose::stored(row.bio),
            location: Line::stored(row.location),
            birthday: Birthday::stored(row.birthday),
            description: Line::stored(row.description),
            gender: read_gender(&row.gender)?,
            status: read_user_status(&row.status)?,
            website: Url::stored(row.website),
            avatar: Url::stored(row.avatar),
            cover: Url::stored(row.cover),
            encoded: Encoded::default(),
        })
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = user_counts, check_for_backend(Pg, Sqlite))]
pub(super) struct CountsRow {
    pub(super) user_id: i64,
    pub(super) requests_sent: i64,
    pub(super) requests_received: i64,
    pub(super) requests_unviewed: i64,
    pub(super) connections: i64,
    pub(super) sends: i64,
    pub(super) sends_since: Option<Stamp>,
}

impl CountsRow {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            requests_sent: self.requests_sent,
            requests_received: self.requests_received,
            requests_unviewed: self.requests_unviewed,
            connections: self.connections,
        }
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = connection_requests, check_for_backend(Pg, Sqlite))]
pub(super) struct RequestRow {
    #[expect(dead_code, reason = "follows from the two users")]
    pub(super) low_user_id: i64,
    #[expect(dead_code, reason = "follows from the two users")]
    pub(super) high_user_id: i64,
    pub(super) id: i64,
    pub(super) from_user_id: i64,
    pub(super) to_user_id: i64,
    pub(super) state: String,
    pub(super) position: i64,
    pub(super) message: String,
    pub(super) created: Stamp,
    pub(super) viewed: Option<Stamp>,
    pub(super) rejected: Option<Stamp>,
    pub(super) accepted: Option<Stamp>,
}

impl TryFrom<RequestRow> for Request {
    type Error = StoreError;

    fn try_from(row: RequestRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: RequestId::new(row.id),
            from: UserId::new(row.from_user_id),
            to: UserId::new(row.to_user_id),
            state: read_state(&row.state)?,
            position: Sequence::new(row.position),
            message: Message::stored(row.message),
            created: row.created.0,
            viewed: row.viewed.map(|stamp| stamp.0),
            rejected: row.rejected.map(|stamp| stamp.0),
            accepted: row.accepted.map(|stamp| stamp.0),
        })
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = connections, check_for_backend(Pg, Sqlite))]
pub(super) struct ConnectionRow {
    #[expect(dead_code, reason = "known to who asks")]
    pub(super) user_id: i64,
    pub(super) other_user_id: i64,
    pub(super) connection_request_id: i64,
    pub(super) connected: Stamp,
    pub(super) position: i64,
}

impl From<ConnectionRow> for Connection {
    fn from(row: ConnectionRow) -> Self {
        Self {
            other: UserId::new(row.other_user_id),
            request: RequestId::new(row.connection_request_id),
            connected: row.connected.0,
            position: Sequence::new(row.position),
        }
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = blocks, check_for_backend(Pg, Sqlite))]
pub(super) struct BlockRow {
    pub(super) user_id: i64,
    pub(super) other_user_id: i64,
    pub(super) created: Stamp,
    pub(super) position: i64,
}

impl BlockRow {
    pub(super) fn block(&self) -> Block {
        Block { created: self.created.0, position: Sequence::new(self.position) }
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = request_ids, check_for_backend(Pg, Sqlite))]
pub(super) struct ReplayRow {
    pub(super) caller: String,
    pub(super) id: String,
    pub(super) fingerprint: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) created: Stamp,
}

impl TryFrom<ReplayRow> for IdempotentResponse {
    type Error = StoreError;

    fn try_from(row: ReplayRow) -> Result<Self, StoreError> {
        let id = Uuid::parse_str(&row.id).map_err(|_| StoreError::corrupt("request_ids.id", &row.id))?;
        Ok(Self {
            key: IdempotencyKey { caller: row.caller, id },
            fingerprint: row
                .fingerprint
                .try_into()
                .map_err(|_| StoreError::corrupt("request_ids.fingerprint", &row.id))?,
            response: row.response,
            created: row.created.0,
        })
    }
}

pub(super) fn gender_name(gender: Gender) -> &'static str {
    match gender {
        Gender::Unspecified => "UNSPECIFIED",
        Gender::Male => "MALE",
        Gender::Female => "FEMALE",
    }
}

fn read_gender(name: &str) -> Result<Gender, StoreError> {
    let all = [Gender::Unspecified, Gender::Male, Gender::Female];
    let found = all.into_iter().find(|gender| gender_name(*gender) == name);
    found.ok_or_else(|| StoreError::corrupt("users.gender", name))
}

pub(super) fn user_status_name(status: UserStatus) -> &'static str {
    match status {
        UserStatus::Approved => "APPROVED",
        UserStatus::Blocked => "BLOCKED",
        UserStatus::Unregistered => "UNREGISTERED",
    }
}

fn read_user_status(name: &str) -> Result<UserStatus, StoreError> {
    let all = [UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered];
    let found = all.into_iter().find(|status| user_status_name(*status) == name);
    found.ok_or_else(|| StoreError::corrupt("users.status", name))
}

fn read_state(name: &str) -> Result<RequestState, StoreError> {
    let found = RequestState::ALL.iter().find(|state| state.name() == name);
    found.copied().ok_or_else(|| StoreError::corrupt("connection_requests.state", name))
}

pub(super) fn actor_columns(actor: Actor) -> (&'static str, Option<i64>) {
    match actor {
        Actor::User(user) => ("USER", Some(user.get())),
        Actor::Operator => ("OPERATOR", None),
        Actor::System => ("SYSTEM", None),
    }
}
