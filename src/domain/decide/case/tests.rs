//! Each command in the situations that it distinguishes. Ann is the actor, Bob the other user.
//!
//! `docs/semantics.md` has tables of all situations. Here are the values that these leave out, and an example of each
//! rule.

use super::*;
use crate::domain::Time;
use crate::domain::counts::{Counts, SendWindow};
use crate::domain::decide::{PairCommand, decide};
use crate::domain::event::Event;
use crate::domain::id::{PairKey, Sequence};
use crate::domain::pair::Side;

use EventKind as Kind;
use PairCommand as Command;
use RequestState::{Connected, Pending, Rejected, Silenced};

const ANN: UserId = UserId::new(1);
const BOB: UserId = UserId::new(2);
const ID: RequestId = RequestId::new(7);
const NEXT: Sequence = Sequence::new(100);
const AFTER_NEXT: Sequence = Sequence::new(101);

/// The events of a decision, as far as the tables name them.
type Events = Vec<(EventKind, Option<Cause>)>;

/// A time some days after the decision, or before it.
fn day(day: i64) -> Time {
    Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
}

fn text(text: &str) -> Message {
    text.parse().unwrap()
}

/// A request that was sent two days ago, and rejected or accepted one day ago.
fn request(from: UserId, state: RequestState) -> Request {
    let answered = |by: RequestState| (state == by).then(|| day(-1));
    Request {
        id: ID,
        from,
        to: if from == ANN { BOB } else { ANN },
        state,
        position: Sequence::new(8),
        message: text("Hello"),
        created: day(-2),
        viewed: answered(Rejected).or(answered(Connected)),
        rejected: answered(Rejected),
        accepted: answered(Connected),
        reply: Message::default(),
    }
}

fn pair(request: Option<Request>) -> Pair {
    Pair { request, ..Pair::empty(PairKey::of(ANN, BOB).unwrap()) }
}

fn blocked() -> Side {
    Side { block: Some(Block { created: day(-1), position: Sequence::new(9) }), ..Side::default() }
}

fn party(id: UserId) -> Party {
    Party { id, status: Some(UserStatus::Approved), counts: Counts::default(), sends: SendWindow::default() }
}

fn by_ann(pair: &Pair, command: &Command) -> Result<Decision, Rejection> {
    decide(pair, command, &party(ANN), &party(BOB), &Policy::default(), Moment { time: day(0), next: NEXT })
}

fn events(decision: &Decision) -> Events {
    decision.events.iter().map(|event| (event.kind, event.cause)).collect()
}

#[test]
fn a_request_is_silenced_by_a_block_of_its_receiver_and_by_a_cooldown() {
    let message = || text("Hello");
    let pending = Request {
        id: RequestId::new(NEXT.get()),
        position: NEXT,
        created: day(0),
        message: message(),
        ..request(ANN, Pending)
    };
    let silenced = Request { state: Silenced, ..pending.clone() };
    let cooldown = |days: i64| Side { cooldown: Some(day(-days)), ..Side::default() };
    for (own, others, expected, cause) in [
        (Side::default(), Side::default(), &pending, None),
        (Side::default(), blocked(), &silenced, Some(Cause::Blocked)),
        (cooldown(29), Side::default(), &silenced, Some(Cause::Cooldown)),
        (cooldown(29), blocked(), &silenced, Some(Cause::Blocked)),
        (cooldown(30), Side::default(), &pending, None),
        (Side::default(), cooldown(29), &pending, None),
    ] {
        let before = Pair { low: own, high: others, ..pair(None) };
        let decision = by_ann(&before, &Command::Send(message())).unwrap();
        assert_eq!(events(&decision), [(Kind::RequestCreated, cause)]);
        assert_eq!(decision.pair, Pair { request: Some(expected.clone()), ..before });
        assert!(decision.sent);
    }
}

