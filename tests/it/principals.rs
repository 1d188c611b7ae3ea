//! What services and users see of each other, with credentials of their own.

use kith::proto::v1 as pb;
use kith::proto::v1::block_service_client::BlockServiceClient;
use kith::proto::v1::connection_request_service_client::ConnectionRequestServiceClient;
use kith::proto::v1::connection_service_client::ConnectionServiceClient;
use kith::proto::v1::event_service_client::EventServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_types::StatusExt;

use crate::harness::process::{Kith, command, run_command};
use crate::harness::raw::RawChannel;
use crate::harness::secured::Secured;
use crate::harness::{Database, Engine};

/// A subject and its scopes.
type Token = (&'static str, &'static str);

const USERS: Token = ("profiles", "users");
const ANN: Token = ("user:1", "");
const BOB: Token = ("user:2", "");

/// A server with two users, each with an e-mail address.
async fn server_with_two() -> (Secured, RawChannel) {
    let server = Secured::start(false).await;
    let channel = server.connect(None).await;
    let mut users = UserServiceClient::with_origin(channel.clone(), Secured::origin());
    for (id, username) in [(1, "ann"), (2, "bob")] {
        let email = format!("{username}@example.com");
        let user = pb::User { id, username: username.to_owned(), email, ..Default::default() };
        let request = pb::CreateUserRequest { user: Some(user), ..Default::default() };
        users.create_user(server.request(USERS, request)).await.expect("a user");
    }
    (server, channel)
}

fn send(to_user_id: i64, request_id: &str) -> pb::SendConnectionRequestRequest {
    let request_id = request_id.to_owned();
    pb::SendConnectionRequestRequest { to_user_id, request_id, ..Default::default() }
}

