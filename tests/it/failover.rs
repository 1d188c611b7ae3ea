//! What servers do when another PostgreSQL server becomes the primary, and what they do until one is.

use std::time::Duration;

use futures_util::future::join_all;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store::Options;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::app::options;
use crate::harness::clients::Clients;
use crate::harness::daemon::free_port;
use crate::harness::database::execute;
use crate::harness::openmetrics::scrape;
use crate::harness::process::{Kith, command};
use crate::harness::replicated::{Node, urls};
use crate::harness::switch::Switch;
use crate::harness::{App, Database, Engine, refused, until};
use crate::waiting::{SERVICE, health};

const WRITABLE: &str = "&target_session_attrs=read-write";
const USERS: &str = "(SELECT count(*) FROM users)";
/// The connections of a server, but for those over which it looks at its hosts.
const SESSIONS: &str = "(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kith' \
                        AND query NOT LIKE 'SELECT pg_is_in_recovery()%')";

async fn pair() -> (Node, Node) {
    let primary = Node::primary().await;
    let standby = primary.standby().await;
    (primary, standby)
}

/// Whether a user could be created, now or by an earlier attempt.
async fn creates(clients: &Clients, id: i64) -> bool {
    match timeout(Duration::from_secs(1), clients.create(id)).await {
        Ok(created) => {
            created.is_ok() || clients.create(id).await.is_err_and(|status| status.code() == Code::AlreadyExists)
        }
        Err(_) => false,
    }
}

