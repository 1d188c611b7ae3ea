//! `kith.v1.ConnectionRequestService`.

use tonic::{Request, Response, Status};

use super::{Core, caller, cut, slice};
use crate::domain::command::RequestAction;
use crate::domain::decide::Rejection;
use crate::domain::id::{Sequence, UserId};
use crate::domain::outcome::FullRequest;
use crate::domain::pair::Request as Asked;
use crate::domain::view::{Viewer, visible};
use crate::error;
use crate::mapping::connection_request as mapping;
use crate::proto::server as pb;
use crate::proto::server::connection_request_service_server::ConnectionRequestService;
use crate::store::{Listed, Requests, StoreError, Users};

/// Keeps the connection requests.
#[derive(Clone)]
pub struct ConnectionRequests(pub Core);

/// The five transitions differ in nothing but the answer that the receiver or the sender gives.
macro_rules! transition {
    ($self:ident, $request:ident, $answer:expr) => {{
        let asked = $request.get_ref();
        let command = mapping::answer($answer, asked.id, asked.user_id, &asked.request_id)?;
        $self.0.write(&$request, command).await
    }};
}

#[tonic::async_trait]
impl ConnectionRequestService for ConnectionRequests {
    async fn send_connection_request(
        &self,
        request: Request<pb::SendConnectionRequestRequest>,
    ) -> Result<Response<pb::SendConnectionRequestResponse>, Status> {
        self.0.write(&request, mapping::send(request.get_ref())?).await
    }

    async fn accept_connection_request(
        &self,
        request: Request<pb::AcceptConnectionRequestRequest>,
    ) -> Result<Response<pb::AcceptConnectionRequestResponse>, Status> {
        transition!(self, request, RequestAction::Accept)
    }

    async fn reject_connection_request(
        &self,
        request: Request<pb::RejectConnectionRequestRequest>,
    ) -> Result<Response<pb::RejectConnectionRequestResponse>, Status> {
        transition!(self, request, RequestAction::Reject)
    }

    async fn restore_connection_request(
        &self,
        request: Request<pb::RestoreConnectionRequestRequest>,
    ) -> Result<Response<pb::RestoreConnectionRequestResponse>, Status> {
        transition!(self, request, RequestAction::Restore)
    }

    async fn cancel_connection_request(
        &self,
        request: Request<pb::CancelConnectionRequestRequest>,
    ) -> Result<Response<pb::CancelConnectionRequestResponse>, Status> {
        transition!(self, request, RequestAction::Cancel)
    }

    async fn mark_connection_request_viewed(
        &self,
        request: Request<pb::MarkConnectionRequestViewedRequest>,
    ) -> Result<Response<pb::MarkConnectionRequestViewedResponse>, Status> {
        transition!(self, request, RequestAction::MarkViewed)
    }

    async fn mark_all_connection_requests_viewed(
        &self,
        request: Request<pb::MarkAllConnectionRequestsViewedRequest>,
    ) -> Result<Response<pb::MarkAllConnectionRequestsViewedResponse>, Status> {
        self.0.write(&request, mapping::mark_all(request.get_ref())?).await
    }

    async fn get_connection_request(
        &self,
        request: Request<pb::GetConnectionRequestRequest>,
    ) -> Result<Response<pb::GetConnectionRequestResponse>, Status> {
        let (id, viewer, min_revision) = mapping::get(request.get_ref(), &caller(&request)?)?;
        let read = || self.0.store.request(id);
        let Listed { revision, rows, users } = self.0.read(&request, min_revision, read).await?;
        let seen = rows.first().and_then(|row| self.seen(row, viewer, &users));
        let whole = seen.ok_or(Rejection::RequestNotFound(id))?;
        Ok(Response::new(pb::GetConnectionRequestResponse {
            connection_request: Some((&whole).into()),
            revision: revision.get(),
        }))
    }

    async fn list_connection_requests(
        &self,
        request: Request<pb::ListConnectionRequestsRequest>,
    ) -> Result<Response<pb::ListConnectionRequestsResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, which, page) = mapping::list(request.get_ref(), &self.0.policy, key)?;
        let read = || async {
            match which {
                Some(which) => self.0.store.requests(user, which, self.0.expired(), slice(&page)).await,
                None => self.nothing(user).await,
            }
        };
        let Listed { revision, mut rows, users } = self.0.read(&request, page.min_revision, read).await?;
        if !users.contains_key(&user) {
            return Err(error::user_not_found(user));
        }
        let by_id = matches!(which, Some(Requests::Sent | Requests::SentIn(_)));
        let position = |row: &Asked| if by_id { Sequence::new(row.id.get()) } else { row.position };
        let next_page_token = cut(&mut rows, &page, request.get_ref(), key, position);
        let seen = rows.iter().filter_map(|row| self.seen(row, Viewer::User(user), &users));
        Ok(Response::new(pb::ListConnectionRequestsResponse {
            connection_requests: seen.map(|whole| (&whole).into()).collect(),
            next_page_token,
            revision: revision.get(),
        }))
    }
}

impl ConnectionRequests {
    /// The request with its users, as the viewer may see it.
    fn seen(&self, row: &Asked, viewer: Viewer, users: &Users) -> Option<FullRequest> {
        let request = visible(row, viewer, &self.0.policy, self.0.clock.now())?;
        let (from, to) = (users.get(&row.from)?.clone(), users.get(&row.to)?.clone());
        Some(FullRequest { request, from, to })
    }

    /// An empty list of a user who may exist.
    async fn nothing(&self, user: UserId) -> Result<Listed<Asked>, StoreError> {
        let read = self.0.store.users(vec![user]).await?;
        Ok(Listed { revision: read.revision, rows: Vec::new(), users: read.value })
    }
}
