//! What is stored about a user and is in none of the lists.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;

use super::{BlockRow, CountsRow};
use crate::domain::counts::SendWindow;
use crate::domain::id::UserId;
use crate::domain::pair::Ended;
use crate::domain::query::Record;
use crate::store::schema::{Stamp, cooldowns, ended_requests};

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = cooldowns, check_for_backend(Pg, Sqlite))]
pub(in crate::store) struct CooldownRow {
    from_user_id: i64,
    to_user_id: i64,
    since: Stamp,
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = ended_requests, check_for_backend(Pg, Sqlite))]
pub(in crate::store) struct EndedRow {
    from_user_id: i64,
    to_user_id: i64,
    since: Stamp,
    requests: i64,
}

/// A stored response, without what it says.
#[derive(Clone, Debug, Queryable)]
#[diesel(check_for_backend(Pg, Sqlite))]
pub(in crate::store) struct ResponseRow {
    caller: String,
    id: String,
    created: Stamp,
    actor_user_id: Option<i64>,
}

impl CooldownRow {
    /// The sender and the receiver.
    pub(in crate::store) fn key(&self) -> (i64, i64) {
        (self.from_user_id, self.to_user_id)
    }
}

impl From<CountsRow> for Record {
    fn from(row: CountsRow) -> Self {
        Self::Sends(SendWindow { since: row.sends_since.map(|Stamp(since)| since), count: row.sends })
    }
}

impl From<BlockRow> for Record {
    fn from(row: BlockRow) -> Self {
        Self::BlockOf { by: UserId::new(row.user_id), block: row.block() }
    }
}

impl From<CooldownRow> for Record {
    fn from(CooldownRow { from_user_id, to_user_id, since: Stamp(since) }: CooldownRow) -> Self {
        Self::Cooldown { from: UserId::new(from_user_id), to: UserId::new(to_user_id), since }
    }
}

impl From<EndedRow> for Record {
    fn from(EndedRow { from_user_id, to_user_id, since: Stamp(since), requests }: EndedRow) -> Self {
        let ended = Ended { since, count: requests };
        Self::Ended { from: UserId::new(from_user_id), to: UserId::new(to_user_id), ended }
    }
}

impl From<ResponseRow> for Record {
    fn from(ResponseRow { caller, id, created: Stamp(created), actor_user_id }: ResponseRow) -> Self {
        Self::Response { caller, id, created, actor: actor_user_id.map(UserId::new) }
    }
}
