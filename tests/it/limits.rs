//! Limits of callers: on their connections, and on the calls of each. What is over a limit is refused, others go on, and
//! what has ended no longer counts.

use std::fs;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use http_body::Frame;
use kith::auth::limits::{Limits, LimitsByKind};
use kith::auth::{Authenticator, CredentialSettings};
use kith::follow::NamedFile;
use kith::proto::v1::event_service_client::EventServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::server::Settings;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1 as reflection;
use tower::Service;

use crate::harness::process::Kith;
use crate::harness::raw::{RawChannel, post};
use crate::harness::secured::Secured;
use crate::harness::watching::now;
use crate::harness::{App, Database, Engine, refused, until};

const GET_USER: &str = "/kith.v1.UserService/GetUser";
/// What a client of HTTP/2 sends first: the preface and empty SETTINGS.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn number(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

/// A service in which each address has these limits.
async fn limited(limits: Limits) -> App {
    App::with(Engine::Sqlite, |settings| settings.limits.service = limits).await
}

/// A connection from this address of the machine.
async fn connected(from: &str, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("a loopback address");
    let to = to.strip_prefix("http://").unwrap_or(to);
    socket.connect(to.parse().expect("an address")).await.expect("a connection")
}

/// A channel from this address of the machine.
async fn channel(app: &App, from: &str) -> RawChannel {
    RawChannel::over(connected(from, &app.address).await).await.expect("HTTP/2")
}

/// A call that ends with NOT_FOUND if it is admitted.
async fn read(channel: &RawChannel) -> Result<(), Status> {
    let mut users = UserServiceClient::with_origin(channel.clone(), "http://kith".parse().expect("an origin"));
    let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
    match users.get_user(request).await.expect_err("no user") {
        status if status.code() == Code::NotFound => Ok(()),
        status => Err(status),
    }
}

/// Makes calls until one is refused.
async fn first_refusal(mut call: impl AsyncFnMut() -> Result<(), Status>) -> Status {
    for _ in 0..2_000 {
        if let Err(status) = call().await {
            return status;
        }
    }
    panic!("none of 2,000 calls was refused");
}

/// Asserts that a call was refused because of this limit. Returns the time until the next attempt.
#[track_caller]
fn at_limit<T: std::fmt::Debug>(result: Result<T, Status>, limit: &str, maximum: u32) -> Duration {
    let details = refused(result, Code::ResourceExhausted, ErrorReason::RateLimited);
    let metadata = &details.error_info().expect("an ErrorInfo").metadata;
    assert_eq!(metadata["limit"], limit);
    assert_eq!(metadata["maximum"], maximum.to_string());
    details.retry_info().and_then(|retry| retry.retry_delay).expect("a delay")
}

/// The body of a request that never comes.
struct Silent;

impl http_body::Body for Silent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Pending
    }
}

/// A call that is in flight until its deadline.
fn in_flight() -> Request<Body> {
    post(GET_USER, Body::new(Silent))
}

