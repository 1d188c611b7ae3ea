//! The version and the compile-time options of SQLite.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use crate::store::{ConnectError, StoreError};

/// The first version without an error that can corrupt a file in WAL mode when two connections write and checkpoint it at
/// the same time. It is in all versions from 3.7.0 on.
const SOUND: [u32; 3] = [3, 51, 3];

/// The option that keeps SQLite from planning statements with a bound `LIMIT` again at each use.
const STABLE_PLANS: &str = "ENABLE_QPSG";

/// Returns an error if SQLite has the error that [`SOUND`] corrects.
///
/// The bundled version does not. A build with `LIBSQLITE3_SYS_USE_PKG_CONFIG` has that of the system.
pub(in crate::store) fn refuse_faulty() -> Result<(), ConnectError> {
    let conn = SqliteConnection::establish(":memory:");
    let mut conn = conn.map_err(|error| StoreError::Unavailable(error.into()))?;
    let version: String = diesel::select(sql::<Text>("sqlite_version()")).get_result(&mut conn)?;
    if is_sound(&version) { Ok(()) } else { Err(ConnectError::FaultySqlite(version)) }
}

fn is_sound(version: &str) -> bool {
    let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    numbers.is_ok_and(|numbers| numbers.as_slice() >= SOUND.as_slice())
}

/// Logs a warning if SQLite was compiled without the options of `.cargo/config.toml`.
///
/// Cargo reads that file only in builds from a checkout, not for `cargo install --git` or as a dependency.
pub(super) fn warn_if_slower(conn: &mut SqliteConnection) -> QueryResult<()> {
    if !is_compiled_with(conn, STABLE_PLANS)? {
        tracing::warn!(
            "SQLite was compiled without {STABLE_PLANS} and is slower; build Kith in a checkout of its repository, or set \
             LIBSQLITE3_FLAGS as .cargo/config.toml does"
        );
    }
    Ok(())
}

fn is_compiled_with(conn: &mut SqliteConnection, option: &str) -> QueryResult<bool> {
    diesel::select(sql::<Bool>(&format!("sqlite_compileoption_used('{option}')"))).get_result(conn)
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection;
    use diesel::sql_types::BigInt;

    use super::*;

    #[derive(QueryableByName)]
    struct Mapped {
        #[diesel(sql_type = BigInt)]
        mmap_size: i64,
    }

    #[expect(clippy::disallowed_methods, reason = "a pragma, run once")]
    fn mapped(conn: &mut SqliteConnection) -> i64 {
        diesel::sql_query("PRAGMA mmap_size").get_result::<Mapped>(conn).unwrap().mmap_size
    }

    #[test]
    fn readers_map_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kith.db").display().to_string().parse().unwrap();
        let mut conn = crate::store::sqlite::open(&file).unwrap();
        assert_eq!(mapped(&mut conn), 0, "the writer does not");
        conn.batch_execute(crate::store::sqlite::READER).unwrap();
        assert_eq!(mapped(&mut conn), 2_147_418_112);
    }

    #[test]
    fn the_bundled_version_is_sound_and_older_ones_are_refused() {
        refuse_faulty().unwrap();
        for (version, sound) in [
            ("3.51.2", false),
            ("3.51.3", true),
            ("3.7.17", false),
            ("3.52.0", true),
            ("4.0.0", true),
            ("3.51", false),
            ("3.53.2.1", true),
            ("", false),
            ("3.52.x", false),
        ] {
            assert_eq!(is_sound(version), sound, "{version}");
        }
    }

    #[test]
    fn a_build_from_a_checkout_has_stable_plans() {
        let mut conn = SqliteConnection::establish(":memory:").unwrap();
        assert!(is_compiled_with(&mut conn, STABLE_PLANS).unwrap());
        assert!(!is_compiled_with(&mut conn, "NO_SUCH_OPTION").unwrap());
    }
}
