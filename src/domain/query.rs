//! Queries and their results.

use super::Time;
use super::counts::SendWindow;
use super::epoch::{Epoch, History, Position, Verdict};
use super::event::Event;
use super::id::{RequestId, Sequence, UserId};
use super::pair::{Block, Ended, RequestState};
use super::text::ExternalId;
use super::view::HiddenKinds;

/// A result and the revision that it reflects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// Everything committed up to this revision is reflected.
    pub revision: Sequence,
    /// The epoch that the revision belongs to.
    pub epoch: Epoch,
    /// The result.
    pub value: T,
}

impl<T> Read<T> {
    /// Returns the revision with its epoch.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), sequence: self.revision }
    }
}

/// A range of rows of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Only rows before this position in the list's order; `None`: from the start.
    pub before: Option<Sequence>,
    /// The maximum number of rows.
    pub limit: i64,
}

/// The id, the external id or the username that identifies a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserKey {
    /// By id.
    Id(UserId),
    /// By external id.
    ExternalId(ExternalId),
    /// By the [key](super::text::Username::key) of the username.
    Name(String),
}

/// Keys of many users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserKeys {
    /// External ids.
    pub external_ids: Vec<ExternalId>,
    /// The [keys](super::text::Username::key) of usernames.
    pub names: Vec<String>,
}

/// A page of the requests of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestQuery {
    /// The sender or the receiver.
    pub user: UserId,
    /// Which of their requests.
    pub filter: RequestFilter,
    /// Only requests created after this time: older ones have expired.
    pub created_after: Time,
    /// Which rows.
    pub range: Range,
}

/// Selects requests of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFilter {
    /// To the user, in this state, ordered by position.
    Received(RequestState),
    /// To the user, pending and not viewed, ordered by position.
    Unviewed,
    /// From the user and open, ordered by id: all that the sender sees as pending.
    Sent,
    /// From the user and accepted, ordered by position: the connections that the user asked for.
    SentConnected,
    /// From the user and open, ordered by id: only those that are rejected, or only the others.
    SentAnd {
        /// Which of the two.
        rejected: bool,
    },
}

impl RequestFilter {
    /// Whether the list is ordered by the ids of its requests instead of their positions.
    pub fn is_ordered_by_id(self) -> bool {
        match self {
            Self::Received(_) | Self::Unviewed | Self::SentConnected => false,
            Self::Sent | Self::SentAnd { rejected: _ } => true,
        }
    }
}

/// A page of the connections of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionQuery {
    /// Whose connections.
    pub user: UserId,
    /// Which of them.
    pub mutual: Mutual,
    /// Which rows.
    pub range: Range,
}

/// Selects connections of a user by those of a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutual {
    /// All of them.
    Any,
    /// With users who are connected to the viewer too.
    With(UserId),
    /// With users who are not connected to the viewer.
    Without(UserId),
}

impl Mutual {
    /// The viewer, if there is one.
    pub fn viewer(self) -> Option<UserId> {
        match self {
            Self::Any => None,
            Self::With(viewer) | Self::Without(viewer) => Some(viewer),
        }
    }
}

/// A connection, seen from one of its two users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The other user.
    pub other: UserId,
    /// The accepted request.
    pub request: RequestId,
    /// When the request was accepted.
    pub connected: Time,
    /// The position in the list.
    pub position: Sequence,
}

/// A page of the users whom a user blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockQuery {
    /// Who blocks.
    pub user: UserId,
    /// Which rows.
    pub range: Range,
}

/// A block, seen from the user who blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The blocked user.
    pub other: UserId,
    /// The block.
    pub block: Block,
}

/// What is stored about a user and is in none of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The number of requests that the user sent in the current hour.
    Sends,
    /// Blocks of the user by others.
    BlocksOf,
    /// The user's cooldowns.
    CooldownsFrom,
    /// Cooldowns of others towards the user.
    CooldownsTo,
    /// Numbers of ended requests from the user.
    EndedFrom,
    /// Numbers of ended requests to the user.
    EndedTo,
    /// Responses to calls by the user, or about them.
    Responses,
}

/// A page of records of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordQuery {
    /// About whom they are stored.
    pub user: UserId,
    /// Which of them.
    pub kind: RecordKind,
    /// The last record of the page before.
    pub after: Option<Record>,
    /// The maximum number of records.
    pub limit: i64,
}