#[test]
fn commands_change_the_request() {
    let of = |from, state| Some(request(from, state));
    let viewed = |state| Request { viewed: Some(day(-1)), ..request(BOB, state) };
    let connected = |viewed, reply: &str| {
        let (accepted, reply) = (Some(day(0)), text(reply));
        Some(Request { position: NEXT, viewed: Some(viewed), accepted, reply, ..request(BOB, Connected) })
    };
    let rejected = |viewed| {
        Some(Request { position: NEXT, viewed: Some(viewed), rejected: Some(day(0)), ..request(BOB, Rejected) })
    };
    let one = |kind| vec![(kind, None)];
    let blocks = (Kind::UserBlocked, None);
    let (send, accept) = (Command::Send(text("Me too")), Command::Accept(text("Welcome")));
    let crossed = || vec![(Kind::ConnectionCreated, Some(Cause::Crossed))];
    let by_block = |kind| vec![(kind, Some(Cause::Blocked)), blocks];
    let cases: Vec<(&Command, Option<Request>, Option<Request>, Events)> = vec![
        (&send, of(BOB, Pending), connected(day(0), "Me too"), crossed()),
        (&send, of(BOB, Silenced), connected(day(0), "Me too"), crossed()),
        (&send, of(BOB, Rejected), connected(day(-1), "Me too"), crossed()),
        (&accept, of(BOB, Pending), connected(day(0), "Welcome"), one(Kind::ConnectionCreated)),
        (&accept, of(BOB, Rejected), connected(day(-1), "Welcome"), one(Kind::ConnectionCreated)),
        (&accept, of(BOB, Connected), of(BOB, Connected), vec![]),
        (
            &Command::Reject,
            of(BOB, Pending),
            rejected(day(0)).map(|after| Request { position: NEXT.next(), ..after }),
            vec![(Kind::RequestViewed, None), (Kind::RequestRejected, None)],
        ),
        (&Command::Reject, Some(viewed(Pending)), rejected(day(-1)), one(Kind::RequestRejected)),
        (&Command::Reject, of(BOB, Rejected), of(BOB, Rejected), vec![]),
        (
            &Command::Restore,
            of(BOB, Rejected),
            Some(Request { position: NEXT, ..viewed(Pending) }),
            one(Kind::RequestRestored),
        ),
        (&Command::Restore, of(BOB, Pending), of(BOB, Pending), vec![]),
        (&Command::Cancel, of(ANN, Pending), None, one(Kind::RequestCancelled)),
        (&Command::Cancel, of(ANN, Silenced), None, one(Kind::RequestCancelled)),
        (&Command::Cancel, of(ANN, Rejected), None, one(Kind::RequestCancelled)),
        (
            &Command::MarkViewed,
            of(BOB, Pending),
            Some(Request { viewed: Some(day(0)), ..request(BOB, Pending) }),
            one(Kind::RequestViewed),
        ),
        (&Command::MarkViewed, Some(viewed(Pending)), Some(viewed(Pending)), vec![]),
        (&Command::Remove, of(BOB, Connected), None, one(Kind::ConnectionRemoved)),
        (&Command::Block, None, None, vec![blocks]),
        (&Command::Block, of(BOB, Connected), None, by_block(Kind::ConnectionRemoved)),
        (&Command::Block, of(ANN, Pending), None, by_block(Kind::RequestCancelled)),
        (
            &Command::Block,
            of(BOB, Pending),
            Some(Request { position: NEXT, ..request(BOB, Silenced) }),
            by_block(Kind::RequestSilenced),
        ),
        (&Command::Block, of(BOB, Silenced), of(BOB, Silenced), vec![blocks]),
        (&Command::Block, of(BOB, Rejected), of(BOB, Rejected), vec![blocks]),
    ];
    for (command, before, after, expected) in cases {
        let decision = by_ann(&pair(before.clone()), command).unwrap();
        assert_eq!(decision.pair.request, after, "{command:?} of {before:?}");
        assert_eq!(events(&decision), expected, "{command:?} of {before:?}");
        assert!(!decision.sent);
        let of_ann = |event: &Event| event.actor == Actor::User(ANN) && event.time == day(0);
        assert!(decision.events.iter().all(of_ann), "{decision:?}");
    }
}

