//! What a server counts, and the port that shows it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use kith::clock::Clock;
use kith::metrics::Format;
use kith::metrics::refusals::Cause;
use kith::proto::v1::user_service_client::UserServiceClient;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::server::ConnectionLimits;
use kith::store::{Options, StoreError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::cases;
use crate::harness::daemon::free_port;
use crate::harness::faulty::{Fault, Faulty};
use crate::harness::openmetrics::{Metrics, request, scrape};
use crate::harness::process::{Kith, command, run};
use crate::harness::raw::RawChannel;
use crate::harness::secured::Secured;
use crate::harness::watching::now;
use crate::harness::{App, Database, Engine, refused, until};

/// What a service in this process counts.
#[track_caller]
pub fn read(app: &App) -> Metrics {
    Metrics::parse(&app.metrics.text(Format::OpenMetrics).expect("a text"))
}

/// The labels of a method of Kith's.
fn method(kind: &str, service: &str, method: &str) -> String {
    format!("grpc_type=\"{kind}\",grpc_service=\"kith.v1.{service}\",grpc_method=\"{method}\"")
}

/// The calls of a method that started, and of those the ones that ended with this code.
#[track_caller]
fn calls(metrics: &Metrics, labels: &str, code: &str) -> (f64, f64) {
    let started = metrics.value(&format!("grpc_server_started_total{{{labels}}}"));
    (started, metrics.value(&format!("grpc_server_handled_total{{{labels},grpc_code=\"{code}\"}}")))
}

cases! {
    async fn calls_are_counted_by_method_and_code(app: App) {
        let before = read(&app);
        assert_eq!(before.sum("grpc_server_started_total", &["kith.v1"]), 0.0);
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        let id = app.send(ann, bob).await;
        refused(app.try_send(ann, bob).await, Code::AlreadyExists, ErrorReason::RequestPending);
        refused(app.try_send(ann, ann).await, Code::InvalidArgument, ErrorReason::SelfRequest);
        refused(app.try_send(ann, 99).await, Code::NotFound, ErrorReason::UserNotFound);
        refused(app.accept(id, ann).await, Code::PermissionDenied, ErrorReason::NotTheReceiver);
        let metrics = read(&app);
        let create = method("unary", "UserService", "CreateUser");
        let send = method("unary", "ConnectionRequestService", "SendConnectionRequest");
        let accept = method("unary", "ConnectionRequestService", "AcceptConnectionRequest");
        for (labels, code, expected) in [
            (&create, "OK", (2.0, 2.0)),
            (&send, "OK", (4.0, 1.0)),
            (&send, "AlreadyExists", (4.0, 1.0)),
            (&send, "InvalidArgument", (4.0, 1.0)),
            (&send, "NotFound", (4.0, 1.0)),
            (&send, "Internal", (4.0, 0.0)),
            (&accept, "PermissionDenied", (1.0, 1.0)),
        ] {
            assert_eq!(calls(&metrics, labels, code), expected, "{labels} {code}");
        }
        for reason in ["REQUEST_PENDING", "SELF_REQUEST", "USER_NOT_FOUND", "NOT_THE_RECEIVER"] {
            assert_eq!(metrics.value(&format!("kith_errors_total{{reason=\"{reason}\"}}")), 1.0, "{reason}");
        }
        assert_eq!(metrics.sum("kith_errors_total", &[]), 4.0);
        assert_eq!(metrics.sum("grpc_server_handled_total", &["kith.v1"]), 7.0);
        assert_eq!(metrics.sum("grpc_server_handling_seconds_count", &["kith.v1"]), 7.0);
        assert_eq!(metrics.value("kith_calls_in_flight"), 0.0);
    }

    async fn a_stream_is_counted_when_it_ends(app: App) {
        let (watch, export) =
            (method("server_stream", "EventService", "WatchEvents"), method("server_stream", "UserService", "ExportUser"));
        let ann = app.user("ann").await;
        let watching = app.watch(now(1_000)).await;
        let metrics = read(&app);
        assert_eq!(calls(&metrics, &watch, "Canceled"), (1.0, 0.0));
        assert_eq!(metrics.value("kith_calls_in_flight"), 1.0);
        drop(watching);
        until("the end of the watch", async || calls(&read(&app), &watch, "Canceled") == (1.0, 1.0)).await;
        let request = pb::ExportUserRequest { id: ann, ..Default::default() };
        let mut exported = app.users().export_user(request).await.expect("an export").into_inner();
        while exported.message().await.expect("a part").is_some() {}
        until("the end of the export", async || calls(&read(&app), &export, "OK") == (1.0, 1.0)).await;
        assert_eq!(read(&app).value("kith_calls_in_flight"), 0.0);
    }

    async fn the_feed_shows_how_far_it_is_and_how_many_events_its_watchers_received(app: App) {
        let (mut one, mut other) = (app.watch(now(1_000)).await, app.watch(now(1_000)).await);
        app.user("ann").await;
        app.user("bob").await;
        let end = app.revision().await;
        for watching in [&mut one, &mut other] {
            assert_eq!(watching.until(end).await.len(), 2);
        }
        let metrics = read(&app);
        let end = end as f64;
        assert_eq!(metrics.value("kith_feed_events_sent_total"), 4.0);
        assert_eq!(metrics.value("kith_feed_watchers"), 2.0);
        assert_eq!(metrics.value("kith_feed_revision"), end);
        assert_eq!(metrics.value("kith_committed_revision"), end);
        assert_eq!(metrics.value("kith_feed_lag_events"), 0.0);
        drop((one, other));
        until("the end of the watches", async || read(&app).value("kith_feed_watchers") == 0.0).await;
    }

    #[with(|settings| settings.sweep_interval = Duration::from_millis(20))]
    async fn a_sweep_counts_what_it_expired(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.send(ann, bob).await;
        app.clock.advance(TimeDelta::days(181));
        let swept = |what| read(&app).value(&format!("kith_swept_total{{what=\"{what}\"}}"));
        until("the sweep", async || swept("requests") == 1.0).await;
        assert_eq!(swept("forgotten"), 0.0);
        assert!(read(&app).value("kith_sweep_seconds_count") >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_a_shutdown_ends_are_counted_as_errors() {
    let mut app = App::start(Engine::Sqlite).await;
    let mut watching = app.watch(now(1_000)).await;
    app.stop();
    assert_eq!(watching.end().await.code(), Code::Unavailable);
    let metrics = read(&app);
    assert_eq!(calls(&metrics, &method("server_stream", "EventService", "WatchEvents"), "Unavailable"), (1.0, 1.0));
    assert_eq!(metrics.value("kith_errors_total{reason=\"SHUTTING_DOWN\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_serves_metrics_in_both_formats_and_a_page_and_nothing_else() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--metrics-listen=127.0.0.1:0"]).await;
    let address = kith.metrics_address();
    kith.clients().user("ann").await;
    let metrics = scrape(&address).await;
    assert_eq!(calls(&metrics, &method("unary", "UserService", "CreateUser"), "OK"), (1.0, 1.0));
    let (head, text) = request(&address, "GET", "/metrics", "*/*").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(text.contains("# TYPE grpc_server_started_total counter\n") && !text.contains("# EOF"), "{text}");
    let (head, body) = request(&address, "HEAD", "/metrics", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    assert!(length.parse::<usize>().is_ok_and(|length| length > 10_000), "{head}");
    for (method, path, status) in [("GET", "/", "200"), ("GET", "/metrics/x", "404"), ("POST", "/metrics", "405")] {
        let (head, _) = request(&address, method, path, "*/*").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {head}");
    }
    let process = scrape(&address).await;
    if cfg!(target_os = "linux") {
        assert!(process.value("process_resident_memory_bytes") > 1e6);
        let (now, start) = (Clock::system().now().timestamp() as f64, process.value("process_start_time_seconds"));
        assert!(start <= now + 1.0 && start > now - 3_600.0, "{start} at {now}");
        let files = (process.value("process_open_fds"), process.value("process_max_fds"));
        assert!(files.0 > 5.0 && files.0 < files.1, "{files:?}");
        assert!(process.value("process_threads") > 1.0 && process.value("process_cpu_seconds_total") > 0.0);
    }
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(process.sum("kith_build_info", &[&version]), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_off_or_taken_or_the_error_of_a_start() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--metrics-listen=off"]).await;
    assert!(!kith.log().contains("metrics are at"), "{}", kith.log());
    drop(kith);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let url = format!("--database-url={}", database.url);
    let ended = run(&["serve", "--listen=127.0.0.1:0", &url, &format!("--metrics-listen={taken}")]).await;
    let words = format!("--metrics-listen {taken}: cannot listen on this address: Address already in use");
    assert!(!ended.status.success() && ended.log.contains(&words), "{ended:#?}");
    // The default is taken, by this test or by another process.
    let _taken = std::net::TcpListener::bind("127.0.0.1:9464");
    let mut serve = command(&["serve", "--listen=127.0.0.1:0", &url]);
    serve.env_remove("KITH_METRICS_LISTEN");
    let kith = Kith::start(serve).await;
    assert!(kith.log().contains("no metrics: another process listens on 127.0.0.1:9464"), "{}", kith.log());
    drop(kith);
    // Without the setting, a server that others can reach has no such port.
    let mut serve = command(&["serve", "--listen=0.0.0.0:0", "--insecure-allow-anonymous", &url]);
    serve.env_remove("KITH_METRICS_LISTEN");
    let kith = Kith::start(serve).await;
    assert!(!kith.log().contains("metrics are at"), "{}", kith.log());
}

/// The metrics that the manual lists, with their types.
fn documented() -> BTreeMap<String, String> {
    let page = include_str!("../../docs/operations.md");
    let (_, section) = page.split_once("\n### Metrics\n").expect("the section");
    let (_, table) = section.split_once("\n| Metric |").expect("the table");
    let table = table.split("\n\n").next().expect("a table");
    let mut documented = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let [_, names, kind, ..] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else { panic!("{row}") };
        for name in names.split(", ").map(|name| name.trim_matches('`').to_owned()) {
            assert!(documented.insert(name, kind.to_owned()).is_none(), "twice: {row}");
        }
    }
    documented
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manual_lists_every_metric_of_a_server_and_no_other() {
    let mut served = BTreeMap::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let database = Database::migrated(engine).await;
        // On PostgreSQL a primary in the place of a replica: it is not used, and has the metrics of one.
        let replica = format!("--replica-url={}", database.url);
        let args = ["--metrics-listen=127.0.0.1:0", &replica];
        let kith = Kith::serve(&database.url, &args[..if engine == Engine::Postgres { 2 } else { 1 }]).await;
        for (name, family) in scrape(&kith.metrics_address()).await.families {
            for (unit, suffix) in [("seconds", "_seconds"), ("bytes", "_bytes")] {
                assert_eq!(family.unit.as_deref() == Some(unit), name.ends_with(suffix), "{name}: {family:?}");
            }
            served.insert(family.sample_name(&name), family.kind);
        }
    }
    assert_eq!(documented(), served, "docs/operations.md (left) and the servers (right)");
}

/// The value of a metric with one label.
#[track_caller]
fn labelled(metrics: &Metrics, name: &str, label: &str, value: &str) -> f64 {
    metrics.value(&format!("{name}{{{label}=\"{value}\"}}"))
}

#[track_caller]
fn refusals(metrics: &Metrics, cause: Cause) -> f64 {
    labelled(metrics, "kith_refused_total", "cause", cause.name())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_batches_and_what_finds_no_room_are_counted() {
    let (app, store) = Faulty::app(Engine::Sqlite, |settings| settings.max_queued_writes = 2).await;
    let ann = app.user("ann").await;
    let mut others = Vec::new();
    for number in 0..4 {
        others.push(app.user(&format!("user-{number}")).await);
    }
    let before = read(&app);
    let queued = |metrics: &Metrics| labelled(metrics, "kith_queue_commands", "queue", "calls");
    assert_eq!((queued(&before), labelled(&before, "kith_queue_capacity_commands", "queue", "calls")), (0.0, 2.0));
    store.commits(Fault::Blocks);
    let begun = store.begun_so_far();
    let mut held = Box::pin(app.try_send(ann, others[0]));
    tokio::select! {
        result = &mut held => panic!("it was not held: {result:?}"),
        () = store.begun(begun + 1) => {}
    }
    let mut waiting = Box::pin(join_all([app.try_send(ann, others[1]), app.try_send(ann, others[2])]));
    tokio::select! {
        results = &mut waiting => panic!("they did not wait: {results:?}"),
        () = until("the queue is full", async || queued(&read(&app)) == 2.0) => {}
    }
    refused(app.try_send(ann, others[3]).await, Code::ResourceExhausted, ErrorReason::Overloaded);
    // A store that does not respond does not hold up the metrics.
    let full = read(&app);
    assert_eq!(refusals(&full, Cause::Queue), 1.0);
    assert_eq!(labelled(&full, "kith_errors_total", "reason", "OVERLOADED"), 1.0);
    assert_eq!(full.value("kith_calls_in_flight"), 3.0);
    store.commits(Fault::None);
    held.await.expect("the one that was held");
    assert!(waiting.await.iter().all(Result::is_ok));
    let after = read(&app);
    let more = |sample: &str| after.value(sample) - before.value(sample);
    assert_eq!(more("kith_batch_commands_sum"), 3.0);
    assert_eq!(more("kith_batch_commands_count"), 2.0, "the two that waited are one batch");
    assert_eq!(more("kith_batch_commands_bucket{le=\"1.0\"}"), 1.0);
    assert_eq!(more("kith_commit_seconds_count"), 2.0);
    assert_eq!(more("kith_commits_total{outcome=\"committed\"}"), 2.0);
    assert_eq!(more("kith_queue_wait_seconds_count{queue=\"calls\"}"), 3.0);
    assert_eq!(more("kith_queue_wait_seconds_count{queue=\"imports\"}"), 0.0);
    assert_eq!(queued(&after), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_counted_by_their_outcomes_and_retries() {
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    let (ann, bob) = (app.user("ann").await, app.user("bob").await);
    let outcome = |metrics: &Metrics, outcome| labelled(metrics, "kith_commits_total", "outcome", outcome);
    let send = pb::SendConnectionRequestRequest {
        from_user_id: ann,
        to_user_id: bob,
        message: "poison".to_owned(),
        ..Default::default()
    };
    store.commits(Fault::Poison("poison", || StoreError::Refused("a constraint".into())));
    app.requests().send_connection_request(send.clone()).await.expect_err("it is refused");
    let metrics = read(&app);
    assert_eq!((outcome(&metrics, "refused"), metrics.value("kith_commit_retries_total")), (1.0, 2.0));
    store.commits(Fault::Poison("poison", || StoreError::OutcomeUnknown("lost".into())));
    app.requests().send_connection_request(send.clone()).await.expect_err("it is unknown");
    let metrics = read(&app);
    assert_eq!((outcome(&metrics, "unknown"), metrics.value("kith_commit_retries_total")), (1.0, 2.0));
    store.commits(Fault::Poison("poison", || StoreError::Unavailable("gone".into())));
    app.requests().send_connection_request(send).await.expect_err("it failed");
    let metrics = read(&app);
    assert_eq!((outcome(&metrics, "failed"), metrics.value("kith_commit_retries_total")), (1.0, 4.0));
    assert_eq!(labelled(&metrics, "kith_errors_total", "reason", "OUTCOME_UNKNOWN"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_count_what_they_find_and_what_they_do_not() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let options = Options { migrate: false, ..Options::default() };
        let app = App::with_options(engine, options, |_| {}).await;
        let ann = app.user("ann").await;
        let get = || async {
            let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(ann)), ..Default::default() };
            app.users().get_user(request).await.expect("a user");
        };
        get().await;
        let before = read(&app);
        for _ in 0..3 {
            get().await;
        }
        let unknown = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(99)), ..Default::default() };
        app.users().get_user(unknown).await.expect_err("nobody");
        let after = read(&app);
        let users = |name, metrics: &Metrics| labelled(metrics, name, "cache", "users");
        assert_eq!(users("kith_cache_hits_total", &after) - users("kith_cache_hits_total", &before), 3.0);
        assert_eq!(users("kith_cache_misses_total", &after) - users("kith_cache_misses_total", &before), 1.0);
        assert_eq!(users("kith_cache_entries", &after), 1.0);
        assert!(users("kith_cache_bytes", &after) >= 512.0);
        assert_eq!(users("kith_cache_capacity_bytes", &after), f64::from(256 << 20));
        app.send(ann, app.user("bob").await).await;
        let metrics = read(&app);
        assert!(labelled(&metrics, "kith_cache_hits_total", "cache", "writer") >= 1.0);
        assert_eq!(labelled(&metrics, "kith_cache_entries", "cache", "writer"), 2.0);
        // One with room for some users only.
        let options = Options { migrate: false, user_cache: 64 << 10, ..Options::default() };
        let small = App::with_options(engine, options, |_| {}).await;
        for number in 0..400 {
            let id = small.user(&format!("user-{number}")).await;
            let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(id)), ..Default::default() };
            small.users().get_user(request).await.expect("a user");
        }
        let evicted = users("kith_cache_evictions_total", &read(&small));
        assert!(evicted > 100.0, "{engine:?}: {evicted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_shows_its_connections_and_those_that_were_lost() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let app = App::start(engine).await;
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        until("the first check", async || read(&app).value("kith_database_up") == 1.0).await;
        until("health", async || read(&app).sum("kith_health", &[]) == 6.0).await;
        let metrics = read(&app);
        let name = if engine == Engine::Sqlite { "sqlite" } else { "postgres" };
        assert_eq!(metrics.sum("kith_database_info", &[&format!("engine=\"{name}\""), "version=\""]), 1.0);
        for (pool, max) in [("short", 3.0), ("long", 1.0), ("feed", 1.0), ("writer", 1.0)] {
            assert_eq!(labelled(&metrics, "kith_database_connections_max", "pool", pool), max, "{pool}");
            assert_eq!(labelled(&metrics, "kith_database_waiting", "pool", pool), 0.0, "{pool}");
            assert_eq!(labelled(&metrics, "kith_database_reconnects_total", "pool", pool), 0.0, "{pool}");
            let open = metrics.sum("kith_database_connections", &[&format!("pool=\"{pool}\"")]);
            assert!(open <= max && (open > 0.0 || ["long", "feed"].contains(&pool)), "{pool}: {open}");
        }
        if engine == Engine::Sqlite {
            assert!(metrics.value("kith_sqlite_wal_bytes") > 0.0);
            assert!(metrics.get("kith_sqlite_checkpoint_seconds_count").is_some());
            continue;
        }
        let sessions = "SELECT count(pg_terminate_backend(pid)) AS value FROM pg_stat_activity \
                        WHERE datname = current_database() AND application_name = 'kith'";
        assert!(app.database.number(sessions).await >= 3);
        app.send(ann, bob).await;
        for pool in ["short", "writer", "listener"] {
            let replaced = async || labelled(&read(&app), "kith_database_reconnects_total", "pool", pool) >= 1.0;
            until(pool, replaced).await;
        }
        assert_eq!(read(&app).get("kith_sqlite_wal_bytes"), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_served_while_the_database_is_gone_or_not_there_yet() {
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    until("the first check", async || read(&app).value("kith_database_up") == 1.0).await;
    for fault in [Fault::Fails(|| StoreError::Unavailable("gone".into())), Fault::Blocks] {
        store.reads(fault);
        until("it is noticed", async || read(&app).value("kith_database_up") == 0.0).await;
        until("health", async || read(&app).sum("kith_health", &[]) == 0.0).await;
        store.reads(Fault::None);
        until("it is back", async || read(&app).value("kith_database_up") == 1.0).await;
    }
    let (listen, metrics) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", free_port());
    let args = ["serve", "--listen", &listen, "--metrics-listen", &metrics, "--database-url", &url];
    let kith = Kith::start_early(command(&[&args[..], &["--database-wait=10m"]].concat()), listen.clone());
    until("metrics", async || kith.log().contains("metrics are at")).await;
    until("a refused call", async || {
        kith.clients()
            .create(1)
            .await
            .is_err_and(|status| status.code() == Code::Unavailable && !status.details().is_empty())
    })
    .await;
    let waiting = scrape(&metrics).await;
    assert_eq!((waiting.value("kith_database_up"), waiting.sum("kith_health", &[])), (0.0, 0.0));
    assert!(refusals(&waiting, Cause::Starting) >= 1.0);
    assert_eq!(waiting.value("kith_client_connections_max"), 16_384.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_and_so_are_those_that_are_refused() {
    let app = App::with(Engine::Sqlite, |settings| {
        settings.connections = ConnectionLimits { total: 3, per_address: Some(2) };
    })
    .await;
    let address = app.address.strip_prefix("http://").expect("an address").to_owned();
    // The operating system accepts it before the server does.
    until("the first", async || read(&app).get("kith_client_connections") == Some(1.0)).await;
    assert_eq!(read(&app).value("kith_client_connections_max"), 3.0);
    // The answer to HTTP/1.1, and the end of its connection.
    let mut plain = TcpStream::connect(&address).await.expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it is sent");
    plain.read_to_end(&mut Vec::new()).await.expect("an answer");
    drop(plain);
    until("its end", async || read(&app).value("kith_client_connections") == 1.0).await;
    let _second = TcpStream::connect(&address).await.expect("a connection");
    until("the second", async || read(&app).value("kith_client_connections") == 2.0).await;
    let mut third = TcpStream::connect(&address).await.expect("a connection");
    assert_eq!(third.read(&mut [0]).await.expect("the end"), 0);
    let metrics = read(&app);
    assert_eq!(refusals(&metrics, Cause::Protocol), 1.0);
    assert_eq!(refusals(&metrics, Cause::ConnectionsPerAddress), 1.0);
    assert_eq!(metrics.sum("kith_refused_total", &[]), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_are_not_let_in_are_counted_and_so_are_files_that_cannot_be_used() {
    let secured = Secured::with(false, &["--metrics-listen=127.0.0.1:0", "--limit-each-service=reads=1"]).await;
    let address = secured.kith.metrics_address();
    let mut users = UserServiceClient::with_origin(secured.connect(None).await, Secured::origin());
    let get = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
    let create = pb::CreateUserRequest {
        user: Some(pb::User { username: "ann".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let reader = ("billing", "read");
    let missing = users.get_user(Request::new(get.clone())).await.expect_err("no credential");
    assert_eq!(missing.code(), Code::Unauthenticated);
    let denied = users.create_user(secured.request(reader, create)).await.expect_err("no right");
    assert_eq!(denied.code(), Code::PermissionDenied);
    let mut verified = 1.0;
    loop {
        verified += 1.0;
        let status = users.get_user(secured.request(reader, get.clone())).await.expect_err("nobody");
        if status.code() == Code::ResourceExhausted {
            break;
        }
    }
    let metrics = scrape(&address).await;
    for (cause, number) in [(Cause::Credentials, 1.0), (Cause::Rights, 1.0), (Cause::RateLimit, 1.0)] {
        assert_eq!(refusals(&metrics, cause), number, "{cause:?}");
    }
    let tokens = |name| labelled(&metrics, name, "cache", "tokens");
    assert_eq!(tokens("kith_cache_hits_total") + tokens("kith_cache_misses_total"), verified);
    assert_eq!(tokens("kith_cache_entries"), tokens("kith_cache_misses_total"));
    let expiry = metrics.value("kith_tls_certificate_expiry_timestamp_seconds");
    assert!(expiry > Clock::system().now().timestamp() as f64, "{expiry}");

    let folder = TempDir::with_prefix("kith-test-").expect("a folder");
    let path = folder.path().join("principals.toml");
    let principals = format!("[billing]\nkey = \"sha256:{}\"\nscopes = [\"read\"]\n", "ab".repeat(32));
    fs::write(&path, principals).expect("a file");
    let database = Database::migrated(Engine::Sqlite).await;
    let principals = format!("--principals={}", path.display());
    let kith = Kith::serve(&database.url, &[&principals, "--metrics-listen=127.0.0.1:0"]).await;
    let failures =
        async |file| labelled(&scrape(&kith.metrics_address()).await, "kith_reload_failures_total", "file", file);
    assert_eq!(failures("principals").await, 0.0);
    fs::write(&path, "[").expect("a file");
    kith.signal("HUP");
    until("the failure", async || failures("principals").await >= 1.0).await;
    assert_eq!(failures("certificate").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_labels_are_the_same_whatever_callers_send() {
    const CANARY: &str = "canary-q7";
    let app = App::start(Engine::Sqlite).await;
    let _watching = app.watch(now(1_000)).await;
    let before = app.metrics.text(Format::OpenMetrics).expect("a text");
    let (mut raw, _) = RawChannel::connect(&app.address).await;
    for number in 0..250 {
        for path in [
            format!("/{CANARY}/{number}"),
            format!("/kith.v1.UserService/{CANARY}{number}"),
            format!("/{CANARY}.Service{number}/GetUser"),
        ] {
            raw.post(&path, pb::GetUserRequest::default()).await;
        }
        app.user(&format!("{CANARY}-{number}")).await;
        app.create(1_000_000 + number).await.expect("a user");
        let name = pb::get_user_request::Key::Username(format!("{CANARY} {number}"));
        app.users().get_user(pb::GetUserRequest { key: Some(name), ..Default::default() }).await.expect_err("nobody");
    }
    let after = app.metrics.text(Format::OpenMetrics).expect("a text");
    assert_eq!(Metrics::parse(&after).series(), Metrics::parse(&before).series());
    assert!(!after.contains("canary"), "{after}");
    let unknown = "grpc_type=\"unary\",grpc_service=\"unknown\",grpc_method=\"unknown\"";
    assert_eq!(calls(&Metrics::parse(&after), unknown, "Unimplemented"), (750.0, 750.0));
}
