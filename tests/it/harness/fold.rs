//! What the feed tells, put together: a copy of the state as any watcher would keep it, by the protos alone.
//!
//! It shares no code with the service or with the tests' `model.rs`.

use std::collections::{BTreeMap, BTreeSet};

use kith::proto::v1 as pb;
use kith::proto::v1::{
    ConnectionRequestDirection as Direction, ConnectionRequestState as State, EventCause, EventKind,
};

use super::app::App;
use super::database::Database;

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
    /// What one event changes, or what is wrong with it.
    pub fn apply(&mut self, event: &pb::Event) -> Result<(), String> {
        let (id, user, other) = (event.connection_request_id, event.user_id, event.other_user_id);
        let holds = |holds: bool, wrong: &str| if holds { Ok(()) } else { Err(format!("{wrong}: {event:?}")) };
        match event.kind() {
            EventKind::RequestCreated => {
                let state = if event.silenced { State::Silenced } else { State::Pending };
                let request = Between { id, from: user, to: other, state, viewed: false };
                let before = self.requests.insert(id, request).map(|before| before.state);
                let silence_ends = event.cause() == EventCause::Unblocked;
                holds(before == silence_ends.then_some(State::Silenced), "created twice")?;
            }
            EventKind::RequestViewed => self.request(event)?.viewed = true,
            EventKind::RequestSilenced => self.request(event)?.state = State::Silenced,
            EventKind::RequestRejected => {
                let request = self.request(event)?;
                request.state = State::Rejected;
                holds(request.viewed, "rejected, and not viewed")?;
            }
            EventKind::RequestRestored => self.request(event)?.state = State::Pending,
            EventKind::ConnectionCreated => {
                let request = self.request(event)?;
                request.state = State::Connected;
                request.viewed = true;
            }
            // It may have been too old to be seen when the copy was begun.
            EventKind::RequestExpired => _ = self.requests.remove(&id),
            EventKind::RequestCancelled | EventKind::ConnectionRemoved => {
                holds(self.requests.remove(&id).is_some(), "the end of nothing")?;
            }
            EventKind::UserBlocked => holds(self.blocks.insert((user, other)), "a block that stands")?,
            EventKind::UserUnblocked => holds(self.blocks.remove(&(user, other)), "the end of no block")?,
            EventKind::UserCreated => holds(self.users.insert(user), "a user who is there")?,
            EventKind::UserUpdated => holds(self.users.contains(&user), "an update of nobody")?,
            EventKind::UserDeleted => {
                holds(self.users.remove(&user), "the end of nobody")?;
                let left = self.requests.values().any(|request| request.from == user || request.to == user);
                let blocks = self.blocks.iter().any(|(one, two)| *one == user || *two == user);
                holds(!left && !blocks, "a user is deleted, and not what they had")?;
            }
            EventKind::Unspecified => holds(false, "no kind")?,
        }
        Ok(())
    }

    fn request(&mut self, event: &pb::Event) -> Result<&mut Between, String> {
        self.requests.get_mut(&event.connection_request_id).ok_or_else(|| format!("a change of nothing: {event:?}"))
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
            copy.read_silenced(app, user.id).await;
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

    /// Those of the requests that a user sent that are silenced, as an operator sees them.
    async fn read_silenced(&mut self, app: &App, user_id: i64) {
        let request = pb::ListConnectionRequestsRequest {
            user_id,
            direction: Direction::Sent.into(),
            page_size: 1_000,
            ..Default::default()
        };
        let list = app.requests().list_connection_requests(request).await.expect("a list").into_inner();
        for sent in list.connection_requests {
            let request = app.request(sent.id, 0).await.expect("a request");
            if request.state() == State::Silenced {
                let to = request.to_user.as_ref().expect("a user").id;
                let (id, state, viewed) = (request.id, request.state(), request.viewed.is_some());
                self.requests.insert(id, Between { id, from: user_id, to, state, viewed });
            }
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

/// A copy, and how far it goes: what a consumer of the feed keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// The last event that was folded.
    pub sequence: i64,
    pub copy: Copy,
}

impl Fold {
    /// Takes the next event; says what is wrong if it is not the next one.
    pub fn add(&mut self, event: &pb::Event) -> Result<(), String> {
        if event.sequence != self.sequence + 1 {
            return Err(format!("{} follows {}", event.sequence, self.sequence));
        }
        self.sequence = event.sequence;
        self.copy.apply(event)
    }

    /// What of this differs from the tables.
    pub async fn differences(&self, database: &Database) -> Vec<String> {
        let state = |request: &Between| request.state.as_str_name().replace("CONNECTION_REQUEST_STATE_", "");
        let request = |it: &Between| format!("{}:{}:{}:{}", it.id, it.from, it.to, state(it));
        let block = |(user, other): &(i64, i64)| format!("{user}:{other}");
        let mut found = Vec::new();
        for (what, folded, query) in [
            (
                "users",
                self.copy.users.iter().map(i64::to_string).collect::<BTreeSet<_>>(),
                "SELECT id AS value FROM users",
            ),
            (
                "requests",
                self.copy.requests.values().map(request).collect(),
                "SELECT id || ':' || from_user_id || ':' || to_user_id || ':' || state AS value \
                 FROM connection_requests",
            ),
            (
                "blocks",
                self.copy.blocks.iter().map(block).collect(),
                "SELECT user_id || ':' || other_user_id AS value FROM blocks",
            ),
        ] {
            let stored: BTreeSet<_> = database.values(query).await.into_iter().flatten().collect();
            let differing: Vec<_> = folded.symmetric_difference(&stored).take(5).collect();
            if !differing.is_empty() {
                found.push(format!("{what} differ in {differing:?} and perhaps more"));
            }
        }
        found
    }
}