fn email(user: Option<pb::User>) -> String {
    user.expect("a user").email
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_act_as_themselves_and_see_basic_profiles_of_others() {
    let (server, channel) = server_with_two().await;
    let mut requests = ConnectionRequestServiceClient::with_origin(channel.clone(), Secured::origin());
    let sent = requests.send_connection_request(server.request(ANN, send(2, ""))).await.expect("a request");
    let sent = sent.into_inner().connection_request.expect("a request");
    let (from, to) = (sent.from_user.expect("a sender"), sent.to_user.expect("a receiver"));
    assert_eq!((from.id, from.email.as_str()), (1, "ann@example.com"));
    assert_eq!((to.id, to.username.as_str(), to.email.as_str(), to.email_isvalid), (2, "bob", "", false));

    let received = pb::ListConnectionRequestsRequest {
        direction: pb::ConnectionRequestDirection::Received.into(),
        ..Default::default()
    };
    let listed = requests.list_connection_requests(server.request(BOB, received)).await.expect("a list").into_inner();
    let [request] = &listed.connection_requests[..] else { panic!("not one: {listed:?}") };
    assert_eq!((request.id, email(request.from_user.clone())), (sent.id, String::new()));
    let accept = pb::AcceptConnectionRequestRequest { id: sent.id, ..Default::default() };
    let denied = requests.accept_connection_request(server.request(ANN, accept.clone())).await.expect_err("the sender");
    assert_eq!(denied.get_details_error_info().expect("details").reason, "NOT_THE_RECEIVER");
    let accepted = requests.accept_connection_request(server.request(BOB, accept)).await.expect("a connection");
    let accepted = accepted.into_inner().connection_request.expect("a connection");
    assert_eq!((email(accepted.from_user), email(accepted.to_user)), (String::new(), "bob@example.com".to_owned()));

    let mut connections = ConnectionServiceClient::with_origin(channel.clone(), Secured::origin());
    let own = server.request(ANN, pb::ListConnectionsRequest::default());
    let listed = connections.list_connections(own).await.expect("a list").into_inner();
    assert_eq!(listed.connections.into_iter().map(|it| email(it.user)).collect::<Vec<_>>(), [String::new()]);

    let mut users = UserServiceClient::with_origin(channel.clone(), Secured::origin());
    for (id, expected) in [(1, "ann@example.com"), (2, "")] {
        let get = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(id)), ..Default::default() };
        let found = users.get_user(server.request(ANN, get)).await.expect("a user").into_inner();
        assert_eq!(email(found.user), expected);
    }

    let mut blocks = BlockServiceClient::with_origin(channel.clone(), Secured::origin());
    let block = pb::BlockUserRequest { other_user_id: 2, ..Default::default() };
    let blocked = blocks.block_user(server.request(ANN, block)).await.expect("a block").into_inner();
    assert_eq!(email(blocked.block.expect("a block").user), "");

    // Bob's feed ends with the connection's end. Whose block it was, he is not told.
    let mut events = EventServiceClient::with_origin(channel, Secured::origin());
    let own = server.request(BOB, pb::ListEventsRequest::default());
    let listed = events.list_events(own).await.expect("events").into_inner();
    let last = listed.events.last().expect("an event");
    assert_eq!((last.kind(), last.cause()), (pb::EventKind::ConnectionRemoved, pb::EventCause::Unspecified));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_belongs_to_its_principal() {
    const KEY: &str = "6f8a4a52-9b6b-4b9b-8f5e-2f4f1c3f6d11";
    let (server, channel) = server_with_two().await;
    let mut requests = ConnectionRequestServiceClient::with_origin(channel, Secured::origin());
    let as_ann = pb::SendConnectionRequestRequest { from_user_id: 1, ..send(2, KEY) };
    let first = requests.send_connection_request(server.request(("one", "write"), as_ann.clone())).await;
    let first = first.expect("a request").into_inner();
    // The same call of another service, and of the user, is another call.
    for other in [("two", "write"), ANN] {
        let told = requests.send_connection_request(server.request(other, as_ann.clone())).await.expect_err("pending");
        assert_eq!(told.get_details_error_info().expect("details").reason, "REQUEST_PENDING", "{other:?}");
    }
    // Scopes may change between a call and its repetition.
    let again = requests.send_connection_request(server.request(("one", "read write"), as_ann)).await;
    assert_eq!(again.expect("the first response").into_inner(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_open_and_reflection_needs_any_principal() {
    let (server, channel) = server_with_two().await;
    let mut health = HealthClient::with_origin(channel.clone(), Secured::origin());
    for service in ["", "kith.v1.UserService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.expect("health");
    }
    let mut reflection = ServerReflectionClient::with_origin(channel, Secured::origin());
    let list = || {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        tokio_stream::iter([ServerReflectionRequest { message_request, ..Default::default() }])
    };
    let refused = reflection.server_reflection_info(Request::new(list())).await.expect_err("no credential");
    assert_eq!(refused.code(), Code::Unauthenticated);
    for token in [("nothing", ""), ANN] {
        let request = server.request(token, list());
        reflection.server_reflection_info(request).await.expect("reflection");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_machines_reach_only_a_server_that_knows_who_calls_or_says_that_it_does_not() {
    let database = Database::migrated(Engine::Sqlite).await;
    let serve = |flags: &[&'static str]| {
        let url = ["--database-url", database.url.as_str()];
        command(&[&["serve", "--listen=0.0.0.0:0"], &url[..], flags].concat())
    };
    let refused = run_command(serve(&[])).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:#?}");
    assert!(refused.log.contains("nothing says who may call: set --principals or --jwt-keys"), "{refused:#?}");
    let allowed = Kith::start(serve(&["--insecure-allow-anonymous"])).await;
    assert_eq!(allowed.warnings_of_anonymity(), 1);
    let local = Kith::serve(&database.url, &[]).await;
    assert_eq!(local.warnings_of_anonymity(), 1);
    // With credentials there is nothing to allow.
    let server = Secured::start(false).await;
    assert_eq!(server.kith.warnings_of_anonymity(), 0);
}
