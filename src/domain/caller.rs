//! Callers: on whose authority a call is made.

use std::borrow::Cow;
use std::sync::Arc;

use super::event::{Actor, PrincipalKind};
use super::id::UserId;
use super::view::Viewer;

/// The identity that makes a call.
///
/// The server determines it once per call. The domain does not depend on how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Anybody, on a server that does not know who calls. Acts on behalf of any user that a request names.
    Operator,
    /// A service, by a name that no other caller has. Acts on behalf of any user that a request names.
    Service(Arc<str>),
    /// A user. Acts and reads on their own behalf only.
    User(UserId),
    /// Kith itself, for example in a sweep.
    System,
}

impl Caller {
    /// Returns the name under which the idempotency keys of this caller are stored.
    ///
    /// It is unique to the caller, and must not change between versions: it is part of stored keys.
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Operator => Cow::Borrowed("operator"),
            Self::Service(name) => Cow::Borrowed(name),
            Self::User(id) => Cow::Owned(format!("user:{id}")),
            Self::System => Cow::Borrowed("system"),
        }
    }

    /// Returns the actor of events about a single user.
    ///
    /// The actor of events about a pair is the user that the command names.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Operator | Self::Service(_) => Actor::Operator,
            Self::User(id) => Actor::User(*id),
            Self::System => Actor::System,
        }
    }

    /// Returns the kind of principal of events.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Self::Operator => PrincipalKind::Anonymous,
            Self::Service(_) => PrincipalKind::Service,
            Self::User(_) => PrincipalKind::User,
            Self::System => PrincipalKind::System,
        }
    }

    /// Returns the user whose own credential makes the call.
    ///
    /// They receive the response themselves, so its revision is [theirs](super::command::Member::newest_visible): the
    /// newest event of the feed would show them that somebody rejected or blocked them.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::Operator | Self::Service(_) | Self::System => None,
            Self::User(id) => Some(*id),
        }
    }

    /// Returns the user on whose behalf a write acts that names this user, or none.
    pub fn acting(&self, named: Option<UserId>) -> Option<UserId> {
        match self {
            Self::Operator | Self::Service(_) | Self::System => named,
            Self::User(id) => Some(*id),
        }
    }

    /// Returns the viewer for a request that names this user as its viewer, or none.
    pub fn viewer(&self, named: Option<UserId>) -> Viewer {
        match self {
            Self::Operator | Self::Service(_) | Self::System => named.map_or(Viewer::Operator, Viewer::User),
            Self::User(id) => Viewer::User(*id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::new(7);

    #[test]
    fn keys_are_unique_and_stable() {
        let service = Caller::Service("service:billing".into());
        let callers = [Caller::Operator, service, Caller::User(ANN), Caller::User(UserId::new(8)), Caller::System];
        let keys = callers.each_ref().map(Caller::key);
        assert_eq!(keys, ["operator", "service:billing", "user:7", "user:8", "system"]);
    }

    #[test]
    fn only_operators_act_and_read_on_behalf_of_others() {
        let other = Some(UserId::new(8));
        assert_eq!(Caller::User(ANN).viewer(None), Viewer::User(ANN));
        assert_eq!(Caller::User(ANN).viewer(other), Viewer::User(ANN));
        assert_eq!(Caller::User(ANN).actor(), Actor::User(ANN));
        assert_eq!((Caller::User(ANN).acting(None), Caller::User(ANN).acting(other)), (Some(ANN), Some(ANN)));
        assert_eq!((Caller::Operator.acting(None), Caller::Operator.acting(other)), (None, other));
        assert_eq!(Caller::Operator.viewer(other), Viewer::User(UserId::new(8)));
        assert_eq!(Caller::Operator.viewer(None), Viewer::Operator);
    }

    #[test]
    fn events_name_who_made_the_change() {
        for (caller, actor, kind) in [
            (Caller::Operator, Actor::Operator, PrincipalKind::Anonymous),
            (Caller::Service("service:billing".into()), Actor::Operator, PrincipalKind::Service),
            (Caller::User(ANN), Actor::User(ANN), PrincipalKind::User),
            (Caller::System, Actor::System, PrincipalKind::System),
        ] {
            assert_eq!((caller.actor(), caller.kind()), (actor, kind));
        }
    }
}
