//! Tests of batches, and what the tests of the commands share: three users, their requests, and a batch of an operator.

use chrono::TimeDelta;
use uuid::Uuid;

use super::*;
use crate::domain::command::{EncodedResponse, Idempotency, RequestAction};
use crate::domain::event::EventKind;
use crate::domain::outcome::ImportSummary;
use crate::domain::pair::{Message, Request, RequestState};
use crate::domain::user::{Profile, User};

pub(super) const ANN: UserId = UserId::new(1);
pub(super) const BOB: UserId = UserId::new(2);
pub(super) const CY: UserId = UserId::new(3);
/// No user has this id.
pub(super) const NOBODY: UserId = UserId::new(9);

/// The newest event before the batch.
pub(super) const NEWEST: Sequence = Sequence::new(100);

/// The time of the batch, and some days after it or before it.
pub(super) fn day(day: i64) -> Time {
    Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
}

/// The sequence of one of the events of the batch: the first is 1.
pub(super) fn nth(event: i64) -> Sequence {
    Sequence::new(NEWEST.get() + event)
}

pub(super) fn key(one: UserId, other: UserId) -> PairKey {
    PairKey::of(one, other).unwrap()
}

pub(super) fn profile(username: &str) -> Profile {
    Profile { username: username.parse().unwrap(), ..Profile::default() }
}

/// A user who joined and was last changed before the batch.
pub(super) fn user(id: UserId, username: &str) -> User {
    User { changed: Sequence::new(50), ..profile(username).into_user(id, None, day(-9)) }
}

/// A request that was sent one day ago, and rejected or accepted at the same time.
pub(super) fn request(id: i64, from: UserId, to: UserId, state: RequestState) -> Request {
    let answered = |by: RequestState| (state == by).then(|| day(-1));
    Request {
        id: RequestId::new(id),
        from,
        to,
        state,
        position: Sequence::new(id),
        message: Message::default(),
        created: day(-1),
        viewed: answered(RequestState::Rejected).or(answered(RequestState::Connected)),
        rejected: answered(RequestState::Rejected),
        accepted: answered(RequestState::Connected),
        reply: Message::default(),
    }
}

/// Ann, Bob and Cy with these requests between them, which are counted.
pub(super) fn snapshot(requests: &[Request]) -> Snapshot {
    let member = |(id, username)| {
        let mut counts = Counts::default();
        let own = requests.iter().filter(|request| request.from == id || request.to == id);
        own.for_each(|request| counts += Counts::of(Some(request), id));
        let last_visible = Sequence::default();
        Member { user: Arc::new(user(id, username)), counts, sends: SendWindow::default(), last_visible }
    };
    let mut snapshot = Snapshot {
        now: day(0),
        head: Head { sequence: NEWEST, time: day(-1), ..Head::default() },
        members: [(ANN, "ann"), (BOB, "bob"), (CY, "cy")].into_iter().map(member).collect(),
        ..Snapshot::default()
    };
    requests.iter().for_each(|request| snapshot.add_request(request.clone()));
    snapshot
}

pub(super) fn send(from: UserId, to: UserId) -> Command {
    Command::Send { from, to, message: Message::default() }
}

fn submit(
    snapshot: Snapshot,
    submissions: Vec<Submission>,
    policy: Policy,
) -> (Vec<Result<Reply, Rejection>>, Changes) {
    super::run(&Batch { submissions, policy: Arc::new(policy) }, snapshot)
}

/// Runs a batch of an operator with this policy.
pub(super) fn run_with<const N: usize>(
    policy: Policy,
    snapshot: Snapshot,
    commands: [Command; N],
) -> ([Result<Outcome, Rejection>; N], Changes) {
    let submission = |command| Submission { caller: Caller::Operator, command, idempotency: None };
    let (replies, changes) = submit(snapshot, commands.map(submission).into(), policy);
    let outcome = |reply: Result<Reply, Rejection>| match reply? {
        Reply::Fresh(executed) => Ok(executed.outcome),
        Reply::Stored(response) => panic!("a stored response: {response:?}"),
    };
    (replies.into_iter().map(outcome).collect::<Vec<_>>().try_into().unwrap(), changes)
}

/// Runs a batch of an operator with the default policy.
pub(super) fn run<const N: usize>(
    snapshot: Snapshot,
    commands: [Command; N],
) -> ([Result<Outcome, Rejection>; N], Changes) {
    run_with(Policy::default(), snapshot, commands)
}

pub(super) fn kinds(changes: &Changes) -> Vec<EventKind> {
    changes.events.iter().map(|event| event.kind).collect()
}

#[test]
fn a_command_that_fails_leaves_the_others_of_its_batch_alone() {
    let ([first, second, third], changes) = run(snapshot(&[]), [send(ANN, BOB), send(ANN, NOBODY), send(CY, ANN)]);
    assert!(first.is_ok() && third.is_ok());
    assert_eq!(second, Err(Rejection::UserNotFound(NOBODY)));
    let ids: Vec<_> = changes.requests_created.iter().map(|request| (request.from, request.id.get())).collect();
    assert_eq!(ids, [(ANN, nth(1).get()), (CY, nth(2).get())]);
    assert_eq!((changes.head.sequence, changes.head.time), (nth(2), day(0)));
}

/// A call with a `request_id`. Its response is the revision, and without profiles it is empty.
fn call(caller: Caller, command: Command, digest: u8) -> Submission {
    fn encode(executed: &Executed) -> Option<EncodedResponse> {
        let response = executed.revision.to_string().into_bytes();
        Some(EncodedResponse { response, without_profiles: Vec::new() })
    }
    Submission {
        caller,
        command,
        idempotency: Some(Idempotency { id: Uuid::nil(), fingerprint: [digest; 32], encode }),
    }
}

