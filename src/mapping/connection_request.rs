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
use crate::domain::epoch::Position;
use crate::domain::id::{RequestId, UserId};
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
) -> Result<(RequestId, Viewer, UserView, Position), Invalid> {
    let mut fields = Fields::default();
    let id = fields.connection_request_id("id", request.id);
    let viewer = caller.viewer(fields.optional_user_id("user_id", request.user_id));
    let view = fields.user_view(request.user_view);
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
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
        State::Withdrawn => {
            fields.violation("state", "must be PENDING or REJECTED; withdrawn requests are in no list");
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
    // Its users are encoded separately. Its position only orders lists.
    let Request { id, from: _, to: _, state, position: _, message, created, viewed, rejected, accepted, reply } =
        request;
    pb::ConnectionRequest {
        id: id.get(),
        from_user: Bytes::new(),
        to_user: Bytes::new(),
        created: Some(timestamp(*created)),
        rejected: rejected.map(timestamp),
        viewed: viewed.map(timestamp),
        message: message.as_str().to_owned(),
        state: match state {
            RequestState::Pending => pb::ConnectionRequestState::Pending,
            RequestState::Silenced => pb::ConnectionRequestState::Silenced,
            RequestState::Rejected => pb::ConnectionRequestState::Rejected,
            RequestState::Connected => pb::ConnectionRequestState::Connected,
        }
        .into(),
        accepted: accepted.map(timestamp),
        reply: reply.as_str().to_owned(),
    }
}

fn request_of(transition: &Transition) -> Option<pb::ConnectionRequest> {
    transition.request.as_ref().map(Into::into)
}

fn users_of(request: &mut Option<pb::ConnectionRequest>) -> Vec<&mut Bytes> {
    request.iter_mut().flat_map(|request| [&mut request.from_user, &mut request.to_user]).collect()
}

fn texts_of(request: &mut Option<pb::ConnectionRequest>) -> Vec<&mut String> {
    request.iter_mut().flat_map(|request| [&mut request.message, &mut request.reply]).collect()
}

responses! {
    SendConnectionRequestResponse: Outcome::Sent(made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request), texts: |it| texts_of(&mut it.connection_request)
    AcceptConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Accept(_), made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request), texts: |it| texts_of(&mut it.connection_request)
    RejectConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Reject, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request), texts: |it| texts_of(&mut it.connection_request)
    RestoreConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Restore, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request), texts: |it| texts_of(&mut it.connection_request)
    CancelConnectionRequestResponse: Outcome::RequestChanged(RequestAction::Cancel, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request), texts: |it| texts_of(&mut it.connection_request)
    MarkConnectionRequestViewedResponse: Outcome::RequestChanged(RequestAction::MarkViewed, made) => {
        connection_request: request_of(made),
        status: pb::ConnectionStatus::from(made.status).into(),
    }, users: |it| users_of(&mut it.connection_request), texts: |it| texts_of(&mut it.connection_request)
    MarkAllConnectionRequestsViewedResponse: Outcome::AllViewed { marked } => { marked: *marked }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::id::Sequence;
    use crate::domain::pair::Message;
    use crate::domain::user::Profile;
    use crate::domain::view::Status;

    const KEY: &[u8] = b"key";
    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);
    const ID: &str = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43";

    #[test]
    fn requests_are_parsed_with_all_their_fields() {
        let (id, message) = (Uuid::parse_str(ID).ok(), "hello".to_owned());
        let request =
            pb::SendConnectionRequestRequest { from_user_id: 1, to_user_id: 2, message, request_id: ID.to_owned() };
        let command = Command::Send { from: ANN, to: BOB, message: "hello".parse().expect("a message") };
        assert_eq!(send(&request), Ok((command, id)));
        let command = Command::ActOnRequest(RequestId::new(7), ANN, RequestAction::Reject);
        assert_eq!(act_on_request(RequestAction::Reject, 7, 1, ID), Ok((command, id)));
        let request = pb::MarkAllConnectionRequestsViewedRequest { user_id: 1, request_id: ID.to_owned() };
        assert_eq!(mark_all(&request), Ok((Command::MarkAllViewed(ANN), id)));
        for (user_id, viewer) in [(0, Viewer::Operator), (1, Viewer::User(ANN))] {
            let request = pb::GetConnectionRequestRequest { id: 7, user_id, min_revision: 9, ..Default::default() };
            assert_eq!(
                get(&request, &Caller::Operator),
                Ok((RequestId::new(7), viewer, UserView::Full, Position::from(Sequence::new(9))))
            );
        }
    }

    /// The filter of a list, or the fields that are invalid.
    type Listed = Result<Option<RequestFilter>, Vec<&'static str>>;

    #[test]
    fn a_list_has_the_filter_of_its_direction_and_state() {
        use RequestFilter::{Received, Sent, SentAnd, Unviewed};
        use RequestState::{Pending, Rejected};
        use pb::{ConnectionRequestDirection as Direction, ConnectionRequestState as State};
        let table: [(Direction, State, bool, Listed, Listed); 14] = [
            // Direction, state, only unviewed ones; the filter, and the one if rejections are disclosed.
            (Direction::Received, State::Unspecified, false, Ok(Some(Received(Pending))), Ok(Some(Received(Pending)))),
            (Direction::Received, State::Pending, false, Ok(Some(Received(Pending))), Ok(Some(Received(Pending)))),
            (Direction::Received, State::Rejected, false, Ok(Some(Received(Rejected))), Ok(Some(Received(Rejected)))),
            (Direction::Received, State::Pending, true, Ok(Some(Unviewed)), Ok(Some(Unviewed))),
            (Direction::Received, State::Rejected, true, Err(vec!["unviewed_only"]), Err(vec!["unviewed_only"])),
            (Direction::Received, State::Connected, false, Err(vec!["state"]), Err(vec!["state"])),
            (Direction::Sent, State::Silenced, false, Err(vec!["state"]), Err(vec!["state"])),
            (Direction::Sent, State::Unspecified, false, Ok(Some(Sent)), Ok(Some(SentAnd { rejected: false }))),
            (Direction::Sent, State::Pending, false, Ok(Some(Sent)), Ok(Some(SentAnd { rejected: false }))),
            (Direction::Sent, State::Rejected, false, Ok(None), Ok(Some(SentAnd { rejected: true }))),
            (Direction::Sent, State::Pending, true, Err(vec!["unviewed_only"]), Err(vec!["unviewed_only"])),
            (Direction::Sent, State::Rejected, true, Err(vec!["unviewed_only"]), Err(vec!["unviewed_only"])),
            (Direction::Unspecified, State::Pending, false, Err(vec!["direction"]), Err(vec!["direction"])),
            (Direction::Unspecified, State::Pending, true, Err(vec!["direction"]), Err(vec!["direction"])),
        ];
        for (direction, state, unviewed_only, hidden, disclosed) in table {
            for (disclose_rejections, expected) in [(false, hidden), (true, disclosed)] {
                let policy = Policy { disclose_rejections, ..Policy::default() };
                let request = pb::ListConnectionRequestsRequest {
                    user_id: 1,
                    direction: direction.into(),
                    state: state.into(),
                    unviewed_only,
                    ..Default::default()
                };
                let listed = list(&request, &policy, KEY);
                let expected = expected.map_err(|fields| fields.into_iter().map(str::to_owned).collect::<Vec<_>>());
                let named = |invalid: Invalid| invalid.violations.into_iter().map(|one| one.field).collect();
                assert_eq!(listed.map(|(_, filter, ..)| filter).map_err(named), expected, "{request:?}");
            }
        }
    }

    #[test]
    fn an_unknown_direction_is_one_violation() {
        let request = pb::ListConnectionRequestsRequest { user_id: 1, direction: 9, ..Default::default() };
        let invalid = list(&request, &Policy::default(), KEY).expect_err("invalid");
        let named: Vec<_> = invalid.violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(named, ["direction"]);
    }

    #[test]
    fn a_message_has_all_values() {
        let time = |seconds| Time::from_timestamp(seconds, 0).expect("a time");
        let user = |id: UserId, name: &str| {
            let username = name.parse().expect("a username");
            std::sync::Arc::new(Profile { username, ..Profile::default() }.into_user(id, None, time(1)))
        };
        let (ann, bob) = (user(ANN, "ann"), user(BOB, "bob"));
        let rejected = Request {
            id: RequestId::new(7),
            from: ANN,
            to: BOB,
            state: RequestState::Rejected,
            position: Sequence::new(8),
            message: "hello".parse::<Message>().expect("a message"),
            created: time(2),
            viewed: Some(time(3)),
            rejected: Some(time(4)),
            accepted: None,
            reply: Message::default(),
        };
        let expected = pb::ConnectionRequest {
            id: 7,
            from_user: encode(&ann),
            to_user: encode(&bob),
            created: Some(timestamp(time(2))),
            rejected: Some(timestamp(time(4))),
            viewed: Some(timestamp(time(3))),
            message: "hello".to_owned(),
            state: pb::ConnectionRequestState::Rejected.into(),
            accepted: None,
            reply: String::new(),
        };
        let (from, to) = (CachedUser::from(ann.clone()), CachedUser::from(bob.clone()));
        assert_eq!(request(&rejected, &from, &to, UserView::Full), expected);
        let full = FullRequest { request: rejected.clone(), from: ann, to: bob };
        assert_eq!(pb::ConnectionRequest::from(&full), expected);
        let transition = |request| Transition { request, status: Status::RequestReceived };
        assert_eq!(request_of(&transition(Some(full))), Some(expected));
        assert_eq!(request_of(&transition(None)), None);
        let connected =
            Request { state: RequestState::Connected, rejected: None, accepted: Some(time(5)), ..rejected.clone() };
        let message = request(&connected, &from, &to, UserView::Full);
        assert_eq!(message.state(), pb::ConnectionRequestState::Connected);
        assert_eq!((message.rejected, message.accepted), (None, Some(timestamp(time(5)))));
        let pending = Request { state: RequestState::Pending, rejected: None, ..rejected };
        assert_eq!(request(&pending, &from, &to, UserView::Full).state(), pb::ConnectionRequestState::Pending);
    }
}
