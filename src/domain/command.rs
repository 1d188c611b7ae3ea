//! What can be asked of the one way to write: commands, and what a batch of them needs to be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::Time;
use super::caller::Caller;
use super::counts::Counts;
use super::decide::PairCommand;
use super::id::{PairKey, RequestId, UserId};
use super::outcome::{Executed, ImportSummary};
use super::pair::{Message, Request, RequestState};
use super::policy::Policy;
use super::text::Username;
use super::user::{FieldUpdate, Profile, User};

/// One change that a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Create a user.
    CreateUser(Box<Profile>),
    /// Create a user, or replace the one with the same id, which must be given.
    ImportUser(UserId, Box<Profile>),
    /// Keep the answer of an import for its repetition; changes nothing else.
    FinishImport(ImportSummary),
    /// Change fields of a user.
    UpdateUser(UserId, Vec<FieldUpdate>),
    /// Delete a user and every trace of them.
    DeleteUser(UserId),
    /// Ask a user to connect.
    Send {
        /// Who asks.
        from: UserId,
        /// Who is asked.
        to: UserId,
        /// What they write.
        message: Message,
    },
    /// Do something with a request, as the user given.
    ActOnRequest(RequestId, UserId, RequestAction),
    /// Mark all pending requests to a user as viewed.
    MarkAllViewed(UserId),
    /// Change something between the acting user (first) and another.
    ActOnUser(UserId, UserId, UserAction),
    /// Expire what is due and delete what is no longer needed, a bounded number of rows at a time.
    Sweep,
}

/// What a user may do with a request that they take part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the pair commands, which document them")]
pub enum RequestAction {
    Accept,
    Reject,
    Restore,
    Cancel,
    MarkViewed,
}

/// What a user may do about another, request or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the pair commands, which document them")]
pub enum UserAction {
    Remove,
    Block,
    Unblock,
}

impl From<RequestAction> for PairCommand {
    fn from(action: RequestAction) -> Self {
        match action {
            RequestAction::Accept => Self::Accept,
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

/// A command as it is queued.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who asks for it.
    pub caller: Caller,
    /// What to do.
    pub command: Command,
    /// How to respond to a repetition.
    pub idempotency: Option<Idempotency>,
}

/// What makes a repeated call safe: its id, a digest of the call, and how its response is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency {
    /// The caller's `request_id`.
    pub id: Uuid,
    /// A digest of the method and the rest of the request. Another digest under the same id is refused.
    pub fingerprint: [u8; 32],
    /// Encodes the response, which a repetition gets byte for byte. `None` if the outcome is not one of this call.
    pub encode: fn(&Executed) -> Option<Vec<u8>>,
}

/// The key of a stored response: two callers may use the same `request_id` for different calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// The [key](Caller::key) of the caller.
    pub caller: String,
    /// Their `request_id`.
    pub id: Uuid,
}

impl IdempotencyKey {
    /// The key of a caller's `request_id`.
    pub fn new(caller: &Caller, id: Uuid) -> Self {
        Self { caller: caller.key().into_owned(), id }
    }
}

/// A response stored under a caller's `request_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentResponse {
    /// Whose call it responds to, and under which id.
    pub key: IdempotencyKey,
    /// The digest of its call.
    pub fingerprint: [u8; 32],
    /// The encoded response.
    pub response: Vec<u8>,
    /// When the command was executed.
    pub created: Time,
}

/// How long a response is stored for repetitions of its call.
pub const RESPONSE_RETENTION: chrono::TimeDelta = chrono::TimeDelta::hours(24);

impl IdempotentResponse {
    /// Whether a repetition at `now` still gets this response.
    pub fn is_current(&self, now: Time) -> bool {
        self.created > now - RESPONSE_RETENTION
    }
}

/// What a caller gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The command was executed.
    Fresh(Box<Executed>),
    /// The command was already executed with this `request_id`; the response is the stored one.
    Stored(Vec<u8>),
}

/// Commands that are decided and stored together, in this order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The commands.
    pub submissions: Vec<Submission>,
    /// The rules' settings.
    pub policy: Arc<Policy>,
    /// The clock's time; events are never earlier than the last one before.
    pub now: Time,
}

