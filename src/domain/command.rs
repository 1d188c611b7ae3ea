//! Commands, batches of commands, and the data that must be loaded to decide a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::Time;
use super::caller::Caller;
use super::counts::Counts;
use super::decide::PairCommand;
use super::id::{PairKey, RequestId, UserId};
use super::outcome::{Executed, ImportSummary};
use super::pair::{Message, Request};
use super::policy::Policy;
use super::text::Username;
use super::user::{Profile, User, UserUpdate};

/// A change that a caller requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Creates a user.
    CreateUser(Box<Profile>),
    /// Creates the user with this id, or replaces it if it exists.
    ImportUser(UserId, Box<Profile>),
    /// Imports users, of which each may take the username that another one gives up. Their ids must differ.
    ImportTogether(Vec<(UserId, Profile)>),
    /// Ends an import, so that its response can be stored. Changes no user.
    FinishImport(ImportSummary),
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
            | Self::ImportUser(..)
            | Self::ImportTogether(_)
            | Self::FinishImport(_)
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

/// Makes a call safe to repeat: its id, a digest of it, and the encoding of its response.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency {
    /// The caller's `request_id`.
    pub id: Uuid,
    /// A digest of the method and the rest of the request. The same id with another digest is rejected.
    pub fingerprint: [u8; 32],
    /// Encodes the response. A repeated call returns the same bytes.
    ///
    /// Returns `None` if the outcome belongs to another kind of command.
    pub encode: fn(&Executed) -> Option<EncodedResponse>,
}

/// An encoded response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedResponse {
    /// The response itself.
    pub response: Vec<u8>,
    /// The response with only the ids of its users, and without the texts that they wrote to each other.
    pub without_profiles: Vec<u8>,
}

/// The key of a stored response: the caller and their `request_id`.
///
/// Two callers may use the same `request_id` for different calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// The [key](Caller::key) of the caller.
    pub caller: String,
    /// Their `request_id`.
    pub id: Uuid,
}

impl IdempotencyKey {
    /// Creates the key for a `request_id` of this caller.
    pub fn new(caller: &Caller, id: Uuid) -> Self {
        Self { caller: caller.key().into_owned(), id }
    }
}

/// A response stored under a caller's `request_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotentResponse {
    /// The caller and the `request_id` of the call.
    pub key: IdempotencyKey,
    /// The digest of the call.
    pub fingerprint: [u8; 32],
    /// The encoded response. Once one of its users was deleted, both parts are the one without profiles.
    pub encoded: EncodedResponse,
    /// When the command was executed.
    pub created: Time,
    /// The user on whose behalf the command was executed, if it names one. The response is deleted with them.
    pub actor: Option<UserId>,
    /// The users whose profiles the response has, and its actor. With one of them its profiles and texts are deleted.
    pub users: (Option<UserId>, Option<UserId>),
}

/// How long a response is stored.
pub const RESPONSE_RETENTION: chrono::TimeDelta = chrono::TimeDelta::hours(24);

impl IdempotentResponse {
    /// Removes what it has of a user who is deleted. Returns whether anything of it remains.
    pub fn forget(&mut self, user: UserId) -> bool {
        let Self { key: _, fingerprint: _, encoded, created: _, actor, users } = self;
        if users.0 == Some(user) || users.1 == Some(user) {
            encoded.response.clone_from(&encoded.without_profiles);
        }
        *actor != Some(user)
    }

    /// Returns whether the response is still valid at `now`.
    pub fn is_current(&self, now: Time) -> bool {
        self.created > now - RESPONSE_RETENTION
    }
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

/// The data that must be loaded before a batch can be decided.
///
/// If something listed here is missing from the snapshot, it does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Users by id, with their counts.
    pub users: BTreeSet<UserId>,
    /// Users by the [key](Username::key) of their username.
    pub names: BTreeSet<String>,
    /// The number of users to create without an id. [Candidates](super::ledger::candidates) for their ids are needed.
    pub unassigned: usize,
    /// Pairs, each with its request and blocks.
    pub pairs: BTreeSet<PairKey>,
    /// Requests by id, each with the users who act on it. Their pairs are needed too.
    ///
    /// [`parties`](Self::parties) returns the users to load for each.
    pub requests: BTreeMap<RequestId, BTreeSet<UserId>>,
    /// Senders, with the number of requests that each sends in the batch.
    pub senders: BTreeMap<UserId, i64>,
    /// Users whose pairs are all needed.
    pub all_pairs_of: BTreeSet<UserId>,
    /// Users whose unviewed pending requests are needed.
    pub unviewed_of: BTreeSet<UserId>,
    /// Stored responses by key.
    pub responses: BTreeSet<IdempotencyKey>,
    /// Whether the batch contains a sweep, which needs expired rows of all users.
    pub sweep: bool,
}

