//! The clients that `tonic` generates from the proto, and the calls that many tests make.

use kith::proto::v1 as pb;
use kith::proto::v1::block_service_client::BlockServiceClient;
use kith::proto::v1::connection_request_service_client::ConnectionRequestServiceClient;
use kith::proto::v1::connection_service_client::ConnectionServiceClient;
use kith::proto::v1::event_service_client::EventServiceClient;
use kith::proto::v1::import_service_client::ImportServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// The clients of one server.
#[derive(Clone)]
pub struct Clients(pub Channel);

impl Clients {
    pub fn users(&self) -> UserServiceClient<Channel> {
        UserServiceClient::new(self.0.clone())
    }

    pub fn requests(&self) -> ConnectionRequestServiceClient<Channel> {
        ConnectionRequestServiceClient::new(self.0.clone())
    }

    pub fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.0.clone())
    }

    pub fn blocks(&self) -> BlockServiceClient<Channel> {
        BlockServiceClient::new(self.0.clone())
    }

    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.0.clone())
    }

    pub fn imports(&self) -> ImportServiceClient<Channel> {
        ImportServiceClient::new(self.0.clone())
    }

    // --- calls that many tests make ---

    /// Creates a user of whom only the name matters. Returns the id.
    pub async fn user(&self, username: &str) -> i64 {
        let user = pb::User { username: username.to_owned(), ..Default::default() };
        let request = pb::CreateUserRequest { user: Some(user), request_id: String::new() };
        let response = self.users().create_user(request).await.expect("a user").into_inner();
        response.user.expect("a user").id
    }

    /// Creates a user with this id.
    pub async fn create(&self, id: i64) -> Result<(), Status> {
        let user = pb::User { id, username: format!("user-{id}"), ..Default::default() };
        self.users().create_user(pb::CreateUserRequest { user: Some(user), ..Default::default() }).await.map(drop)
    }

    /// Changes a user's bio.
    pub async fn update(&self, id: i64, bio: &str) {
        let user = pb::User { id, bio: bio.to_owned(), ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
        let request = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
        self.users().update_user(request).await.expect("a user");
    }

    /// Imports a user with another status.
    pub async fn moderate(&self, id: i64, username: &str, status: pb::UserStatus) {
        let user = pb::User { id, username: username.to_owned(), status: status.into(), ..Default::default() };
        let row = pb::ImportUsersRequest { user: Some(user), request_id: String::new() };
        let response = self.users().import_users(tokio_stream::iter([row])).await.expect("an import").into_inner();
        assert_eq!(response.refused, 0);
    }

    /// Sends a request. Returns its id.
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
        let request =
            pb::AcceptConnectionRequestRequest { id, user_id, request_id: String::new(), ..Default::default() };
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

    /// Connects two users. Returns the request's id.
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

    /// A request as a viewer sees it. 0 is an operator.
    pub async fn request(&self, id: i64, user_id: i64) -> Result<pb::ConnectionRequest, Status> {
        let request = pb::GetConnectionRequestRequest { id, user_id, ..Default::default() };
        let response = self.requests().get_connection_request(request).await?.into_inner();
        Ok(response.connection_request.expect("a request"))
    }

    pub async fn status(&self, user_id: i64, other_user_id: i64) -> pb::ConnectionStatus {
        let request = pb::GetConnectionStatusRequest { user_id, other_user_id, ..Default::default() };
        self.connections().get_connection_status(request).await.expect("a status").into_inner().status()
    }

    /// A user's counts: sent, received, unviewed, connections.
    pub async fn counts(&self, user_id: i64) -> [i64; 4] {
        let request = pb::GetConnectionCountsRequest { user_id, ..Default::default() };
        let counts = self.connections().get_connection_counts(request).await.expect("counts").into_inner();
        [counts.requests_sent, counts.requests_received, counts.requests_unviewed, counts.connections]
    }
}
