//! Parts of the feed, as they are read.

use diesel::backend::Backend;
use diesel::internal::derives::as_expression::Bound;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AsQuery, QueryFragment};
use diesel::sql_types::BigInt;
use diesel::sqlite::Sqlite;

use super::StoreError;
use super::row::FeedRow;
use super::schema::{Stamp, events};
use super::statement::Statement;
use crate::domain::event::{Actor, Cause, Event, EventKind};
use crate::domain::id::{RequestId, Sequence, UserId};

pub(super) type EventsSql = <events::table as AsQuery>::SqlType;

/// Which events to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// All.
    All,
    /// Those that name this user as one of the two that they are about.
    Of(UserId),
}

/// An event, and the commit that it is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The same for the events of one commit, which follow each other; another one for the next commit.
    pub commit: i64,
    /// The event.
    pub event: Event,
}

/// A part of the feed, and how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSlice {
    /// Tells this feed from any other, and from itself before a restore.
    pub epoch: String,
    /// The newest event there was before the events were read: none up to it is missing.
    pub last: Sequence,
    /// The oldest event that was kept after the events were read; the one after `last` if none was.
    pub oldest: Sequence,
    /// The events, in order.
    pub events: Vec<Recorded>,
}

impl FeedSlice {
    /// From what was read in this order: the head, the events, the oldest event.
    pub(super) fn new(head: FeedRow, rows: Vec<EventRow>, oldest: Option<i64>) -> Result<Self, StoreError> {
        let last = Sequence::new(head.last_sequence);
        let events = rows.into_iter().map(Recorded::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { epoch: head.epoch, last, oldest: oldest.map_or(last.next(), Sequence::new), events })
    }
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = events, check_for_backend(Pg, Sqlite))]
pub(super) struct EventRow {
    sequence: i64,
    time: Stamp,
    batch_id: i64,
    kind: String,
    cause: Option<String>,
    actor: String,
    actor_user_id: Option<i64>,
    user_id: i64,
    other_user_id: Option<i64>,
    request_id: Option<i64>,
}

impl TryFrom<EventRow> for Recorded {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let kind = EventKind::named(&row.kind).ok_or_else(|| StoreError::corrupt("events.kind", &row.kind))?;
        let cause = row
            .cause
            .as_deref()
            .map(|name| Cause::named(name).ok_or_else(|| StoreError::corrupt("events.cause", name)));
        let actor = match (row.actor.as_str(), row.actor_user_id) {
            ("USER", Some(user)) => Actor::User(UserId::new(user)),
            ("OPERATOR", None) => Actor::Operator,
            ("SYSTEM", None) => Actor::System,
            (other, _) => return Err(StoreError::corrupt("events.actor", other)),
        };
        let event = Event {
            sequence: Sequence::new(row.sequence),
            time: row.time.0,
            kind,
            cause: cause.transpose()?,
            actor,
            user: UserId::new(row.user_id),
            other: row.other_user_id.map(UserId::new),
            request: row.request_id.map(RequestId::new),
        };
        Ok(Self { commit: row.batch_id, event })
    }
}

#[diesel::dsl::auto_type]
pub(super) fn all_after(after: i64, limit: i64) -> _ {
    events::table.filter(events::sequence.gt(after)).order(events::sequence.asc()).limit(limit)
}

/// The users that were changed or deleted after one event, and up to another.
#[diesel::dsl::auto_type]
pub(super) fn users_changed(after: i64, until: i64) -> _ {
    events::table
        .filter(events::sequence.gt(after))
        .filter(events::sequence.le(until))
        .filter(events::kind.eq("USER_UPDATED").or(events::kind.eq("USER_DELETED")))
        .select(events::user_id)
}

#[diesel::dsl::auto_type]
pub(super) fn oldest() -> _ {
    events::table.order(events::sequence.asc()).select(events::sequence).limit(1_i64)
}

/// Users share a bucket of the indexes that find a user's events, one in so many: `migrations/` tells why.
const BUCKETS: i64 = 256;

/// The events of one user, out of as many from either place that an event names: each has its own index, and no event
/// is in both.
pub(super) fn of_user_after<DB: Backend>(user: i64, after: i64, limit: i64) -> Statement<'static, DB, EventsSql>
where
    Bound<BigInt, i64>: QueryFragment<DB>,
{
    let text = "SELECT * FROM ( \
                    SELECT * FROM (SELECT * FROM events WHERE user_id % 256 = ? AND user_id = ? AND sequence > ? \
                        ORDER BY sequence LIMIT ?) AS first \
                    UNION ALL SELECT * FROM (SELECT * FROM events \
                        WHERE other_user_id % 256 = ? AND other_user_id = ? AND sequence > ? \
                        ORDER BY sequence LIMIT ?) AS second \
                ) AS events ORDER BY sequence LIMIT ?";
    let mut statement = Statement::new(text);
    for _place in 0..2 {
        statement = statement
            .bind::<BigInt, _>(user % BUCKETS)
            .bind::<BigInt, _>(user)
            .bind::<BigInt, _>(after)
            .bind::<BigInt, _>(limit);
    }
    statement.bind::<BigInt, _>(limit)
}
