//! What commands did.

use std::sync::Arc;

use super::command::RequestAction;
use super::id::Sequence;
use super::pair::{Block, Request};
use super::user::User;
use super::view::Status;

/// What a command did, and the revision right after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The revision at which the outcome holds.
    pub revision: Sequence,
    /// What the command did.
    pub outcome: Outcome,
}

/// What a command did: one variant for each kind of [`Command`](super::command::Command).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The user was created.
    UserCreated(Arc<User>),
    /// The row of an import was stored, or was the same already.
    UserImported(Imported),
    /// The import ended.
    ImportFinished(ImportSummary),
    /// The user as updated.
    UserUpdated(Arc<User>),
    /// The user was deleted.
    UserDeleted,
    /// The request was sent.
    Sent(Transition),
    /// The request was accepted, rejected and so on.
    RequestChanged(RequestAction, Transition),
    /// The pending requests to a user were marked as viewed.
    AllViewed {
        /// How many were not viewed before.
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
        /// How many rows had expired or could be deleted.
        rows: i64,
    },
}

/// A request after a change, and how its two users stand, both as the actor may see them.
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

/// What an imported row did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Imported {
    Created,
    Updated,
    Unchanged,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportSummary {
    /// Users created.
    pub created: i64,
    /// Users changed.
    pub updated: i64,
    /// Users that were the same.
    pub unchanged: i64,
    /// Rows refused.
    pub refused: i64,
    /// The first of the refused rows.
    pub refusals: Vec<ImportRefusal>,
}

/// A row of an import that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRefusal {
    /// The row's place in the stream, from 0.
    pub position: i64,
    /// Whether the name is another user's; else fields break their rules.
    pub username_taken: bool,
    /// The wrong fields and what is wrong with each.
    pub violations: Vec<(String, String)>,
}
