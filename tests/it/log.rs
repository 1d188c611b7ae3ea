//! The log of calls: nothing for those that succeed, and one line with the cause for each that fails.

use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kith::proto::v1::{self as pb, ErrorReason};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::{Code, Request, Status};

use crate::faults::reveals_nothing;
use crate::harness::process::{Kith, command};
use crate::harness::{Database, Engine, until};

/// The log lines of these calls.
fn lines<'a>(log: &'a str, call: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(call)).collect()
}

/// The only log line of these calls.
#[track_caller]
fn line<'a>(log: &'a str, call: &str) -> &'a str {
    let [line] = lines(log, call)[..] else { panic!("not one line of {call} in {log}") };
    line
}

#[track_caller]
fn has(line: &str, words: &[&str]) {
    for words in words {
        assert!(line.contains(words), "no {words:?} in {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_call_logs_one_line_with_its_cause_which_its_caller_does_not_receive() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let ann = kith.clients().user("ann").await;
    database.execute("ALTER TABLE blocks RENAME TO canary").await;
    let list = pb::ListBlockedUsersRequest { user_id: ann, ..Default::default() };
    let failed = kith.clients().blocks().list_blocked_users(list.clone()).await;
    reveals_nothing(failed, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    let invalid = pb::ListBlockedUsersRequest { user_id: 0, ..list };
    assert!(kith.clients().blocks().list_blocked_users(invalid).await.is_err());
    kith.signal("TERM");
    let log = kith.wait().await.log;
    assert_eq!(lines(&log, "/kith.v1.UserService/").len(), 0, "{log}");
    let line = line(&log, "/kith.v1.BlockService/ListBlockedUsers");
    has(
        line,
        &["WARN", "call failed", "code=Unavailable", "reason=\"DATABASE_UNAVAILABLE\"", "ms=", "peer=\"127.0.0.1:"],
    );
    has(line, &["the database is unavailable", "no such table"]);
}

/// A request with headers that name it.
fn named<T>(message: T, headers: &[(&'static str, &'static str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().expect("a header"));
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_says_the_same_at_every_level() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let database = Database::migrated(Engine::Sqlite).await;
    database.execute("ALTER TABLE blocks RENAME TO canary").await;
    // The harness waits for a line of `kith::command`.
    for level in ["warn,kith::command=info", "info", "debug"] {
        let kith = Kith::serve(&database.url, &[&format!("--log-level={level}")]).await;
        let get = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
        let get = named(get, &[("traceparent", PARENT)]);
        assert_eq!(kith.clients().users().get_user(get).await.expect_err("nobody").code(), Code::NotFound);
        let list = pb::ListUsersRequest::default();
        let list = named(list, &[("x-request-id", "7f-3"), ("traceparent", PARENT)]);
        kith.clients().users().list_users(list).await.expect("users");
        let blocked = pb::ListBlockedUsersRequest { user_id: 1, ..Default::default() };
        let blocked = named(blocked, &[("x-request-id", "7f-4")]);
        kith.clients().blocks().list_blocked_users(blocked).await.expect_err("no table");
        kith.signal("TERM");
        let log = kith.wait().await.log;
        let failed = line(&log, "/kith.v1.BlockService/ListBlockedUsers");
        has(
            failed,
            &["WARN", "call failed", "code=Unavailable", "reason=\"DATABASE_UNAVAILABLE\"", "ms=", "no such table"],
        );
        has(failed, &["peer=\"127.0.0.1:", "request_id=\"7f-4\""]);
        if level != "debug" {
            assert_eq!(lines(&log, "/kith.v1.").len(), 1, "{log}");
            continue;
        }
        let refused = line(&log, "/kith.v1.UserService/GetUser");
        has(
            refused,
            &["DEBUG", "call failed", "code=NotFound", "reason=\"USER_NOT_FOUND\"", "ms=", "peer=\"127.0.0.1:", TRACE],
        );
        let done = line(&log, "/kith.v1.UserService/ListUsers");
        has(done, &["DEBUG", "call done", "code=Ok", "ms=", "peer=\"127.0.0.1:", "request_id=\"7f-3\""]);
    }
}

/// Whether a line is that of a library.
fn is_foreign(line: &str) -> bool {
    !line.split_whitespace().nth(2).is_some_and(|target| target.starts_with("kith::"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_is_that_of_kith_and_libraries_are_logged_if_they_are_named() {
    let database = Database::migrated(Engine::Sqlite).await;
    for (level, foreign) in [("debug", false), ("trace", false), ("debug,h2=debug", true)] {
        let kith = Kith::serve(&database.url, &[&format!("--log-level={level}")]).await;
        kith.clients().users().list_users(pb::ListUsersRequest::default()).await.expect("users");
        kith.signal("TERM");
        let log = kith.wait().await.log;
        assert!(log.contains("DEBUG kith::telemetry::call: call done"), "{log}");
        assert_eq!(log.lines().any(is_foreign), foreign, "{level}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_line_has_the_version_and_the_settings_that_differ() {
    let database = Database::migrated(Engine::Sqlite).await;
    let mut serve = command(&["serve", "--listen=127.0.0.1:0", "--database-url", &database.url, "--drain-time=10s"]);
    serve.env("KITH_MAX_WATCHERS", "5");
    let kith = Kith::start(serve).await;
    kith.signal("TERM");
    let log = kith.wait().await.log;
    let settings =
        format!("settings=\"listen=127.0.0.1:0 metrics-listen=off database-url={} max-watchers=5\"", database.url);
    has(log.lines().next().expect("a line"), &["INFO", env!("CARGO_PKG_VERSION"), &settings]);
}

/// The beginning of a message, which has no end.
struct Half(Option<Bytes>);

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.take().map_or(Poll::Pending, |half| Poll::Ready(Some(Ok(Frame::data(half)))))
    }
}

/// Begins a call, and waits until the server has received the beginning of its message. Then the caller goes away: it
/// resets the call, or its connection ends.
async fn gone_in_the_middle(kith: &Kith, path: &str, resets: bool) {
    let socket = std::net::TcpStream::connect(&kith.address).expect("a connection");
    socket.set_nonblocking(true).expect("a socket");
    let same = socket.try_clone().expect("a socket");
    let socket = TcpStream::from_std(socket).expect("a socket");
    let (mut sender, connection) =
        handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(socket)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let received = || kith.log().matches("frame=Data").count();
    let before = received();
    let half = Half(Some(Bytes::from_static(b"\0\0\0\0\x20half")));
    let request = http::Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(Body::new(half)).expect("a request");
    let response = tokio::spawn(sender.send_request(request));
    until("the server has a part of the message", async || received() > before).await;
    if resets {
        response.abort();
    } else {
        same.shutdown(Shutdown::Both).expect("a connection");
    }
    until("the call ends", async || lines(&kith.log(), path).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_is_no_error_of_the_server() {
    let database = Database::migrated(Engine::Sqlite).await;
    for resets in [false, true] {
        let kith = Kith::serve(&database.url, &["--log-level=debug,h2=debug"]).await;
        for path in ["/kith.v1.UserService/GetUser", "/kith.v1.UserService/ImportUsers"] {
            gone_in_the_middle(&kith, path, resets).await;
            let log = kith.log();
            has(line(&log, path), &["DEBUG", "ms=", "peer=\"127.0.0.1:"]);
        }
        kith.signal("TERM");
        let log = kith.wait().await.log;
        assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_that_ends_a_stream_is_logged_in_one_line_too() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--log-level=kith=debug"]).await;
    kith.clients().user("ann").await;
    let request = pb::WatchEventsRequest::default();
    let request = named(request, &[("x-request-id", "7f-5")]);
    let mut watch = kith.clients().events().watch_events(request).await.expect("a stream").into_inner();
    watch.message().await.expect("a heartbeat");
    database.execute("UPDATE feed SET epoch = 'another'").await;
    let ended = loop {
        match watch.message().await {
            Ok(message) => assert!(message.is_some(), "it ended without an error"),
            Err(status) => break status,
        }
    };
    reveals_nothing(Err::<(), _>(ended), Code::FailedPrecondition, ErrorReason::WrongEpoch);
    kith.signal("TERM");
    let log = kith.wait().await.log;
    assert!(lines(&log, "/kith.v1.UserService/CreateUser")[..].iter().all(|line| line.contains("call done")), "{log}");
    // The call itself succeeded.
    let [done, failed] = lines(&log, "/kith.v1.EventService/WatchEvents")[..] else { panic!("not two lines in {log}") };
    assert!(done.contains("call done"), "{done}");
    assert!(failed.contains("DEBUG") && failed.contains("call failed"), "{failed}");
    has(failed, &["code=FailedPrecondition", "reason=\"WRONG_EPOCH\"", "ms="]);
    for line in [done, failed] {
        has(line, &["peer=\"127.0.0.1:", "request_id=\"7f-5\""]);
    }
}
