//! Which events a caller asks for.

use std::collections::HashSet;

use super::event::{Event, EventKind};
use super::id::{PairKey, UserId};
use super::policy::Policy;
use super::view::{Viewer, visible_event};

/// What a caller wants to be told of the feed. Every condition that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// For whom.
    pub viewer: Viewer,
    /// About one of these; empty: about anyone.
    pub users: HashSet<UserId>,
    /// Of one of these kinds; empty: of any.
    pub kinds: HashSet<EventKind>,
    /// Between these two.
    pub pair: Option<PairKey>,
}

impl Selection {
    /// The event as it is told, if it is.
    pub fn select(&self, event: &Event, policy: &Policy) -> Option<Event> {
        let is_about = |user| event.user == user || event.other == Some(user);
        let chosen = (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.users.is_empty()
                || [Some(event.user), event.other].iter().flatten().any(|id| self.users.contains(id)))
            && self.pair.is_none_or(|pair| is_about(pair.low()) && is_about(pair.high()));
        if !chosen {
            return None;
        }
        visible_event(event, self.viewer, policy)
    }

    /// Whether every event is told.
    pub fn is_everything(&self) -> bool {
        self.viewer == Viewer::Operator && self.users.is_empty() && self.kinds.is_empty() && self.pair.is_none()
    }

    /// A user whom every event that is told is about, if there is one: the feed need not be read for others.
    pub fn subject(&self) -> Option<UserId> {
        let only = || self.users.iter().next().copied().filter(|_| self.users.len() == 1);
        match self.viewer {
            Viewer::User(user) => Some(user),
            Viewer::Operator => self.pair.map(PairKey::low).or_else(only),
        }
    }
}
