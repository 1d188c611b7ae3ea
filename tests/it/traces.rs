//! Traces: what a receiver gets of calls, batches and statements, what it never gets, and that none of it hinders a call.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;

use futures_util::future::join_all;
use kith::proto::v1 as pb;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tonic::{Code, Request};

use crate::erasure::{ANN, CANARY, REQUEST_ID, life};
use crate::harness::certificates::Authority;
use crate::harness::clients::Clients;
use crate::harness::process::{Ended, Kith, command, run_command};
use crate::harness::receiver::{Receiver, attributes, hex};
use crate::harness::{Database, Engine, until};
use crate::on_each_engine;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// Headers of a caller whose call is sampled, and of one whose call is not.
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
/// What the log says of spans that were lost.
const LOST: &str = "spans of traces were lost";

/// A server with these flags and variables. It sends spans soon after they end.
fn server(database: &Database, flags: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut serve = command(&["serve", "--listen=127.0.0.1:0", "--database-url", &database.url]);
    serve.args(flags).env("OTEL_BSP_SCHEDULE_DELAY", "20").envs(variables.iter().copied());
    serve
}

/// A server that sends its spans to a receiver.
async fn traced(database: &Database, receiver: &Receiver, flags: &[&str]) -> Kith {
    let endpoint = format!("--otlp-endpoint={}", receiver.url());
    let flags: Vec<_> = [&*endpoint].into_iter().chain(flags.iter().copied()).collect();
    Kith::start(server(database, &flags, &[])).await
}

fn with<T>(message: T, headers: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().append(*name, value.parse().expect("a header"));
    }
    request
}

fn get(id: i64) -> pb::GetUserRequest {
    pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(id)), ..Default::default() }
}

fn create(username: &str) -> pb::CreateUserRequest {
    let user = pb::User { username: username.to_owned(), ..Default::default() };
    pb::CreateUserRequest { user: Some(user), ..Default::default() }
}

async fn ended(kith: Kith) -> Ended {
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success(), "{ended:#?}");
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    ended
}

/// The only span with this name.
#[track_caller]
fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let [span] = spans.iter().filter(|span| span.name == name).collect::<Vec<_>>()[..] else {
        panic!("not one {name} in {spans:#?}")
    };
    span
}

fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect()
}

fn system(engine: Engine) -> &'static str {
    if engine == Engine::Postgres { "postgresql" } else { "sqlite" }
}

#[track_caller]
fn has(span: &Span, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    assert_eq!(attributes(&span.attributes), expected, "{span:#?}");
}

fn status(span: &Span) -> StatusCode {
    span.status.as_ref().map_or(StatusCode::Unset, |status| status.code())
}