impl Needs {
    /// Returns the needs of a batch.
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
            Command::CreateUser(profile) => {
                self.add_profile(profile.id, &profile.username);
                self.unassigned += usize::from(profile.id.is_none());
            }
            Command::ImportUser(id, profile) => self.add_profile(Some(*id), &profile.username),
            Command::ImportTogether(rows) => {
                rows.iter().for_each(|(id, profile)| self.add_profile(Some(*id), &profile.username));
            }
            Command::FinishImport(_) => {}
            Command::UpdateUser(update) => {
                self.users.insert(update.id);
                self.names.extend(update.username().map(Username::key));
            }
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
            Command::Probe => {}
        }
    }

    /// Returns the users to load for a request that was loaded by its id.
    ///
    /// Both its users if it exists for one who acts on it, else none. For all other users the duration of the call must
    /// not reveal that it exists.
    pub fn parties(&self, request: &Request) -> impl Iterator<Item = UserId> + use<> {
        let acting = self.requests.get(&request.id);
        let seen = acting.is_some_and(|acting| acting.iter().any(|user| request.exists_for(*user)));
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

/// A user with the values that commands may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user: Arc<User>,
    /// Their counts.
    pub counts: Counts,
    /// Their sends in the current hour.
    pub sends: super::counts::SendWindow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::counts::SendWindow;
    use crate::domain::id::Sequence;
    use crate::domain::pair::RequestState;

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);
    const CY: UserId = UserId::new(3);

    fn batch(commands: Vec<Command>) -> Batch {
        let submission = |command| Submission { caller: Caller::Operator, command, idempotency: None };
        let submissions = commands.into_iter().map(submission).collect();
        Batch { submissions, policy: Arc::default() }
    }

    fn send(from: UserId, to: UserId) -> Command {
        Command::Send { from, to, message: Message::default() }
    }

    fn profile(id: Option<UserId>, username: &str) -> Box<Profile> {
        let username = username.parse().expect("a username");
        Box::new(Profile { id, username, ..Profile::default() })
    }

    fn update(id: UserId) -> Command {
        Command::UpdateUser(UserUpdate { id, acting: None, fields: vec![], expected: None })
    }

    #[test]
    fn a_batch_needs_what_its_commands_need() {
        let pair = PairKey::of(ANN, BOB).expect("two users");
        let request = RequestId::new(7);
        let names = |name: &str| [name.to_owned()].into();
        let none = Needs::default;
        for (commands, expected) in [
            (vec![], none()),
            (vec![Command::FinishImport(ImportSummary::default())], none()),
            (vec![Command::CreateUser(profile(None, "Ann"))], Needs { names: names("ann"), unassigned: 1, ..none() }),
            (
                vec![Command::CreateUser(profile(Some(ANN), "Ann"))],
                Needs { users: [ANN].into(), names: names("ann"), ..none() },
            ),
            (
                vec![Command::ImportUser(BOB, profile(None, "Bob"))],
                Needs { users: [BOB].into(), names: names("bob"), ..none() },
            ),
            (vec![update(ANN)], Needs { users: [ANN].into(), ..none() }),
            (vec![Command::DeleteUser(ANN)], Needs { users: [ANN].into(), all_pairs_of: [ANN].into(), ..none() }),
            (
                vec![send(ANN, BOB), send(ANN, BOB), send(BOB, ANN)],
                Needs {
                    users: [ANN, BOB].into(),
                    pairs: [pair].into(),
                    senders: [(ANN, 2), (BOB, 1)].into(),
                    ..none()
                },
            ),
            (
                vec![
                    Command::ActOnRequest(request, ANN, RequestAction::Accept(Message::default())),
                    Command::ActOnRequest(request, BOB, RequestAction::Cancel),
                ],
                Needs { users: [ANN, BOB].into(), requests: [(request, [ANN, BOB].into())].into(), ..none() },
            ),
            (vec![Command::MarkAllViewed(ANN)], Needs { users: [ANN].into(), unviewed_of: [ANN].into(), ..none() }),
            (
                vec![Command::ActOnUser(BOB, ANN, UserAction::Block)],
                Needs { users: [ANN, BOB].into(), pairs: [pair].into(), ..none() },
            ),
            (vec![Command::Sweep], Needs { sweep: true, ..none() }),
            (vec![Command::Probe], none()),
        ] {
            assert_eq!(Needs::of(&batch(commands.clone())), expected, "{commands:?}");
        }
    }

    #[test]
    fn a_call_with_a_request_id_needs_its_stored_response() {
        let id = Uuid::from_u128(7);
        let mut batch = batch(vec![Command::FinishImport(ImportSummary::default())]);
        batch.submissions[0].idempotency = Some(Idempotency { id, fingerprint: [0; 32], encode: |_| None });
        let expected = IdempotencyKey { caller: "operator".to_owned(), id };
        assert_eq!(Needs::of(&batch).responses, [expected].into());
    }

    #[test]
    fn a_stored_response_is_current_for_24_hours() {
        let key = IdempotencyKey::new(&Caller::System, Uuid::from_u128(7));
        assert_eq!(key.caller, "system");
        let created = Time::UNIX_EPOCH;
        let encoded = EncodedResponse { response: vec![1, 2], without_profiles: vec![1] };
        let (actor, users) = (Some(ANN), (Some(ANN), Some(BOB)));
        let mut response = IdempotentResponse { key, fingerprint: [0; 32], encoded, created, actor, users };
        let end = created + chrono::TimeDelta::hours(24);
        assert!(response.is_current(created) && response.is_current(end - chrono::TimeDelta::microseconds(1)));
        assert!(!response.is_current(end));
        // Whoever is deleted takes their profile with them; the actor takes the whole response.
        assert!(response.forget(CY) && response.encoded.response == [1, 2]);
        assert!(response.forget(BOB) && response.encoded.response == [1]);
        assert!(!response.forget(ANN));
    }

    #[test]
    fn senders_are_at_their_limit_if_their_sends_would_exceed_it() {
        let member = |id, requests_sent| {
            let user = Profile::default().into_user(id, None, Time::UNIX_EPOCH);
            let counts = Counts { requests_sent, ..Counts::default() };
            Member { user: Arc::new(user), counts, sends: SendWindow::default() }
        };
        let mut batch = batch(vec![send(ANN, BOB), send(ANN, CY), send(CY, ANN)]);
        let needs = Needs::of(&batch);
        let members = |ann| [member(ANN, ann), member(BOB, 99), member(CY, 0)];
        batch.policy = Arc::new(Policy { max_sent_requests: Some(10), ..Policy::default() });
        for (sent, expected) in [(7, vec![]), (8, vec![]), (9, vec![ANN]), (10, vec![ANN])] {
            assert_eq!(batch.senders_at_limit(&needs, &members(sent)), expected, "{sent} requests before");
        }
        batch.policy = Arc::new(Policy { max_sent_requests: None, ..Policy::default() });
        assert_eq!(batch.senders_at_limit(&needs, &members(99)), []);
    }

    #[test]
    fn the_users_of_a_request_are_needed_if_one_of_them_acts_on_it() {
        let request = Request {
            id: RequestId::new(7),
            from: ANN,
            to: BOB,
            state: RequestState::Pending,
            position: Sequence::new(7),
            message: Message::default(),
            created: Time::UNIX_EPOCH,
            viewed: None,
            rejected: None,
            accepted: None,
            reply: Message::default(),
        };
        for (id, user, expected) in
            [(7, ANN, vec![ANN, BOB]), (7, BOB, vec![ANN, BOB]), (7, CY, vec![]), (8, ANN, vec![])]
        {
            let command = Command::ActOnRequest(RequestId::new(id), user, RequestAction::Accept(Message::default()));
            let needs = Needs::of(&batch(vec![command]));
            assert_eq!(needs.parties(&request).collect::<Vec<_>>(), expected, "request {id}, user {user}");
            // A silenced request does not exist for its receiver.
            let silenced = Request { state: RequestState::Silenced, ..request.clone() };
            let expected = if user == BOB { vec![] } else { expected };
            assert_eq!(needs.parties(&silenced).collect::<Vec<_>>(), expected, "silenced {id}, user {user}");
        }
    }
}
