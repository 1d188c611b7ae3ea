//! Connections: which clients may hold one, for how long, what of them is logged, and how they end with the server.

mod web;

use std::time::Duration;

use http::{Method, Request, StatusCode, Version};
use kith::proto::v1::event_service_client::EventServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use kith::proto::v1::{self as pb, ErrorReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::body::Body;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;

use crate::harness::frames::{OPENING, ping, reset_call};
use crate::harness::process::Kith;
use crate::harness::raw::RawChannel;
use crate::harness::watching::now;
use crate::harness::{App, Database, Engine, refused, until};

/// A time that no test waits for.
const NEVER: &str = "1h";

/// Opens a connection and sends these bytes.
async fn opened(address: &str, bytes: &[u8]) -> TcpStream {
    let address = address.strip_prefix("http://").unwrap_or(address);
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("sent");
    stream
}

/// Reads until the server closes the connection.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Cut off and closed count the same.
    _ = stream.read_to_end(&mut bytes).await;
    bytes
}

/// A call that fails because the user does not exist.
async fn get_nobody(channel: &RawChannel) -> Result<(), Code> {
    let mut users = UserServiceClient::with_origin(channel.clone(), "http://kith".parse().expect("an origin"));
    let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
    match users.get_user(request).await.expect_err("no user").code() {
        Code::NotFound => Ok(()),
        code => Err(code),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_begin_http_2_in_time_is_closed_and_an_idle_one_is_not() {
    let app = App::with(Engine::Sqlite, |settings| settings.opening_time = Duration::from_millis(100)).await;
    let (idle, _) = RawChannel::connect(&app.address).await;
    // Nothing, half of the preface, and the preface without the SETTINGS that must follow.
    for bytes in [&b""[..], &OPENING[..10], &OPENING[..24], &OPENING[..32]] {
        assert_eq!(rest(opened(&app.address, bytes).await).await, b"");
    }
    get_nobody(&idle).await.expect("a call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_other_protocols_leave_one_line_each_in_the_log() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let mut first = Vec::new();
    for _ in 0..3 {
        for (bytes, words) in [
            (&b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0"[..], "a client speaks TLS to this port"),
            (b"GET /metrics HTTP/1.1\r\nhost: kith\r\n\r\n", "a client speaks HTTP/1.1 to this port"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "a proxy speaks the PROXY protocol to this port"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "a client speaks an unknown protocol to this port"),
        ] {
            let stream = opened(&kith.address, bytes).await;
            let peer = stream.local_addr().expect("an address");
            let response = String::from_utf8(rest(stream).await).expect("text");
            if bytes.starts_with(b"GET") {
                assert!(response.starts_with("HTTP/1.1 505 ") && response.contains("gRPC"), "{response}");
            } else {
                assert_eq!(response, "");
            }
            if first.len() < 4 {
                first.push((words, format!("peer={peer}")));
            }
        }
    }
    kith.signal("TERM");
    let log = kith.wait().await.log;
    for (words, peer) in first {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
        let [line] = lines[..] else { panic!("{} lines with {words:?} in {log}", lines.len()) };
        assert!(line.contains("WARN") && line.contains(&peer), "no {peer} in {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_not_grpc_is_refused_and_the_connection_remains() {
    let app = App::start(Engine::Sqlite).await;
    let (mut channel, _) = RawChannel::connect(&app.address).await;
    for (method, content_type, expected) in [
        (Method::POST, Some("application/json"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::POST, Some("application/grpc-web"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::POST, None, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::GET, Some("application/grpc"), StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, None, StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let mut request = Request::builder().method(&method).uri("http://kith/kith.v1.UserService/GetUser");
        request = request.version(Version::HTTP_2);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = channel.call(request.body(Body::empty()).expect("a request")).await.expect("a response");
        assert_eq!(response.status(), expected, "{method} {content_type:?}");
        assert_eq!(response.headers().contains_key("allow"), expected == StatusCode::METHOD_NOT_ALLOWED);
    }
    get_nobody(&channel).await.expect("a call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_over_the_limit_refuse_their_call_and_not_those_beside_it() {
    let app = App::start(Engine::Sqlite).await;
    let (mut channel, origin) = RawChannel::connect(&app.address).await;
    let mut events = EventServiceClient::with_origin(channel.clone(), origin);
    let mut watch = events.watch_events(now(15_000)).await.expect("a watch").into_inner();
    watch.message().await.expect("the first message");
    let request = |bytes| {
        Request::builder()
            .method(Method::POST)
            .uri("http://kith/kith.v1.UserService/ListUsers")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-large", "x".repeat(bytes))
            .body(Body::empty())
            .expect("a request")
    };
    let small = channel.call(request(60_000)).await.expect("a response");
    assert_eq!(small.status(), StatusCode::OK);
    for bytes in [66_000, 100_000] {
        let large = channel.call(request(bytes)).await.expect("a response");
        assert_eq!(large.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{bytes}");
    }
    let ann = app.user("ann").await;
    let message = watch.message().await.expect("a message").expect("an event");
    assert_eq!(message.events[0].user_id, ann);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_signal_it_serves_until_the_delay_is_over_or_another_signal_comes() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--drain-delay", NEVER, "--drain-time", NEVER]).await;
    let health = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut health = HealthClient::new(kith.fresh_clients().0);
        health.check(request).await.expect("a response").into_inner().status()
    };
    until("it serves", async || health("kith.v1.UserService").await == ServingStatus::Serving).await;
    kith.signal("TERM");
    until("health says so", async || health("").await == ServingStatus::NotServing).await;
    assert_eq!(health("kith.v1.UserService").await, ServingStatus::NotServing);
    kith.fresh_clients().user("ann").await;
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success() && ended.log.contains("server stopped"), "{ended:#?}");
    assert!(!ended.log.contains("aborting"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_signal_aborts_the_calls_that_are_drained() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--drain-time", NEVER]).await;
    let (rows, receiver) = mpsc::channel(1);
    let clients = kith.clients();
    let import = tokio::spawn(async move { clients.users().import_users(ReceiverStream::new(receiver)).await });
    rows.send(pb::ImportUsersRequest::default()).await.expect("a listener");
    // On the same connection: its response follows the start of the import.
    kith.clients().user("ann").await;
    kith.signal("TERM");
    until("it drains", async || kith.log().contains("draining open calls")).await;
    kith.signal("INT");
    let ended = kith.wait().await;
    assert!(ended.status.success() && ended.log.contains("another signal"), "{ended:#?}");
    import.await.expect("a call").expect_err("a call that was cut");
}

/// The streams of the health service do not end by themselves, and are not counted as calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_calls_do_not_hold_up_the_end() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--drain-time", NEVER]).await;
    let (idle, _) = RawChannel::connect(&format!("http://{}", kith.address)).await;
    get_nobody(&idle).await.expect("a call");
    let request = HealthCheckRequest { service: String::new() };
    let watch = HealthClient::new(kith.fresh_clients().0).watch(request).await.expect("a watch");
    // Without a byte, within the preface, and with a client that responds to no ping.
    let mut silent = Vec::new();
    for bytes in [&b""[..], &OPENING[..20], OPENING] {
        silent.push(opened(&kith.address, bytes).await);
    }
    // SETTINGS: it has read the opening.
    silent[2].read_exact(&mut [0; 9]).await.expect("a frame");
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success() && ended.log.contains("server stopped"), "{ended:#?}");
    assert!(!ended.log.contains("WARN"), "{ended:#?}");
    drop(watch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_finishes_its_calls_and_its_watches_resume_elsewhere() {
    let age = |settings: &mut kith::server::Settings| settings.max_connection_age = Some(Duration::from_millis(300));
    let app = App::with(Engine::Sqlite, age).await;
    let (channel, origin) = RawChannel::connect(&app.address).await;
    let mut events = EventServiceClient::with_origin(channel.clone(), origin.clone());
    let mut users = UserServiceClient::with_origin(channel.clone(), origin);
    let mut watch = events.watch_events(now(15_000)).await.expect("a watch").into_inner();
    let (rows, receiver) = mpsc::channel(1);
    let import = tokio::spawn(async move { users.import_users(ReceiverStream::new(receiver)).await });
    rows.send(pb::ImportUsersRequest::default()).await.expect("a listener");
    let ended = loop {
        match watch.message().await {
            Ok(message) => assert!(message.is_some(), "it ended without an error"),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(ended), Code::Unavailable, ErrorReason::ShuttingDown);
    until("it takes no further calls", async || get_nobody(&channel).await.is_err()).await;
    // The import was open all the time.
    let user = pb::User { id: 7, username: "ann".to_owned(), ..Default::default() };
    rows.send(pb::ImportUsersRequest { user: Some(user), ..Default::default() }).await.expect("a listener");
    drop(rows);
    assert_eq!(import.await.expect("a call").expect("a response").into_inner().created, 1);
    // The same server, by a client that makes new connections.
    app.user("bob").await;
}

/// Sends these bytes over three connections. Returns the lines of the log about clients that demand too much.
async fn flooded(flood: &[u8]) -> Vec<String> {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&kith.address).await.expect("a connection");
        // It may be closed before all is sent.
        _ = stream.write_all(flood).await;
        rest(stream).await;
    }
    kith.clients().user("ann").await;
    kith.signal("TERM");
    let log = kith.wait().await.log;
    log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_close_their_connection_and_leave_one_line_in_the_log() {
    let resets: Vec<u8> = (0..2_000).flat_map(|number| reset_call(1 + 2 * number)).collect();
    for (flood, cause) in [(resets, "excessive load"), (ping().repeat(2_000), "too many control frames")] {
        let lines = flooded(&[OPENING, &flood].concat()).await;
        let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
        for words in ["demands too much", "peer=127.0.0.1:", cause] {
            assert!(line.contains(words), "no {words:?} in {line}");
        }
    }
}
