//! The audit trail: who did what, as whom, with what outcome, and of what callers send only ids.

use kith::proto::v1 as pb;
use kith::proto::v1::block_service_client::BlockServiceClient;
use kith::proto::v1::connection_request_service_client::ConnectionRequestServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::harness::process::Kith;
use crate::harness::secured::Secured;
use crate::harness::{Database, Engine};

const KEY: &str = "6f8a4a52-9b6b-4b9b-8f5e-2f4f1c3f6d11";

/// The lines of the trail, each with its fields. Each is one object, whatever the format of the log.
fn trail(log: &str) -> Vec<Value> {
    let objects = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects.filter(|line| line["target"] == "kith::audit").map(|mut line| line["fields"].take()).collect()
}

/// The lines without their numbers, times and addresses, which must be there.
fn described(log: &str) -> Vec<Value> {
    let described = |mut line: Value| {
        let fields = line.as_object_mut().expect("an object");
        assert!(fields.remove("number").is_some_and(|number| number.is_u64()), "{fields:?}");
        assert!(fields.remove("ms").is_some_and(|ms| ms.is_f64()), "{fields:?}");
        let peer = fields.remove("peer");
        assert!(peer.is_some_and(|peer| peer.as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:"))));
        assert_eq!(fields.remove("message"), Some("call".into()));
        line
    };
    trail(log).into_iter().map(described).collect()
}

fn line(method: &str, outcome: &str, code: &str, others: &Value) -> Value {
    let method = format!("/kith.v1.{method}");
    let mut line =
        json!({"method": method, "outcome": outcome, "principal": "anonymous", "principal_kind": "anonymous"});
    if !code.is_empty() {
        line["code"] = code.into();
    }
    let others = others.as_object().expect("an object").clone();
    line.as_object_mut().expect("an object").extend(others);
    line
}

fn profile(id: i64, username: &str) -> pb::User {
    pb::User {
        id,
        username: username.to_owned(),
        real_name: "Canary Real".to_owned(),
        email: "canary@example.com".to_owned(),
        bio: "canary bio".to_owned(),
        ..Default::default()
    }
}

/// Calls of each kind.
async fn calls(kith: &Kith) {
    let clients = kith.clients();
    let create = pb::CreateUserRequest { user: Some(profile(1, "canary_ann")), ..Default::default() };
    let mut create = Request::new(create);
    create.metadata_mut().insert("x-request-id", "7f-3".parse().expect("a header"));
    clients.users().create_user(create).await.expect("a user");
    let rows = [2, 3]
        .map(|id| pb::ImportUsersRequest { user: Some(profile(id, &format!("canary_{id}"))), ..Default::default() });
    clients.users().import_users(futures_util::stream::iter(rows)).await.expect("an import");
    let send = pb::SendConnectionRequestRequest {
        from_user_id: 1,
        to_user_id: 2,
        message: "canary message".to_owned(),
        request_id: KEY.to_owned(),
    };
    clients.requests().send_connection_request(send.clone()).await.expect("a request");
    // A name that is no key, but the caller's text.
    let invalid = pb::SendConnectionRequestRequest { request_id: "canary key".to_owned(), ..send };
    let refused = clients.requests().send_connection_request(invalid).await.expect_err("no key");
    assert_eq!(refused.code(), Code::InvalidArgument);
    // Denied to the wrong user by the rules, not by the rights.
    let refused = clients.accept(4, 1).await.expect_err("the sender");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let by_name = pb::get_user_request::Key::Username("canary_ann".to_owned());
    clients.users().get_user(pb::GetUserRequest { key: Some(by_name), ..Default::default() }).await.expect("a user");
    let ids = pb::BatchGetUsersRequest { ids: (1..=101).collect(), ..Default::default() };
    clients.users().batch_get_users(ids).await.expect("users");
    let watch = pb::WatchEventsRequest { viewer_user_id: 1, ..Default::default() };
    let mut stream = clients.events().watch_events(watch).await.expect("a stream").into_inner();
    stream.message().await.expect("the position");
}

fn writes() -> Vec<Value> {
    const DENIED: &str = "PermissionDenied";
    let key = json!({"acting_user_id": 1, "user_ids": "2", "idempotency_key": KEY, "revision": 4});
    vec![
        line(
            "UserService/CreateUser",
            "succeeded",
            "Ok",
            &json!({"user_ids": "1", "revision": 1, "request_id": "7f-3"}),
        ),
        line("UserService/ImportUsers", "began", "", &json!({})),
        line("UserService/ImportUsers", "succeeded", "Ok", &json!({"revision": 3})),
        line("ConnectionRequestService/SendConnectionRequest", "succeeded", "Ok", &key),
        line(
            "ConnectionRequestService/SendConnectionRequest",
            "failed",
            "InvalidArgument",
            &json!({"acting_user_id": 1, "user_ids": "2", "reason": "INVALID_FIELDS"}),
        ),
        line(
            "ConnectionRequestService/AcceptConnectionRequest",
            "denied",
            DENIED,
            &json!({"acting_user_id": 1, "connection_request_id": 4, "reason": "NOT_THE_RECEIVER"}),
        ),
    ]
}

fn reads() -> Vec<Value> {
    let hundred = (1..=100).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    vec![
        line("UserService/GetUser", "succeeded", "Ok", &json!({})),
        line("UserService/BatchGetUsers", "succeeded", "Ok", &json!({"user_ids": hundred, "user_ids_left_out": 1})),
        line("EventService/WatchEvents", "began", "", &json!({"acting_user_id": 1})),
        line("EventService/WatchEvents", "ended", "", &json!({"acting_user_id": 1})),
    ]
}

/// The level of the log, its format, and the audit trail do not depend on each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_has_the_calls_that_are_wanted_and_ids_only() {
    let all = || [writes(), reads()].concat();
    for (audit, level, format, expected) in [
        // The harness waits for a line of `kith::command`.
        ("all", "off,kith::command=info", "text", all()),
        ("all", "trace", "json", all()),
        ("writes", "error,kith::command=info", "json", writes()),
        ("off", "debug,kith::audit=trace", "text", vec![]),
    ] {
        let database = Database::migrated(Engine::Sqlite).await;
        let flags = [("audit-log", audit), ("log-level", level), ("log-format", format)];
        let flags = flags.map(|(name, value)| format!("--{name}={value}"));
        let kith = Kith::serve(&database.url, &flags.each_ref().map(String::as_str)).await;
        calls(&kith).await;
        kith.signal("TERM");
        let log = kith.wait().await.log;
        assert_eq!(described(&log), expected, "{flags:?}");
        let numbers: Vec<_> = trail(&log).iter().map(|line| line["number"].as_u64()).collect();
        assert_eq!(numbers, (1..=expected.len()).map(|number| u64::try_from(number).ok()).collect::<Vec<_>>());
        let canaries: Vec<_> =
            log.lines().filter(|line| line.contains("kith::audit") && line.to_lowercase().contains("canary")).collect();
        assert_eq!(canaries, Vec::<&str>::new());
        assert!(!log.contains("kith::audit:"), "as text: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_names_services_and_users_and_has_denied_reads_too() {
    let server = Secured::with(false, &["--audit-log=writes", "--log-level=error,kith::command=info"]).await;
    let channel = server.connect(None).await;
    let mut users = UserServiceClient::with_origin(channel.clone(), Secured::origin());
    for (id, username) in [(1, "ann"), (2, "bob"), (3, "cy")] {
        let request = pb::CreateUserRequest { user: Some(profile(id, username)), ..Default::default() };
        users.create_user(server.request(("profiles", "users"), request)).await.expect("a user");
    }
    let mut requests = ConnectionRequestServiceClient::with_origin(channel.clone(), Secured::origin());
    let send =
        |from_user_id, to_user_id| pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() };
    requests.send_connection_request(server.request(("front", "write"), send(1, 2))).await.expect("as ann");
    // A user need not name themself.
    requests.send_connection_request(server.request(("user:1", ""), send(0, 3))).await.expect("ann");
    requests.send_connection_request(server.request(("user:1", ""), send(2, 3))).await.expect_err("as bob");
    requests.send_connection_request(server.request(("front", "read"), send(1, 2))).await.expect_err("no right");
    let mut blocks = BlockServiceClient::with_origin(channel, Secured::origin());
    let list = |user_id| pb::ListBlockedUsersRequest { user_id, ..Default::default() };
    blocks.list_blocked_users(server.request(("user:1", ""), list(0))).await.expect("ann's");
    blocks.list_blocked_users(server.request(("user:1", ""), list(2))).await.expect_err("bob's");
    blocks.list_blocked_users(list(2)).await.expect_err("no credentials");
    server.kith.signal("TERM");
    let log = server.ended().await;
    let lines = described(&log);
    assert!(!log.contains("Bearer") && !log.contains("eyJ"), "a token: {log}");
    let words = |line: &Value| {
        let fields = ["outcome", "principal", "principal_kind", "acting_user_id", "user_ids", "method", "reason"];
        let texts = fields.iter().map(|field| &line[*field]).filter(|value| !value.is_null());
        let texts = texts.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        texts.collect::<Vec<_>>().join(" ").replace("/kith.v1.", "")
    };
    let lines: Vec<_> = lines[3..].iter().map(words).collect();
    let send = "ConnectionRequestService/SendConnectionRequest";
    let list = "BlockService/ListBlockedUsers";
    assert_eq!(
        lines,
        [
            format!("succeeded token:front service 1 2 {send}"),
            format!("succeeded user:1 user 1 3 {send}"),
            format!("denied user:1 user 2 3 {send} ACTS_FOR_ANOTHER_USER"),
            format!("denied token:front service 1 2 {send} SCOPE_MISSING"),
            format!("denied user:1 user 2 {list} ACTS_FOR_ANOTHER_USER"),
            format!("denied {list} CREDENTIALS_MISSING"),
        ]
    );
}
