//! Migrates a database to the tables of this version.
//!
//! Safe when several servers start at the same time: the first migrates, the others wait.

use diesel::migration::{Migration, MigrationSource, MigrationVersion};
use diesel::prelude::*;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::ConnectError;

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The stamps of the migrations before the first release, of which one was made. (Diesel stores them without hyphens.)
const UNRELEASED: [&str; 3] = ["20261123", "20261124", "20261125000001"];

/// An arbitrary number that all servers agree on: "kith" in ASCII.
const LOCK: i64 = 0x6b69_7468;

/// What to do with pending migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Apply,
    Refuse,
}

pub(super) fn migrate_sqlite(conn: &mut SqliteConnection, pending: Pending) -> Result<usize, ConnectError> {
    if pending == Pending::Refuse {
        return run(conn, SQLITE, pending);
    }
    // Takes the write lock first: another server that starts at the same time waits here.
    conn.immediate_transaction(|conn| run(conn, SQLITE, pending))
}

pub(super) async fn migrate_postgres(mut conn: AsyncPgConnection, pending: Pending) -> Result<usize, ConnectError> {
    if pending == Pending::Apply {
        // Held until the connection is closed, at the end of this function.
        conn.batch_execute(&format!("SET lock_timeout = '60s'; SELECT pg_advisory_lock({LOCK})")).await?;
    }
    run(&mut AsyncMigrationHarness::new(conn), POSTGRES, pending)
}

/// Applies pending migrations, or refuses; returns the number of applied ones.
fn run<DB: diesel::backend::Backend>(
    harness: &mut impl MigrationHarness<DB>,
    source: EmbeddedMigrations,
    pending: Pending,
) -> Result<usize, ConnectError> {
    let known: Vec<MigrationVersion<'static>> = MigrationSource::<DB>::migrations(&source)
        .map_err(ConnectError::Migration)?
        .iter()
        .map(|migration| migration.name().version().as_owned())
        .collect();
    let applied = harness.applied_migrations().map_err(ConnectError::Migration)?;
    if applied.iter().any(|version| UNRELEASED.iter().any(|stamp| version.to_string().starts_with(stamp))) {
        return Err(ConnectError::Unreleased);
    }
    if let Some(newer) = applied.iter().find(|version| !known.contains(version)) {
        return Err(ConnectError::Newer(newer.to_string()));
    }
    let missing = known.len() - applied.len();
    if missing > 0 && pending == Pending::Refuse {
        return Err(ConnectError::Older(missing));
    }
    let done = harness.run_pending_migrations(source).map_err(ConnectError::Migration)?;
    Ok(done.len())
}
