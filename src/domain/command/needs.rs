//! The data that must be loaded to decide a batch.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batch, Command, IdempotencyKey, Submission};
use crate::domain::id::{PairKey, RequestId, UserId};
use crate::domain::pair::Request;
use crate::domain::text::{ExternalId, Username};
use crate::domain::user::Profile;

/// The data that must be loaded before a batch can be decided.
///
/// If something listed here is missing from the snapshot, it does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Users by id, with their counts.
    pub users: BTreeSet<UserId>,
    /// Users by the [key](Username::key) of their username.
    pub names: BTreeSet<String>,
    /// Users by external id.
    pub external_ids: BTreeSet<ExternalId>,
    /// The maximum number of users to create without an id. [Candidates](crate::domain::ledger::candidates) for their ids are needed.
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
            // A user's revisions are their own.
            needs.users.extend(caller.user());
        }
        needs
    }

    fn add(&mut self, command: &Command) {
        match command {
            Command::CreateUser(profile) | Command::ImportUser(profile) => self.add_profile(profile),
            Command::ImportTogether(rows) => rows.iter().for_each(|profile| self.add_profile(profile)),
            Command::FinishImport(_) => {}
            Command::ImportPair(pair, _) => self.add_pair(pair.key.low(), pair.key.high()),
            Command::LookAtPair(key) => self.add_pair(key.low(), key.high()),
            Command::UpdateUser(update) => {
                self.users.insert(update.id);
                self.names.extend(update.username().and_then(Username::key));
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

    fn add_profile(&mut self, profile: &Profile) {
        self.users.extend(profile.id);
        self.names.extend(profile.username.key());
        self.external_ids.extend(profile.external_id.clone());
        self.unassigned += usize::from(profile.id.is_none());
    }

    fn add_pair(&mut self, one: UserId, other: UserId) {
        self.users.extend([one, other]);
        self.pairs.extend(PairKey::of(one, other));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::domain::Time;
    use crate::domain::caller::Caller;
    use crate::domain::command::{Idempotency, Member, RequestAction, UserAction};
    use crate::domain::counts::{Counts, SendWindow};
    use crate::domain::id::Sequence;
    use crate::domain::outcome::ImportSummary;
    use crate::domain::pair::{Message, RequestState};
    use crate::domain::policy::Policy;
    use crate::domain::user::{Profile, UserUpdate};

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
    fn a_user_who_calls_is_needed_too() {
        let command = Command::FinishImport(ImportSummary::default());
        let call = |caller| Submission { caller, command: command.clone(), idempotency: None };
        let submissions = vec![call(Caller::User(BOB)), call(Caller::Service("billing".into()))];
        let needs = Needs::of(&Batch { submissions, policy: Arc::default() });
        assert_eq!(needs, Needs { users: [BOB].into(), ..Needs::default() });
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
                vec![Command::ImportUser(profile(Some(BOB), "Bob"))],
                Needs { users: [BOB].into(), names: names("bob"), ..none() },
            ),
            (
                vec![Command::ImportUser(Box::new(Profile {
                    external_id: Some("b-1".parse().expect("an external id")),
                    ..Profile::default()
                }))],
                Needs { external_ids: ["b-1".parse().expect("an external id")].into(), unassigned: 1, ..none() },
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
    fn senders_are_at_their_limit_if_their_sends_would_exceed_it() {
        let member = |id, requests_sent| {
            let user = Profile::default().into_user(id, None, Time::UNIX_EPOCH);
            let counts = Counts { requests_sent, ..Counts::default() };
            Member { user: Arc::new(user), counts, sends: SendWindow::default(), last_visible: Sequence::default() }
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
