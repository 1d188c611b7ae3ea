//! Outcomes: the results of commands.

use std::sync::Arc;

use super::command::RequestAction;
use super::decide::Rejection;
use super::epoch::{Epoch, Position};
use super::id::{Sequence, UserId};
use super::import::{Effect, Fact};
use super::pair::{Block, Pair, Request};
use super::user::User;
use super::view::Status;

/// The outcome of an executed command, and the revision right after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The revision that includes the command.
    pub revision: Sequence,
    /// The epoch that the revision belongs to.
    pub epoch: Epoch,
    /// The outcome.
    pub outcome: Outcome,
}

impl Executed {
    /// Returns the revision with its epoch.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), sequence: self.revision }
    }
}

/// The outcome of a command: one variant for each kind of [`Command`](super::command::Command).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The user was created.
    UserCreated(Arc<User>),
    /// A row of an import was stored, or the stored user already had the same values.
    UserImported(Arc<User>, Imported),
    /// For each row of [`ImportTogether`](super::command::Command::ImportTogether): the effect, or why it was rejected.
    UsersImported(Vec<Result<Imported, Rejection>>),
    /// The import ended.
    ImportFinished(ImportSummary),
    /// A pair was imported.
    PairImported {
        /// What each fact did.
        effects: Vec<(Fact, Effect)>,
        /// Whether its request or connection is stored, and brings a user above a limit.
        is_above_limit: bool,
    },
    /// What is stored between two users.
    PairSeen(Box<Pair>),
    /// The user was updated. If no field changed, no event was written.
    UserUpdated(Arc<User>),
    /// The user was deleted.
    UserDeleted,
    /// The request was sent.
    Sent(Transition),
    /// The action was performed on the request.
    RequestChanged(RequestAction, Transition),
    /// The pending requests to a user were marked as viewed.
    AllViewed {
        /// The number of requests that were unviewed before.
        marked: i64,
    },
    /// The connection was removed.
    Removed {
        /// The actor's status towards the other user.
        status: Status,
    },
    /// The other user is blocked.
    Blocked {
        /// The block.
        block: Block,
        /// The blocked user.
        user: Arc<User>,
        /// The actor's status towards the blocked user.
        status: Status,
    },
    /// The block was removed.
    Unblocked {
        /// The actor's status towards the other user.
        status: Status,
    },
    /// A step of the sweep ended.
    Swept {
        /// The rows that were expired, deleted or rid of a deleted user.
        rows: Swept,
        /// Whether there may be more deleted users to forget now.
        more: bool,
    },
    /// The head was written again.
    Probed,
}

/// The numbers of rows that a step of the sweep handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Requests that expired.
    pub requests: i64,
    /// Cooldowns, and numbers of ended requests, whose time is over or lies in the future.
    pub cooldowns: i64,
    /// Stored responses that were deleted.
    pub responses: i64,
    /// Events that were deleted.
    pub events: i64,
    /// Events from which a deleted user was erased.
    pub forgotten: i64,
}

impl Swept {
    /// Returns the number of all rows.
    pub fn total(self) -> i64 {
        let Self { requests, cooldowns, responses, events, forgotten } = self;
        [requests, cooldowns, responses, events, forgotten].into_iter().fold(0, i64::saturating_add)
    }
}

impl Outcome {
    /// Returns the users whose profiles the response has, at most two, and the actor if there is room.
    pub fn users(&self, actor: Option<UserId>) -> (Option<UserId>, Option<UserId>) {
        match self {
            Self::UserCreated(user) | Self::UserUpdated(user) => {
                (Some(user.id), actor.filter(|actor| *actor != user.id))
            }
            Self::Sent(Transition { request: Some(request), status: _ })
            | Self::RequestChanged(_, Transition { request: Some(request), status: _ }) => {
                (Some(request.request.from), Some(request.request.to))
            }
            Self::Blocked { block: _, user, status: _ } => (actor, Some(user.id)),
            Self::Sent(_)
            | Self::RequestChanged(..)
            | Self::AllViewed { marked: _ }
            | Self::Removed { status: _ }
            | Self::Unblocked { status: _ }
            | Self::UserImported(..)
            | Self::UsersImported(_)
            | Self::PairImported { .. }
            | Self::PairSeen(_)
            | Self::Probed
            | Self::ImportFinished(_)
            | Self::UserDeleted
            | Self::Swept { rows: _, more: _ } => (actor, None),
        }
    }
}

/// A request and the status of its pair after a change, both as the actor may see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The request. `None` if it no longer exists for the actor.
    pub request: Option<FullRequest>,
    /// The actor's status towards the other user.
    pub status: Status,
}

/// A request with both its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullRequest {
    /// The request.
    pub request: Request,
    /// Its sender.
    pub from: Arc<User>,
    /// Its receiver.
    pub to: Arc<User>,
}

/// The effect of an imported row on the stored user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Imported {
    Created,
    Updated,
    Unchanged,
}

/// The totals of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// The number of users created.
    pub created: i64,
    /// The number of users changed.
    pub updated: i64,
    /// The number of users that already had the same values.
    pub unchanged: i64,
    /// The number of rows refused.
    pub refused: i64,
    /// The first refused rows, in the order of the stream.
    pub refusals: Vec<ImportRefusal>,
}

/// A row of an import that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRefusal {
    /// The index of the row in the stream, from 0.
    pub position: i64,
    /// The reason.
    pub reason: RefusalReason,
    /// The fields that the reason is about, each with a description of what is wrong.
    pub violations: Vec<(String, String)>,
}

/// Why a row of an import was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the proto's ErrorReason, which documents them")]
pub enum RefusalReason {
    InvalidFields,
    UsernameTaken,
    UserExists,
}
