//! Stored rows of both engines, and their conversion to domain values.

mod record;
mod user;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use uuid::Uuid;

use super::StoreError;
use super::schema::{Stamp, blocks, connection_requests, connections, feed, request_ids};
use super::users::Mark;
use crate::domain::Time;
use crate::domain::command::{EncodedResponse, IdempotencyKey, IdempotentResponse};
use crate::domain::epoch::{Epoch, EpochChange, EpochStart, Lineage};
use crate::domain::event::Actor;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::ledger::{ForgetStep, Head, SweepStep};
use crate::domain::pair::{Block, Message, Request, RequestState};
use crate::domain::query::{Blocked, Connection};
use crate::domain::totals::Totals;

pub(super) use self::record::{CooldownRow, EndedRow, ResponseRow};
pub(super) use self::user::{CountsRow, UserRow, gender_name, member, positioned, user_status_name};

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = feed, check_for_backend(Pg, Sqlite))]
pub(super) struct FeedRow {
    #[expect(dead_code, reason = "always 1")]
    id: i64,
    pub(super) epoch: String,
    pub(super) token_key: String,
    pub(super) last_sequence: i64,
    last_time: Stamp,
    last_assigned_user_id: i64,
    users_changed: i64,
    swept_id: i64,
    last_batch_id: i64,
    forgotten: i64,
    forgetting: i64,
    total_users: i64,
    total_pending: i64,
    total_silenced: i64,
    total_rejected: i64,
    total_connected: i64,
    total_blocks: i64,
    system_identifier: Option<i64>,
    timeline: Option<i64>,
}

/// Whether a client named an epoch other than that of the head.
pub(super) fn is_earlier(epoch: &Epoch, head: &FeedRow) -> bool {
    epoch.is_named() && epoch.as_str() != head.epoch
}

impl FeedRow {
    pub(super) fn head(self) -> FeedHead {
        let Self {
            id: _,
            epoch,
            token_key: _,
            last_sequence,
            last_time: Stamp(time),
            last_assigned_user_id,
            users_changed,
            swept_id,
            last_batch_id: batch_id,
            forgotten,
            forgetting,
            total_users: users,
            total_pending: pending,
            total_silenced: silenced,
            total_rejected: rejected,
            total_connected: connected,
            total_blocks: blocks,
            system_identifier,
            timeline,
        } = self;
        let head = Head {
            sequence: Sequence::new(last_sequence),
            time,
            last_assigned: UserId::new(last_assigned_user_id),
            users_changed: Sequence::new(users_changed),
            swept: RequestId::new(swept_id),
            forgotten: Sequence::new(forgotten),
            forgetting: Sequence::new(forgetting),
            totals: Totals { users, pending, silenced, rejected, connected, blocks },
        };
        let lineage = timeline.map(|timeline| Lineage { system_identifier, timeline });
        FeedHead { epoch: epoch.into(), lineage, head, batch_id }
    }
}

/// The head of the feed, with the epoch and the id of the last committed batch.
///
/// No two batches write the same head, because each has a random id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedHead {
    pub(super) epoch: Epoch,
    /// Where the epoch began. `None` if that is not known.
    pub(super) lineage: Option<Lineage>,
    pub(super) head: Head,
    pub(super) batch_id: i64,
}

impl FeedHead {
    /// The epoch after a commit that locked this head and makes this change.
    pub(super) fn epoch_after<'a>(&'a self, change: Option<&'a EpochChange>) -> &'a Epoch {
        match change {
            Some(EpochChange::Begun { epoch, first: _, lineage: _ }) => epoch,
            Some(EpochChange::Adopted(_)) | None => &self.epoch,
        }
    }

    /// Applies a change of the epoch that was saved.
    pub(super) fn change_epoch(&mut self, change: &EpochChange) {
        match change {
            EpochChange::Begun { epoch, first: _, lineage } => {
                (self.epoch, self.lineage) = (epoch.clone(), Some(*lineage));
            }
            EpochChange::Adopted(lineage) => self.lineage = Some(*lineage),
        }
    }

    pub(super) fn mark(&self) -> Mark {
        let Self { epoch, lineage: _, head, batch_id: _ } = self;
        let Head {
            sequence,
            users_changed,
            time: _,
            last_assigned: _,
            swept: _,
            forgotten: _,
            forgetting: _,
            totals: _,
        } = *head;
        Mark { epoch: epoch.clone(), revision: sequence, users_changed }
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
        Mark {
            epoch: epoch.into(),
            revision: Sequence::new(last_sequence),
            users_changed: Sequence::new(users_changed),
        }
    }
}

/// An epoch and its first sequence.
#[derive(Clone, Debug, Queryable)]
#[diesel(check_for_backend(Pg, Sqlite))]
pub(super) struct EpochRow {
    epoch: String,
    first_sequence: i64,
}

impl EpochRow {
    pub(super) fn start(self) -> EpochStart {
        let Self { epoch, first_sequence } = self;
        EpochStart { epoch: epoch.into(), first: Sequence::new(first_sequence) }
    }
}

/// The newest of the events whose retention has ended, and their number.
#[derive(Clone, Copy, Debug, Default, Queryable)]
#[diesel(check_for_backend(Pg, Sqlite))]
pub(super) struct ExpiredEventsRow {
    until: Option<i64>,
    events: i64,
}

/// The rows that were loaded for a sweep, apart from requests.
#[derive(Clone, Debug)]
pub(super) struct SweepRows {
    /// The last of the loaded open requests, if there are more. The outer `None`: requests never expire.
    pub(super) open: Option<Option<RequestId>>,
    pub(super) cooled: i64,
    pub(super) ahead: i64,
    pub(super) replays: i64,
    pub(super) events: ExpiredEventsRow,
    pub(super) forget: Option<ForgetStep>,
}

