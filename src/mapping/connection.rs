//! Connections, statuses and blocks: requests to commands and queries, results to messages.

use bytes::Bytes;
use uuid::Uuid;

use super::invalid::{Fields, Invalid};
use super::mutation::responses;
use super::page::Page;
use super::timestamp;
use super::user::{UserView, encode, encoded};
use crate::domain::command::{Command, UserAction};
use crate::domain::epoch::Position;
use crate::domain::id::UserId;
use crate::domain::outcome::Outcome;
use crate::domain::pair::Block;
use crate::domain::policy::Policy;
use crate::domain::query::{Blocked, Connection, Mutual};
use crate::domain::view::Status;
use crate::proto::server as pb;
use crate::store::CachedUser;

/// Parses the removal of a connection, a block or an unblock.
pub fn act_on_user(
    action: UserAction,
    user_id: i64,
    other_user_id: i64,
    request_id: &str,
) -> Result<(Command, Option<Uuid>), Invalid> {
    let mut fields = Fields::default();
    let (user, other) = fields.two_users(("user_id", user_id), ("other_user_id", other_user_id));
    let request_id = fields.request_id(request_id);
    fields.finish((Command::ActOnUser(user, other, action), request_id))
}

/// Parses a list of connections: the user, the sections of the list in order, the view of the users, and the page.
pub fn list(
    request: &pb::ListConnectionsRequest,
    key: &[u8],
) -> Result<(UserId, Vec<Mutual>, UserView, Page), Invalid> {
    use pb::MutualFilter;

    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let viewer = fields.optional_user_id("viewer_user_id", request.viewer_user_id);
    let sections = match (fields.known("mutual", request.mutual), viewer) {
        (MutualFilter::Unspecified | MutualFilter::Any, None) => vec![Mutual::Any],
        (MutualFilter::Unspecified | MutualFilter::Any, Some(viewer)) => {
            vec![Mutual::With(viewer), Mutual::Without(viewer)]
        }
        (MutualFilter::Only, Some(viewer)) => vec![Mutual::With(viewer)],
        (MutualFilter::Excluded, Some(viewer)) => vec![Mutual::Without(viewer)],
        (MutualFilter::Only | MutualFilter::Excluded, None) => {
            fields.violation("viewer_user_id", "must be set: mutual filters by the connections of the viewer");
            Vec::new()
        }
    };
    let view = fields.user_view(request.user_view);
    let page = fields.page(request, key);
    fields.finish((user, sections, view, page))
}

/// Parses a status query: the user, the other user (who may be the same) and the minimum revision.
pub fn status(request: &pb::GetConnectionStatusRequest) -> Result<(UserId, UserId, Position), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let other = fields.user_id("other_user_id", request.other_user_id);
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
    fields.finish((user, other, min_revision))
}

/// Parses a query for many statuses: the user, the other users and the minimum revision.
pub fn statuses(request: &pb::BatchGetConnectionStatusesRequest) -> Result<(UserId, Vec<UserId>, Position), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let others = fields.user_ids("other_user_ids", &request.other_user_ids);
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
    fields.finish((user, others, min_revision))
}

/// Parses a query for counts: the user and the minimum revision.
pub fn counts(request: &pb::GetConnectionCountsRequest) -> Result<(UserId, Position), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let min_revision = fields.min_revision(request.min_revision, &request.min_revision_epoch);
    fields.finish((user, min_revision))
}

/// Converts the limits on the numbers of a user. One that is off is 0.
pub fn limits(policy: &Policy) -> pb::ConnectionLimits {
    pb::ConnectionLimits {
        requests_sent: policy.max_sent_requests.unwrap_or_default(),
        connections: policy.max_connections.unwrap_or_default(),
        sends_per_hour: policy.max_sends_per_hour.unwrap_or_default(),
    }
}

/// Parses a list of mutual connections: the two users, the view of the listed ones, and the page.
pub fn mutual(
    request: &pb::ListMutualConnectionsRequest,
    key: &[u8],
) -> Result<(UserId, UserId, UserView, Page), Invalid> {
    let mut fields = Fields::default();
    let (user, other) = fields.two_users(("user_id", request.user_id), ("other_user_id", request.other_user_id));
    let view = fields.user_view(request.user_view);
    let page = fields.page(request, key);
    fields.finish((user, other, view, page))
}

/// Parses a list of blocked users: the blocking user, the view of the blocked ones, and the page.
pub fn blocked(request: &pb::ListBlockedUsersRequest, key: &[u8]) -> Result<(UserId, UserView, Page), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let view = fields.user_view(request.user_view);
    let page = fields.page(request, key);
    fields.finish((user, view, page))
}

impl From<Status> for pb::ConnectionStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::None => Self::None,
            Status::RequestSent => Self::RequestSent,
            Status::RequestReceived => Self::RequestReceived,
            Status::RequestRejected => Self::RequestRejected,
            Status::Connected => Self::Connected,
            Status::Blocked => Self::Blocked,
            Status::Itself => Self::Self_,
        }
    }
}

/// Converts a connection of a user. `user` is the other user.
pub fn connection(connection: &Connection, user: &CachedUser, view: UserView) -> pb::Connection {
    let Connection { other: _, request, connected, position: _ } = *connection;
    pb::Connection {
        user: encoded(user, view),
        connected: Some(timestamp(connected)),
        connection_request_id: request.get(),
    }
}

