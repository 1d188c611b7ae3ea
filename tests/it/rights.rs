//! Does each role of `kith migrate --print-roles` have the rights that it needs, and no more?

use std::sync::{Mutex, OnceLock, PoisonError};

use chrono::TimeDelta;
use kith::domain::policy::Policy;
use kith::proto::v1 as pb;
use tokio_postgres::error::SqlState;

use crate::harness::app::options;
use crate::harness::postgres::Own;
use crate::harness::process::{Ended, Kith, run};
use crate::harness::{App, Database, Engine, database, invariants};
use crate::read_only::{prepare, refuses_writes, serves_reads, write_all};

/// A server of its own for these tests: roles belong to all databases of a server.
pub fn server() -> &'static Own {
    static SERVER: OnceLock<Own> = OnceLock::new();
    SERVER.get_or_init(Own::start)
}

pub async fn script() -> String {
    let printed = run(&["migrate", "--print-roles"]).await;
    assert!(printed.status.success(), "{printed:#?}");
    printed.output
}

/// Runs the script in a database. Not concurrently: each run may create the roles.
pub fn apply(script: &str, user: &str, database: &str) {
    static RUNNING: Mutex<()> = Mutex::new(());
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    server().psql(user, database, script).expect("roles");
}

/// A database with the roles and the tables, made as the documents say.
pub async fn set_up(name: &str) {
    database::execute(&server().server.url("postgres"), &format!("CREATE DATABASE {name}")).await;
    let script = script().await;
    apply(&script, "postgres", name);
    succeeds(&kith(&["migrate"], "kith_migrate", name).await);
    apply(&script, "postgres", name);
    apply(&script, "postgres", name);
}

pub fn url(user: &str, database: &str) -> String {
    server().server.url_of(user, database)
}

/// Runs a `kith` as this user.
pub async fn kith(args: &[&str], user: &str, database: &str) -> Ended {
    run(&[args, &[&format!("--database-url={}", url(user, database))]].concat()).await
}