async fn serves(kith: &Kith) -> bool {
    health(kith.channel(), SERVICE).await == Some(ServingStatus::Serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_first_host_holds_up_nobody() {
    let (silent, primary) = (Node::primary().await, Node::primary().await);
    silent.freeze();
    // An attempt at the first host ends never.
    let kith = Kith::serve(&urls(&[&silent, &primary], &format!("&connect_timeout=0{WRITABLE}")), &[]).await;
    kith.clients().create(1).await.expect("a user");
    assert_eq!(primary.value(USERS).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_during_a_failover_waits_for_its_end() {
    let (mut old, new) = pair().await;
    old.wait_for(&new).await;
    old.kill();
    let address = format!("127.0.0.1:{}", free_port());
    let database = format!("--database-url={}", urls(&[&old, &new], WRITABLE));
    let kith = Kith::start_early(command(&["serve", "--listen", &address, &database]), address);
    until("a report", async || kith.log().contains("the database is not there yet")).await;
    assert!(kith.log().contains("refused") && kith.log().contains("the server takes no writes"), "{}", kith.log());
    new.promote().await;
    until("health", async || serves(&kith).await).await;
    kith.clients().create(1).await.expect("a user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_primary_that_thaws_receives_no_write() {
    let (old, new) = pair().await;
    let url = urls(&[&old, &new], WRITABLE);
    let kith = Kith::serve(&url, &[]).await;
    let clients = kith.clients();
    clients.create(1).await.expect("a user");
    let mut watching = clients.watch(pb::WatchEventsRequest::default()).await;
    old.wait_for(&new).await;
    old.freeze();
    // It waits for the old primary.
    let waiting = tokio::spawn({
        let clients = kith.fresh_clients();
        async move { clients.create(2).await }
    });
    new.promote().await;
    until("writes", async || creates(&clients, 3).await).await;
    _ = waiting.await.expect("an end");
    old.thaw();
    for id in 4..24 {
        clients.create(id).await.expect("a user");
    }
    assert_eq!(watching.next_events().await.events[0].kind(), pb::EventKind::UserCreated);
    until("the end of its sessions", async || old.value(SESSIONS).await == "0").await;

    // Both take writes now. A server that starts takes the newer one, though it comes second.
    let other = Kith::serve(&url, &[]).await;
    other.clients().create(24).await.expect("a user");
    assert_eq!((old.value(USERS).await.as_str(), old.timeline().await, new.timeline().await), ("1", 1, 2));
    assert_eq!(new.value("(SELECT count(*) FROM users WHERE id > 2)").await, "22");
    let log = kith.log();
    assert!(log.contains("another server is the primary now") && log.contains("timeline=2 former=1"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_the_timeline_of_a_connection_shows_a_former_primary() {
    let (old, new) = pair().await;
    let proxy = Switch::to(old.port).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/kith?sslmode=disable", proxy.port);
    let kith = Kith::serve(&url, &[]).await;
    let clients = kith.clients();
    clients.create(1).await.expect("a user");
    old.wait_for(&new).await;
    new.promote().await;
    proxy.turn_to(new.port);
    // One connection is lost, and replaced by one to the other server. All others follow.
    let listener = "(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%')";
    assert_eq!(old.value(listener).await, "true");
    until("the end of its sessions", async || old.value(SESSIONS).await == "0").await;
    for id in 2..9 {
        clients.create(id).await.expect("a user");
    }

    // The proxy is wrong: nothing is written to the former primary.
    proxy.turn_to(old.port);
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kith'";
    execute(&new.url(), all).await;
    until("a refusal", async || clients.create(9).await.is_err()).await;
    refused(clients.create(9).await, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    until("the cause", async || kith.log().contains("a former primary: its timeline is 1")).await;
    proxy.turn_to(new.port);
    until("writes", async || creates(&clients, 9).await).await;
    assert_eq!((old.value(USERS).await.as_str(), new.value(USERS).await.as_str()), ("1", "9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_leads_to_another_primary_is_noticed_while_no_connection_is_lost() {
    let (old, new) = pair().await;
    let proxy = Switch::to(old.port).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/kith?sslmode=disable", proxy.port);
    let options = Options { readers: 2, single_host_check: Duration::from_millis(50), ..options() };
    let app = App::at(Database::at(&url, Engine::Postgres), &url, options, |_| {}).await;
    let mut watching = app.watch(pb::WatchEventsRequest::default()).await;
    app.create(1).await.expect("a user");
    watching.next_events().await;
    app.counts(1).await;
    app.users().list_users(pb::ListUsersRequest::default()).await.expect("a list");
    // With the listener these are all: nothing needs a new one.
    until("all connections", async || old.value(SESSIONS).await == "5").await;
    old.wait_for(&new).await;
    new.promote().await;
    proxy.turn_to(new.port);
    until("the end of its sessions", async || old.value(SESSIONS).await == "0").await;
    until("writes", async || creates(&app, 2).await).await;
    assert_eq!((old.value(USERS).await.as_str(), new.value(USERS).await.as_str()), ("1", "2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_has_one_line_in_the_log_and_the_first_one_after_a_promotion_works() {
    let (mut old, new) = pair().await;
    let kith = Kith::serve(&urls(&[&old, &new], WRITABLE), &[]).await;
    let clients = kith.clients();
    clients.create(1).await.expect("a user");
    old.wait_for(&new).await;
    old.kill();
    refused(clients.create(2).await, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    until("a state", async || kith.log().contains("no primary of the database can be reached")).await;
    refused(clients.create(2).await, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    // Of both calls, and none of their batches. Those of probes come from the committer.
    let lines =
        |log: &str| log.lines().filter(|line| line.contains("CreateUser")).map(str::to_owned).collect::<Vec<_>>();
    until("the lines of both calls", async || lines(&kith.log()).len() >= 2).await;
    let (of_calls, log) = (lines(&kith.log()), kith.log());
    let last = &of_calls[1];
    assert!(of_calls.len() == 2 && last.contains("refused") && last.contains("a standby"), "{log}");
    assert!(last.contains("commit of 1 command(s) failed at attempt 1") && !log.contains("retrying"), "{log}");
    new.promote().await;
    until("a write", async || clients.create(2).await.is_ok()).await;
    assert!(kith.log().contains("a primary of the database can be reached again"), "{}", kith.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_hangs_ends_after_a_read_found_no_primary() {
    let primary = Node::primary().await;
    let proxy = Switch::to(primary.port).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/kith?sslmode=disable", proxy.port);
    let kith = Kith::serve(&url, &["--metrics-listen=127.0.0.1:0"]).await;
    let clients = kith.clients();
    clients.create(1).await.expect("a user");
    primary.freeze();
    let waiting = tokio::spawn({
        let clients = kith.clients();
        async move { clients.create(2).await }
    });
    let writes = "kith_database_connections{pool=\"writer\",state=\"busy\"}";
    until("a write", async || scrape(&kith.metrics_address()).await.value(writes) == 1.0).await;
    // The first long read needs a connection.
    proxy.turn_to(free_port());
    let list = clients.users().list_users(pb::ListUsersRequest::default()).await;
    refused(list, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    refused(waiting.await.expect("an end"), Code::Unavailable, ErrorReason::DatabaseUnavailable);
    proxy.turn_to(primary.port);
    primary.thaw();
    until("writes", async || creates(&clients, 3).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_shows_commits_that_wait_for_a_synchronous_standby() {
    let (primary, standby) = pair().await;
    let kith = Kith::serve(&primary.url(), &[]).await;
    until("health", async || serves(&kith).await).await;
    primary.synchronous(true).await;
    standby.freeze();
    let waiting = tokio::spawn({
        let clients = kith.clients();
        async move { clients.create(1).await }
    });
    until("health", async || !serves(&kith).await).await;
    assert!(!waiting.is_finished());
    standby.thaw();
    waiting.await.expect("an end").expect("a user");
    until("health", async || serves(&kith).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_and_reads_of_a_silent_database_are_told_that_it_is_unavailable() {
    let primary = Node::primary().await;
    let kith = Kith::serve(&primary.url(), &["--read-connections=2"]).await;
    let clients = kith.clients();
    let mut watching = clients.watch(pb::WatchEventsRequest::default()).await;
    clients.create(1).await.expect("a user");
    watching.next_events().await;
    primary.freeze();
    let watches = join_all((0..40).map(|_| clients.try_watch(pb::WatchEventsRequest::default())));
    // Some lists wait for the database, and the others for a place.
    let lists = join_all((0..200).map(|_| {
        let mut blocks = clients.blocks();
        async move {
            let mut request = tonic::Request::new(pb::ListBlockedUsersRequest { user_id: 1, ..Default::default() });
            request.set_timeout(Duration::from_secs(3));
            blocks.list_blocked_users(request).await
        }
    }));
    let (watches, lists) = tokio::join!(watches, lists);
    for watch in watches {
        refused(watch.map(drop), Code::Unavailable, ErrorReason::DatabaseUnavailable);
    }
    assert_eq!(watching.end().await.code(), Code::Unavailable);
    let codes: Vec<_> = lists.into_iter().map(|list| list.expect_err("no answer").code()).collect();
    assert!(codes.contains(&Code::Unavailable) && !codes.contains(&Code::ResourceExhausted), "{codes:?}");
}
