//! Selection of events by viewer, user, kind and pair.

use std::collections::HashSet;

use super::event::{Event, EventKind};
use super::id::{PairKey, UserId};
use super::policy::Policy;
use super::query::EventFilter;
use super::view::{HiddenKinds, Viewer, visible_event};

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

    /// Returns which events need to be read: those of a user whom all selected events are about, if there is one.
    pub fn filter(&self, policy: &Policy) -> EventFilter {
        let only = || self.users.iter().next().copied().filter(|_| self.users.len() == 1);
        match self.viewer {
            Viewer::User(user) => EventFilter::Of(user, Some(HiddenKinds::of(policy))),
            Viewer::Operator => {
                let about = self.pair.map(PairKey::low).or_else(only);
                about.map_or(EventFilter::All, |user| EventFilter::Of(user, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::event::Actor;
    use crate::domain::id::Sequence;

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);
    const CY: UserId = UserId::new(3);

    fn everything() -> Selection {
        Selection { viewer: Viewer::Operator, users: HashSet::new(), kinds: HashSet::new(), pair: None }
    }

    fn event(kind: EventKind, user: UserId, other: Option<UserId>) -> Event {
        let (time, actor) = (Time::UNIX_EPOCH, Actor::Operator);
        Event {
            sequence: Sequence::new(9),
            time,
            kind,
            cause: None,
            actor,
            user,
            other,
            request: None,
            silenced: false,
            principal: None,
        }
    }

    #[test]
    fn an_event_is_selected_if_it_matches_every_condition() {
        let removed = EventKind::ConnectionRemoved;
        let both = event(removed, ANN, Some(BOB));
        let with = |change: &dyn Fn(&mut Selection)| {
            let mut selection = everything();
            change(&mut selection);
            selection
        };
        let pair = |one, other| PairKey::of(one, other);
        for (selection, is_selected) in [
            (everything(), true),
            (with(&|selection| selection.users = [ANN].into()), true),
            (with(&|selection| selection.users = [BOB, CY].into()), true),
            (with(&|selection| selection.users = [CY].into()), false),
            (with(&|selection| selection.kinds = [removed].into()), true),
            (with(&|selection| selection.kinds = [EventKind::UserBlocked].into()), false),
            (with(&|selection| selection.pair = pair(BOB, ANN)), true),
            (with(&|selection| selection.pair = pair(ANN, CY)), false),
            (with(&|selection| selection.pair = pair(BOB, CY)), false),
            (with(&|selection| selection.viewer = Viewer::User(BOB)), true),
            (with(&|selection| selection.viewer = Viewer::User(CY)), false),
            (with(&|selection| (selection.users, selection.kinds) = ([ANN].into(), [removed].into())), true),
            (with(&|selection| (selection.users, selection.kinds) = ([CY].into(), [removed].into())), false),
        ] {
            let selected = selection.select(&both, &Policy::default());
            assert_eq!(selected, is_selected.then(|| both.clone()), "{selection:?}");
        }
        let one = event(EventKind::UserUpdated, ANN, None);
        let of_pair = Selection { pair: pair(ANN, BOB), ..everything() };
        assert_eq!(of_pair.select(&one, &Policy::default()), None, "an event about one user");
    }

    #[test]
    fn only_a_selection_without_conditions_is_everything() {
        assert!(everything().is_everything());
        for selection in [
            Selection { viewer: Viewer::User(ANN), ..everything() },
            Selection { users: [ANN].into(), ..everything() },
            Selection { kinds: [EventKind::UserCreated].into(), ..everything() },
            Selection { pair: PairKey::of(ANN, BOB), ..everything() },
        ] {
            assert!(!selection.is_everything(), "{selection:?}");
        }
    }

    #[test]
    fn only_events_about_a_user_are_read_if_all_selected_ones_are() {
        let policy = Policy::default();
        let seen = EventFilter::Of(CY, Some(HiddenKinds::of(&policy)));
        for (selection, filter) in [
            (everything(), EventFilter::All),
            (Selection { users: [BOB].into(), ..everything() }, EventFilter::Of(BOB, None)),
            (Selection { users: [ANN, BOB].into(), ..everything() }, EventFilter::All),
            (
                Selection { pair: PairKey::of(CY, BOB), users: [ANN, CY].into(), ..everything() },
                EventFilter::Of(BOB, None),
            ),
            (Selection { viewer: Viewer::User(CY), users: [ANN].into(), ..everything() }, seen),
        ] {
            assert_eq!(selection.filter(&policy), filter, "{selection:?}");
        }
    }
}