#[track_caller]
pub fn succeeds(ended: &Ended) {
    assert!(ended.status.success(), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_can_do_what_it_is_for() {
    set_up("each_role").await;
    let database = Database::at(&url("postgres", "each_role"), Engine::Postgres);
    // Migrations are on, and none is pending.
    let writer = Kith::serve(&url("kith_serve", "each_role"), &[]).await;
    let prepared = prepare(&writer.clients()).await;
    for (rpc, written) in write_all(&writer.clients(), &prepared).await {
        written.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
    }
    let revision = invariants::check(&database).await;
    let reader = Kith::serve(&url("kith_read", "each_role"), &["--read-only"]).await;
    for clients in [writer.clients(), reader.clients()] {
        clients.watch(pb::WatchEventsRequest::default()).await;
        clients.list_events(pb::ListEventsRequest::default()).await;
    }
    refuses_writes(&reader.clients(), &prepared).await;
    succeeds(&kith(&["check"], "kith_read", "each_role").await);
    succeeds(&kith(&["export"], "kith_read", "each_role").await);
    succeeds(&kith(&["migrate", "--status"], "kith_read", "each_role").await);
    database.execute("UPDATE user_counts SET connections = 7 WHERE user_id = 6").await;
    let repaired = kith(&["check", "--repair"], "kith_serve", "each_role").await;
    assert!(repaired.status.success() && repaired.output.contains("counts repaired: 1; "), "{repaired:#?}");
    assert_eq!(invariants::check(&database).await, revision);
    for server in [writer, reader] {
        server.signal("TERM");
        succeeds(&server.wait().await);
    }
    succeeds(&kith(&["restore-epoch"], "kith_serve", "each_role").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_that_serves_may_sweep() {
    set_up("sweeps").await;
    let url = url("kith_serve", "sweeps");
    let app = App::at(Database::at(&url, Engine::Postgres), &url, options(), |_| {}).await;
    let prepared = prepare(&app).await;
    write_all(&app, &prepared).await;
    // The first sweep after a leap deletes nothing, and a later one everything.
    app.clock.advance(TimeDelta::days(400));
    let forgetful = Policy { forget_after: Some(TimeDelta::hours(1)), event_retention: None, ..Policy::default() };
    let mut rows = 0;
    for _ in 0..3 {
        rows += app.swept(forgetful.clone()).await;
        app.clock.advance(TimeDelta::hours(2));
    }
    assert!(rows > 0);
    assert!(app.database.number("SELECT count(*) AS value FROM events WHERE user_id = 0").await > 0);
    for table in ["request_ids", "cooldowns"] {
        assert_eq!(app.database.number(&format!("SELECT count(*) AS value FROM {table}")).await, 0, "{table}");
    }
}

/// Asserts that the role lacks the right for each of these statements.
pub async fn may_not(user: &str, name: &str, statements: &[&str]) {
    let client = database::connect(&url(user, name)).await;
    // Even if it wants to write.
    client.batch_execute("SET default_transaction_read_only = off").await.expect("a setting");
    for statement in statements {
        let refusal = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(refusal.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{user}: {statement}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_role_can_do_more() {
    set_up("no_more").await;
    let structure = [
        "CREATE TABLE more (id bigint)",
        "CREATE TEMPORARY TABLE more (id bigint)",
        "CREATE SCHEMA more",
        "ALTER TABLE users ADD COLUMN more text",
        "DROP TABLE blocks",
        "DROP VIEW connections",
        "TRUNCATE events",
        "CREATE INDEX ON events (time)",
        "INSERT INTO __diesel_schema_migrations (version) VALUES ('1')",
        "DELETE FROM __diesel_schema_migrations",
        "INSERT INTO feed SELECT * FROM feed",
        "DELETE FROM feed",
        "UPDATE events SET batch_id = 1",
        "SET ROLE kith_migrate",
    ];
    may_not("kith_serve", "no_more", &structure).await;
    may_not("kith_read", "no_more", &structure).await;
    let rows = [
        "INSERT INTO user_counts (user_id) VALUES (1)",
        "UPDATE feed SET epoch = ''",
        "SELECT * FROM feed FOR UPDATE",
        "DELETE FROM events",
    ];
    may_not("kith_read", "no_more", &rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_later_migrations_are_covered() {
    set_up("later").await;
    database::execute(&url("kith_migrate", "later"), "CREATE TABLE later (id bigint)").await;
    let rows = "INSERT INTO later VALUES (1); UPDATE later SET id = 2; DELETE FROM later";
    database::execute(&url("kith_serve", "later"), rows).await;
    database::execute(&url("kith_read", "later"), "SELECT * FROM later").await;
    may_not("kith_read", "later", &["INSERT INTO later VALUES (1)"]).await;
    may_not("kith_serve", "later", &["DROP TABLE later"]).await;
}

/// On a server of its own, where the owner of the database makes the roles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_can_give_the_tables_that_they_made_to_the_roles() {
    let own = Own::start();
    let url = |user: &str| own.server.url_of(user, "kith");
    database::execute(&own.server.url("postgres"), "CREATE ROLE owner LOGIN CREATEROLE").await;
    database::execute(&own.server.url("postgres"), "CREATE DATABASE kith OWNER owner").await;
    let database = |user: &str| format!("--database-url={}", url(user));
    succeeds(&run(&["migrate", &database("owner")]).await);
    own.psql("owner", "kith", &script().await).expect("roles");
    let server = Kith::serve(&url("kith_serve"), &[]).await;
    prepare(&server.clients()).await;
    serves_reads(&server.clients(), 1).await;
    let others = "SELECT count(*) AS value FROM pg_tables WHERE schemaname = 'public' AND tableowner <> 'kith_migrate'";
    assert_eq!(Database::at(&url("owner"), Engine::Postgres).number(others).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes_is_refused_in_words() {
    set_up("refused").await;
    let admin = url("postgres", "refused");
    let refusal = async |user: &str, words: &[&str]| {
        let ended = kith(&["serve", "--listen=127.0.0.1:0"], user, "refused").await;
        assert!(!ended.status.success(), "{ended:#?}");
        for word in words.iter().chain(&["the database cannot be written", "`kith serve --read-only`"]) {
            assert!(ended.log.contains(word), "no {word:?} in {ended:#?}");
        }
    };
    let role = "role kith_read may not UPDATE feed";
    refusal("kith_read", &["default_transaction_read_only is on", role]).await;
    database::execute(&admin, "ALTER ROLE kith_read IN DATABASE refused RESET default_transaction_read_only").await;
    refusal("kith_read", &[role]).await;
    database::execute(&admin, "REVOKE INSERT ON users FROM kith_serve").await;
    refusal("kith_serve", &["role kith_serve may not INSERT into users"]).await;
    database::execute(&admin, "GRANT INSERT ON users TO kith_serve").await;
    database::execute(&admin, "ALTER DATABASE refused SET default_transaction_read_only = on").await;
    refusal("kith_serve", &["default_transaction_read_only is on"]).await;
    // Without the flag nothing can be written, and with it everything can be read.
    let reader = Kith::serve(&url("kith_serve", "refused"), &["--read-only"]).await;
    reader.clients().list_events(pb::ListEventsRequest::default()).await;
}
