//! Does a server leave plans to Citus? The extension itself is not there: only its name is.

use crate::harness::process::Kith;
use crate::harness::{Database, Engine};

/// Notes how the statements of commits are planned.
const TRIGGER: &str = "CREATE TABLE modes (mode text); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN INSERT INTO modes VALUES (current_setting('plan_cache_mode')); RETURN NULL; END $$; \
    CREATE TRIGGER note AFTER UPDATE ON feed FOR EACH ROW EXECUTE FUNCTION note()";

/// Makes the catalogue name an extension that is not installed.
const CITUS: &str = "SET allow_system_table_mods = on; INSERT INTO pg_extension \
    SELECT 99999, 'citus', 10, oid, false, '12.1', NULL, NULL FROM pg_namespace WHERE nspname = 'public'";

async fn modes(setup: &str) -> Vec<Option<String>> {
    let database = Database::migrated(Engine::Postgres).await;
    database.execute(TRIGGER).await;
    database.execute(setup).await;
    let kith = Kith::serve(&database.url, &[]).await;
    kith.clients().create(1).await.expect("a user");
    kith.clients().create(2).await.expect("a user");
    database.values("SELECT DISTINCT mode AS value FROM modes").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_planned_once_but_on_citus() {
    assert_eq!(modes("SELECT 1").await, [Some("force_generic_plan".to_owned())]);
    assert_eq!(modes(CITUS).await, [Some("auto".to_owned())]);
}
