//! A service in this process, over a real socket, with the clients that `tonic` generates from the proto.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::TimeDelta;
use kith::clock::Clock;
use kith::domain::Time;
use kith::error;
use kith::proto::v1::block_service_client::BlockServiceClient;
use kith::proto::v1::connection_request_service_client::ConnectionRequestServiceClient;
use kith::proto::v1::connection_service_client::ConnectionServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::server::{Settings, serve};
use kith::store::{self, Options, Store};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::database::{Database, Engine};

/// A running service and all that a test needs to use it. It ends when this is dropped.
pub struct App {
    pub database: Database,
    pub store: Arc<dyn Store>,
    pub clock: TestClock,
    pub address: String,
    channel: Channel,
    _stop: oneshot::Sender<()>,
}

/// A clock that stands still until it is turned.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    fn new() -> Self {
        // A recent time, so that dates of birth are in the past.
        Self(Arc::new(AtomicI64::new(1_780_000_000_000_000)))
    }

    pub fn now(&self) -> Time {
        Time::from_timestamp_micros(self.0.load(Ordering::SeqCst)).expect("a time")
    }

    pub fn advance(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_microseconds().expect("not for ever"), Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let clock = self.clone();
        Clock::from_fn(move || clock.now())
    }
}

impl App {
    /// A service with the default settings on a fresh database.
    pub async fn start(engine: Engine) -> Self {
        Self::with(engine, |_| {}).await
    }

    /// The same with other settings.
    pub async fn with(engine: Engine, change: impl FnOnce(&mut Settings)) -> Self {
        let database = Database::migrated(engine).await;
        let store = store::connect(&database.url(), Options { readers: 4, migrate: false }).await.expect("a store");
        Self::over(database, store, change).await
    }

    /// A service over a store of the test's own making.
    pub async fn over(database: Database, store: Arc<dyn Store>, change: impl FnOnce(&mut Settings)) -> Self {
        let clock = TestClock::new();
        let mut settings = Settings { clock: clock.clock(), ..Settings::default() };
        change(&mut settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel();
        let stopped = async { _ = stopped.await };
        tokio::spawn(serve(listener, Arc::clone(&store), settings, stopped));
        let channel = Channel::from_shared(address.clone()).expect("an address").connect().await.expect("a connection");
        Self { database, store, clock, address, channel, _stop: stop }
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.channel())
    }

    pub fn requests(&self) -> ConnectionRequestServiceClient<Channel> {
        ConnectionRequestServiceClient::new(self.channel())
    }

