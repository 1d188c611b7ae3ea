//! Checks each request by the table of rights before the service sees it.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::audited::{self, Audited};
use super::block::Blocks;
use super::connection::Connections;
use super::connection_request::ConnectionRequests;
use super::event::Events;
use super::relations::Relations;
use super::user::Users;
use crate::auth::Principal;
use crate::auth::rights::{Governed, authorize};
use crate::error;
use crate::proto::server as pb;
use crate::proto::server::block_service_server::BlockService;
use crate::proto::server::connection_request_service_server::ConnectionRequestService;
use crate::proto::server::connection_service_server::ConnectionService;
use crate::proto::server::event_service_server::EventService;
use crate::proto::server::import_service_server::ImportService;
use crate::proto::server::user_service_server::UserService;
use crate::telemetry::call::Call;

/// A service whose calls are authorized.
#[derive(Clone)]
pub struct Guarded<S>(pub S);

/// Returns the principal, which the server stored in the request's extensions. Without one the call fails.
fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    request.extensions().get().cloned().ok_or_else(|| error::internal("the call has no principal"))
}

/// Authorizes a call, and records for the audit trail what its request names, whether or not the principal may make it.
fn guard<M: Governed + Audited>(request: &mut Request<M>) -> Result<(), Status> {
    let principal = principal(request)?;
    let authorized = authorize(&principal, request.get_mut());
    audited::record(request);
    Ok(authorized?)
}

/// Implements a service for [`Guarded`]. `rest` are the methods with a stream.
macro_rules! guard {
    ($service:ident for $inner:ty {
        $($method:ident($request:ident) -> $response:ident;)*
    } $($rest:tt)*) => {
        #[tonic::async_trait]
        impl $service for Guarded<$inner> {
            $(async fn $method(
                &self,
                mut request: Request<pb::$request>,
            ) -> Result<Response<pb::$response>, Status> {
                guard(&mut request)?;
                self.0.$method(request).await
            })*

            $($rest)*
        }
    };
}

guard! {
    UserService for Users {
        create_user(CreateUserRequest) -> CreateUserResponse;
        get_user(GetUserRequest) -> GetUserResponse;
        batch_get_users(BatchGetUsersRequest) -> BatchGetUsersResponse;
        list_users(ListUsersRequest) -> ListUsersResponse;
        update_user(UpdateUserRequest) -> UpdateUserResponse;
        delete_user(DeleteUserRequest) -> DeleteUserResponse;
    }

    async fn import_users(
        &self,
        request: Request<Streaming<pb::ImportUsersRequest>>,
    ) -> Result<Response<pb::ImportUsersResponse>, Status> {
        // No row of an import names an acting user, so the right to the call is that to all of them.
        authorize(&principal(&request)?, &mut pb::ImportUsersRequest::default())?;
        let call = request.extensions().get::<Arc<Call>>().cloned();
        call.iter().for_each(|call| call.began());
        let imported = self.0.import_users(request).await?;
        call.iter().for_each(|call| call.changed(imported.get_ref().revision));
        Ok(imported)
    }

    type ExportUserStream = <Users as UserService>::ExportUserStream;

    async fn export_user(
        &self,
        mut request: Request<pb::ExportUserRequest>,
    ) -> Result<Response<Self::ExportUserStream>, Status> {
        guard(&mut request)?;
        self.0.export_user(request).await
    }
}

guard! {
    ConnectionRequestService for ConnectionRequests {
        send_connection_request(SendConnectionRequestRequest) -> SendConnectionRequestResponse;
        accept_connection_request(AcceptConnectionRequestRequest) -> AcceptConnectionRequestResponse;
        reject_connection_request(RejectConnectionRequestRequest) -> RejectConnectionRequestResponse;
        restore_connection_request(RestoreConnectionRequestRequest) -> RestoreConnectionRequestResponse;
        cancel_connection_request(CancelConnectionRequestRequest) -> CancelConnectionRequestResponse;
        mark_connection_request_viewed(MarkConnectionRequestViewedRequest) -> MarkConnectionRequestViewedResponse;
        mark_all_connection_requests_viewed(MarkAllConnectionRequestsViewedRequest)
            -> MarkAllConnectionRequestsViewedResponse;
        get_connection_request(GetConnectionRequestRequest) -> GetConnectionRequestResponse;
        list_connection_requests(ListConnectionRequestsRequest) -> ListConnectionRequestsResponse;
    }
}

guard! {
    ConnectionService for Connections {
        list_connections(ListConnectionsRequest) -> ListConnectionsResponse;
        remove_connection(RemoveConnectionRequest) -> RemoveConnectionResponse;
        get_connection_status(GetConnectionStatusRequest) -> GetConnectionStatusResponse;
        batch_get_connection_statuses(BatchGetConnectionStatusesRequest) -> BatchGetConnectionStatusesResponse;
        get_connection_counts(GetConnectionCountsRequest) -> GetConnectionCountsResponse;
        list_mutual_connections(ListMutualConnectionsRequest) -> ListMutualConnectionsResponse;
    }
}

guard! {
    BlockService for Blocks {
        block_user(BlockUserRequest) -> BlockUserResponse;
        unblock_user(UnblockUserRequest) -> UnblockUserResponse;
        list_blocked_users(ListBlockedUsersRequest) -> ListBlockedUsersResponse;
    }
}

guard! {
    EventService for Events {
        list_events(ListEventsRequest) -> ListEventsResponse;
    }

    type WatchEventsStream = <Events as EventService>::WatchEventsStream;

    async fn watch_events(
        &self,
        mut request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        guard(&mut request)?;
        self.0.watch_events(request).await
    }
}

guard! {
    ImportService for Relations {}

    type ImportRelationsStream = <Relations as ImportService>::ImportRelationsStream;

    async fn import_relations(
        &self,
        request: Request<Streaming<pb::ImportRelationsRequest>>,
    ) -> Result<Response<Self::ImportRelationsStream>, Status> {
        // No row of an import names an acting user, so the right to the call is that to all of them.
        authorize(&principal(&request)?, &mut pb::ImportRelationsRequest::default())?;
        request.extensions().get::<Arc<Call>>().iter().for_each(|call| call.began());
        self.0.import_relations(request).await
    }

    type ExportRelationsStream = <Relations as ImportService>::ExportRelationsStream;

    async fn export_relations(
        &self,
        mut request: Request<pb::ExportRelationsRequest>,
    ) -> Result<Response<Self::ExportRelationsStream>, Status> {
        guard(&mut request)?;
        self.0.export_relations(request).await
    }
}
