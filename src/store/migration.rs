//! Migrates a database to the tables of this version.
//!
//! What was applied is read by a plain SELECT, which needs no right to create anything. All pending migrations are
//! applied in one transaction, so a failed one leaves nothing behind. The transaction begins with a lock: when several
//! servers start at the same time, the first migrates, and the others wait for it. The lock ends with the transaction,
//! so a pooler never passes it on.

use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::Bool;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::ConnectError;
use crate::progress::{Progress, Step};

/// The stamps of the migrations before the first release, of which one was made. (Diesel stores them without hyphens.)
const UNRELEASED: [&str; 3] = ["20261123", "20261124", "20261125000001"];

/// Begins the transaction that migrates.
///
/// The number of the lock is an arbitrary one that all servers agree on: "kith" in ASCII. A migration may take longer
/// than a statement of a call may.
const LOCK: &str = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0; \
                    SELECT pg_advisory_xact_lock(x'6b697468'::bigint);";

diesel::table! {
    /// The table in which Diesel records what was applied.
    __diesel_schema_migrations (version) {
        version -> Text,
    }
}

/// What to do with pending migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Apply them.
    Apply,
    /// Apply them and roll back.
    Try,
    /// Fail.
    Refuse,
    /// Only list them.
    List,
}

/// The migrations of this version, by name, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrations {
    /// Those that were applied before.
    pub applied: Vec<String>,
    /// Those that were pending.
    pub pending: Vec<String>,
}

/// The migrations of this version: the applied ones, and the pending ones.
type Found<DB> = (Vec<Box<dyn Migration<DB>>>, Vec<Box<dyn Migration<DB>>>);

/// A connection to migrate. Its methods are what differs between the engines.
pub(super) trait Migrating: Connection + MigrationHarness<Self::Backend> {
    const MIGRATIONS: EmbeddedMigrations;

    /// Whether the table of applied migrations exists.
    fn has_table(&mut self) -> QueryResult<bool>;

    /// Returns the versions of all applied migrations.
    fn versions(&mut self) -> QueryResult<Vec<String>>;

    /// Runs a transaction during which nobody else migrates.
    fn locked<T>(&mut self, job: impl FnOnce(&mut Self) -> Result<T, ConnectError>) -> Result<T, ConnectError>;
}

impl Migrating for SqliteConnection {
    const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

    fn has_table(&mut self) -> QueryResult<bool> {
        let exists = "EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '__diesel_schema_migrations')";
        diesel::select(sql::<Bool>(exists)).get_result(self)
    }

    fn versions(&mut self) -> QueryResult<Vec<String>> {
        __diesel_schema_migrations::table.select(__diesel_schema_migrations::version).load(self)
    }

    fn locked<T>(&mut self, job: impl FnOnce(&mut Self) -> Result<T, ConnectError>) -> Result<T, ConnectError> {
        self.immediate_transaction(job)
    }
}

/// A connection to PostgreSQL that a thread waits for. It must not be one of the runtime's own.
pub(super) type Blocking = AsyncConnectionWrapper<AsyncPgConnection>;

impl Migrating for Blocking {
    const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

    fn has_table(&mut self) -> QueryResult<bool> {
        // Not by to_regclass: within a transaction it may still say what it said before another server migrated.
        let exists = "EXISTS (SELECT 1 FROM pg_class WHERE relname = '__diesel_schema_migrations' \
                      AND pg_table_is_visible(oid))";
        diesel::select(sql::<Bool>(exists)).get_result(self)
    }

    fn versions(&mut self) -> QueryResult<Vec<String>> {
        __diesel_schema_migrations::table.select(__diesel_schema_migrations::version).load(self)
    }

    fn locked<T>(&mut self, job: impl FnOnce(&mut Self) -> Result<T, ConnectError>) -> Result<T, ConnectError> {
        self.transaction(|conn| {
            conn.batch_execute(LOCK)?;
            job(conn)
        })
    }
}

/// Finds the pending migrations, and does with them what `pending` says.
pub(super) fn migrate<C: Migrating>(
    conn: &mut C,
    pending: Pending,
    progress: &Progress,
) -> Result<Migrations, ConnectError> {
    let found = found(conn)?;
    match pending {
        Pending::Refuse if !found.1.is_empty() => Err(ConnectError::Older(found.1.len())),
        // Without a lock: most starts find nothing to do, and may not be allowed to do anything.
        Pending::Apply | Pending::Try if !found.1.is_empty() => apply(conn, pending, progress),
        Pending::Apply | Pending::Try | Pending::Refuse | Pending::List => Ok(names(&found)),
    }
}

/// Applies what is still pending once the lock is held.
fn apply<C: Migrating>(conn: &mut C, pending: Pending, progress: &Progress) -> Result<Migrations, ConnectError> {
    let mut applied = Migrations::default();
    let ended = conn.locked(|conn| {
        let found = found(conn)?;
        if !found.1.is_empty() {
            // Creates the table in which they are recorded.
            conn.applied_migrations().map_err(ConnectError::Migration)?;
            for (done, migration) in (0..).zip(&found.1) {
                let (doing, total) = (migration.name().to_string().into(), found.1.len().try_into().ok());
                progress.report(Step { phase: "migrating", unit: "migrations", done, current: 1, total, doing });
                conn.run_migration(migration).map_err(ConnectError::Migration)?;
            }
        }
        applied = names(&found);
        if pending == Pending::Try { Err(DieselError::RollbackTransaction.into()) } else { Ok(()) }
    });
    match ended {
        Err(ConnectError::Store(_)) if pending == Pending::Try && applied != Migrations::default() => Ok(applied),
        ended => ended.map(|()| applied),
    }
}

/// Compares the migrations of this version with the applied ones.
fn found<C: Migrating>(conn: &mut C) -> Result<Found<C::Backend>, ConnectError> {
    let versions = if conn.has_table()? { conn.versions()? } else { Vec::new() };
    if versions.iter().any(|version| UNRELEASED.iter().any(|stamp| version.starts_with(stamp))) {
        return Err(ConnectError::Unreleased);
    }
    let mut known = MigrationSource::<C::Backend>::migrations(&C::MIGRATIONS).map_err(ConnectError::Migration)?;
    known.sort_by_key(|migration| migration.name().version().as_owned());
    let (applied, pending): Found<C::Backend> =
        known.into_iter().partition(|migration| versions.contains(&migration.name().version().to_string()));
    let is_known =
        |version: &&String| applied.iter().any(|migration| migration.name().version().to_string() == **version);
    match versions.iter().find(|version| !is_known(version)) {
        Some(newer) => Err(ConnectError::Newer(newer.clone())),
        None => Ok((applied, pending)),
    }
}

fn names<DB: diesel::backend::Backend>((applied, pending): &Found<DB>) -> Migrations {
    let names = |of: &[Box<dyn Migration<DB>>]| of.iter().map(|migration| migration.name().to_string()).collect();
    Migrations { applied: names(applied), pending: names(pending) }
}