/// Something that is stored about a user and is in none of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The requests that the user sent in the current hour.
    Sends(SendWindow),
    /// A block of the user.
    BlockOf {
        /// Who blocks the user.
        by: UserId,
        /// The block.
        block: Block,
    },
    /// A cooldown.
    Cooldown {
        /// The user whose request was rejected.
        from: UserId,
        /// The user who rejected it.
        to: UserId,
        /// When it was rejected.
        since: Time,
    },
    /// A number of ended requests.
    Ended {
        /// The sender.
        from: UserId,
        /// The receiver.
        to: UserId,
        /// The requests.
        ended: Ended,
    },
    /// A stored response.
    Response {
        /// The [key](super::caller::Caller::key) of the caller.
        caller: String,
        /// The `request_id` of the call.
        id: String,
        /// When the call was made.
        created: Time,
        /// The user on whose behalf it was made.
        actor: Option<UserId>,
    },
}

impl Record {
    /// Returns the other user of a record that is stored under two users.
    pub fn other_than(&self, user: UserId) -> Option<UserId> {
        match self {
            Self::BlockOf { by, block: _ } => Some(*by),
            Self::Cooldown { from, to, since: _ } | Self::Ended { from, to, ended: _ } => {
                Some(if *from == user { *to } else { *from })
            }
            Self::Sends(_) | Self::Response { .. } => None,
        }
    }

    /// Returns the caller and the `request_id` of a stored response.
    pub fn response_key(self) -> Option<(String, String)> {
        match self {
            Self::Response { caller, id, created: _, actor: _ } => Some((caller, id)),
            Self::Sends(_) | Self::BlockOf { .. } | Self::Cooldown { .. } | Self::Ended { .. } => None,
        }
    }
}

/// The next events of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Which events.
    pub filter: EventFilter,
    /// Only events after this one.
    pub after: Sequence,
    /// The maximum number of events.
    pub limit: i64,
    /// For whom they are read.
    pub consumer: Consumer,
    /// The epoch that `after` belongs to. If it is another one than the newest, the slice has the history. It may be unnamed.
    pub epoch: Epoch,
}

/// Selects events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFilter {
    /// All of them.
    All,
    /// Those that name this user as one of the two that they are about. With hidden kinds, without those that the user does
    /// not see, so that these take no time.
    Of(UserId, Option<HiddenKinds>),
}

/// For whom events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// The watchers of this server. They never wait for other reads.
    Watchers,
    /// One call that lists events. It may take as long as any other list.
    Call,
}

/// An event and the commit that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The same for all events of one commit, which are consecutive; different for the next commit.
    pub commit: i64,
    /// The event.
    pub event: Event,
}

/// Consecutive events, and the bounds of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSlice {
    /// The newest epoch of the feed.
    pub epoch: Epoch,
    /// The epochs up to it, if the query named another one. Otherwise empty.
    pub history: History,
    /// The newest event before the events were read: none up to it is missing.
    pub last: Sequence,
    /// The oldest event that was stored after the events were read; the one after `last` if none was.
    pub oldest: Sequence,
    /// The events, in order.
    pub events: Vec<Recorded>,
}

impl FeedSlice {
    /// Judges a position that a client received in this epoch. The slice must have been read with it.
    pub fn judge(&self, epoch: &Epoch, sequence: Sequence) -> Verdict {
        if !epoch.is_named() || *epoch == self.epoch { Verdict::Good } else { self.history.judge(epoch, sequence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sent_requests_are_ordered_by_id() {
        let pending = RequestState::Pending;
        for filter in [RequestFilter::Sent, RequestFilter::SentAnd { rejected: true }] {
            assert!(filter.is_ordered_by_id(), "{filter:?}");
        }
        for filter in [RequestFilter::Received(pending), RequestFilter::Unviewed, RequestFilter::SentConnected] {
            assert!(!filter.is_ordered_by_id(), "{filter:?}");
        }
    }

    #[test]
    fn mutual_connections_have_a_viewer() {
        let viewer = UserId::new(7);
        assert_eq!(Mutual::Any.viewer(), None);
        assert_eq!((Mutual::With(viewer).viewer(), Mutual::Without(viewer).viewer()), (Some(viewer), Some(viewer)));
    }
}