/// Makes a call that is in flight until the task is aborted, which cancels it, or until the connection is lost. It may
/// have to wait for others.
fn begin(channel: &RawChannel, authorization: Option<HeaderValue>) -> JoinHandle<()> {
    let mut channel = channel.clone();
    tokio::spawn(async move {
        loop {
            let mut call = in_flight();
            call.headers_mut().extend(authorization.clone().map(|value| (AUTHORIZATION, value)));
            let Ok(response) = channel.call(call).await else { return };
            let status = Status::from_header_map(response.headers()).expect("a status");
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_rate_of_an_address_are_refused_and_change_nothing() {
    let app = limited(Limits { reads: number(4), writes: number(3), ..Limits::NONE }).await;
    let (one, other) = (channel(&app, "127.0.0.2").await, channel(&app, "127.0.0.3").await);
    // The rest of the second may bring some more tokens.
    let refusal = first_refusal(async || read(&one).await).await;
    assert!(at_limit(Err::<(), _>(refusal), "reads", 4) <= Duration::from_millis(250));
    read(&other).await.expect("another address is not limited by it");

    let mut created = 0;
    let refusal = first_refusal(async || app.create(created + 1).await.inspect(|()| created += 1)).await;
    assert!(at_limit(Err::<(), _>(refusal), "writes", 3) <= Duration::from_millis(334));
    assert!(created >= 3, "{created}");
    until("the user of the refused call was not created", async || {
        let listed = app.users().list_users(pb::ListUsersRequest::default()).await;
        listed.is_ok_and(|users| users.into_inner().users.len() == usize::try_from(created).expect("few"))
    })
    .await;
    until("there is a token again", async || app.create(created + 1).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_in_flight_until_it_is_cancelled_or_its_deadline_passes_or_its_connection_is_lost() {
    let app = limited(Limits { in_flight: number(2), ..Limits::NONE }).await;
    let (one, other) = (channel(&app, "127.0.0.2").await, channel(&app, "127.0.0.3").await);
    let mut open = [begin(&one, None), begin(&one, None)];
    until("both are in flight", async || read(&one).await.is_err()).await;
    assert_eq!(at_limit(read(&one).await, "in_flight", 2), Duration::from_secs(1));
    read(&other).await.expect("another address");
    let again = channel(&app, "127.0.0.2").await;
    at_limit(read(&again).await, "in_flight", 2);

    open[0].abort();
    until("a cancelled call is over", async || read(&one).await.is_ok()).await;

    // One is left. Each of these takes the second place, and gives it back before its response.
    for _ in 0..20 {
        read(&one).await.expect("the call before is over");
        let mut late = in_flight();
        late.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1m"));
        let response = one.clone().call(late).await.expect("a response");
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    // A connection that is lost, without a word about its calls.
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut stream = connected("127.0.0.2", &app.address).await;
    let link = tokio::spawn(async move { copy_bidirectional(&mut far, &mut stream).await.map(drop) });
    let lost = RawChannel::over(near).await.expect("HTTP/2");
    let lost_call = begin(&lost, None);
    until("it is in flight", async || read(&one).await.is_err()).await;
    link.abort();
    until("calls of a lost connection are over", async || read(&one).await.is_ok()).await;
    lost_call.await.expect("no panic");

    open[1].abort();
    let _open = open.each_mut().map(|_| begin(&one, None));
    until("no place was lost", async || read(&one).await.is_err()).await;
}

/// The server answers before the requests have ended, and then resets their streams. h2 limits some kinds of resets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_survives_any_number_of_refused_calls() {
    let app = limited(Limits { in_flight: number(1), ..Limits::NONE }).await;
    let one = channel(&app, "127.0.0.2").await;
    let held = begin(&one, None);
    until("it is in flight", async || read(&one).await.is_err()).await;
    // More than the errors that h2 allows. Each takes its place on the connection for a second.
    for _ in 0..1_200 {
        let response = one.clone().call(in_flight()).await.expect("a response");
        at_limit(Status::from_header_map(response.headers()).map_or(Ok(()), Err), "in_flight", 1);
    }
    held.abort();
    until("the connection is still there", async || read(&one).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_succeed_or_fail_give_back_their_places_before_their_callers_know() {
    let app = App::with(Engine::Sqlite, |settings| {
        settings.limits.service.in_flight = number(1);
        settings.policy.max_sends_per_pair = None;
    })
    .await;
    let ann = app.user("ann").await;
    let bob = app.user("bob").await;
    for _ in 0..50 {
        let id = app.send(ann, bob).await;
        app.try_send(ann, bob).await.expect_err("it is pending");
        app.cancel(id, ann).await.expect("cancelled");
        let page = pb::ListUsersRequest::default();
        assert_eq!(app.users().list_users(page).await.expect("a page").into_inner().users.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_counts_until_it_is_dropped() {
    let app = limited(Limits { watches: number(1), in_flight: number(1), ..Limits::NONE }).await;
    let other = channel(&app, "127.0.0.2").await;
    let watch = app.watch(now(15_000)).await;
    at_limit(app.try_watch(now(15_000)).await.map(drop), "watches", 1);
    // It is not in flight, and no other caller's.
    app.list_events(pb::ListEventsRequest::default()).await;
    let mut events = EventServiceClient::with_origin(other, "http://kith".parse().expect("an origin"));
    events.watch_events(now(15_000)).await.expect("another address");
    drop(watch);
    until("a dropped watch is over", async || app.try_watch(now(15_000)).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_the_server_ends_is_over_before_its_watcher_knows() {
    let app = App::with(Engine::Sqlite, |settings| {
        settings.limits.service.watches = number(1);
        settings.max_connection_age = Some(Duration::from_millis(300));
    })
    .await;
    let mut watch = app.watch(now(15_000)).await;
    assert_eq!(watch.end().await.code(), Code::Unavailable);
    // The client may make its call before it knows that its connection is over, too.
    until("there is a new connection", async || match app.try_watch(now(15_000)).await {
        Ok(_) => true,
        Err(status) => {
            assert_ne!(status.code(), Code::ResourceExhausted, "{status:?}");
            false
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_counts_until_its_response() {
    let app = limited(Limits { imports: number(1), in_flight: number(1), ..Limits::NONE }).await;
    for _ in 0..3 {
        let (release, released) = watch::channel(false);
        let mut users = app.users();
        // It may have to wait for one of those below.
        let import = tokio::spawn(async move {
            loop {
                let mut released = released.clone();
                let rows = stream::once(async move {
                    released.wait_for(|released| *released).await.expect("a sender");
                    pb::ImportUsersRequest::default()
                });
                match users.import_users(rows).await {
                    Err(status) if status.code() == Code::ResourceExhausted => {}
                    ended => return ended,
                }
            }
        });
        until("it runs", async || app.users().import_users(tokio_stream::iter([])).await.is_err()).await;
        at_limit(app.users().import_users(tokio_stream::iter([])).await, "imports", 1);
        app.list_events(pb::ListEventsRequest::default()).await;
        release.send_replace(true);
        import.await.expect("no panic").expect("a response");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_never_refused_and_reflection_counts_as_a_read() {
    let app = limited(Limits { reads: number(1), ..Limits::NONE }).await;
    let mut health = HealthClient::new(app.channel());
    for _ in 0..50 {
        health.check(HealthCheckRequest::default()).await.expect("health");
    }
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(app.channel());
    let nothing = || tokio_stream::iter([reflection::ServerReflectionRequest::default()]);
    let refusal = first_refusal(async || client.server_reflection_info(nothing()).await.map(drop)).await;
    at_limit(Err::<(), _>(refusal), "reads", 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_few_watches_of_health() {
    let app = App::start(Engine::Sqlite).await;
    let mut health = HealthClient::new(app.channel());
    let mut watches = Vec::new();
    for _ in 0..16 {
        watches.push(health.watch(HealthCheckRequest::default()).await.expect("a watch"));
    }
    at_limit(health.watch(HealthCheckRequest::default()).await.map(drop), "watches", 16);
    health.check(HealthCheckRequest::default()).await.expect("health");
    app.user("ann").await;
    let (other, origin) = RawChannel::connect(&app.address).await;
    HealthClient::with_origin(other, origin).watch(HealthCheckRequest::default()).await.expect("another connection");
    drop(watches.pop());
    until("a dropped watch is over", async || health.watch(HealthCheckRequest::default()).await.is_ok()).await;
}

/// Writes a file of principals, and the key of each.
fn principals(names: &[&str]) -> (TempDir, CredentialSettings, Vec<String>) {
    let folder = TempDir::with_prefix("kith-test-").expect("a folder");
    let path = folder.path().join("principals.toml");
    let (mut text, mut keys) = (String::new(), Vec::new());
    for (name, letter) in names.iter().zip('A'..) {
        let key = format!("kith_{}", letter.to_string().repeat(43));
        let hash: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("[{name}]\nkey = \"sha256:{hash}\"\nscopes = [\"admin\"]\n");
        keys.push(key);
    }
    fs::write(&path, text).expect("a file");
    let settings =
        CredentialSettings { jwt: None, principals: Some(NamedFile { setting: "--principals".to_owned(), path }) };
    (folder, settings, keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_counted_by_their_names_wherever_they_call_from() {
    let (_folder, credentials, keys) = principals(&["mail", "web"]);
    let limits = LimitsByKind { service: Limits { in_flight: number(1), ..Limits::NONE }, ..LimitsByKind::default() };
    let app = App::with(Engine::Sqlite, |settings: &mut Settings| {
        settings.limits = limits;
        settings.authenticator = Authenticator::start(credentials, &settings.metrics).expect("a file");
    })
    .await;
    let (one, other) = (channel(&app, "127.0.0.2").await, channel(&app, "127.0.0.3").await);
    let call = async |channel: &RawChannel, key: &str| {
        let mut request = tonic::Request::new(pb::GetUserRequest {
            key: Some(pb::get_user_request::Key::Id(1)),
            ..Default::default()
        });
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().expect("a value"));
        let mut users = UserServiceClient::with_origin(channel.clone(), "http://kith".parse().expect("an origin"));
        users.get_user(request).await.expect_err("no user")
    };
    let bearer = format!("Bearer {}", keys[0]).parse().expect("a value");
    let _begun = begin(&one, Some(bearer));
    until("mail has a call in flight", async || call(&other, &keys[0]).await.code() != Code::NotFound).await;
    at_limit(Err::<(), _>(call(&other, &keys[0]).await), "in_flight", 1);
    assert_eq!(call(&one, &keys[1]).await.code(), Code::NotFound, "web calls from the same address");
    refused(Err::<(), _>(call(&one, "nonsense").await), Code::Unauthenticated, ErrorReason::CredentialsInvalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_user_has_limits_that_other_users_and_services_do_not_share() {
    let secured = Secured::with(false, &["--limit-each-user=reads=3"]).await;
    let channel = secured.connect(None).await;
    let read = async |subject: &str| {
        let mut users = UserServiceClient::with_origin(channel.clone(), Secured::origin());
        let request = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(1)), ..Default::default() };
        match users.get_user(secured.request((subject, "read"), request)).await.expect_err("no user") {
            status if status.code() == Code::NotFound => Ok(()),
            status => Err(status),
        }
    };
    let refusal = first_refusal(async || read("user:7").await).await;
    at_limit(Err::<(), _>(refusal), "reads", 3);
    for other in ["user:8", "shop"] {
        read(other).await.expect(other);
    }
    for _ in 0..20 {
        read("shop").await.expect("services have no limits by default");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_of_services_are_a_setting() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--limit-each-service=writes=1,watches=5"]).await;
    let clients = kith.clients();
    let mut created = 0;
    let refusal = first_refusal(async || clients.create(created + 1).await.inspect(|()| created += 1)).await;
    at_limit(Err::<(), _>(refusal), "writes", 1);
}

/// Reads the first bytes of the server's SETTINGS. `None` if it closes the connection.
async fn is_served(stream: &mut TcpStream) -> bool {
    stream.write_all(OPENING).await.is_ok() && stream.read_exact(&mut [0; 9]).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_their_number_are_closed_and_leave_one_line_each_in_the_log() {
    let database = Database::migrated(Engine::Sqlite).await;
    let maximum = ["--max-client-connections=3", "--max-client-connections-per-address=2"];
    let kith = Kith::serve(&database.url, &maximum).await;
    let mut open = Vec::new();
    for (from, refused) in [("127.0.0.1", None), ("127.0.0.1", Some("127.0.0.1")), ("127.0.0.2", Some("127.0.0.3"))] {
        let mut stream = connected(from, &kith.address).await;
        assert!(is_served(&mut stream).await, "{from}");
        open.push(stream);
        // A third one of an address, or a fourth one at all.
        for refused in refused.into_iter().chain(refused) {
            assert!(!is_served(&mut connected(refused, &kith.address).await).await, "{refused}");
        }
    }
    drop(open.pop());
    until("there is room again", async || is_served(&mut connected("127.0.0.3", &kith.address).await).await).await;
    drop(open);
    until("and for a client", async || kith.fresh_clients().create(1).await.is_ok()).await;
    kith.signal("TERM");
    let log = kith.wait().await.log;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("closed a new connection")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, setting) in lines.iter().zip(["--max-client-connections-per-address", "--max-client-connections "]) {
        assert!(line.contains("WARN") && line.contains(setting) && line.contains("peer=127.0.0."), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_the_limits_of_a_connection() {
    let app = App::start(Engine::Sqlite).await;
    let mut stream = connected("127.0.0.1", &app.address).await;
    stream.write_all(OPENING).await.expect("sent");
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS");
    let mut settings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut settings).await.expect("the frame");
    let value = |id: u16| {
        let setting = settings.chunks(6).find(|setting| setting[..2] == id.to_be_bytes());
        setting.map(|setting| u32::from_be_bytes(setting[2..].try_into().expect("four bytes")))
    };
    // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE and MAX_HEADER_LIST_SIZE.
    assert_eq!([3, 4, 6].map(value), [Some(256), Some(64 << 10), Some(64 << 10)]);
}
