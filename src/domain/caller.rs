//! Who calls.

use std::borrow::Cow;

use super::event::Actor;
use super::id::UserId;
use super::view::Viewer;

/// Who makes a call. The server decides it once for each call; nothing in the domain knows how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A service or an administrator. Acts for any user that a request names, and for nobody otherwise.
    Operator,
    /// A user who acts and reads for themselves only.
    User(UserId),
    /// Kith itself.
    System,
}

impl Caller {
    /// The name under which this caller's idempotency keys are stored: the same in every version, and no other
    /// caller's.
    pub fn key(&self) -> Cow<'static, str> {
        match self {
            Self::Operator => Cow::Borrowed("operator"),
            Self::User(id) => Cow::Owned(format!("user:{id}")),
            Self::System => Cow::Borrowed("system"),
        }
    }

    /// The actor in events that are about one user. Events about a pair have the user that the command names.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Operator => Actor::Operator,
            Self::User(id) => Actor::User(*id),
            Self::System => Actor::System,
        }
    }

    /// For whom this caller reads when the request names this viewer, or none.
    pub fn viewer(&self, named: Option<UserId>) -> Viewer {
        match self {
            Self::Operator | Self::System => named.map_or(Viewer::Operator, Viewer::User),
            Self::User(id) => Viewer::User(*id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::new(7);

    #[test]
    fn each_caller_has_a_key_of_its_own_that_never_changes() {
        let keys = [Caller::Operator, Caller::User(ANN), Caller::User(UserId::new(8)), Caller::System];
        assert_eq!(keys.map(|caller| caller.key()), ["operator", "user:7", "user:8", "system"]);
    }

    #[test]
    fn a_user_acts_and_reads_as_nobody_else() {
        let other = Some(UserId::new(8));
        assert_eq!(Caller::User(ANN).viewer(None), Viewer::User(ANN));
        assert_eq!(Caller::User(ANN).viewer(other), Viewer::User(ANN));
        assert_eq!(Caller::User(ANN).actor(), Actor::User(ANN));
        assert_eq!(Caller::Operator.viewer(other), Viewer::User(UserId::new(8)));
        assert_eq!(Caller::Operator.viewer(None), Viewer::Operator);
    }
}
