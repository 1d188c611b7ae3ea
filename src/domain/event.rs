//! Events: one for each committed change, in one order for the whole database.

use super::Time;
use super::id::{RequestId, Sequence, UserId};

/// One committed change. Ids only: nothing personal stays in the feed when a user is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the feed.
    pub sequence: Sequence,
    /// When it happened; never earlier than the event before.
    pub time: Time,
    /// What happened.
    pub kind: EventKind,
    /// Why, where the kind does not say it.
    pub cause: Option<Cause>,
    /// On whose behalf.
    pub actor: Actor,
    /// The user it is about: the sender of a request, the one who blocks, the one who is created.
    pub user: UserId,
    /// The other of the pair, where it is about a pair.
    pub other: Option<UserId>,
    /// The connection request, where it is about one.
    pub request: Option<RequestId>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    RequestCreated,
    RequestViewed,
    RequestRejected,
    RequestRestored,
    RequestCancelled,
    RequestExpired,
    ConnectionCreated,
    ConnectionRemoved,
    UserBlocked,
    UserUnblocked,
    UserCreated,
    UserUpdated,
    UserDeleted,
}

/// Why something happened that nobody asked for by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// One of the two blocked the other. On a created request: it was born rejected, since the receiver blocks
    /// its sender.
    Blocked,
    /// A created request was born rejected, since an earlier one was rejected and the wait is not over.
    Cooldown,
    /// Two requests crossed.
    Crossed,
    /// One of the two was deleted.
    UserDeleted,
}

/// On whose behalf something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A user.
    User(UserId),
    /// A caller that acts for no user.
    Operator,
    /// Kith itself: time passed.
    System,
}

macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name under which it is stored and published.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// The value of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

names!(EventKind {
    RequestCreated => "REQUEST_CREATED",
    RequestViewed => "REQUEST_VIEWED",
    RequestRejected => "REQUEST_REJECTED",
    RequestRestored => "REQUEST_RESTORED",
    RequestCancelled => "REQUEST_CANCELLED",
    RequestExpired => "REQUEST_EXPIRED",
    ConnectionCreated => "CONNECTION_CREATED",
    ConnectionRemoved => "CONNECTION_REMOVED",
    UserBlocked => "USER_BLOCKED",
    UserUnblocked => "USER_UNBLOCKED",
    UserCreated => "USER_CREATED",
    UserUpdated => "USER_UPDATED",
    UserDeleted => "USER_DELETED",
});

names!(Cause {
    Blocked => "BLOCKED",
    Cooldown => "COOLDOWN",
    Crossed => "CROSSED",
    UserDeleted => "USER_DELETED",
});
