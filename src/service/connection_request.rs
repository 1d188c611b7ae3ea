//! `kith.v1.ConnectionRequestService`.

use tonic::{Request, Response, Status};

use super::pager::Pager;
use super::{Core, caller};
use crate::domain::Time;
use crate::domain::command::RequestAction;
use crate::domain::decide::Rejection;
use crate::domain::id::{Sequence, UserId};
use crate::domain::pair::Request as StoredRequest;
use crate::domain::query::RequestQuery;
use crate::domain::view::{Viewer, visible};
use crate::error;
use crate::mapping::connection_request as mapping;
use crate::mapping::user::UserView;
use crate::proto::server as pb;
use crate::proto::server::connection_request_service_server::ConnectionRequestService;
use crate::store::{Listed, Store, StoreError, Users};

/// Implements [`ConnectionRequestService`].
#[derive(Clone)]
pub struct ConnectionRequests(pub Core);

/// The body of the RPCs that change a request. They differ only in the command.
macro_rules! transition {
    ($self:ident, $request:ident, $action:expr) => {{
        let message = $request.get_ref();
        let command = mapping::act_on_request($action, message.id, message.user_id, &message.request_id)?;
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
        self.0.write(&request, mapping::accept(request.get_ref())?).await
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
        let (id, viewer, view, min_revision) = mapping::get(request.get_ref(), &caller(&request)?)?;
        let read = self.0.read(&request, min_revision, |store| store.request(id)).await?;
        let Listed { revision, epoch, rows, users } = read;
        let seen = rows.first().and_then(|row| self.seen(row, viewer, &users, view, self.0.store.now()));
        Ok(Response::new(pb::GetConnectionRequestResponse {
            connection_request: Some(seen.ok_or(Rejection::RequestNotFound(id))?),
            revision: revision.get(),
            epoch: epoch.to_string(),
        }))
    }

    async fn list_connection_requests(
        &self,
        request: Request<pb::ListConnectionRequestsRequest>,
    ) -> Result<Response<pb::ListConnectionRequestsResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, filter, view, page) = mapping::list(request.get_ref(), &self.0.policy, key)?;
        // Read once, so that all rows of the page expire at the same time.
        let now = self.0.store.now();
        let mut pager = Pager::new(request.get_ref(), &page, key);
        // Without a lifetime, requests never expire.
        let created_after = self.0.policy.expired_before(now).unwrap_or(Time::UNIX_EPOCH);
        let range = pager.range();
        let read = self.0.read(&request, page.expected(), |store| match filter {
            Some(filter) => store.list_requests(RequestQuery { user, filter, created_after, range }),
            None => Box::pin(empty_list(store, user)),
        });
        let listed = read.await?;
        let reached = listed.position();
        let Listed { revision: _, epoch: _, rows, users } = listed;
        if !users.contains_key(&user) {
            return Err(error::user_not_found(user));
        }
        let by_id = filter.is_some_and(|filter| filter.is_ordered_by_id());
        let position = |row: &StoredRequest| if by_id { Sequence::new(row.id.get()) } else { row.position };
        let seen = |row: &StoredRequest| self.seen(row, Viewer::User(user), &users, view, now);
        Ok(Response::new(pb::ListConnectionRequestsResponse {
            connection_requests: pager.add(&rows, position, seen),
            next_page_token: pager.next_page_token(&reached),
            revision: reached.sequence.get(),
            epoch: reached.epoch.to_string(),
        }))
    }
}

impl ConnectionRequests {
    /// Returns the request with its users as the viewer may see it; `None` if the viewer may not see it.
    fn seen(
        &self,
        row: &StoredRequest,
        viewer: Viewer,
        users: &Users,
        view: UserView,
        now: Time,
    ) -> Option<pb::ConnectionRequest> {
        let request = visible(row, viewer, &self.0.policy, now)?;
        Some(mapping::request(&request, users.get(&row.from)?, users.get(&row.to)?, view))
    }
}

/// Reads only the user, for a list whose filter no request can match.
async fn empty_list(store: &dyn Store, user: UserId) -> Result<Listed<StoredRequest>, StoreError> {
    let read = store.users(vec![user]).await?;
    Ok(Listed { revision: read.revision, epoch: read.epoch, rows: Vec::new(), users: read.value })
}
