//! Reads that come at the same time share a snapshot: each sees the database as of one mark, which is read once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use diesel::connection::Connection as _;
use diesel::prelude::*;

use crate::domain::id::UserId;
use crate::domain::pair::Request;
use crate::store::row::{MarkRow, RequestRow, UserRow};
use crate::store::users::{EVENTS_MAX, KeptUsers, Mark};
use crate::store::{Listed, StoreError, Users, feed, query};

/// One read: what it does in the snapshot, or with the error why there is none.
pub(super) type Read = Box<dyn FnOnce(Result<&mut Reading<'_>, &StoreError>) + Send>;

/// A snapshot of the database.
pub(super) struct Reading<'a> {
    pub(super) conn: &'a mut SqliteConnection,
    pub(super) mark: Mark,
    kept: &'a KeptUsers,
}

/// Does all reads that wait in one snapshot.
pub(super) fn read_all(conn: &mut SqliteConnection, kept: &KeptUsers, waiting: &mut VecDeque<Read>) {
    let outcome = conn.transaction(|conn| {
        let mark = mark(conn)?;
        let mut reading = Reading { conn, mark, kept };
        while let Some(read) = waiting.pop_front() {
            read(Ok(&mut reading));
        }
        Ok(())
    });
    if let Err(error) = outcome {
        waiting.drain(..).for_each(|read| read(Err(&error)));
    }
}

fn mark(conn: &mut SqliteConnection) -> Result<Mark, StoreError> {
    let row: MarkRow = query::mark().first(conn)?;
    Ok(row.mark())
}

impl Reading<'_> {
    /// Those of the users that exist.
    pub(super) fn users(&mut self, ids: BTreeSet<UserId>) -> Result<Users, StoreError> {
        users(self.conn, self.kept, &self.mark, ids)
    }

    /// The requests with their users.
    pub(super) fn requests(
        &mut self,
        rows: Vec<RequestRow>,
        asked: Option<UserId>,
    ) -> Result<Listed<Request>, StoreError> {
        let rows = rows.into_iter().map(Request::try_from).collect::<Result<Vec<_>, _>>()?;
        let named = rows.iter().flat_map(|row| [row.from, row.to]).chain(asked).collect();
        Ok(Listed { revision: self.mark.revision, users: self.users(named)?, rows })
    }
}

/// Those of the users that exist, in a transaction that began at this mark: from memory as far as they are kept and
/// still true.
pub(super) fn users(
    conn: &mut SqliteConnection,
    kept: &KeptUsers,
    mark: &Mark,
    ids: BTreeSet<UserId>,
) -> Result<Users, StoreError> {
    if let Some((after, until)) = kept.behind(mark) {
        let oldest: Option<i64> = feed::oldest().first(conn).optional()?;
        let known = oldest.is_some_and(|oldest| oldest <= after.get() + 1);
        let changed = if known && until.get() - after.get() <= EVENTS_MAX {
            let ids: Vec<i64> = feed::users_changed(after.get(), until.get()).load(conn)?;
            Some(ids.into_iter().map(UserId::new).collect())
        } else {
            None
        };
        kept.catch_up(mark, after, changed);
    }
    let (mut found, missing) = kept.find(ids, mark);
    let mut read = Users::new();
    for id in missing {
        let row: Option<UserRow> = query::user(id.get()).first(conn).optional()?;
        if let Some(row) = row {
            read.insert(id, Arc::new(row.try_into()?));
        }
    }
    kept.keep(&read, mark);
    found.extend(read);
    Ok(found)
}
