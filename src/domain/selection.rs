//! Selection of events by viewer, user, kind and pair.

use std::collections::HashSet;

use super::event::{Event, EventKind};
use super::id::{PairKey, UserId};
use super::policy::Policy;
use super::view::{Viewer, visible_event};

/// A filter for events. An event is selected if it matches every condition that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The viewer. Events that they may not see are not selected.
    pub viewer: Viewer,
    /// Events about one of these users. Empty: about any user.
    pub users: HashSet<UserId>,
    /// Events of one of these kinds. Empty: of any kind.
    pub kinds: HashSet<EventKind>,
    /// Events between these two users.
    pub pair: Option<PairKey>,
}

impl Selection {
    /// Returns the event as the viewer may see it, or `None` if it is not selected.
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

    /// Returns whether all events are selected.
    pub fn is_everything(&self) -> bool {
        self.viewer == Viewer::Operator && self.users.is_empty() && self.kinds.is_empty() && self.pair.is_none()
    }

    /// Returns a user whom all selected events are about, if there is one.
    ///
    /// Then only the events about this user need to be read.
    pub fn subject(&self) -> Option<UserId> {
        let only = || self.users.iter().next().copied().filter(|_| self.users.len() == 1);
        match self.viewer {
            Viewer::User(user) => Some(user),
            Viewer::Operator => self.pair.map(PairKey::low).or_else(only),
        }
    }
}
