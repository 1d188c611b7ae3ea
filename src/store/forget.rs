//! Finds and changes the events that name deleted users, for the sweep.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable};

use super::feed::{EventRow, EventsSql, STRETCH, of_user_in};
use super::schema::{Instant, Stamp};
use super::statement::{PgStatement, SharedStatement, SqliteStatement, Statement};
use super::{SWEEP_FORGET_LIMIT, SWEEP_FORGET_SEARCH};
use crate::domain::Time;
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::ForgetStep;

/// The number of stretches that one sweep searches for events of a deleted user.
const STRETCHES: i64 = 256;

/// What is known of the next deletion before its user's events are searched.
#[derive(Clone, Copy, Debug, Queryable)]
pub(super) struct NextDeletionRow {
    /// The last event that was examined.
    last: Option<i64>,
    deletion: Option<i64>,
    user: Option<i64>,
    /// The time of the deletion. If an error of the clock dated it in the future: of the next event that is not.
    since: Option<Stamp>,
    forgetting: i64,
    oldest: Option<i64>,
}

type NextDeletionSql =
    (Nullable<BigInt>, Nullable<BigInt>, Nullable<BigInt>, Nullable<Instant>, BigInt, Nullable<BigInt>);

/// Finds the first deletion among the next events that were not examined yet.
pub(super) fn next_deletion(now: Stamp) -> SharedStatement<NextDeletionSql> {
    let text = "WITH next AS MATERIALIZED ( \
                    SELECT sequence, time, kind, user_id FROM events \
                    WHERE sequence > (SELECT forgotten FROM feed WHERE feed.id = 1) ORDER BY sequence LIMIT ? \
                ), found AS ( \
                    SELECT max(sequence) AS last, min(CASE WHEN kind = 'USER_DELETED' THEN sequence END) AS deletion \
                    FROM next \
                ) SELECT last, deletion, (SELECT user_id FROM next WHERE sequence = deletion), \
                    (SELECT time FROM next WHERE sequence = \
                        (SELECT min(sequence) FROM next WHERE sequence >= deletion AND time <= ?)), \
                    forgetting, (SELECT min(sequence) FROM events) \
                FROM found CROSS JOIN feed WHERE feed.id = 1";
    Statement::new(text).bind::<BigInt, _>(SWEEP_FORGET_SEARCH).bind::<Instant, _>(now)
}

impl NextDeletionRow {
    /// Returns the search for events of the deleted user if the deletion is from `until` or before.
    pub(super) fn search(&self, until: Time) -> Option<Search> {
        let Self { last: _, deletion, user, since, forgetting, oldest } = *self;
        let (deletion, user) = (deletion?, user?);
        since.filter(|since| since.0 <= until)?;
        let first = (forgetting + 1).max(oldest?) / STRETCH;
        let last = (deletion / STRETCH).min(first + STRETCHES - 1);
        Some(Search { stretches: (first, last), user, after: forgetting, deletion })
    }

    /// Returns the step if there is nothing to forget now.
    pub(super) fn passed(&self) -> Option<ForgetStep> {
        let until = self.deletion.map_or(self.last, |deletion| Some(deletion - 1));
        until.map(|until| ForgetStep::Passed { until: Sequence::new(until), waits: self.deletion.is_some() })
    }
}

/// A search for events that name a deleted user.
pub(super) struct Search {
    stretches: (i64, i64),
    user: i64,
    after: i64,
    deletion: i64,
}

impl Search {
    /// The next events of the user, also of one who was created again with the same id.
    pub(super) fn query(&self) -> SharedStatement<EventsSql> {
        of_user_in(self.stretches, (self.user, None), self.after, SWEEP_FORGET_LIMIT)
    }

    /// Returns the step for the rows that were found.
    pub(super) fn step(&self, rows: &[EventRow]) -> ForgetStep {
        let Self { stretches: (_, last), user, after: _, deletion } = *self;
        let is_all = i64::try_from(rows.len()).is_ok_and(|found| found < SWEEP_FORGET_LIMIT);
        let end = if is_all { (last + 1) * STRETCH - 1 } else { rows.last().map_or(deletion, EventRow::sequence) };
        let named = rows.iter().map(EventRow::sequence).take_while(|sequence| *sequence <= deletion);
        ForgetStep::Deletion {
            event: Sequence::new(deletion),
            user: UserId::new(user),
            named: named.map(Sequence::new).collect(),
            searched: Sequence::new(end.min(deletion)),
        }
    }
}

/// Replaces the id of a deleted user in some events. Each `?` but the last is the id.
macro_rules! erase {
    ($which:literal) => {
        concat!(
            "UPDATE events SET user_id = CASE user_id WHEN ? THEN 0 ELSE user_id END, \
             other_user_id = CASE other_user_id WHEN ? THEN 0 ELSE other_user_id END, \
             actor_user_id = CASE actor_user_id WHEN ? THEN 0 ELSE actor_user_id END WHERE ",
            $which
        )
    };
}

/// Replaces the id of a deleted user by 0 in these events.
pub(super) fn erase_all<'a>(user: UserId, events: &[Sequence]) -> PgStatement<'a> {
    let events: Vec<_> = events.iter().map(|event| event.get()).collect();
    let id = user.get();
    let erase = PgStatement::new(erase!("sequence = ANY(?)")).bind::<BigInt, _>(id).bind::<BigInt, _>(id);
    erase.bind::<BigInt, _>(id).bind::<Array<BigInt>, _>(events)
}

/// Replaces the id of a deleted user by 0 in this event.
pub(super) fn erase_one<'a>(user: UserId, event: Sequence) -> SqliteStatement<'a> {
    let id = user.get();
    let erase = SqliteStatement::new(erase!("sequence = ?")).bind::<BigInt, _>(id).bind::<BigInt, _>(id);
    erase.bind::<BigInt, _>(id).bind::<BigInt, _>(event.get())
}
