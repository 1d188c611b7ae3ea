//! Does Kith work behind a pooler of sessions, and refuse one that shares them?

use kith::proto::v1::{self as pb, ErrorReason};
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::pgbouncer::PgBouncer;
use crate::harness::process::{Kith, run};
use crate::harness::{Database, Engine, database, invariants, postgres, refused, until};

/// The port of the tests' server; `None` if it is one that was given, which may have passwords.
fn server_port() -> Option<u16> {
    let server = postgres::server();
    if server.certificate.is_none() {
        println!("skipped: the given server may ask for a password");
        return None;
    }
    server.base.rsplit(':').next()?.trim_end_matches('/').parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_sessions_is_like_a_server() {
    let Some(port) = server_port() else { return };
    let pooler = PgBouncer::start(port, "pool_mode = session\ndefault_pool_size = 20");
    let database = Database::empty(Engine::Postgres).await;
    let url = pooler.url(database.name());
    let first = Kith::serve(&url, &[]).await;
    let second = Kith::serve(&url, &[]).await;
    let clients = first.clients();
    let (ann, bob) = (clients.user("ann").await, clients.user("bob").await);
    let mut watch = second.clients().watch(pb::WatchEventsRequest::default()).await;
    let id = clients.send(ann, bob).await;
    assert_eq!(watch.next_events().await.events[0].sequence, id);
    second.clients().accept(id, bob).await.expect("accepted");
    first.signal("TERM");
    let ended = first.wait().await;
    assert!(ended.status.success() && !ended.log.contains("cannot receive notifications"), "{ended:#?}");
    let again = Kith::serve(&url, &[]).await;
    let connections = pb::ListConnectionsRequest { user_id: ann, ..Default::default() };
    let listed = again.clients().connections().list_connections(connections).await.unwrap().into_inner();
    assert_eq!(listed.connections.len(), 1);
    let check = run(&["check", &format!("--database-url={url}")]).await;
    assert!(check.status.success(), "{check:#?}");
    assert_eq!(invariants::check(&database).await, id + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_shares_sessions_is_refused_and_left_as_it_was() {
    let Some(port) = server_port() else { return };
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nserver_round_robin = 1",
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = statement",
    ] {
        let pooler = PgBouncer::start(port, settings);
        let database = Database::migrated(Engine::Postgres).await;
        let url = pooler.url(database.name());
        if settings.contains("transaction") && !settings.contains("size") {
            // Two connections that are idle: another application's.
            let (one, other) = (database::connect(&url).await, database::connect(&url).await);
            for client in [&one, &other] {
                client.batch_execute("BEGIN").await.unwrap();
            }
            for client in [&one, &other] {
                client.batch_execute("COMMIT").await.unwrap();
            }
        }
        let argument = format!("--database-url={url}");
        for command in
            [&["serve", "--listen=127.0.0.1:0"][..], &["migrate"], &["check"], &["export"], &["restore-epoch"]]
        {
            let ended = run(&[command, &[&argument]].concat()).await;
            assert_eq!(ended.status.code(), Some(1), "{settings}: {ended:#?}");
            assert!(ended.log.contains("pool_mode=session"), "{settings}: {ended:#?}");
            assert!(!ended.log.contains("not there yet"), "{settings}: {ended:#?}");
        }
        // A setting of Kith in a shared connection would be one of the next application.
        let client = database::connect(&url).await;
        let rows = client.simple_query("SELECT current_setting('jit') || current_setting('statement_timeout')").await;
        let answer = format!("{:?}", rows.unwrap());
        assert!(answer.contains("on0"), "{settings}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_too_small_is_refused() {
    let Some(port) = server_port() else { return };
    let pooler = PgBouncer::start(port, "pool_mode = session\ndefault_pool_size = 1");
    let database = Database::migrated(Engine::Postgres).await;
    let url = format!("--database-url={}", pooler.url(database.name()));
    let ended = run(&["serve", "--listen=127.0.0.1:0", &url]).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.log.contains("too small") && ended.log.contains("pool_size"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_others_have_filled_costs_only_the_reads_that_need_a_new_session() {
    const SESSIONS: usize = 16;
    let Some(port) = server_port() else { return };
    let pooler = PgBouncer::start(port, &format!("pool_mode = session\ndefault_pool_size = {SESSIONS}"));
    let database = Database::migrated(Engine::Postgres).await;
    let url = pooler.url(database.name());
    let kith = Kith::serve(&url, &[]).await;
    let clients = kith.clients();
    let mut watch = clients.watch(pb::WatchEventsRequest::default()).await;
    let ann = clients.user("ann").await;
    assert_eq!(watch.next_events().await.events[0].user_id, ann);
    let mut others = JoinSet::new();
    for _ in 0..SESSIONS {
        let url = url.clone();
        others.spawn(async move {
            let client = database::connect(&url).await;
            client.simple_query("SELECT 1").await.expect("a session");
            std::future::pending::<()>().await;
        });
    }
    let sessions = format!(
        "SELECT count(*) AS value FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()",
        database.name()
    );
    until("a full pool", async || database.number(&sessions).await == SESSIONS as i64).await;

    // The first long read needs a session. What is open goes on.
    let list = async || clients.users().list_users(pb::ListUsersRequest::default()).await;
    refused(list().await, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    let bob = clients.user("bob").await;
    assert_eq!(watch.next_events().await.events[0].user_id, bob);
    assert!(!kith.log().contains("no primary of the database"), "{}", kith.log());
    drop(others);
    until("a list", async || list().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_pooler_refuses_is_told_in_its_words() {
    let Some(port) = server_port() else { return };
    let pooler = PgBouncer::start(port, "pool_mode = session");
    let database = Database::migrated(Engine::Postgres).await;
    let name = database.name();
    for (url, words) in [
        (format!("{}?options=-c%20geqo%3Doff", pooler.url(name)), "unsupported startup parameter: options"),
        (pooler.url("no_such_database"), "no_such_database"),
        (pooler.url(name).replace("postgres@", "nobody@"), "authentication failed"),
    ] {
        let ended = run(&["serve", "--listen=127.0.0.1:0", &format!("--database-url={url}")]).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        assert!(ended.log.contains(words) && !ended.log.contains("not there yet"), "{ended:#?}");
    }
}