impl Batch {
    /// The senders who would pass their limit by what they send here: if their oldest requests are due, these make
    /// room.
    pub fn senders_at_limit(&self, needs: &Needs, members: &[Member]) -> Vec<UserId> {
        let Some(maximum) = self.policy.max_sent_requests else { return Vec::new() };
        let full = |member: &&Member| {
            needs.senders.get(&member.user.id).is_some_and(|more| member.counts.requests_sent + more > maximum)
        };
        members.iter().filter(full).map(|member| member.user.id).collect()
    }
}

/// What must be loaded before a batch can be decided. What is not there is known to be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Users by id, with their counts.
    pub users: BTreeSet<UserId>,
    /// Users by the key of their name.
    pub names: BTreeSet<String>,
    /// Pairs, requests and blocks.
    pub pairs: BTreeSet<PairKey>,
    /// Pairs by their request's id, with the users who act on each; see [`parties`](Self::parties).
    pub requests: BTreeMap<RequestId, BTreeSet<UserId>>,
    /// Senders, and how many requests each sends.
    pub senders: BTreeMap<UserId, i64>,
    /// Users whose every pair is needed.
    pub all_pairs_of: BTreeSet<UserId>,
    /// Users whose unviewed pending requests are needed.
    pub unviewed_of: BTreeSet<UserId>,
    /// Stored responses.
    pub responses: BTreeSet<IdempotencyKey>,
    /// Whether rows that are due are needed, whosever they are.
    pub sweep: bool,
}

impl Needs {
    /// What this batch needs.
    pub fn of(batch: &Batch) -> Self {
        let mut needs = Self::default();
        for submission in &batch.submissions {
            needs.add(&submission.command);
            let Submission { caller, command: _, idempotency } = submission;
            needs.responses.extend(idempotency.map(|call| IdempotencyKey::new(caller, call.id)));
        }
        needs
    }

    fn add(&mut self, command: &Command) {
        match command {
            Command::CreateUser(profile) => self.add_profile(profile.id, &profile.username),
            Command::ImportUser(id, profile) => self.add_profile(Some(*id), &profile.username),
            Command::FinishImport(_) => {}
            Command::UpdateUser(id, _) => _ = self.users.insert(*id),
            Command::DeleteUser(id) => {
                self.users.insert(*id);
                self.all_pairs_of.insert(*id);
            }
            Command::Send { from, to, message: _ } => {
                self.add_pair(*from, *to);
                *self.senders.entry(*from).or_default() += 1;
            }
            Command::ActOnRequest(id, user, _) => {
                self.requests.entry(*id).or_default().insert(*user);
                self.users.insert(*user);
            }
            Command::MarkAllViewed(user) => {
                self.users.insert(*user);
                self.unviewed_of.insert(*user);
            }
            Command::ActOnUser(user, other, _) => self.add_pair(*user, *other),
            Command::Sweep => self.sweep = true,
        }
    }

    /// The users to load for a request that was loaded by its id: both, if one of them acts on it and it is not
    /// withdrawn. For everybody else the request does not exist, and loading more would show in the time of the call.
    pub fn parties(&self, request: &Request) -> impl Iterator<Item = UserId> + use<> {
        let acting = self.requests.get(&request.id);
        let acts = |user| acting.is_some_and(|acting| acting.contains(&user));
        let seen = request.state != RequestState::Withdrawn && (acts(request.from) || acts(request.to));
        [request.from, request.to].into_iter().filter(move |_| seen)
    }

    fn add_profile(&mut self, id: Option<UserId>, username: &Username) {
        self.users.extend(id);
        self.names.insert(username.key());
    }

    fn add_pair(&mut self, one: UserId, other: UserId) {
        self.users.extend([one, other]);
        self.pairs.extend(PairKey::of(one, other));
    }
}

/// The user's counts and all that a change of them may touch, as loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user: Arc<User>,
    /// Their counts.
    pub counts: Counts,
    /// Their sends.
    pub sends: super::counts::SendWindow,
}