/// The revision that a command returns when it is executed.
fn revision(reply: &Result<Reply, Rejection>) -> Sequence {
    match reply {
        Ok(Reply::Fresh(executed)) => executed.revision,
        other => panic!("not executed: {other:?}"),
    }
}

fn stored(response: &str) -> Result<Reply, Rejection> {
    Ok(Reply::Stored(response.as_bytes().to_vec()))
}

#[test]
fn a_call_with_a_known_request_id_gets_the_first_response() {
    let calls = vec![
        call(Caller::Operator, send(ANN, NOBODY), 1),
        call(Caller::Operator, send(ANN, BOB), 2),
        call(Caller::Operator, send(ANN, BOB), 2),
        call(Caller::Operator, send(ANN, CY), 3),
        call(Caller::User(ANN), send(ANN, CY), 3),
    ];
    let (replies, changes) = submit(snapshot(&[]), calls, Policy::default());
    let [refused, first, repeated, reused, by_another] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(*refused, Err(Rejection::UserNotFound(NOBODY)), "a rejection is not stored");
    assert_eq!((revision(first), revision(by_another)), (nth(1), nth(2)));
    assert_eq!(*repeated, stored("101"));
    assert_eq!(*reused, Err(Rejection::RequestIdReused(Uuid::nil())));
    let kept: Vec<_> = changes.responses.iter().map(|stored| (&stored.key.caller[..], stored.fingerprint)).collect();
    assert_eq!(kept, [("operator", [2; 32]), ("user:1", [3; 32])]);
}

#[test]
fn a_users_revision_is_the_newest_event_that_they_may_see() {
    let by = |caller, command| Submission { caller, command, idempotency: None };
    let reject = Command::ActOnRequest(RequestId::new(7), BOB, RequestAction::Reject);
    let batch = || {
        vec![
            by(Caller::User(BOB), reject.clone()),
            by(Caller::User(ANN), Command::MarkAllViewed(ANN)),
            by(Caller::Operator, Command::MarkAllViewed(ANN)),
            by(Caller::User(ANN), send(ANN, CY)),
            by(Caller::User(BOB), reject.clone()),
            by(Caller::User(NOBODY), Command::FinishImport(ImportSummary::default())),
        ]
    };
    for (disclose_rejections, of_ann) in [(false, Sequence::new(50)), (true, nth(2))] {
        let policy = Policy { disclose_rejections, ..Policy::default() };
        let before = snapshot(&[request(7, ANN, BOB, RequestState::Pending)]);
        let (replies, changes) = submit(before, batch(), policy);
        let revisions: Vec<_> = replies.iter().map(revision).collect();
        // Ann was last changed by event 50, and sees no rejection unless it is disclosed.
        assert_eq!(revisions, [nth(2), of_ann, nth(2), nth(3), nth(2), Sequence::default()]);
        let saved: Vec<_> = changes.counts.iter().map(|counts| (counts.user, counts.last_visible)).collect();
        assert_eq!(saved, [(ANN, Some(nth(3))), (BOB, Some(nth(2))), (CY, Some(nth(3)))]);
        let cached = changes.members.iter().map(|member| (member.user.id, Some(member.last_visible)));
        let mut cached: Vec<_> = cached.collect();
        cached.sort_unstable();
        assert_eq!(cached, saved);
    }
}

#[test]
fn a_stored_response_is_valid_for_a_day() {
    let commands = || vec![call(Caller::Operator, send(ANN, BOB), 2)];
    let (_, mut first) = submit(snapshot(&[]), commands(), Policy::default());
    let mut again = |created| {
        first.responses.iter_mut().for_each(|response| response.created = created);
        submit(Snapshot { responses: first.responses.clone(), ..snapshot(&[]) }, commands(), Policy::default())
    };
    let (replies, changes) = again(day(-1) + TimeDelta::microseconds(1));
    assert_eq!((replies, changes.events), (vec![stored("101")], vec![]));
    let (replies, changes) = again(day(-1));
    assert_eq!(revision(&replies[0]), nth(1));
    assert_eq!(kinds(&changes), [EventKind::RequestCreated]);
}

#[test]
fn a_deleted_user_takes_their_responses_along_and_their_profile_from_others() {
    let sent = || call(Caller::Operator, send(ANN, BOB), 2);
    let (_, earlier) = submit(snapshot(&[]), vec![sent()], Policy::default());
    let delete = |id| Submission { caller: Caller::Operator, command: Command::DeleteUser(id), idempotency: None };
    let loaded = || Snapshot { responses: earlier.responses.clone(), ..snapshot(&[]) };
    // The response was stored before, or in the same batch.
    for (before, first) in [(loaded(), None), (snapshot(&[]), Some(sent()))] {
        let calls = |id| first.clone().into_iter().chain([delete(id), sent()]).collect();
        let (replies, changes) = submit(before.clone(), calls(ANN), Policy::default());
        assert_eq!(replies.last(), Some(&Err(Rejection::UserNotFound(ANN))));
        assert_eq!(changes.responses, []);
        let (replies, changes) = submit(before, calls(BOB), Policy::default());
        assert_eq!(replies.last(), Some(&stored("")));
        assert!(changes.responses.iter().all(|stored| stored.encoded.response.is_empty()));
        assert_eq!(changes.responses.len(), usize::from(first.is_some()));
    }
}