/// A wrong clock can date a request ahead.
#[test]
fn nothing_happens_to_a_request_before_its_creation() {
    let ahead = pair(Some(Request { created: day(2), ..request(BOB, Pending) }));
    let times = |command: &Command| {
        let decision = by_ann(&ahead, command).unwrap();
        let Request { viewed, rejected, accepted, .. } = decision.pair.request.unwrap();
        assert!(decision.events.iter().all(|event| event.time == day(0)), "events have the time of the clock");
        (viewed, rejected, accepted, decision.pair.high.cooldown)
    };
    let created = Some(day(2));
    assert_eq!(times(&Command::MarkViewed), (created, None, None, None));
    assert_eq!(times(&Command::Reject), (created, created, None, Some(day(0))));
    assert_eq!(times(&Command::Accept(Message::default())), (created, None, created, None));
}

#[test]
fn events_of_a_silenced_request_are_silenced_unless_it_becomes_a_connection() {
    for (command, from, state, is_silenced) in [
        (Command::Cancel, ANN, Silenced, true),
        (Command::Cancel, ANN, Rejected, false),
        (Command::Send(Message::default()), BOB, Silenced, false),
        (Command::Block, BOB, Pending, false),
    ] {
        let decision = by_ann(&pair(Some(request(from, state))), &command).unwrap();
        assert_eq!(decision.events[0].silenced, is_silenced, "{command:?} of a request that is {state:?}");
    }
}

#[test]
fn commands_are_rejected_for_the_state_and_the_side_of_the_request() {
    let (send, accept) = (Command::Send(Message::default()), Command::Accept(Message::default()));
    let not_found = Rejection::RequestNotFound;
    let (user, other) = (ANN, BOB);
    for command in [&accept, &Command::Reject, &Command::Restore, &Command::MarkViewed] {
        assert_eq!(by_ann(&pair(Some(request(ANN, Pending))), command), Err(Rejection::NotTheReceiver(ID)));
        assert_eq!(by_ann(&pair(Some(request(BOB, Silenced))), command), Err(not_found(ID)));
        assert_eq!(by_ann(&pair(None), command), Err(not_found(RequestId::default())));
    }
    for (command, from, state, expected) in [
        (&send, ANN, Pending, Rejection::RequestPending(ID)),
        (&send, ANN, Silenced, Rejection::RequestPending(ID)),
        (&send, ANN, Rejected, Rejection::RequestPending(ID)),
        (&send, ANN, Connected, Rejection::AlreadyConnected(ID)),
        (&send, BOB, Connected, Rejection::AlreadyConnected(ID)),
        (&Command::Reject, BOB, Connected, Rejection::AlreadyAccepted(ID)),
        (&Command::Restore, BOB, Connected, Rejection::AlreadyAccepted(ID)),
        (&Command::Cancel, ANN, Connected, Rejection::AlreadyAccepted(ID)),
        (&Command::Cancel, BOB, Pending, Rejection::NotTheSender(ID)),
        (&Command::Cancel, BOB, Silenced, not_found(ID)),
        (&Command::Remove, ANN, Pending, Rejection::NotConnected { user, other }),
        (&Command::Unblock, ANN, Pending, Rejection::NotBlocked { user, other }),
    ] {
        assert_eq!(by_ann(&pair(Some(request(from, state))), command), Err(expected), "{command:?}, {state:?}");
    }
    let across_own_block = Pair { low: blocked(), ..pair(Some(request(BOB, Rejected))) };
    for command in [&send, &accept, &Command::Restore] {
        assert_eq!(by_ann(&across_own_block, command), Err(Rejection::BlockedByYou { user, other }), "{command:?}");
    }
    let again = by_ann(&across_own_block, &Command::Block).unwrap();
    assert_eq!((again.pair, again.events), (across_own_block, vec![]));
}

