//! Connection requests: requests to commands and queries, results to messages.

use bytes::Bytes;
use uuid::Uuid;

use super::invalid::{Fields, Invalid};
use super::mutation::responses;
use super::page::Page;
use super::timestamp;
use super::user::{UserView, encode, encoded};
use crate::domain::caller::Caller;
use crate::domain::command::{Command, RequestAction};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::outcome::{FullRequest, Outcome, Transition};
use crate::domain::pair::{Request, RequestState};
use crate::domain::policy::Policy;
use crate::domain::query::RequestFilter;
use crate::domain::view::Viewer;
use crate::proto::server as pb;
use crate::store::CachedUser;

/// Parses a send.
pub fn send(request: &pb::SendConnectionRequestRequest) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let (from, to) = fields.two_users(("from_user_id", request.from_user_id), ("to_user_id", request.to_user_id));
    let message = fields.text("message", &request.message);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::Send { from, to, message }, request_id))
}

/// Parses an accept request.
pub fn accept(request: &pb::AcceptConnectionRequestRequest) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let reply = fields.text("reply", &request.reply);
    fields.act_on_request(RequestAction::Accept(reply), request.id, request.user_id, &request.request_id)
}

/// Parses a reject, restore, cancel or mark-viewed request.
pub fn act_on_request(
    action: RequestAction,
    id: i64,
    user_id: i64,
    request_id: &str,
) -> Result<(Command, Option<Uuid>), Invalid> {
    Fields::default().act_on_request(action, id, user_id, request_id)
}

impl Fields {
    fn act_on_request(
        mut self,
        action: RequestAction,
        id: i64,
        user_id: i64,
        request_id: &str,
    ) -> Result<(Command, Option<Uuid>), Invalid> {
        let id = self.connection_request_id("id", id);
        let user = self.user_id("user_id", user_id);
        let request_id = self.request_id(request_id);
        self.finish((Command::ActOnRequest(id, user, action), request_id))
    }
}

/// Parses a mark-all-viewed request.
pub fn mark_all(request: &pb::MarkAllConnectionRequestsViewedRequest) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::MarkAllViewed(user), request_id))
}

/// Parses a query for a connection request: its id, the viewer, the view of its users and the minimum revision.
pub fn get(
    request: &pb::GetConnectionRequestRequest,
    caller: &Caller,
) -> Result<(RequestId, Viewer, UserView, Sequence), Invalid> {
    let mut fields = Fields::default();
    let id = fields.connection_request_id("id", request.id);
    let viewer = caller.viewer(fields.optional_user_id("user_id", request.user_id));
    let view = fields.user_view(request.user_view);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((id, viewer, view, min_revision))
}

/// Parses a list of connection requests: the user, the filter, the view of the users and the page.
///
/// The filter is `None` if the list is always empty.
pub fn list(
    request: &pb::ListConnectionRequestsRequest,
    policy: &Policy,
    key: &[u8],
) -> Result<(UserId, Option<RequestFilter>, UserView, Page), Invalid> {
    use pb::{ConnectionRequestDirection as Direction, ConnectionRequestState as State};

    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let direction: Direction = fields.known("direction", request.direction);
    let state = match fields.known("state", request.state) {
        State::Unspecified | State::Pending => RequestState::Pending,
        State::Rejected => RequestState::Rejected,
        State::Silenced => {
            fields.violation("state", "must be PENDING or REJECTED; silenced requests are pending for their sender");
            RequestState::Pending
        }
        State::Connected => {
            fields.violation("state", "must be PENDING or REJECTED; ListConnections returns connections");
            RequestState::Pending
        }
    };
    if direction == Direction::Unspecified && request.direction == 0 {
        fields.violation("direction", "must be RECEIVED or SENT");
    }
    if request.unviewed_only && (direction == Direction::Sent || state == RequestState::Rejected) {
        fields.violation("unviewed_only", "must be false except for received pending requests");
    }
    let which = match direction {
        Direction::Received | Direction::Unspecified if request.unviewed_only => Some(RequestFilter::Unviewed),
        Direction::Received | Direction::Unspecified => Some(RequestFilter::Received(state)),
        Direction::Sent if policy.disclose_rejections => {
            Some(RequestFilter::SentAnd { rejected: state == RequestState::Rejected })
        }
        Direction::Sent if state == RequestState::Pending => Some(RequestFilter::Sent),
        // A sender must not learn of rejections, so this list is empty.
        Direction::Sent => None,
    };
    let view = fields.user_view(request.user_view);
    let page = fields.page(request, key);
    fields.finish((user, which, view, page))
}

impl From<&FullRequest> for pb::ConnectionRequest {
    fn from(FullRequest { request, from, to }: &FullRequest) -> Self {
        Self { from_user: encode(from), to_user: encode(to), ..without_users(request) }
    }
}

/// Converts a request that was read, with its users.
pub fn request(request: &Request, from: &CachedUser, to: &CachedUser, view: UserView) -> pb::ConnectionRequest {
    pb::ConnectionRequest { from_user: encoded(from, view), to_user: encoded(to, view), ..without_users(request) }
}

fn without_users(request: &Request) -> pb::ConnectionRequest {
    pb::ConnectionRequest {
        id: request.id.get(),
        from_user: Bytes::new(),
        to_user: Bytes::new(),
        created: Some(timestamp(request.created)),
        rejected: request.rejected.map(timestamp),
        viewed: request.viewed.map(timestamp),
        message: request.message.as_str().to_owned(),
        state: match request.state {
            RequestState::Pending => pb::ConnectionRequestState::Pending,
            RequestState::Silenced => pb::ConnectionRequestState::Silenced,
            RequestState::Rejected => pb::ConnectionRequestState::Rejected,
            RequestState::Connected => pb::ConnectionRequestState::Connected,
        }
        .into(),
        accepted: request.accepted.map(timestamp),
        reply: request.reply.as_str().to_owned(),
    }
}

fn request_of(transition: &Transition) -> Option<pb::ConnectionRequest> {
    transition.request.as_ref().map(Into::into)
}

fn users_of(request: &mut Option<pb::ConnectionRequest>) -> Vec<&mut Bytes> {
    request.iter_mut().flat_map(|request| [&mut request.from_user, &mut request.to_user]).collect()
}

responses! {
    SendConnectionRequestResponse: Outcome::Sent(made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request)
    AcceptConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Accept(_), made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request)
    RejectConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Reject, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request)
    RestoreConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Restore, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request)
    CancelConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Cancel, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request)
    MarkConnectionRequestViewedResponse: Outcome::RequestChanged(RequestAction::MarkViewed, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request)
    MarkAllConnectionRequestsViewedResponse: Outcome::AllViewed { marked } => { marked: *marked }
}