on_each_engine! {
    async fn a_call_continues_the_trace_of_its_caller(engine: Engine) {
        let (database, receiver) = (Database::migrated(engine).await, Receiver::start().await);
        let kith = traced(&database, &receiver, &[]).await;
        let headers = [("traceparent", SAMPLED), ("tracestate", "congo=t61"), ("tracestate", "rojo=1")];
        kith.clients().users().get_user(with(get(1), &headers)).await.expect_err("nobody");
        ended(kith).await;
        let spans = receiver.spans();
        let call = only(&spans, "kith.v1.UserService/GetUser");
        assert_eq!((hex(&call.trace_id), hex(&call.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!((call.kind(), &*call.trace_state), (SpanKind::Server, "congo=t61,rojo=1"));
        assert!(call.start_time_unix_nano < call.end_time_unix_nano);
        has(call, &[
            ("rpc.system", "grpc"),
            ("rpc.service", "kith.v1.UserService"),
            ("rpc.method", "GetUser"),
            ("rpc.grpc.status_code", "5"),
            ("kith.reason", "USER_NOT_FOUND"),
        ]);
        assert_eq!(status(call), StatusCode::Unset, "the caller's error is not the server's");
        let [read] = children(&spans, call)[..] else { panic!("not one read in {spans:#?}") };
        assert_eq!((&*read.name, read.kind(), hex(&read.trace_id)), ("user", SpanKind::Client, TRACE.to_owned()));
        has(read, &[("db.system.name", system(engine)), ("db.operation.name", "user")]);
        assert_eq!(spans.len(), 2, "{spans:#?}");
    }

    async fn a_batch_has_links_to_its_calls_and_spans_of_its_statements(engine: Engine) {
        let (database, receiver) = (Database::migrated(engine).await, Receiver::start().await);
        let kith = traced(&database, &receiver, &[]).await;
        let clients = kith.clients();
        // The first of them is committed alone. The others are a batch, unless they come one by one.
        let mut round = 0;
        let together = loop {
            let names: Vec<_> = (0..8).map(|number| format!("ann-{round}-{number}")).collect();
            let calls = names.iter().map(|name| async { clients.users().create_user(create(name)).await });
            assert!(join_all(calls).await.iter().all(Result::is_ok));
            round += 1;
            let batches = receiver.until("all calls", |spans| {
                let calls = spans.iter().filter(|span| span.kind() == SpanKind::Server).count();
                let batches: Vec<_> = spans.iter().filter(|span| span.name == "batch").cloned().collect();
                (calls == 8 * round && batches.iter().map(|batch| batch.links.len()).sum::<usize>() == calls).then_some(batches)
            });
            if let Some(batch) = batches.await.into_iter().find(|batch| batch.links.len() > 1) {
                break batch;
            }
        };
        ended(kith).await;
        let spans = receiver.spans();
        let linked: BTreeSet<_> = together.links.iter().map(|link| link.span_id.clone()).collect();
        let with_link = |span: &&Span| span.links.iter().any(|link| link.span_id == together.span_id);
        let calls: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Server).filter(with_link).collect();
        assert_eq!(linked, calls.iter().map(|call| call.span_id.clone()).collect(), "each links to the other");
        assert!(linked.contains(&together.parent_span_id), "a child of one of them");
        let revision = |span: &Span| attributes(&span.attributes)["kith.revision"].parse::<i64>().expect("a number");
        let newest = calls.iter().map(|call| revision(call)).max().expect("a call").to_string();
        has(&together, &[
            ("kith.batch.commands", &linked.len().to_string()),
            ("kith.batch.attempts", "1"),
            ("kith.batch.outcome", "committed"),
            ("kith.revision", &newest),
        ]);
        assert!(calls.iter().all(|call| call.events.iter().any(|event| event.name == "batch")));
        let groups = children(&spans, &together);
        assert_eq!(groups.iter().map(|group| &*group.name).collect::<Vec<_>>(), ["load", "save"]);
        for group in groups {
            has(group, &[("db.system.name", system(engine)), ("db.operation.name", &group.name)]);
            assert_eq!((group.kind(), status(group)), (SpanKind::Client, StatusCode::Unset));
        }
    }

    async fn what_fails_in_the_database_is_an_error_of_each_span(engine: Engine) {
        let (database, receiver) = (Database::migrated(engine).await, Receiver::start().await);
        let kith = traced(&database, &receiver, &[]).await;
        let ann = kith.clients().user("ann").await;
        database.execute("ALTER TABLE blocks RENAME TO canary").await;
        let list = pb::ListBlockedUsersRequest { user_id: ann, ..Default::default() };
        kith.clients().blocks().list_blocked_users(with(list, &[("traceparent", SAMPLED)])).await.expect_err("no table");
        database.execute("ALTER TABLE canary RENAME TO blocks").await;
        database.execute("ALTER TABLE users RENAME TO canary").await;
        kith.clients().users().create_user(create("bob")).await.expect_err("no table");
        let log = ended(kith).await.log;
        let spans = receiver.spans();
        let call = only(&spans, "kith.v1.BlockService/ListBlockedUsers");
        let failed = attributes(&call.attributes);
        assert_eq!((&*failed["rpc.grpc.status_code"], &*failed["kith.reason"]), ("14", "DATABASE_UNAVAILABLE"));
        assert_eq!(status(call), StatusCode::Error);
        assert_eq!(status(only(&spans, "list_blocks")), StatusCode::Error);
        let line = log.lines().find(|line| line.contains("BlockService/ListBlockedUsers")).expect("a line");
        assert!(line.contains(&format!("trace_id=\"{TRACE}\"")), "{line}");
        let batches: Vec<_> = spans.iter().filter(|span| span.name == "batch").collect();
        let failed = batches.iter().find(|batch| status(batch) == StatusCode::Error).expect("a failed batch");
        has(failed, &[("kith.batch.commands", "1"), ("kith.batch.attempts", "3"), ("kith.batch.outcome", "failed")]);
        let groups = children(&spans, failed);
        assert!(groups.len() == 3 && groups.iter().all(|group| status(group) == StatusCode::Error), "{groups:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_says_whether_a_call_is_traced_or_else_the_ratio_does() {
    for (flags, variables, expected) in [
        (&[][..], &[][..], &[true, true, false, true][..]),
        (&["--trace-ratio=0"], &[], &[false, true, false, false]),
        (&[], &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")], &[false, true, false, false]),
        (&[], &[("OTEL_TRACES_SAMPLER", "always_off")], &[false, false, false, false]),
        (&["--trace-ratio=1"], &[("OTEL_TRACES_SAMPLER", "always_off")], &[true, true, false, true]),
    ] {
        let (database, receiver) = (Database::migrated(Engine::Sqlite).await, Receiver::start().await);
        let endpoint = format!("--otlp-endpoint={}", receiver.url());
        let flags: Vec<_> = [&*endpoint].into_iter().chain(flags.iter().copied()).collect();
        let kith = Kith::start(server(&database, &flags, variables)).await;
        let malformed = SAMPLED.replace("-01", "-1");
        for (name, parent) in [("a", None), ("b", Some(SAMPLED)), ("c", Some(NOT_SAMPLED)), ("d", Some(&*malformed))] {
            let headers: Vec<_> = parent.into_iter().map(|parent| ("traceparent", parent)).collect();
            kith.clients().users().create_user(with(create(name), &headers)).await.expect("a user");
        }
        ended(kith).await;
        let spans = receiver.spans();
        let mut calls: Vec<_> = spans.iter().filter(|span| span.kind() == SpanKind::Server).collect();
        calls.sort_by_key(|call| call.start_time_unix_nano);
        let revisions: Vec<_> =
            calls.iter().map(|call| attributes(&call.attributes)["kith.revision"].parse().expect("a number")).collect();
        let traced: Vec<usize> = (1..=4).filter(|number| expected[number - 1]).collect();
        assert_eq!(revisions, traced, "{flags:?} {variables:?}");
        assert_eq!(spans.len(), 4 * traced.len(), "a call, its batch, and two groups: {spans:#?}");
        for (call, revision) in calls.iter().zip(revisions) {
            assert_eq!(hex(&call.trace_id) == TRACE, revision == 2, "the others begin traces");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_has_one_link_to_each_batch_and_a_watch_has_a_span_until_it_ends() {
    let (database, receiver) = (Database::migrated(Engine::Sqlite).await, Receiver::start().await);
    let kith = traced(&database, &receiver, &[]).await;
    let watch = pb::WatchEventsRequest::default();
    let mut watch = kith.clients().events().watch_events(watch).await.expect("a stream").into_inner();
    watch.message().await.expect("the position");
    let row = |id: i64| {
        let user = pb::User { id, username: format!("user-{id}"), ..Default::default() };
        pb::ImportUsersRequest { user: Some(user), ..Default::default() }
    };
    kith.clients().users().import_users(tokio_stream::iter((1..=40).map(row))).await.expect("an import");
    let import = |spans: &[Span]| spans.iter().find(|span| span.name == "kith.v1.UserService/ImportUsers").cloned();
    let import = receiver.until("import", import).await;
    let spans = receiver.spans();
    let batches: Vec<_> = spans.iter().filter(|span| span.name == "batch").collect();
    assert!(!batches.is_empty() && batches.len() < 40, "{batches:#?}");
    assert!(batches.iter().all(|batch| batch.links.len() == 1 && batch.links[0].span_id == import.span_id));
    assert!(!spans.iter().any(|span| span.name.contains("WatchEvents")), "it has not ended");
    drop(watch);
    receiver
        .until("watch", |spans| spans.iter().any(|span| span.name == "kith.v1.EventService/WatchEvents").then_some(()))
        .await;
}

/// The attributes that spans have, and none else.
const ATTRIBUTES: [&str; 11] = [
    "db.operation.name",
    "db.system.name",
    "kith.batch.attempts",
    "kith.batch.commands",
    "kith.batch.outcome",
    "kith.reason",
    "kith.revision",
    "rpc.grpc.status_code",
    "rpc.method",
    "rpc.service",
    "rpc.system",
];

/// Calls that are refused, with text of the caller where a careless span would have it.
async fn refused(kith: &Kith) {
    let header =
        [("x-request-id", "canary-id"), ("user-agent", "canary-agent"), ("authorization", "Bearer canary-token")];
    let by_name = pb::get_user_request::Key::Username(format!("{CANARY}-nobody"));
    let by_name = pb::GetUserRequest { key: Some(by_name), ..Default::default() };
    kith.clients().users().get_user(with(by_name, &header)).await.expect_err("nobody");
    kith.clients().users().create_user(with(create("canary canary"), &header)).await.expect_err("no name");
    let mut client = tonic::client::Grpc::new(kith.channel());
    client.ready().await.expect("a connection");
    let path = "/kith.v1.UserService/Canary".parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<pb::GetUserRequest, pb::GetUserResponse>::default();
    let unknown = client.unary(with(get(1), &header), path, codec).await.expect_err("no method");
    assert_eq!(unknown.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_span_has_anything_that_callers_sent_and_no_log_the_secret_of_the_receiver() {
    const SECRET: &str = "s3cret-header";
    let (database, receiver) = (Database::migrated(Engine::Sqlite).await, Receiver::start().await);
    let headers = format!("authorization=Bearer%20{SECRET}");
    let url = receiver.url();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_HEADERS", &headers),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ];
    let kith =
        Kith::start(server(&database, &["--log-level=trace,opentelemetry=debug,opentelemetry-otlp=debug"], &variables))
            .await;
    life(&kith.clients()).await;
    refused(&kith).await;
    let log = ended(kith).await.log;
    assert!(!log.contains(SECRET), "{log}");
    let received = receiver.received();
    assert!(
        received
            .iter()
            .all(|one| one.metadata.get("authorization").is_some_and(|value| value == &format!("Bearer {SECRET}")))
    );
    let text = format!("{:?}", received.iter().map(|one| &one.request).collect::<Vec<_>>()).to_lowercase();
    for canary in [CANARY, REQUEST_ID, "127.0.0.1"] {
        assert!(!text.contains(canary), "{canary} in {text}");
    }
    let spans = receiver.spans();
    assert!(spans.len() > 50, "{}", spans.len());
    let named: BTreeSet<_> = spans.iter().flat_map(|span| attributes(&span.attributes).into_keys()).collect();
    assert_eq!(named, ATTRIBUTES.into(), "an id of a user, such as {ANN}, must not be among them");
    assert!(spans.iter().all(|span| span.status.as_ref().is_none_or(|status| status.message.is_empty())));
    let resource = received[0].request.resource_spans[0].resource.as_ref().expect("a resource");
    let resource = attributes(&resource.attributes);
    assert_eq!((&*resource["service.name"], &*resource["service.version"]), ("kith", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_variables_of_the_standard_describe_the_service() {
    for (variables, expected) in [
        (
            &[
                ("OTEL_SERVICE_NAME", "graph"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,service.namespace=social"),
            ][..],
            "graph",
        ),
        (&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,service.namespace=social")], "other"),
    ] {
        let (database, receiver) = (Database::migrated(Engine::Sqlite).await, Receiver::start().await);
        let endpoint = format!("--otlp-endpoint={}", receiver.url());
        let kith = Kith::start(server(&database, &[&endpoint], variables)).await;
        kith.clients().user("ann").await;
        ended(kith).await;
        let received = receiver.received();
        let resource = received[0].request.resource_spans[0].resource.as_ref().expect("a resource");
        let resource = attributes(&resource.attributes);
        assert_eq!((&*resource["service.name"], &*resource["service.namespace"]), (expected, "social"));
    }
}

/// Makes a call, and then as many as fill a queue of ten spans.
async fn calls(clients: &Clients) {
    for number in 0..10 {
        clients.user(&format!("user-{number}")).await;
    }
}

/// The lines of a log that traces have.
fn lines(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(LOST) || line.contains("opentelemetry")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_hinders_no_call_and_the_log_says_once_what_is_lost() {
    let (database, receiver) = (Database::migrated(Engine::Sqlite).await, Receiver::start().await);
    let kith = traced(&database, &receiver, &[]).await;
    kith.clients().user("ann").await;
    receiver.until("call", |spans| (!spans.is_empty()).then_some(())).await;
    drop(receiver);
    calls(&kith.clients()).await;
    until("the loss is logged", async || lines(&kith.log()).len() == 1).await;
    for number in 0..10 {
        kith.clients().user(&format!("another-{number}")).await;
    }
    let log = ended(kith).await.log;
    let [first, last] = lines(&log)[..] else { panic!("not one line, and one at the end: {log}") };
    assert!(first.contains("WARN") && first.contains(LOST) && first.contains("spans="), "{first}");
    assert!(last.contains("WARN") && last.contains(LOST), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_answer_hinders_no_call_and_no_end() {
    let database = Database::migrated(Engine::Sqlite).await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("--otlp-endpoint=http://{}", silent.local_addr().expect("an address"));
    let queue = [("OTEL_BSP_MAX_QUEUE_SIZE", "10"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")];
    let kith = Kith::start(server(&database, &[&endpoint, "--drain-time=100ms"], &queue)).await;
    calls(&kith.clients()).await;
    until("the loss is logged", async || lines(&kith.log()).len() == 1).await;
    let log = ended(kith).await.log;
    let [full, end] = lines(&log)[..] else { panic!("not one line, and one at the end: {log}") };
    assert!(full.contains("too many wait to be sent"), "{full}");
    assert!(end.contains("the server ended before they were sent"), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_go_over_tls_to_a_receiver_with_a_certificate_of_a_trusted_authority() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (database, folder) = (Database::migrated(Engine::Sqlite).await, tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("authority.pem");
    std::fs::write(&path, &authority.pem).expect("a file");
    for (signed, trusted) in [(authority.sign(), true), (stranger.sign(), false)] {
        let receiver = Receiver::with(Some(&signed)).await;
        let url = format!("https://localhost:{}", receiver.address.port());
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", path.to_str().expect("a path")),
        ];
        let kith = Kith::start(server(&database, &[], &variables)).await;
        kith.clients().user(&format!("user-{trusted}")).await;
        let log = ended(kith).await.log;
        assert_eq!(receiver.spans().len(), if trusted { 4 } else { 0 }, "{log}");
        assert_eq!(log.contains(LOST), !trusted, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_unless_a_receiver_is_set_and_tracing_is_not_disabled() {
    let database = Database::migrated(Engine::Sqlite).await;
    let receiver = TcpListener::bind("127.0.0.1:0").expect("a port");
    receiver.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}", receiver.local_addr().expect("an address"));
    for variables in [
        &[][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_TRACES_EXPORTER", "none")],
        &[("KITH_OTLP_ENDPOINT", &*url), ("OTEL_SDK_DISABLED", "true")],
    ] {
        let kith = Kith::start(server(&database, &[], variables)).await;
        kith.clients().users().get_user(with(get(1), &[("traceparent", SAMPLED)])).await.expect_err("nobody");
        let log = ended(kith).await.log;
        assert!(!log.contains("calls are traced") && !log.contains(LOST), "{log}");
        assert_eq!(receiver.accept().expect_err("a connection").kind(), ErrorKind::WouldBlock);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_used_end_the_start_and_are_named() {
    let database = Database::migrated(Engine::Sqlite).await;
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    for (flags, variables, words) in [
        (&["--otlp-endpoint=http://ann:s3cret@localhost"][..], &[][..], "--otlp-endpoint is not a URL of the form"),
        (&[], &[("KITH_OTLP_ENDPOINT", "localhost:4317")], "KITH_OTLP_ENDPOINT is not a URL of the form"),
        (&[], &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "s3cret")], "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is not a URL"),
        (&["--otlp-endpoint=http://localhost:1"], &[http], "OTEL_EXPORTER_OTLP_PROTOCOL is \"http/protobuf\", but"),
        (
            &["--otlp-endpoint=http://localhost:1"],
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "5s")],
            "OTEL_EXPORTER_OTLP_TIMEOUT is no number",
        ),
        (
            &["--otlp-endpoint=http://localhost:1"],
            &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere")],
            "OTEL_EXPORTER_OTLP_CERTIFICATE /nowhere: cannot be read",
        ),
        (&["--trace-ratio=2"], &[], "--trace-ratio"),
    ] {
        let refused = run_command(server(&database, flags, variables)).await;
        assert!(!refused.status.success() && refused.log.contains(words), "{words}: {refused:#?}");
        let error = refused.log.lines().find(|line| line.contains(words)).expect("an error");
        assert!(!error.contains("s3cret"), "{error}");
    }
}
