//! A bulk load of a file that nobody else has open: see [`store::bulk`](crate::store::bulk).

use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::{load, save};
use crate::clock::Clock;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::id::UserId;
use crate::domain::ledger::{self, Changes, Head};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::store::bulk::{Begun, KnownUser, report_indexes};
use crate::store::clock::{DatabaseClock, Now};
use crate::store::feed::new_batch_id;
use crate::store::query::{self, KnownUserRow};
use crate::store::row::FeedRow;
use crate::store::seen::LastSeen;
use crate::store::users::UserCache;
use crate::store::writer::{Loaded, WriterState};
use crate::store::{KNOWN_USERS, StoreError};

/// Begins the transaction on an empty file.
///
/// A rollback journal has the pages that are overwritten, and an empty file has few. So each row is written once, and not
/// first to the log and then to the file. After a kill, the next connection finds the journal and undoes everything. The
/// cache of 128 MiB holds most of the pages that are written out of order: those of the unique keys.
const BEGIN_EMPTY: &str = "PRAGMA journal_mode = DELETE; PRAGMA cache_size = -131072; BEGIN IMMEDIATE;";
/// Begins the transaction on any other file. It is in the log until its end.
const BEGIN: &str = "PRAGMA cache_size = -65536; BEGIN IMMEDIATE;";
/// Before the indexes are made: SQLite sorts as much in memory as the cache may take.
const SORT: &str = "PRAGMA cache_size = -65536;";

/// A secondary index: its name, and the statement that makes it.
type Index = (String, String);

/// The users that are cached between two batches, in bytes of the writer's cache.
const CACHE: u64 = 64 << 20;

/// The transaction.
pub(in crate::store) struct SqliteBulk {
    conn: SqliteConnection,
    state: WriterState,
    clock: DatabaseClock,
    /// Those that were dropped.
    indexes: Vec<Index>,
}

impl SqliteBulk {
    /// Begins with a connection that no other one shares the file with.
    pub(in crate::store) fn begin(mut conn: SqliteConnection, clock: Clock) -> Result<(Self, Begun), StoreError> {
        let is_empty = query::head().first::<FeedRow>(&mut conn)?.head().head.sequence == Default::default();
        conn.batch_execute(if is_empty { BEGIN_EMPTY } else { BEGIN })?;
        let before = query::head().first::<FeedRow>(&mut conn)?.head();
        let clock = DatabaseClock::of_file(clock);
        let Now { time: now, may_sweep: _ } = clock.locked(&before.head, None);
        let caches = Metrics::default().caches;
        let users = Arc::new(UserCache::new(CACHE, &caches.users));
        let state = WriterState::new(CACHE, users, Arc::<LastSeen>::default(), &caches.writer);
        Ok((Self { conn, state, clock, indexes: Vec::new() }, Begun { before, now }))
    }

    pub(in crate::store) fn load_empty(&mut self) -> Result<(), StoreError> {
        let all =
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql LIKE 'CREATE INDEX%' ORDER BY rowid";
        self.indexes = sql::<(Text, Text)>(all).load(&mut self.conn)?;
        for (name, _) in &self.indexes {
            self.conn.batch_execute(&format!("DROP INDEX \"{name}\""))?;
        }
        Ok(())
    }

    pub(in crate::store) fn known_users(&mut self, after: UserId) -> Result<Vec<KnownUser>, StoreError> {
        let rows: Vec<KnownUserRow> = query::known_users(after.get(), KNOWN_USERS).load(&mut self.conn)?;
        Ok(rows.into_iter().map(KnownUserRow::known).collect())
    }

    pub(in crate::store) fn full_users(&mut self, limit: i64) -> Result<Vec<i64>, StoreError> {
        Ok(query::full_users(limit).load(&mut self.conn)?)
    }

    pub(in crate::store) fn save(&mut self, changes: &Changes) -> Result<(), StoreError> {
        save::save(&mut self.conn, changes, new_batch_id())
    }

    pub(in crate::store) fn run(&mut self, batch: &Batch) -> Result<(Vec<Result<Reply, Rejection>>, Head), StoreError> {
        let Loaded { before, snapshot } = load::load(&mut self.conn, &mut self.state, &self.clock, batch)?;
        let (replies, changes) = ledger::run(batch, snapshot);
        if !changes.is_empty(&before.head) {
            let batch_id = new_batch_id();
            save::save(&mut self.conn, &changes, batch_id)?;
            self.state.committed(&before, &changes, batch_id);
        }
        Ok((replies, changes.head))
    }

    pub(in crate::store) fn commit(&mut self, progress: &Progress) -> Result<(), StoreError> {
        let indexes = std::mem::take(&mut self.indexes);
        if !indexes.is_empty() {
            self.conn.batch_execute(SORT)?;
        }
        for (done, (name, make)) in indexes.iter().enumerate() {
            report_indexes(progress, done, indexes.len(), name);
            self.conn.batch_execute(make)?;
        }
        self.conn.batch_execute("COMMIT").map_err(|error| StoreError::OutcomeUnknown(error.into()))?;
        self.back_to_the_log()
    }

    pub(in crate::store) fn roll_back(&mut self) -> Result<(), StoreError> {
        self.conn.batch_execute("ROLLBACK")?;
        self.back_to_the_log()
    }

    /// Every connection does this when it opens the file. A server that only reads could not.
    fn back_to_the_log(&mut self) -> Result<(), StoreError> {
        Ok(self.conn.batch_execute("PRAGMA journal_mode = WAL")?)
    }
}
