//! Rows and queries of the event feed.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::AsQuery;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::Sqlite;

use super::StoreError;
use uuid::Uuid;

use super::row::{EpochRow, FeedRow};
use super::schema::{Stamp, events};
use super::statement::{SharedStatement, Statement};
use crate::domain::epoch::{Epoch, History};
use crate::domain::event::{Actor, Cause, Event, EventKind, PrincipalKind};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::query::{FeedSlice, Recorded};
use crate::domain::view::HiddenKinds;

pub(super) type EventsSql = <events::table as AsQuery>::SqlType;

/// Composes a slice of the feed.
///
/// The head must be read before the events and the history, and the oldest event after them.
pub(super) fn slice(
    head: FeedRow,
    history: Vec<EpochRow>,
    rows: Vec<EventRow>,
    oldest: Option<i64>,
) -> Result<FeedSlice, StoreError> {
    let epoch: Epoch = head.epoch.into();
    let history = History::until(history.into_iter().map(EpochRow::start).collect(), &epoch);
    let last = Sequence::new(head.last_sequence);
    // Later ones may be of a later epoch than the head.
    let rows = rows.into_iter().filter(|row| row.sequence <= head.last_sequence);
    let events = rows.map(Recorded::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(FeedSlice { epoch, history, last, oldest: oldest.map_or(last.next(), Sequence::new), events })
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
    silenced: bool,
    principal: Option<String>,
}

impl EventRow {
    pub(super) fn sequence(&self) -> i64 {
        self.sequence
    }
}

impl TryFrom<EventRow> for Recorded {
    type Error = StoreError;

    fn try_from(row: EventRow) -> Result<Self, StoreError> {
        let EventRow {
            sequence,
            time: Stamp(time),
            batch_id,
            kind,
            cause,
            actor,
            actor_user_id,
            user_id,
            other_user_id,
            request_id,
            silenced,
            principal,
        } = row;
        let corrupt = |column| StoreError::corrupt(column, format_args!("event {sequence}"));
        let kind = EventKind::from_name(&kind).ok_or_else(|| corrupt("events.kind"))?;
        let cause = cause.as_deref().map(|name| Cause::from_name(name).ok_or_else(|| corrupt("events.cause")));
        let actor = match (actor.as_str(), actor_user_id) {
            ("USER", Some(user)) => Actor::User(UserId::new(user)),
            ("OPERATOR", None) => Actor::Operator,
            ("SYSTEM", None) => Actor::System,
            (_, _) => return Err(corrupt("events.actor")),
        };
        let principal = principal
            .as_deref()
            .map(|name| PrincipalKind::from_name(name).ok_or_else(|| StoreError::corrupt("events.principal", name)));
        let event = Event {
            sequence: Sequence::new(sequence),
            time,
            kind,
            cause: cause.transpose()?,
            actor,
            user: UserId::new(user_id),
            other: other_user_id.map(UserId::new),
            request: request_id.map(RequestId::new),
            silenced,
            principal: principal.transpose()?,
        };
        Ok(Self { commit: batch_id, event })
    }
}

#[diesel::dsl::auto_type]
pub(super) fn all_after(after: i64, limit: i64) -> _ {
    events::table.filter(events::sequence.gt(after)).order(events::sequence.asc()).limit(limit)
}

/// The users that were changed or deleted by the events after `after` and up to `until`.
#[diesel::dsl::auto_type]
pub(super) fn users_changed(after: i64, until: i64) -> _ {
    events::table
        .filter(events::sequence.gt(after))
        .filter(events::sequence.le(until))
        .filter(events::kind.eq("USER_UPDATED").or(events::kind.eq("USER_DELETED")))
        .select(events::user_id)
}

/// Returns the changed users. `None` if an event no longer names the deleted user.
pub(super) fn changed(ids: Vec<i64>) -> Option<Vec<UserId>> {
    ids.into_iter().map(|id| (id != 0).then_some(UserId::new(id))).collect()
}

#[diesel::dsl::auto_type]
pub(super) fn oldest() -> _ {
    events::table.order(events::sequence.asc()).select(events::sequence).limit(1_i64)
}

/// The number of consecutive events in a stretch, the unit in which the indexes find a user's events.
///
/// `migrations/` has the reason. The number is in [`events_of_user`] too.
pub(super) const STRETCH: i64 = 4_096;
/// The number of stretches in the first query for a user's events, and the maximum in later ones.
const STRETCHES: (i64, i64) = (16, 4_096);

/// Returns the ranges of stretches to query for events after `after` and up to `until`, in order.
///
/// `oldest` is the oldest stored event. The ranges grow: a user with few events needs few queries for the whole feed,
/// and for a user with many events a query finds and sorts only a small part of them.
///
/// There is always one, even if there are no events after `after`: the time of the read must not show a user whether
/// something happened that they may not see.
pub(super) fn stretches(after: i64, until: i64, oldest: Option<i64>) -> impl Iterator<Item = (i64, i64)> {
    let first = oldest.map(|oldest| oldest.max(after + 1)).filter(|first| *first <= until);
    let last = until / STRETCH;
    let mut next = Some(first.map_or(last, |first| first / STRETCH));
    let mut count = STRETCHES.0;
    std::iter::from_fn(move || {
        let start = next.filter(|next| *next <= last)?;
        next = Some(start + count);
        count = STRETCHES.1.min(count * 2);
        Some((start, last.min(next? - 1)))
    })
}

/// The text of a query for the first events of one user after an event, in a range of stretches.
///
/// An event names a user in one of two columns. Each column has its own index, and no event has the same user in both.
/// (`CROSS JOIN` makes SQLite iterate over its left side first.) The conditions are on the two columns' events.
///
/// The sequences of a stretch follow from its number. They are given so that PostgreSQL looks only into the partition that
/// has them, if the table has partitions.
macro_rules! events_of_user {
    ($if_first:literal, $if_other:literal) => {
        concat!(
            "WITH RECURSIVE stretches (number) AS ( \
                 SELECT ? UNION ALL SELECT number + 1 FROM stretches WHERE number < ? \
             ) SELECT events.sequence, time, batch_id, kind, cause, actor, actor_user_id, user_id, other_user_id, \
                 request_id, silenced, principal \
             FROM ( \
                 SELECT sequence FROM stretches CROSS JOIN events AS first \
                     WHERE first.stretch = number AND first.user_id = ? AND first.sequence > ? \
                         AND first.sequence BETWEEN number * 4096 AND number * 4096 + 4095 ",
            $if_first,
            " UNION ALL SELECT sequence FROM stretches CROSS JOIN events AS second \
                     WHERE second.stretch = number AND second.other_user_id = ? AND second.sequence > ? \
                         AND second.sequence BETWEEN number * 4096 AND number * 4096 + 4095 ",
            $if_other,
            " ORDER BY sequence LIMIT ? \
             ) AS found CROSS JOIN events WHERE events.sequence = found.sequence ORDER BY found.sequence"
        )
    };
}

/// The first events of one user after an event, in a range of stretches.
///
/// With `hidden` it leaves out what the user does not see: these kinds, and what
/// [`visible_event`](crate::domain::view::visible_event) says of causes and of silenced requests.
pub(super) fn of_user_in(
    (first, last): (i64, i64),
    (user, hidden): (i64, Option<&HiddenKinds>),
    after: i64,
    limit: i64,
) -> SharedStatement<EventsSql> {
    let text = match hidden {
        None => events_of_user!("", ""),
        Some(_) => events_of_user!(
            // Not `IN`, for which SQLite makes a table as soon as there is a row: that takes time, and would tell of it.
            "AND coalesce(first.cause, '') <> 'UNBLOCKED' \
             AND first.kind <> ? AND first.kind <> ? AND first.kind <> ? AND first.kind <> ?",
            "AND NOT second.silenced AND second.kind <> ? AND second.kind <> ? AND second.kind <> ?"
        ),
    };
    let kinds = hidden.map(|HiddenKinds { as_first, as_other }| [&as_first[..], &as_other[..]]).unwrap_or_default();
    let mut statement = Statement::new(text).bind::<BigInt, _>(first).bind::<BigInt, _>(last);
    for hidden in kinds {
        statement = statement.bind::<BigInt, _>(user).bind::<BigInt, _>(after);
        for kind in hidden {
            statement = statement.bind::<Text, _>(kind.name());
        }
    }
    statement.bind::<BigInt, _>(limit)
}

/// Returns the stretch of an event.
pub(super) fn stretch(sequence: Sequence) -> i64 {
    sequence.get() / STRETCH
}

/// Returns a random id for a batch. No two batches of any servers have the same.
pub(super) fn new_batch_id() -> i64 {
    Uuid::new_v4().as_u64_pair().0.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_the_searched_events_once() {
        for (after, until, oldest, first, last) in [
            (0, 1, 1, 0, 0),
            (0, 4_096, 1, 0, 1),
            (4_094, 4_096, 1, 0, 1),
            (4_095, 70_000, 5, 1, 17),
            (5, 70_000, 20_000, 4, 17),
            (5, 900_000_000, 6, 0, 219_726),
        ] {
            let found: Vec<_> = stretches(after, until, Some(oldest)).collect();
            assert_eq!((found[0].0, found[found.len() - 1].1), (first, last), "{after} {until}: {found:?}");
            assert!(found.iter().all(|(first, last)| first <= last && last - first < STRETCHES.1), "{found:?}");
            assert!(found.windows(2).all(|two| two[0].1 + 1 == two[1].0), "{found:?}");
        }
        assert_eq!(stretches(0, 900_000_000, Some(1)).take(3).collect::<Vec<_>>(), [(0, 15), (16, 47), (48, 111)]);
        for (after, until, oldest) in [(0, 0, None), (9, 9, Some(1)), (9, 3, Some(1)), (0, 9, Some(10)), (0, 9, None)] {
            let found: Vec<_> = stretches(after, until, oldest).collect();
            assert_eq!(found, [(0, 0)], "{after} {until} {oldest:?}");
        }
    }
}
