//! Are migrations all or nothing, and can an operator see beforehand what they would do?

use std::fs;
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use crate::harness::process::{Kith, run};
use crate::harness::{App, Database, Engine, database, invariants, until};
use crate::on_each_engine;

/// The tables and indexes of a database.
async fn tables(database: &Database) -> Vec<Option<String>> {
    let query = match database.engine {
        Engine::Sqlite => "SELECT name AS value FROM sqlite_schema",
        Engine::Postgres => "SELECT tablename AS value FROM pg_tables WHERE schemaname = 'public'",
    };
    database.values(query).await
}

/// The columns of all tables.
async fn columns(database: &Database) -> Vec<Option<String>> {
    let mut columns = database
        .values(match database.engine {
            Engine::Sqlite => {
                "SELECT tables.name || '.' || columns.name AS value \
                 FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
            }
            Engine::Postgres => {
                "SELECT table_name || '.' || column_name AS value FROM information_schema.columns \
                 WHERE table_schema = 'public'"
            }
        })
        .await;
    columns.sort();
    columns
}

fn folder(engine: Engine) -> PathBuf {
    let name = if engine == Engine::Sqlite { "sqlite" } else { "postgres" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(name)
}

/// The names of the migrations, in order.
fn names(engine: Engine) -> Vec<String> {
    let entries = fs::read_dir(folder(engine)).expect("a folder");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("a folder").file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Takes a migration back as `docs/operations.md` says.
async fn take_back(database: &Database, name: &str) {
    let down = fs::read_to_string(folder(database.engine).join(name).join("down.sql")).expect("a file");
    let version = name.split('_').next().expect("a stamp").replace('-', "");
    let forget = format!("DELETE FROM __diesel_schema_migrations WHERE version = '{version}'");
    database.execute(&format!("BEGIN; {down}; {forget}; COMMIT")).await;
}

on_each_engine! {
    async fn a_migration_that_fails_leaves_nothing_behind(engine: Engine) {
        let database = Database::empty(engine).await;
        let url = format!("--database-url={}", database.url);
        // Not the first of the tables that the migration creates.
        database.execute("CREATE TABLE blocks (id integer)").await;
        for args in [&["migrate"][..], &["migrate", "--dry-run"], &["serve", "--listen=127.0.0.1:0"]] {
            let ended = run(&[args, &[&url]].concat()).await;
            assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
            assert!(ended.log.contains("a migration failed") && ended.log.contains("already exists"), "{ended:#?}");
            assert_eq!(tables(&database).await, [Some("blocks".to_owned())]);
        }
        database.execute("DROP TABLE blocks").await;
        assert!(run(&["migrate", &url]).await.status.success());
    }

    async fn migrations_can_be_listed_and_tried(engine: Engine) {
        let database = Database::empty(engine).await;
        let url = format!("--database-url={}", database.url);
        let status = async || run(&["migrate", "--status", &url]).await;
        let dry_run = async || run(&["migrate", "--dry-run", &url]).await;
        let pending = status().await;
        assert_eq!(pending.status.code(), Some(3), "{pending:#?}");
        let names: Vec<_> = pending.output.lines().filter_map(|line| line.strip_prefix("pending  ")).collect();
        assert!(names[0].ends_with("_kith") && names.len() == pending.output.lines().count(), "{pending:#?}");
        assert!(names.is_sorted(), "{names:?}");
        let all = |what: &str| names.iter().map(|name| format!("{what}  {name}\n")).collect::<String>();
        let tried = dry_run().await;
        assert_eq!((tried.status.code(), tried.output), (Some(0), all("would apply")));
        if engine == Engine::Sqlite {
            assert!(!fs::exists(database.path()).expect("a folder"));
            database.execute("CREATE TABLE other (id integer)").await;
        } else {
            assert_eq!(tables(&database).await, []);
            database.execute("CREATE TABLE other (id integer)").await;
        }
        assert_eq!(dry_run().await.output, all("would apply"));
        assert_eq!(tables(&database).await, [Some("other".to_owned())]);

        assert!(run(&["migrate", &url]).await.status.success());
        let applied = status().await;
        assert_eq!((applied.status.code(), applied.output), (Some(0), all("applied")));
        assert_eq!(dry_run().await.output, "no pending migrations\n");
    }

    async fn each_migration_can_be_taken_back_by_hand(engine: Engine) {
        let database = Database::migrated(engine).await;
        let server = Kith::serve(&database.url, &[]).await;
        let clients = server.clients();
        clients.connect(clients.user("ann").await, clients.user("bob").await).await;
        server.signal("TERM");
        assert!(server.wait().await.status.success());
        let (before, names) = (columns(&database).await, names(engine));
        // Newest first. The oldest one has all tables.
        for name in names[1..].iter().rev() {
            take_back(&database, name).await;
        }
        assert_ne!(columns(&database).await, before);
        let url = format!("--database-url={}", database.url);
        let status = run(&["migrate", "--status", &url]).await;
        assert_eq!(status.output.matches("pending").count(), names.len() - 1, "{status:#?}");
        assert!(run(&["migrate", &url]).await.status.success());
        assert_eq!(columns(&database).await, before);
        invariants::check(&database).await;
    }

    async fn users_of_before_have_the_newest_event_that_they_may_see(engine: Engine) {
        let app = App::start(engine).await;
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let sent = app.send(ann, bob).await;
        app.reject(sent, bob).await.expect("a rejection");
        let stored = "SELECT last_visible AS value FROM user_counts ORDER BY user_id";
        let before = app.database.values(stored).await;
        // Ann does not see the view and the rejection, and Bob made them.
        assert_eq!(before, [Some(sent.to_string()), Some((sent + 2).to_string())]);
        app.database.execute("ALTER TABLE user_counts DROP COLUMN last_visible").await;
        app.database.execute("DELETE FROM __diesel_schema_migrations WHERE version = '20261129000002'").await;
        let url = format!("--database-url={}", app.database.url);
        let migrated = run(&["migrate", &url]).await;
        assert!(migrated.status.success(), "{migrated:#?}");
        let after = app.database.values(stored).await;
        assert_eq!(after, before);
        let checked = run(&["check", &url]).await;
        assert!(checked.status.success(), "{checked:#?}");
    }

    async fn what_was_there_before_is_in_the_totals(engine: Engine) {
        let app = App::start(engine).await;
        let ids = [app.user("ann").await, app.user("bob").await, app.user("cy").await, app.user("dan").await];
        let [ann, bob, cy, dan] = ids;
        app.connect(ann, bob).await;
        app.send(ann, cy).await;
        app.send(ann, dan).await;
        app.reject(app.send(bob, cy).await, cy).await.expect("a rejection");
        app.block(dan, bob).await;
        app.block(dan, cy).await;
        app.send(bob, dan).await;
        let totals = ["users", "pending", "silenced", "rejected", "connected", "blocks"].map(|name| format!("total_{name}"));
        let stored = format!("SELECT {} AS value FROM feed", totals.join(" || ' ' || "));
        assert_eq!(app.database.values(&stored).await, [Some("4 2 1 1 1 2".to_owned())]);
        for column in totals {
            app.database.execute(&format!("ALTER TABLE feed DROP COLUMN {column}")).await;
        }
        app.database.execute("DELETE FROM __diesel_schema_migrations WHERE version = '20261130000001'").await;
        let url = format!("--database-url={}", app.database.url);
        let migrated = run(&["migrate", &url]).await;
        assert!(migrated.status.success(), "{migrated:#?}");
        assert_eq!(app.database.values(&stored).await, [Some("4 2 1 1 1 2".to_owned())]);
        let checked = run(&["check", &url]).await;
        assert!(checked.status.success(), "{checked:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_lock_by_a_transaction_and_only_if_any_is_pending() {
    let database = Database::empty(Engine::Postgres).await;
    let url = format!("--database-url={}", database.url);
    let other = database::connect(&database.url).await;
    other.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'6b697468'::bigint)").await.expect("a lock");
    let mut waiting = JoinSet::new();
    for _ in 0..2 {
        let url = url.clone();
        waiting.spawn(async move { run(&["migrate", &url]).await });
    }
    let waits = "SELECT count(*) AS value FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("both wait for the lock", async || database.number(waits).await == 2).await;
    other.batch_execute("COMMIT").await.expect("no lock");
    // The second one sees what the first one did while it waited.
    for ended in waiting.join_all().await {
        assert!(ended.status.success(), "{ended:#?}");
    }
    // Nothing is pending, so it does not wait.
    other.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'6b697468'::bigint)").await.expect("a lock");
    assert!(run(&["migrate", &url]).await.status.success());
}
