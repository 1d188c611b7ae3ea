//! What the feed tells, put together: a copy of the state as any watcher would keep it, by the protos alone.
//!
//! It shares no code with the service or with `model.rs`.

use std::collections::{BTreeMap, BTreeSet};

use kith::proto::v1 as pb;
use kith::proto::v1::{
    ConnectionRequestDirection as Direction, ConnectionRequestState as State, EventCause, EventKind,
};

use crate::harness::App;

/// A request or a connection, as its receiver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between {
    pub id: i64,
    pub from: i64,
    pub to: i64,
    pub state: State,
    pub viewed: bool,
}

/// Users, what is between them by its id, and who blocks whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    pub users: BTreeSet<i64>,
    pub requests: BTreeMap<i64, Between>,
    pub blocks: BTreeSet<(i64, i64)>,
}

impl Copy {
    /// What one event changes.
    pub fn apply(&mut self, event: &pb::Event) {
        let (id, user, other) = (event.connection_request_id, event.user_id, event.other_user_id);
        match event.kind() {
            EventKind::RequestCreated => {
                let born_rejected = event.cause() != EventCause::Unspecified;
                let state = if born_rejected { State::Rejected } else { State::Pending };
                self.requests.insert(id, Between { id, from: user, to: other, state, viewed: false });
            }
            EventKind::RequestViewed => self.change(id, |request| request.viewed = true),
            EventKind::RequestRejected => {
                let by_block = event.cause() == EventCause::Blocked;
                self.change(id, |request| {
                    request.state = State::Rejected;
                    request.viewed |= !by_block;
                });
            }
            EventKind::RequestRestored => self.change(id, |request| request.state = State::Pending),
            EventKind::ConnectionCreated => self.change(id, |request| {
                request.state = State::Connected;
                request.viewed = true;
            }),
            // It may have been too old to be seen when the copy was begun.
            EventKind::RequestExpired => _ = self.requests.remove(&id),
            EventKind::RequestCancelled | EventKind::ConnectionRemoved => {
                self.requests.remove(&id).unwrap_or_else(|| panic!("{event:?} of nothing"));
            }
            EventKind::UserBlocked => assert!(self.blocks.insert((user, other)), "{event:?} twice"),
            EventKind::UserUnblocked => assert!(self.blocks.remove(&(user, other)), "{event:?} of no block"),
            EventKind::UserCreated => assert!(self.users.insert(user), "{event:?} twice"),
            EventKind::UserUpdated => assert!(self.users.contains(&user), "{event:?} of nobody"),
            EventKind::UserDeleted => {
                assert!(self.users.remove(&user), "{event:?} of nobody");
                self.blocks.retain(|(one, two)| *one != user && *two != user);
                let left = self.requests.values().find(|request| request.from == user || request.to == user);
                assert_eq!(left, None, "{event:?} does not tell what became of it");
            }
            EventKind::Unspecified => panic!("{event:?}"),
        }
    }

    fn change(&mut self, id: i64, change: impl FnOnce(&mut Between)) {
        change(self.requests.get_mut(&id).unwrap_or_else(|| panic!("no request {id}")));
    }

    /// The same by reading all lists, and the revision that all of them reflect.
    pub async fn read(app: &App) -> (Self, i64) {
        let mut copy = Self::default();
        let all = pb::ListUsersRequest { page_size: 1_000, ..Default::default() };
        let users = app.users().list_users(all).await.expect("a list").into_inner();
        for user in users.users {
            copy.users.insert(user.id);
            copy.read_received(app, user.id, State::Pending).await;
            copy.read_received(app, user.id, State::Rejected).await;
            copy.read_connections(app, user.id).await;
            let blocked = pb::ListBlockedUsersRequest { user_id: user.id, page_size: 1_000, ..Default::default() };
            let blocked = app.blocks().list_blocked_users(blocked).await.expect("a list").into_inner();
            assert_eq!(blocked.revision, users.revision, "somebody writes");
            copy.blocks.extend(blocked.blocks.into_iter().map(|block| (user.id, block.user.expect("a user").id)));
        }
        (copy, users.revision)
    }

    async fn read_received(&mut self, app: &App, user_id: i64, state: State) {
        let request = pb::ListConnectionRequestsRequest {
            user_id,
            direction: Direction::Received.into(),
            state: state.into(),
            page_size: 1_000,
            ..Default::default()
        };
        let list = app.requests().list_connection_requests(request).await.expect("a list").into_inner();
        for request in list.connection_requests {
            let from = request.from_user.as_ref().expect("a user").id;
            let (id, state, viewed) = (request.id, request.state(), request.viewed.is_some());
            self.requests.insert(id, Between { id, from, to: user_id, state, viewed });
        }
    }

    async fn read_connections(&mut self, app: &App, user_id: i64) {
        let request = pb::ListConnectionsRequest { user_id, page_size: 1_000, ..Default::default() };
        let list = app.connections().list_connections(request).await.expect("a list").into_inner();
        for connection in list.connections {
            let (id, other) = (connection.connection_request_id, connection.user.expect("a user").id);
            // Each is listed from both sides; who asked, the request itself tells.
            let request = app.request(id, 0).await.expect("a request");
            let (from, to) = (request.from_user.expect("a user").id, request.to_user.expect("a user").id);
            assert_eq!([from, to].into_iter().collect::<BTreeSet<_>>(), [user_id, other].into_iter().collect());
            self.requests.insert(id, Between { id, from, to, state: State::Connected, viewed: true });
        }
    }
}
