//! The compile-time options of the bundled SQLite.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Bool;

/// The option that keeps SQLite from planning statements with a bound `LIMIT` again at each use.
const STABLE_PLANS: &str = "ENABLE_QPSG";

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
    use super::*;

    #[test]
    fn a_build_from_a_checkout_has_stable_plans() {
        let mut conn = SqliteConnection::establish(":memory:").unwrap();
        assert!(is_compiled_with(&mut conn, STABLE_PLANS).unwrap());
        assert!(!is_compiled_with(&mut conn, "NO_SUCH_OPTION").unwrap());
    }
}