    pub fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.channel())
    }

    pub fn blocks(&self) -> BlockServiceClient<Channel> {
        BlockServiceClient::new(self.channel())
    }

    // --- what many tests begin with ---

    /// A new user, of whom only the name matters.
    pub async fn user(&self, username: &str) -> i64 {
        let user = pb::User { username: username.to_owned(), ..Default::default() };
        let request = pb::CreateUserRequest { user: Some(user), request_id: String::new() };
        let response = self.users().create_user(request).await.expect("a user").into_inner();
        response.user.expect("a user").id
    }

    /// Imports a user with another status than before.
    pub async fn moderate(&self, id: i64, username: &str, status: pb::UserStatus) {
        let user = pb::User { id, username: username.to_owned(), status: status.into(), ..Default::default() };
        let row = pb::ImportUsersRequest { user: Some(user), request_id: String::new() };
        let response = self.users().import_users(tokio_stream::iter([row])).await.expect("an import").into_inner();
        assert_eq!(response.refused, 0);
    }

    /// A request of `from` to `to`; answers its id.
    pub async fn send(&self, from: i64, to: i64) -> i64 {
        self.try_send(from, to).await.expect("a request").into_inner().connection_request.expect("a request").id
    }

    pub async fn try_send(
        &self,
        from_user_id: i64,
        to_user_id: i64,
    ) -> Result<Response<pb::SendConnectionRequestResponse>, Status> {
        let request = pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() };
        self.requests().send_connection_request(request).await
    }

    pub async fn accept(&self, id: i64, user_id: i64) -> Result<Response<pb::AcceptConnectionRequestResponse>, Status> {
        let request = pb::AcceptConnectionRequestRequest { id, user_id, request_id: String::new() };
        self.requests().accept_connection_request(request).await
    }

    pub async fn reject(&self, id: i64, user_id: i64) -> Result<Response<pb::RejectConnectionRequestResponse>, Status> {
        let request = pb::RejectConnectionRequestRequest { id, user_id, request_id: String::new() };
        self.requests().reject_connection_request(request).await
    }

    pub async fn restore(
        &self,
        id: i64,
        user_id: i64,
    ) -> Result<Response<pb::RestoreConnectionRequestResponse>, Status> {
        let request = pb::RestoreConnectionRequestRequest { id, user_id, request_id: String::new() };
        self.requests().restore_connection_request(request).await
    }

    pub async fn cancel(&self, id: i64, user_id: i64) -> Result<Response<pb::CancelConnectionRequestResponse>, Status> {
        let request = pb::CancelConnectionRequestRequest { id, user_id, request_id: String::new() };
        self.requests().cancel_connection_request(request).await
    }

    pub async fn mark_viewed(
        &self,
        id: i64,
        user_id: i64,
    ) -> Result<Response<pb::MarkConnectionRequestViewedResponse>, Status> {
        let request = pb::MarkConnectionRequestViewedRequest { id, user_id, request_id: String::new() };
        self.requests().mark_connection_request_viewed(request).await
    }

    /// Connects two users; answers the request's id.
    pub async fn connect(&self, one: i64, other: i64) -> i64 {
        let id = self.send(one, other).await;
        self.accept(id, other).await.expect("a connection");
        id
    }

    pub async fn block(&self, user_id: i64, other_user_id: i64) {
        let request = pb::BlockUserRequest { user_id, other_user_id, request_id: String::new() };
        self.blocks().block_user(request).await.expect("a block");
    }

    pub async fn unblock(&self, user_id: i64, other_user_id: i64) {
        let request = pb::UnblockUserRequest { user_id, other_user_id, request_id: String::new() };
        self.blocks().unblock_user(request).await.expect("no block");
    }

    pub async fn remove(
        &self,
        user_id: i64,
        other_user_id: i64,
    ) -> Result<Response<pb::RemoveConnectionResponse>, Status> {
        let request = pb::RemoveConnectionRequest { user_id, other_user_id, request_id: String::new() };
        self.connections().remove_connection(request).await
    }

    /// A request as a viewer sees it; 0 is an operator.
    pub async fn request(&self, id: i64, user_id: i64) -> Result<pb::ConnectionRequest, Status> {
        let request = pb::GetConnectionRequestRequest { id, user_id };
        let response = self.requests().get_connection_request(request).await?.into_inner();
        Ok(response.connection_request.expect("a request"))
    }

    pub async fn status(&self, user_id: i64, other_user_id: i64) -> pb::ConnectionStatus {
        let request = pb::GetConnectionStatusRequest { user_id, other_user_id };
        self.connections().get_connection_status(request).await.expect("a status").into_inner().status()
    }

    /// A user's counts: sent, received, unviewed, connections.
    pub async fn counts(&self, user_id: i64) -> [i64; 4] {
        let request = pb::GetConnectionCountsRequest { user_id };
        let counts = self.connections().get_connection_counts(request).await.expect("counts").into_inner();
        [counts.requests_sent, counts.requests_received, counts.requests_unviewed, counts.connections]
    }

    /// The newest revision.
    pub async fn revision(&self) -> i64 {
        self.store.revision().await.expect("a revision").get()
    }
}

/// The details of an error that was expected, with this code and this reason.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: ErrorReason) -> ErrorDetails {
    let status = result.expect_err("a refusal");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (code, error::name(reason)), "{}", status.message());
    assert_eq!(info.domain, "kith");
    match code {
        Code::InvalidArgument => assert!(details.bad_request().is_some(), "no BadRequest in {status:?}"),
        Code::ResourceExhausted | Code::Unavailable => {
            assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "no RetryInfo: {status:?}");
        }
        _ => {}
    }
    details
}

/// The fields that an error names as wrong, in its order.
pub fn fields(details: &ErrorDetails) -> Vec<&str> {
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    violations.iter().map(|violation| violation.field.as_str()).collect()
}
