//! Events: one for each committed change, in one order for the whole database.
//!
//! The ordered events of a database are its feed.

use super::Time;
use super::id::{RequestId, Sequence, UserId};

/// One committed change.
///
/// It refers to users and requests by id only, so that no personal data remains in the feed when a user is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The position in the feed.
    pub sequence: Sequence,
    /// The time of the change, by the clock of the database.
    ///
    /// Somebody may set that clock, so an event can be earlier than the one before it. Only the sequence gives the order.
    pub time: Time,
    /// The kind of change.
    pub kind: EventKind,
    /// The cause, for a change that nobody requested as such.
    pub cause: Option<Cause>,
    /// The user or caller on whose behalf the change was made.
    pub actor: Actor,
    /// The first user of the event: the sender of a request, the blocking user, the user created.
    pub user: UserId,
    /// The other user of an event about a pair.
    pub other: Option<UserId>,
    /// The connection request, or the connection that it became.
    pub request: Option<RequestId>,
    /// Whether the request is silenced: its receiver, the other user, must not know of the event.
    pub silenced: bool,
    /// The kind of principal whose call made the change. `None`: it was not recorded, or the viewer may not know it.
    pub principal: Option<PrincipalKind>,
}

/// The kind of change that an event records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    RequestCreated,
    RequestViewed,
    RequestSilenced,
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

/// The cause of a change that nobody requested as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// One user blocked the other.
    ///
    /// On a created request: its receiver blocks its sender, so it is silenced from the start.
    Blocked,
    /// The receiver of a silenced request removed their block of its sender, so that it is pending.
    Unblocked,
    /// The created request is silenced from the start, within the cooldown after an earlier rejection.
    Cooldown,
    /// Each of the two users asked the other to connect.
    Crossed,
    /// One of the two users was deleted.
    UserDeleted,
    /// The change was imported. The dates of what it created are those of the import's rows.
    Imported,
}

/// The user or caller on whose behalf a change was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A user.
    User(UserId),
    /// A caller that acts on behalf of no user: a service or an administrator.
    Operator,
    /// Kith itself, when something expired.
    System,
}

/// The kind of principal whose call made a change.
///
/// A service that acts for a user has that user as the actor, and is the principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// Anybody, on a server without authentication.
    Anonymous,
    /// A service.
    Service,
    /// A user.
    User,
    /// Kith itself. There was no call, or its change is only the end of something that had expired.
    System,
}

macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// All values, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the name of the value in the database and in the API.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// Returns the value with this name.
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
    RequestSilenced => "REQUEST_SILENCED",
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

names!(PrincipalKind {
    Anonymous => "ANONYMOUS",
    Service => "SERVICE",
    User => "USER",
    System => "SYSTEM",
});

names!(Cause {
    Blocked => "BLOCKED",
    Unblocked => "UNBLOCKED",
    Cooldown => "COOLDOWN",
    Crossed => "CROSSED",
    UserDeleted => "USER_DELETED",
    Imported => "IMPORTED",
});
