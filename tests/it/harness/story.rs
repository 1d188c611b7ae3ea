//! What a user reads of themselves, and the same put together from what their feed says, by the protos alone.
//!
//! A consumer of the feed remembers nothing but this: what a user no longer sees has no part in it.

use std::collections::{BTreeMap, BTreeSet};

use kith::proto::v1 as pb;
use kith::proto::v1::{
    ConnectionRequestDirection as Direction, ConnectionRequestState as State, ConnectionStatus as Status, EventCause,
    EventKind,
};

use super::app::App;

/// A request or a connection of a user, as they see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    other: i64,
    sent: bool,
    state: State,
    /// Whether the user viewed it. Only of received requests that are pending.
    viewed: bool,
}

/// Everything that a user sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    user: i64,
    exists: bool,
    requests: BTreeMap<i64, Own>,
    blocks: BTreeSet<i64>,
}

impl Story {
    pub fn of(user: i64) -> Self {
        Self { user, ..Self::default() }
    }

    pub fn user(&self) -> i64 {
        self.user
    }

    /// What one event changes, or what is wrong with it.
    pub fn apply(&mut self, event: &pb::Event) -> Result<(), String> {
        let (id, sent) = (event.connection_request_id, event.user_id == self.user);
        let other = if sent { event.other_user_id } else { event.user_id };
        let holds = |holds: bool, wrong: &str| if holds { Ok(()) } else { Err(format!("{wrong}: {event:?}")) };
        holds(!event.silenced, "a user is shown a silence")?;
        let pending = Own { other, sent, state: State::Pending, viewed: false };
        match event.kind() {
            EventKind::RequestCreated => holds(self.requests.insert(id, pending).is_none(), "created twice")?,
            // Nothing but a rejection is restored, which is a view; or it begins anew after a block.
            EventKind::RequestRestored if sent => self.own(event)?.state = State::Pending,
            EventKind::RequestRestored => {
                let after_block = event.cause() == EventCause::Unblocked;
                let before = self.requests.insert(id, Own { viewed: !after_block, ..pending });
                holds(before.is_none() == after_block, "restored, and not rejected before")?;
            }
            EventKind::RequestViewed => self.own(event)?.viewed = !sent,
            EventKind::RequestRejected => self.own(event)?.state = State::Rejected,
            EventKind::ConnectionCreated => {
                self.requests.insert(id, Own { state: State::Connected, ..pending });
            }
            EventKind::RequestExpired | EventKind::RequestCancelled | EventKind::ConnectionRemoved => {
                holds(self.requests.remove(&id).is_some(), "the end of nothing")?;
            }
            EventKind::UserBlocked => {
                holds(sent && self.blocks.insert(other), "a block that stands, or somebody else's")?;
                self.requests.retain(|_, own| own.other != other || own.sent || own.state != State::Pending);
            }
            EventKind::UserUnblocked => holds(sent && self.blocks.remove(&other), "the end of no block")?,
            EventKind::UserCreated => holds(*self == Self::of(self.user), "a user who is there")?,
            EventKind::UserUpdated => holds(self.exists, "an update of nobody")?,
            EventKind::UserDeleted => {
                holds(self.requests.is_empty() && self.blocks.is_empty(), "deleted, and not what they had")?;
            }
            EventKind::RequestSilenced | EventKind::Unspecified => holds(false, "not for users")?,
        }
        match event.kind() {
            EventKind::UserCreated => self.exists = true,
            EventKind::UserDeleted => self.exists = false,
            _ => holds(self.exists, "told before they were there")?,
        }
        Ok(())
    }

    fn own(&mut self, event: &pb::Event) -> Result<&mut Own, String> {
        self.requests.get_mut(&event.connection_request_id).ok_or_else(|| format!("a change of nothing: {event:?}"))
    }

    /// Their counts: sent, received, unviewed, connections.
    pub fn counts(&self) -> [i64; 4] {
        let count = |of: &dyn Fn(&Own) -> bool| i64::try_from(self.requests.values().filter(|own| of(own)).count());
        let received = |own: &Own| !own.sent && own.state == State::Pending;
        [
            count(&|own| own.sent && own.state != State::Connected),
            count(&received),
            count(&|own| received(own) && !own.viewed),
            count(&|own| own.state == State::Connected),
        ]
        .map(|count| count.expect("few"))
    }

    /// Their status towards another user, and the request of it.
    pub fn status(&self, other: i64) -> (Status, i64) {
        if other == self.user {
            return (Status::Self_, 0);
        }
        if self.blocks.contains(&other) {
            return (Status::Blocked, 0);
        }
        let Some((id, own)) = self.requests.iter().find(|(_, own)| own.other == other) else {
            return (Status::None, 0);
        };
        let status = match (own.state, own.sent) {
            (State::Connected, _) => Status::Connected,
            (_, true) => Status::RequestSent,
            (State::Rejected, false) => Status::RequestRejected,
            (_, false) => Status::RequestReceived,
        };
        (status, *id)
    }

    /// The same by reading all lists.
    pub async fn read(app: &App, user: i64) -> Self {
        let mut story = Self { exists: true, ..Self::of(user) };
        for (direction, state) in [
            (Direction::Received, State::Pending),
            (Direction::Received, State::Rejected),
            (Direction::Sent, State::Pending),
            (Direction::Sent, State::Rejected),
        ] {
            story.read_requests(app, direction, state).await;
        }
        let request = pb::ListConnectionsRequest { user_id: user, page_size: 1_000, ..Default::default() };
        let list = app.connections().list_connections(request).await.expect("a list").into_inner();
        for connection in list.connections {
            let id = connection.connection_request_id;
            let request = app.request(id, user).await.expect("a request");
            let (other, sent) = (connection.user.expect("a user").id, request.from_user.expect("a user").id == user);
            story.requests.insert(id, Own { other, sent, state: State::Connected, viewed: false });
        }
        let request = pb::ListBlockedUsersRequest { user_id: user, page_size: 1_000, ..Default::default() };
        let list = app.blocks().list_blocked_users(request).await.expect("a list").into_inner();
        story.blocks = list.blocks.into_iter().map(|block| block.user.expect("a user").id).collect();
        story
    }

    async fn read_requests(&mut self, app: &App, direction: Direction, state: State) {
        let request = pb::ListConnectionRequestsRequest {
            user_id: self.user,
            direction: direction.into(),
            state: state.into(),
            page_size: 1_000,
            ..Default::default()
        };
        let list = app.requests().list_connection_requests(request).await.expect("a list").into_inner();
        for request in list.connection_requests {
            let sent = direction == Direction::Sent;
            let other = if sent { &request.to_user } else { &request.from_user };
            let other = other.as_ref().expect("a user").id;
            assert_eq!(request.state(), state, "{request:?}");
            let viewed = !sent && request.viewed.is_some();
            let before = self.requests.insert(request.id, Own { other, sent, state, viewed });
            assert!(before.is_none(), "listed twice: {request:?}");
        }
    }

    /// As two that say the same are compared: what became of a view no longer matters once a request is answered.
    pub fn told(&self) -> Self {
        let mut told = self.clone();
        told.requests.values_mut().for_each(|own| own.viewed &= own.state == State::Pending);
        told
    }
}