/// Converts a block that was read. `user` is the blocked user.
pub fn blocked_user(blocked: &Blocked, user: &CachedUser, view: UserView) -> pb::Block {
    block(&blocked.block, encoded(user, view))
}

fn block(block: &Block, user: Bytes) -> pb::Block {
    let Block { created, position: _ } = *block;
    pb::Block { user, created: Some(timestamp(created)) }
}

responses! {
    RemoveConnectionResponse: Outcome::Removed { status } => { status: pb::ConnectionStatus::from(*status).into() }
    UnblockUserResponse: Outcome::Unblocked { status } => { status: pb::ConnectionStatus::from(*status).into() }
    BlockUserResponse: Outcome::Blocked { block: placed, user, status } => {
        block: Some(block(placed, encode(user))),
        status: pb::ConnectionStatus::from(*status).into(),
    }, users: |it| it.block.iter_mut().map(|block| &mut block.user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::id::RequestId;
    use crate::domain::id::Sequence;
    use crate::domain::user::Profile;

    const KEY: &[u8] = b"key";
    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn fields(invalid: &Invalid) -> Vec<&str> {
        invalid.violations.iter().map(|violation| violation.field.as_str()).collect()
    }

    #[test]
    fn a_list_has_the_sections_of_its_filter() {
        use Mutual::{Any, With, Without};
        use pb::MutualFilter as Filter;
        for (mutual, viewer_user_id, expected) in [
            (Filter::Unspecified, 0, Some(vec![Any])),
            (Filter::Any, 0, Some(vec![Any])),
            (Filter::Unspecified, 2, Some(vec![With(BOB), Without(BOB)])),
            (Filter::Any, 2, Some(vec![With(BOB), Without(BOB)])),
            (Filter::Only, 2, Some(vec![With(BOB)])),
            (Filter::Excluded, 2, Some(vec![Without(BOB)])),
            (Filter::Only, 0, None),
            (Filter::Excluded, 0, None),
        ] {
            let mutual = mutual.into();
            let request = pb::ListConnectionsRequest { user_id: 1, viewer_user_id, mutual, ..Default::default() };
            match (list(&request, KEY), expected) {
                (Ok((user, sections, ..)), Some(expected)) => assert_eq!((user, sections), (ANN, expected)),
                (Err(invalid), None) => assert_eq!(fields(&invalid), ["viewer_user_id"]),
                (parsed, expected) => panic!("{request:?}: {parsed:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn requests_are_parsed_with_all_their_fields() {
        const ID: &str = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43";
        let id = Uuid::parse_str(ID).ok();
        let removal = Command::ActOnUser(ANN, BOB, UserAction::Remove);
        assert_eq!(act_on_user(UserAction::Remove, 1, 2, ID), Ok((removal, id)));
        let revision = Position { epoch: "a".into(), sequence: Sequence::new(7) };
        let request = pb::GetConnectionStatusRequest {
            user_id: 1,
            other_user_id: 2,
            min_revision: 7,
            min_revision_epoch: "a".to_owned(),
        };
        assert_eq!(status(&request), Ok((ANN, BOB, revision.clone())));
        let request = pb::BatchGetConnectionStatusesRequest {
            user_id: 1,
            other_user_ids: vec![2, 1],
            min_revision: 7,
            min_revision_epoch: "a".to_owned(),
        };
        assert_eq!(statuses(&request), Ok((ANN, vec![BOB, ANN], revision.clone())));
        assert_eq!(
            counts(&pb::GetConnectionCountsRequest { user_id: 1, min_revision: 7, min_revision_epoch: "a".to_owned() }),
            Ok((ANN, revision))
        );
        let request = pb::ListMutualConnectionsRequest { user_id: 1, other_user_id: 2, ..Default::default() };
        let (user, other, _, page) = mutual(&request, KEY).expect("valid");
        assert_eq!((user, other, page.size), (ANN, BOB, 20));
        let request = pb::ListBlockedUsersRequest { user_id: 1, page_size: 7, ..Default::default() };
        let (user, _, page) = blocked(&request, KEY).expect("valid");
        assert_eq!((user, page.size), (ANN, 7));
    }

    #[test]
    fn messages_have_all_values() {
        let time = Time::from_timestamp(7, 5_000).expect("a time");
        let at = Some(timestamp(time));
        let username = "bob".parse().expect("a username");
        let bob = Profile { username, ..Profile::default() }.into_user(BOB, None, time);
        let (user, position) = (encode(&bob), Sequence::new(9));
        let bob = CachedUser::from(bob);
        let row = Connection { other: BOB, request: RequestId::new(5), connected: time, position };
        let expected = pb::Connection { user: user.clone(), connected: at, connection_request_id: 5 };
        assert_eq!(connection(&row, &bob, UserView::Full), expected);
        let row = Blocked { other: BOB, block: Block { created: time, position } };
        assert_eq!(blocked_user(&row, &bob, UserView::Full), pb::Block { user, created: at });
        for (status, expected) in [
            (Status::None, pb::ConnectionStatus::None),
            (Status::RequestSent, pb::ConnectionStatus::RequestSent),
            (Status::RequestReceived, pb::ConnectionStatus::RequestReceived),
            (Status::RequestRejected, pb::ConnectionStatus::RequestRejected),
            (Status::Connected, pb::ConnectionStatus::Connected),
            (Status::Blocked, pb::ConnectionStatus::Blocked),
            (Status::Itself, pb::ConnectionStatus::Self_),
        ] {
            assert_eq!(pb::ConnectionStatus::from(status), expected);
        }
    }
}
