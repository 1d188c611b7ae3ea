//! Connection requests: requests to commands and queries, what came of them to messages.

use bytes::Bytes;
use uuid::Uuid;

use super::invalid::{Fields, Invalid};
use super::page::Page;
use super::timestamp;
use super::user::{encode, encoded};
use crate::domain::command::{Answer, Command, Outcome, WholeRequest};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::{Request, RequestState};
use crate::domain::policy::Policy;
use crate::domain::query::RequestFilter;
use crate::domain::view::Viewer;
use crate::proto::server as pb;
use crate::store::CachedUser;

/// A valid send.
pub fn send(request: &pb::SendConnectionRequestRequest) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let (from, to) = fields.two_users(("from_user_id", request.from_user_id), ("to_user_id", request.to_user_id));
    let message = fields.text("message", &request.message);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::Send { from, to, message }, request_id))
}

/// A valid acceptance, rejection and so on.
pub fn answer(answer: Answer, id: i64, user_id: i64, request_id: &str) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let id = fields.connection_request_id("id", id);
    let user = fields.user_id("user_id", user_id);
    let request_id = fields.request_id(request_id);
    fields.finish((Command::Answer(id, user, answer), request_id))
}

/// A valid marking of all.
pub fn mark_all(request: &pb::MarkAllConnectionRequestsViewedRequest) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let request_id = fields.request_id(&request.request_id);
    fields.finish((Command::MarkAllViewed(user), request_id))
}

/// Which request, for whom, and at or after which revision.
pub fn get(request: &pb::GetConnectionRequestRequest) -> Result<(RequestId, Viewer, Sequence), Invalid> {
    let mut fields = Fields::default();
    let id = fields.connection_request_id("id", request.id);
    let viewer = fields.optional_user_id("user_id", request.user_id).map_or(Viewer::Operator, Viewer::User);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((id, viewer, min_revision))
}

/// Which requests of whom; `None` in the middle for a list that is always empty.
pub fn list(
    request: &pb::ListConnectionRequestsRequest,
    policy: &Policy,
    key: &[u8],
) -> Result<(UserId, Option<RequestFilter>, Page), Invalid> {
    use pb::{ConnectionRequestDirection as Direction, ConnectionRequestState as State};

    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let direction: Direction = fields.known("direction", request.direction);
    let state = match fields.known("state", request.state) {
        State::Unspecified | State::Pending => RequestState::Pending,
        State::Rejected => RequestState::Rejected,
        State::Connected => {
            fields.wrong("state", "must be pending or rejected; connections have a list of their own");
            RequestState::Pending
        }
    };
    if direction == Direction::Unspecified && request.direction == 0 {
        fields.wrong("direction", "must be received or sent");
    }
    if request.unviewed_only && (direction == Direction::Sent || state == RequestState::Rejected) {
        fields.wrong("unviewed_only", "must not be set but for received pending requests");
    }
    let which = match direction {
        Direction::Received | Direction::Unspecified if request.unviewed_only => Some(RequestFilter::Unviewed),
        Direction::Received | Direction::Unspecified => Some(RequestFilter::Received(state)),
        Direction::Sent if policy.disclose_rejections => Some(RequestFilter::SentIn(state)),
        Direction::Sent if state == RequestState::Pending => Some(RequestFilter::Sent),
        // Whoever may not know of rejections has no list of them.
        Direction::Sent => None,
    };
    let page = fields.page(request, key);
    fields.finish((user, which, page))
}

impl From<&WholeRequest> for pb::ConnectionRequest {
    fn from(WholeRequest { request, from, to }: &WholeRequest) -> Self {
        Self { from_user: encode(from), to_user: encode(to), ..without_users(request) }
    }
}

/// A request that was read, with its users.
pub fn request(request: &Request, from: &CachedUser, to: &CachedUser) -> pb::ConnectionRequest {
    pb::ConnectionRequest { from_user: encoded(from), to_user: encoded(to), ..without_users(request) }
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
            // A withdrawn request never comes here: it is visible to nobody.
            RequestState::Rejected | RequestState::Withdrawn => pb::ConnectionRequestState::Rejected,
            RequestState::Connected => pb::ConnectionRequestState::Connected,
        }
        .into(),
        accepted: request.accepted.map(timestamp),
    }
}

macro_rules! transitions {
    ($($response:ident),+ $(,)?) => {$(
        impl From<&Outcome> for pb::$response {
            fn from(outcome: &Outcome) -> Self {
                Self {
                    connection_request: outcome.request.as_ref().map(pb::ConnectionRequest::from),
                    status: pb::ConnectionStatus::from(outcome.status).into(),
                    revision: outcome.revision.get(),
                }
            }
        }
    )+};
}

transitions!(
    SendConnectionRequestResponse,
    AcceptConnectionRequestResponse,
    RejectConnectionRequestResponse,
    RestoreConnectionRequestResponse,
    CancelConnectionRequestResponse,
    MarkConnectionRequestViewedResponse,
);

impl From<&Outcome> for pb::MarkAllConnectionRequestsViewedResponse {
    fn from(outcome: &Outcome) -> Self {
        Self { marked: outcome.marked, revision: outcome.revision.get() }
    }
}
