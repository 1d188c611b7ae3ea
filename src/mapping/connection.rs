//! Connections, statuses and blocks: requests to commands and queries, results to messages.

use bytes::Bytes;
use uuid::Uuid;

use super::invalid::{Fields, Invalid};
use super::mutation::responses;
use super::page::Page;
use super::timestamp;
use super::user::{UserView, encode, encoded};
use crate::domain::command::{Command, UserAction};
use crate::domain::id::{Sequence, UserId};
use crate::domain::outcome::Outcome;
use crate::domain::pair::Block;
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
pub fn status(request: &pb::GetConnectionStatusRequest) -> Result<(UserId, UserId, Sequence), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let other = fields.user_id("other_user_id", request.other_user_id);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((user, other, min_revision))
}

/// Parses a query for many statuses: the user, the other users and the minimum revision.
pub fn statuses(request: &pb::BatchGetConnectionStatusesRequest) -> Result<(UserId, Vec<UserId>, Sequence), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let others = fields.user_ids("other_user_ids", &request.other_user_ids);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((user, others, min_revision))
}

/// Parses a query for counts: the user and the minimum revision.
pub fn counts(request: &pb::GetConnectionCountsRequest) -> Result<(UserId, Sequence), Invalid> {
    let mut fields = Fields::default();
    let user = fields.user_id("user_id", request.user_id);
    let min_revision = fields.revision("min_revision", request.min_revision);
    fields.finish((user, min_revision))
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
    pb::Connection {
        user: encoded(user, view),
        connected: Some(timestamp(connection.connected)),
        connection_request_id: connection.request.get(),
    }
}

/// Converts a block that was read. `user` is the blocked user.
pub fn blocked_user(blocked: &Blocked, user: &CachedUser, view: UserView) -> pb::Block {
    block(&blocked.block, encoded(user, view))
}

fn block(block: &Block, user: Bytes) -> pb::Block {
    pb::Block { user, created: Some(timestamp(block.created)) }
}

responses! {
    RemoveConnectionResponse: Outcome::Removed { status } => { status: pb::ConnectionStatus::from(*status).into() }
    UnblockUserResponse: Outcome::Unblocked { status } => { status: pb::ConnectionStatus::from(*status).into() }
    BlockUserResponse: Outcome::Blocked { block: placed, user, status } => {
        block: Some(block(placed, encode(user))),
        status: pb::ConnectionStatus::from(*status).into(),
    }, users: |it| it.block.iter_mut().map(|block| &mut block.user).collect()
}
