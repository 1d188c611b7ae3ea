//! A bulk load of a database that no server uses: see [`store::bulk`](crate::store::bulk).

use std::sync::Arc;

use diesel::sql_types::Text;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::load;
use super::save;
use crate::clock::Clock;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::epoch::{EpochChange, Lineage};
use crate::domain::id::UserId;
use crate::domain::ledger::{self, Changes, Head};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::store::bulk::{Begun, KnownUser, report_indexes};
use crate::store::clock::{DatabaseClock, Now};
use crate::store::epoch::new_epoch;
use crate::store::feed::new_batch_id;
use crate::store::postgres::config::PostgresConfig;
use crate::store::postgres::current_time;
use crate::store::postgres::kind::warn_if_unknown;
use crate::store::postgres::role::{Role, open_primary};
use crate::store::query::{self, KnownUserRow};
use crate::store::row::{FeedHead, FeedRow};
use crate::store::seen::LastSeen;
use crate::store::statement::PgStatement;
use crate::store::users::UserCache;
use crate::store::writer::{Loaded, WriterState};
use crate::store::{KNOWN_USERS, StoreError};

/// Begins the transaction and locks the head. An import waits for its files, and an index takes as long as it takes.
const BEGIN: &str = "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0;";

/// The indexes of tables that this role may alter, in the order of the migrations: the name of each, and the statements that
/// drop and make it.
///
/// Of requests and events, which are many, also those of their keys: finding the place of each value in an index that is
/// larger than memory takes longer than all else. Other keys find rows during the load. A table with partitions keeps its
/// indexes: a key of it cannot be made from an index.
const INDEXES: &str = "SELECT quote_ident(made.relname), \
    CASE WHEN rule.oid IS NULL THEN format('DROP INDEX %s', indexrelid::regclass) \
         ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', indrelid::regclass, conname) END, \
    pg_get_indexdef(indexrelid) || CASE WHEN rule.oid IS NULL THEN '' \
         ELSE format('; ALTER TABLE %s ADD CONSTRAINT %I %s USING INDEX %I', indrelid::regclass, conname, \
                     CASE contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, conname) END \
    FROM pg_index JOIN pg_class AS made ON made.oid = indexrelid JOIN pg_class AS indexed ON indexed.oid = indrelid \
    LEFT JOIN pg_constraint AS rule ON rule.conindid = indexrelid AND rule.contype IN ('p', 'u') \
    WHERE pg_table_is_visible(indrelid) AND pg_has_role(indexed.relowner, 'USAGE') \
          AND indexed.relkind = 'r' \
          AND (indexed.relname IN ('connection_requests', 'events') \
               OR NOT indisunique AND indexed.relname IN ('users', 'user_counts', 'blocks', 'cooldowns', \
                                                          'ended_requests', 'request_ids')) \
    ORDER BY indexrelid";

/// The users that are cached between two batches, in bytes of the writer's cache.
const CACHE: u64 = 64 << 20;

/// An index: its name, and the statements that drop and make it.
type Index = (String, String, String);

/// The transaction.
pub(in crate::store) struct PostgresBulk {
    conn: AsyncPgConnection,
    lineage: Option<Lineage>,
    state: WriterState,
    clock: DatabaseClock,
    /// The head that the last save left: the next one fails if it is another.
    head: FeedHead,
    /// Those that were dropped.
    indexes: Vec<Index>,
}

impl PostgresBulk {
    pub(in crate::store) async fn begin(config: &PostgresConfig, clock: Clock) -> Result<(Self, Begun), StoreError> {
        let (mut conn, lineage) = open_primary(config, Role::Writer).await?;
        warn_if_unknown(lineage);
        conn.batch_execute(BEGIN).await?;
        conn.batch_execute(super::LOCK).await?;
        let mut before = query::head().first::<FeedRow>(&mut conn).await?.head();
        if let Some(change) = EpochChange::of(before.lineage, lineage, before.head.sequence, new_epoch) {
            save::save_epoch(&conn, &before, &change).await?;
            before.change_epoch(&change);
        }
        let time = current_time(&conn).await?;
        let clock = DatabaseClock::of_server(clock, time);
        let Now { time: now, may_sweep: _ } = clock.locked(&before.head, Some(time));
        let caches = Metrics::default().caches;
        let users = Arc::new(UserCache::new(CACHE, &caches.users));
        let state = WriterState::new(CACHE, users, Arc::<LastSeen>::default(), &caches.writer);
        let begun = Begun { before: before.clone(), now };
        Ok((Self { conn, lineage, state, clock, head: before, indexes: Vec::new() }, begun))
    }

    pub(in crate::store) async fn load_empty(&mut self) -> Result<(), StoreError> {
        self.indexes = PgStatement::<(Text, Text, Text)>::new(INDEXES).load(&mut self.conn).await?;
        if self.indexes.is_empty() {
            tracing::warn!(
                "this role does not own the tables; rows are written with their indexes, which takes longer"
            );
        }
        for (_, drop, _) in &self.indexes {
            self.conn.batch_execute(drop).await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn known_users(&mut self, after: UserId) -> Result<Vec<KnownUser>, StoreError> {
        let rows: Vec<KnownUserRow> = query::known_users(after.get(), KNOWN_USERS).load(&mut self.conn).await?;
        Ok(rows.into_iter().map(KnownUserRow::known).collect())
    }

    pub(in crate::store) async fn full_users(&mut self, limit: i64) -> Result<Vec<i64>, StoreError> {
        Ok(query::full_users(limit).load(&mut self.conn).await?)
    }

    pub(in crate::store) async fn save(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let batch_id = new_batch_id();
        save::save(&self.conn, &self.head, changes, batch_id).await?;
        self.head = FeedHead { head: changes.head, batch_id, ..self.head.clone() };
        Ok(())
    }

    pub(in crate::store) async fn run(
        &mut self,
        batch: &Batch,
    ) -> Result<(Vec<Result<Reply, Rejection>>, Head), StoreError> {
        let Loaded { before, snapshot } =
            load::load_locked((&self.conn, self.lineage), &mut self.state, &self.clock, batch).await?;
        let (replies, changes) = ledger::run(batch, snapshot);
        if !changes.is_empty(&before.head) {
            let batch_id = new_batch_id();
            save::save(&self.conn, &before, &changes, batch_id).await?;
            self.state.committed(&before, &changes, batch_id);
            self.head = FeedHead { head: changes.head, batch_id, ..before };
        }
        Ok((replies, changes.head))
    }

    pub(in crate::store) async fn commit(&mut self, progress: &Progress) -> Result<(), StoreError> {
        let indexes = std::mem::take(&mut self.indexes);
        for (done, (name, _, make)) in indexes.iter().enumerate() {
            report_indexes(progress, done, indexes.len(), name);
            self.conn.batch_execute(make).await?;
        }
        let committed = self.conn.batch_execute("COMMIT").await;
        committed.map_err(|error| StoreError::OutcomeUnknown(error.into()))
    }

    pub(in crate::store) async fn roll_back(&mut self) -> Result<(), StoreError> {
        Ok(self.conn.batch_execute("ROLLBACK").await?)
    }
}