impl SweepRows {
    /// Returns what the sweep may delete at this head.
    pub(super) fn due(self, head: &Head) -> SweepStep {
        let Self { open, cooled, ahead, replays, events: ExpiredEventsRow { until, events }, forget } = self;
        // Without more of them, all open requests were loaded.
        let all = RequestId::new(head.sequence.get());
        SweepStep {
            open_until: open.map(|last| last.unwrap_or(all)),
            events_until: until.map(Sequence::new),
            cooled,
            ahead,
            events,
            responses: replays,
            forget,
        }
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = connection_requests, check_for_backend(Pg, Sqlite))]
pub(super) struct RequestRow {
    #[expect(dead_code, reason = "follows from the two users")]
    low_user_id: i64,
    #[expect(dead_code, reason = "follows from the two users")]
    high_user_id: i64,
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
    pub(super) reply: String,
}

/// The next open requests that the sweep examines.
pub(super) struct NextOpen {
    pub(super) rows: Vec<RequestRow>,
    is_all: bool,
}

impl NextOpen {
    /// Wraps the result of a query with this limit.
    pub(super) fn of(rows: Vec<RequestRow>, limit: i64) -> Self {
        let is_all = i64::try_from(rows.len()).is_ok_and(|found| found < limit);
        Self { rows, is_all }
    }

    /// Whether any was created at `until` or before.
    pub(super) fn has_expired(&self, until: Time) -> bool {
        self.rows.iter().any(|row| row.created.0 <= until)
    }

    /// The last one, if there may be more.
    pub(super) fn more_after(&self) -> Option<RequestId> {
        self.rows.last().filter(|_| !self.is_all).map(|row| RequestId::new(row.id))
    }
}

impl TryFrom<RequestRow> for Request {
    type Error = StoreError;

    fn try_from(row: RequestRow) -> Result<Self, StoreError> {
        let RequestRow {
            // Both follow from the sender and the receiver.
            low_user_id: _,
            high_user_id: _,
            id,
            from_user_id,
            to_user_id,
            state,
            position,
            message,
            created: Stamp(created),
            viewed,
            rejected,
            accepted,
            reply,
        } = row;
        let corrupt = |column| StoreError::corrupt(column, format_args!("request {id}"));
        let time = |stamp: Option<Stamp>| stamp.map(|Stamp(time)| time);
        Ok(Self {
            id: RequestId::new(id),
            from: UserId::new(from_user_id),
            to: UserId::new(to_user_id),
            state: read_state(&state).ok_or_else(|| corrupt("connection_requests.state"))?,
            position: Sequence::new(position),
            message: Message::stored(message),
            created,
            viewed: time(viewed),
            rejected: time(rejected),
            accepted: time(accepted),
            reply: Message::stored(reply),
        })
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = connections, check_for_backend(Pg, Sqlite))]
pub(super) struct ConnectionRow {
    #[expect(dead_code, reason = "known to the caller")]
    user_id: i64,
    other_user_id: i64,
    connection_request_id: i64,
    connected: Stamp,
    position: i64,
}

impl From<ConnectionRow> for Connection {
    fn from(row: ConnectionRow) -> Self {
        let ConnectionRow {
            // Known to the caller.
            user_id: _,
            other_user_id,
            connection_request_id,
            connected: Stamp(connected),
            position,
        } = row;
        Self {
            other: UserId::new(other_user_id),
            request: RequestId::new(connection_request_id),
            connected,
            position: Sequence::new(position),
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

    pub(super) fn blocked(&self) -> Blocked {
        Blocked { other: UserId::new(self.other_user_id), block: self.block() }
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = request_ids, check_for_backend(Pg, Sqlite))]
pub(super) struct IdempotentResponseRow {
    pub(super) caller: String,
    pub(super) id: String,
    pub(super) fingerprint: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) created: Stamp,
    pub(super) without_profiles: Vec<u8>,
    pub(super) actor_user_id: Option<i64>,
    pub(super) user_id: Option<i64>,
    pub(super) other_user_id: Option<i64>,
}

impl TryFrom<IdempotentResponseRow> for IdempotentResponse {
    type Error = StoreError;

    fn try_from(row: IdempotentResponseRow) -> Result<Self, StoreError> {
        let IdempotentResponseRow {
            caller,
            id,
            fingerprint,
            response,
            created: Stamp(created),
            without_profiles,
            actor_user_id,
            user_id,
            other_user_id,
        } = row;
        // The id itself is the caller's.
        let corrupt = |column| StoreError::corrupt(column, format_args!("the response stored at {created}"));
        Ok(Self {
            key: IdempotencyKey { caller, id: Uuid::parse_str(&id).map_err(|_| corrupt("request_ids.id"))? },
            fingerprint: fingerprint.try_into().map_err(|_| corrupt("request_ids.fingerprint"))?,
            encoded: EncodedResponse { response, without_profiles },
            created,
            actor: actor_user_id.map(UserId::new),
            users: (user_id.map(UserId::new), other_user_id.map(UserId::new)),
        })
    }
}

fn read_state(name: &str) -> Option<RequestState> {
    RequestState::ALL.iter().copied().find(|state| state.name() == name)
}

pub(super) fn actor_columns(actor: Actor) -> (&'static str, Option<i64>) {
    match actor {
        Actor::User(user) => ("USER", Some(user.get())),
        Actor::Operator => ("OPERATOR", None),
        Actor::System => ("SYSTEM", None),
    }
}