#[test]
fn the_end_of_a_block_ends_the_silence_of_a_request_to_the_actor() {
    let untold = Request { position: Sequence::new(ID.get()), ..request(BOB, Silenced) };
    let told = request(BOB, Silenced);
    let viewed = Request { viewed: Some(day(-1)), ..told.clone() };
    let pending = |silenced: &Request| Request { state: Pending, position: AFTER_NEXT, ..silenced.clone() };
    let cooldown = Side { cooldown: Some(day(-1)), ..Side::default() };
    let no_cooldown = Side::default();
    for (before, others, after, kinds) in [
        (&untold, no_cooldown, pending(&untold), &[Kind::RequestCreated][..]),
        (&told, no_cooldown, pending(&told), &[Kind::RequestRestored]),
        (&viewed, no_cooldown, pending(&viewed), &[Kind::RequestRestored, Kind::RequestViewed]),
        (&told, cooldown, told.clone(), &[]),
        (&request(ANN, Silenced), no_cooldown, request(ANN, Silenced), &[]),
        (&request(BOB, Rejected), no_cooldown, request(BOB, Rejected), &[]),
    ] {
        let before = Pair { low: blocked(), high: others, ..pair(Some(before.clone())) };
        let decision = by_ann(&before, &Command::Unblock).unwrap();
        let of_request = kinds.iter().map(|kind| (*kind, Some(Cause::Unblocked)));
        let expected: Events = [(Kind::UserUnblocked, None)].into_iter().chain(of_request).collect();
        assert_eq!(events(&decision), expected);
        assert_eq!(decision.pair, Pair { low: Side::default(), request: Some(after), ..before });
    }
}

#[test]
fn a_cooldown_of_the_sender_begins_with_a_rejection_and_ends_with_a_restore_or_a_connection() {
    let cooldown = |time| Side { cooldown: Some(time), ..Side::default() };
    let both = |state| Pair { low: cooldown(day(-3)), high: cooldown(day(-1)), ..pair(Some(request(BOB, state))) };
    for (command, state, expected) in [
        (Command::Reject, Pending, (cooldown(day(-3)), cooldown(day(0)))),
        (Command::Restore, Rejected, (cooldown(day(-3)), Side::default())),
        (Command::Accept(Message::default()), Rejected, (Side::default(), Side::default())),
    ] {
        let after = by_ann(&both(state), &command).unwrap().pair;
        assert_eq!((after.low, after.high), expected, "{command:?}");
    }
}

#[test]
fn a_block_is_between_the_actor_and_the_other_user() {
    let block = by_ann(&pair(Some(request(BOB, Connected))), &Command::Block).unwrap();
    assert_eq!(block.pair.low.block, Some(Block { created: day(0), position: AFTER_NEXT }));
    let unblock = by_ann(&block.pair, &Command::Unblock).unwrap();
    for event in [block.events.last(), unblock.events.last()].into_iter().flatten() {
        assert_eq!((event.user, event.other, event.request), (ANN, Some(BOB), None));
    }
}

#[test]
fn users_must_exist_and_be_approved_to_connect_but_not_to_leave() {
    let [approved, blocked, unregistered] =
        [UserStatus::Approved, UserStatus::Blocked, UserStatus::Unregistered].map(Some);
    let (send, accept) = (Command::Send(Message::default()), Command::Accept(Message::default()));
    let (not_found, not_approved) = (Rejection::UserNotFound, Rejection::UserNotApproved);
    let by = |actor, other, command: &Command, before: &Pair| {
        let (actor, other) = (Party { status: actor, ..party(ANN) }, Party { status: other, ..party(BOB) });
        let moment = Moment { time: day(0), next: NEXT };
        decide(before, command, &actor, &other, &Policy::default(), moment).err()
    };
    let rejected = pair(Some(request(BOB, Rejected)));
    for (command, actor, other, expected) in [
        (&accept, blocked, approved, Some(not_approved(ANN))),
        (&accept, approved, blocked, Some(not_approved(BOB))),
        (&Command::Restore, unregistered, approved, Some(not_approved(ANN))),
        (&Command::Restore, approved, unregistered, None),
        (&Command::MarkViewed, blocked, blocked, None),
        (&Command::Block, blocked, blocked, None),
        (&Command::Block, None, approved, Some(not_found(ANN))),
        (&Command::Block, approved, None, Some(not_found(BOB))),
        (&Command::Unblock, approved, None, Some(not_found(BOB))),
        (&Command::Remove, approved, None, Some(not_found(BOB))),
    ] {
        assert_eq!(by(actor, other, command, &rejected), expected, "{command:?}, {actor:?}, {other:?}");
    }
    for (actor, other, expected) in [
        (approved, approved, None),
        (None, approved, Some(not_found(ANN))),
        (approved, None, Some(not_found(BOB))),
        (blocked, approved, Some(not_approved(ANN))),
        (approved, unregistered, Some(not_approved(BOB))),
    ] {
        assert_eq!(by(actor, other, &send, &pair(None)), expected, "{actor:?}, {other:?}");
    }
}

