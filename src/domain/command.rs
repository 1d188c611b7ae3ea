//! Commands, batches of commands, and the data that must be loaded to decide a batch.

mod idempotency;
mod needs;

use std::sync::Arc;

pub use self::idempotency::{EncodedResponse, Idempotency, IdempotencyKey, IdempotentResponse, RESPONSE_RETENTION};
pub use self::needs::Needs;
use super::caller::Caller;
use super::counts::Counts;
use super::decide::PairCommand;
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::import::OnConflict;
use super::outcome::{Executed, ImportSummary};
use super::pair::{Message, Pair};
use super::policy::Policy;
use super::user::{Profile, User, UserUpdate};

/// A change that a caller requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Creates a user.
    CreateUser(Box<Profile>),
    /// Creates the user with this id or external id, or replaces it if it exists.
    ImportUser(Box<Profile>),
    /// Imports users, of which each may take the username that another one gives up. Of several rows about one user, only
    /// the last may be stored.
    ImportTogether(Vec<Profile>),
    /// Ends an import, so that its response can be stored. Changes no user.
    FinishImport(ImportSummary),
    /// Imports what rows state of two users: see [`import`](super::import). Ids and positions of the pair do not matter.
    ImportPair(Box<Pair>, OnConflict),
    /// Reads what is stored between two users, without what has expired. For a dry run of an import.
    LookAtPair(PairKey),
    /// Changes fields of a user.
    UpdateUser(UserUpdate),
    /// Deletes a user with all their requests, connections and blocks.
    DeleteUser(UserId),
    /// Sends a connection request.
    Send {
        /// The sender.
        from: UserId,
        /// The receiver.
        to: UserId,
        /// The message to the receiver.
        message: Message,
    },
    /// Performs an action on a request on behalf of this user.
    ActOnRequest(RequestId, UserId, RequestAction),
    /// Marks all pending requests to a user as viewed.
    MarkAllViewed(UserId),
    /// Performs an action on behalf of the first user that affects the second.
    ActOnUser(UserId, UserId, UserAction),
    /// Deletes expired requests, cooldowns, events and responses: a bounded number of each.
    Sweep,
    /// Writes the head of the feed as it is. It shows whether the database takes writes.
    Probe,
}

impl Command {
    /// Returns the user on whose behalf the command acts, if it names one.
    pub fn actor(&self) -> Option<UserId> {
        match self {
            Self::Send { from: user, to: _, message: _ }
            | Self::ActOnRequest(_, user, _)
            | Self::MarkAllViewed(user)
            | Self::ActOnUser(user, _, _) => Some(*user),
            Self::UpdateUser(update) => update.acting,
            Self::CreateUser(_)
            | Self::ImportUser(_)
            | Self::ImportTogether(_)
            | Self::FinishImport(_)
            | Self::ImportPair(..)
            | Self::LookAtPair(_)
            | Self::DeleteUser(_)
            | Self::Sweep
            | Self::Probe => None,
        }
    }
}

/// An action of the sender or the receiver on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the pair commands, which document them")]
pub enum RequestAction {
    Accept(Message),
    Reject,
    Restore,
    Cancel,
    MarkViewed,
}

/// An action of a user that affects another user and names no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the pair commands, which document them")]
pub enum UserAction {
    Remove,
    Block,
    Unblock,
}

impl From<&RequestAction> for PairCommand {
    fn from(action: &RequestAction) -> Self {
        match action {
            RequestAction::Accept(reply) => Self::Accept(reply.clone()),
            RequestAction::Reject => Self::Reject,
            RequestAction::Restore => Self::Restore,
            RequestAction::Cancel => Self::Cancel,
            RequestAction::MarkViewed => Self::MarkViewed,
        }
    }
}

impl From<UserAction> for PairCommand {
    fn from(action: UserAction) -> Self {
        match action {
            UserAction::Remove => Self::Remove,
            UserAction::Block => Self::Block,
            UserAction::Unblock => Self::Unblock,
        }
    }
}

/// A command in the queue.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The caller that requests it.
    pub caller: Caller,
    /// The command.
    pub command: Command,
    /// How to recognize a repeated call and what to store for it. `None`: the call has no `request_id`.
    pub idempotency: Option<Idempotency>,
}

/// The response to an accepted command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was executed.
    Fresh(Box<Executed>),
    /// The command was already executed with this `request_id`; the response is the stored one.
    Stored(Vec<u8>),
}

/// Commands that are decided in this order and committed in one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The commands.
    pub submissions: Vec<Submission>,
    /// The settings of the rules.
    pub policy: Arc<Policy>,
}

impl Batch {
    /// Returns the senders whose sends in this batch would exceed their limit.
    ///
    /// Their oldest requests must be loaded too: requests that have expired no longer count towards the limit.
    pub fn senders_at_limit(&self, needs: &Needs, members: &[Member]) -> Vec<UserId> {
        let Some(maximum) = self.policy.max_sent_requests else { return Vec::new() };
        let full = |member: &&Member| {
            needs.senders.get(&member.user.id).is_some_and(|more| member.counts.requests_sent + more > maximum)
        };
        members.iter().filter(full).map(|member| member.user.id).collect()
    }
}

/// A user with the values that commands may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user: Arc<User>,
    /// Their counts.
    pub counts: Counts,
    /// Their sends in the current hour.
    pub sends: super::counts::SendWindow,
    /// The sequence of the newest event about them and another user that they may see.
    pub last_visible: Sequence,
}

impl Member {
    /// Returns the sequence of the newest event that the user may see, of those about them alone too.
    pub fn newest_visible(&self) -> Sequence {
        self.last_visible.max(self.user.changed)
    }
}
