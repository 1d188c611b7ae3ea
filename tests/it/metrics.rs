//! What a server counts, and the port that shows it.

use std::collections::BTreeMap;

use kith::metrics::Format;
use kith::proto::v1::{self as pb, ErrorReason};
use tonic::Code;

use crate::harness::openmetrics::{Metrics, request, scrape};
use crate::harness::process::{Kith, command, run};
use crate::harness::watching::now;
use crate::harness::{App, Database, Engine, refused, until};

/// What a service in this process counts.
#[track_caller]
fn read(app: &App) -> Metrics {
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
        let watching = app.watch(now(0)).await;
        let metrics = read(&app);
        assert_eq!(calls(&metrics, &watch, "Canceled"), (1.0, 0.0));
        assert_eq!(metrics.value("kith_calls_in_flight"), 1.0);
        drop(watching);
        until("the end of the watch", async || calls(&read(&app), &watch, "Canceled") == (1.0, 1.0)).await;
        let request = pb::ExportUserRequest { user_id: ann, ..Default::default() };
        let mut exported = app.users().export_user(request).await.expect("an export").into_inner();
        while exported.message().await.expect("a part").is_some() {}
        assert_eq!(calls(&read(&app), &export, "OK"), (1.0, 1.0));
        assert_eq!(read(&app).value("kith_calls_in_flight"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_a_shutdown_ends_are_counted_as_errors() {
    let mut app = App::start(Engine::Sqlite).await;
    let mut watching = app.watch(now(0)).await;
    app.stop();
    assert_eq!(watching.end().await.code(), Code::Unavailable);
    let metrics = read(&app);
    assert_eq!(calls(&metrics, &method("server_stream", "EventService", "WatchEvents"), "Unavailable"), (1.0, 1.0));
    assert_eq!(metrics.value("kith_errors_total{reason=\"SHUTTING_DOWN\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_serves_metrics_in_both_formats_and_nothing_else() {
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
    for (method, path, status) in [("GET", "/", "404"), ("GET", "/metrics/x", "404"), ("POST", "/metrics", "405")] {
        let (head, _) = request(&address, method, path, "*/*").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {head}");
    }
    // The first of two servers has the default port of both, so this one has another.
    let process = scrape(&address).await;
    if cfg!(target_os = "linux") {
        assert!(process.value("process_resident_memory_bytes") > 1e6);
        let (now, start) = (chrono::Utc::now().timestamp() as f64, process.value("process_start_time_seconds"));
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
    assert!(!kith.log().contains("metrics"), "{}", kith.log());
    drop(kith);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let url = format!("--database-url={}", database.url);
    let ended = run(&["serve", "--listen=127.0.0.1:0", &url, &format!("--metrics-listen={taken}")]).await;
    let words = format!("--metrics-listen {taken}: cannot listen on this address: Address already in use");
    assert!(!ended.status.success() && ended.log.contains(&words), "{ended:#?}");
    // Without the setting, a server that others can reach has no such port.
    let mut serve = command(&["serve", "--listen=0.0.0.0:0", "--insecure-allow-anonymous", &url]);
    serve.env_remove("KITH_METRICS_LISTEN");
    let kith = Kith::start(serve).await;
    assert!(!kith.log().contains("metrics"), "{}", kith.log());
}

/// The metrics that the manual lists, with their types.
fn documented() -> BTreeMap<String, String> {
    let page = include_str!("../../docs/operations.md");
    let (_, section) = page.split_once("\n## Metrics\n").expect("the section");
    let section = section.split("\n## ").next().expect("a section");
    let mut documented = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
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
        let kith = Kith::serve(&database.url, &["--metrics-listen=127.0.0.1:0"]).await;
        for (name, family) in scrape(&kith.metrics_address()).await.families {
            for (unit, suffix) in [("seconds", "_seconds"), ("bytes", "_bytes")] {
                assert_eq!(family.unit.as_deref() == Some(unit), name.ends_with(suffix), "{name}: {family:?}");
            }
            served.insert(family.sample_name(&name), family.kind);
        }
    }
    assert_eq!(documented(), served, "docs/operations.md (left) and the servers (right)");
}