#[test]
fn limits_hold_at_their_maximum() {
    let minutes = |count: i64| Some(TimeDelta::minutes(count));
    let sends = |count| SendWindow { since: Some(day(0) - TimeDelta::minutes(20)), count };
    let sent = |requests_sent| Counts { requests_sent, ..Counts::default() };
    let connections = |connections| Counts { connections, ..Counts::default() };
    let ended = |count| Side { ended: Some(Ended { since: day(-10), count }), ..Side::default() };
    let limits = || Policy {
        max_sent_requests: Some(3),
        max_connections: Some(4),
        max_sends_per_hour: Some(5),
        max_sends_per_pair: Some(6),
        ..Policy::default()
    };
    let reached = |limit, user, maximum, retry_after| Some((limit, user, maximum, retry_after));
    let (ann, bob, none) = (party(ANN), party(BOB), Side::default());
    let twenty_days = minutes(20 * 24 * 60);
    for (actor, other, low, expected) in [
        (Party { counts: sent(2), ..ann }, bob, none, None),
        (Party { counts: sent(3), ..ann }, bob, none, reached(Limit::SentRequests, ANN, 3, None)),
        (Party { counts: connections(3), ..ann }, bob, none, None),
        (Party { counts: connections(4), ..ann }, bob, none, reached(Limit::Connections, ANN, 4, None)),
        (ann, Party { counts: connections(4), ..bob }, none, reached(Limit::Connections, BOB, 4, None)),
        (Party { sends: sends(4), ..ann }, bob, none, None),
        (Party { sends: sends(5), ..ann }, bob, none, reached(Limit::SendsPerHour, ANN, 5, minutes(40))),
        (ann, bob, ended(5), None),
        (ann, bob, ended(6), reached(Limit::SendsPerPair, ANN, 6, twenty_days)),
    ] {
        let before = Pair { low, ..pair(None) };
        let send = |policy: &Policy| {
            let moment = Moment { time: day(0), next: NEXT };
            decide(&before, &Command::Send(Message::default()), &actor, &other, policy, moment).err()
        };
        let expected = expected.map(|(limit, user, maximum, retry_after)| Rejection::LimitReached {
            limit,
            user,
            maximum,
            retry_after,
        });
        assert_eq!(send(&limits()), expected);
        let off = Policy {
            max_sent_requests: None,
            max_connections: None,
            max_sends_per_hour: None,
            max_sends_per_pair: None,
            ..Policy::default()
        };
        assert_eq!(send(&off), None, "without limits");
    }
}

#[test]
fn a_connection_needs_room_for_both_users() {
    let full = Counts { connections: 4, ..Counts::default() };
    let policy = Policy { max_connections: Some(4), ..Policy::default() };
    for (ann, bob, user) in [(full, Counts::default(), ANN), (Counts::default(), full, BOB)] {
        let (actor, other) = (Party { counts: ann, ..party(ANN) }, Party { counts: bob, ..party(BOB) });
        let moment = Moment { time: day(0), next: NEXT };
        let before = pair(Some(request(BOB, Pending)));
        let decision = decide(&before, &Command::Accept(Message::default()), &actor, &other, &policy, moment);
        let (limit, maximum, retry_after) = (Limit::Connections, 4, None);
        assert_eq!(decision, Err(Rejection::LimitReached { limit, user, maximum, retry_after }));
    }
}
