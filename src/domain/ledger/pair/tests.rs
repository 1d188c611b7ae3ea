//! Commands on pairs: what they read of the snapshot, and what they change.

use chrono::TimeDelta;

use super::super::snapshot::{Changes, CountsChange, Head, Snapshot};
use super::super::tests::{ANN, BOB, CY, NEWEST, NOBODY, day, key, kinds, nth, request, run, run_with, send, snapshot};
use super::super::{ForgetStep, SweepStep};
use super::*;
use crate::domain::command::{Command, Member};
use crate::domain::counts::SendWindow;
use crate::domain::id::Sequence;
use crate::domain::pair::{Block, Side};
use crate::domain::policy::Policy;
use crate::domain::view::Status;

use RequestState::{Connected, Pending, Rejected, Silenced};

fn act(id: i64, user: UserId, action: RequestAction) -> Command {
    Command::ActOnRequest(RequestId::new(id), user, action)
}

fn accept(id: i64, user: UserId) -> Command {
    act(id, user, RequestAction::Accept(Message::default()))
}

/// The status and the request of a transition.
fn seen(outcome: Result<Outcome, Rejection>) -> (Status, Option<Request>) {
    match outcome {
        Ok(Outcome::Sent(transition) | Outcome::RequestChanged(_, transition)) => {
            (transition.status, transition.request.map(|full| full.request))
        }
        other => panic!("no transition: {other:?}"),
    }
}

/// The change of the counts of a user: sent, received, unviewed, connections.
fn counted(user: UserId, [requests_sent, requests_received, requests_unviewed, connections]: [i64; 4]) -> CountsChange {
    let change = Counts { requests_sent, requests_received, requests_unviewed, connections };
    CountsChange { change, ..CountsChange::none(user) }
}

#[test]
fn a_sent_request_is_counted_and_so_is_the_send() {
    let ([sent], changes) = run(snapshot(&[]), [send(ANN, BOB)]);
    let created = Request { created: day(0), ..request(nth(1).get(), ANN, BOB, Pending) };
    assert_eq!(seen(sent), (Status::RequestSent, Some(created.clone())));
    assert_eq!(kinds(&changes), [EventKind::RequestCreated]);
    let sends = SendWindow { since: Some(day(0)), count: 1 };
    let seen = |counts: CountsChange| CountsChange { last_visible: Some(nth(1)), ..counts };
    let sent = CountsChange { sends: Some(sends), ..counted(ANN, [1, 0, 0, 0]) };
    let counts = vec![seen(sent), seen(counted(BOB, [0, 1, 1, 0]))];
    let loaded = snapshot(&[]);
    let members = [&loaded.members[0], &loaded.members[1]].into_iter().zip(&counts);
    let members = members.map(|(member, counts)| Member {
        user: Arc::clone(&member.user),
        counts: counts.change,
        sends: counts.sends.unwrap_or_default(),
        last_visible: counts.last_visible.unwrap_or_default(),
    });
    let expected = Changes {
        head: Head {
            sequence: nth(1),
            time: day(0),
            totals: Totals { pending: 1, ..Totals::default() },
            ..loaded.head
        },
        requests_created: vec![created],
        members: members.collect(),
        events: changes.events.clone(),
        counts,
        ..Changes::default()
    };
    assert_eq!(sorted(changes), expected);
}

/// Members are in no order.
fn sorted(mut changes: Changes) -> Changes {
    changes.members.sort_by_key(|member| member.user.id);
    changes
}

#[test]
fn the_counts_of_both_users_are_written_where_one_must_not_notice_that_the_other_is_unchanged() {
    let block = Block { created: day(-1), position: Sequence::new(50) };
    let mut blocked = snapshot(&[]);
    blocked.add_side(BOB, ANN, Side { block: Some(block), ..Side::default() });
    let ([sent], changes) = run(blocked, [send(ANN, BOB)]);
    assert_eq!(seen(sent).1.unwrap().state, Pending, "as its sender sees it");
    let sends = changes.counts[0].sends;
    let seen = |counts: CountsChange, event| CountsChange { last_visible: Some(nth(event)), ..counts };
    let sender = CountsChange { sends, ..seen(counted(ANN, [1, 0, 0, 0]), 1) };
    assert_eq!(changes.counts, [sender, counted(BOB, [0, 0, 0, 0])]);
    for (state, command, expected) in [
        (
            Rejected,
            act(7, ANN, RequestAction::Cancel),
            vec![seen(counted(ANN, [-1, 0, 0, 0]), 1), seen(counted(BOB, [0, 0, 0, 0]), 1)],
        ),
        // A view and a rejection: two events.
        (Pending, act(7, BOB, RequestAction::Reject), vec![seen(counted(BOB, [0, -1, -1, 0]), 2)]),
        (Pending, accept(7, BOB), vec![seen(counted(ANN, [-1, 0, 0, 1]), 1), seen(counted(BOB, [0, -1, -1, 1]), 1)]),
    ] {
        let (_, changes) = run(snapshot(&[request(7, ANN, BOB, state)]), [command.clone()]);
        assert_eq!(changes.counts, expected, "{command:?}");
    }
}

#[test]
fn a_request_is_found_by_its_id_as_long_as_it_exists_for_the_user() {
    let not_found = |id| Err(Rejection::RequestNotFound(RequestId::new(id)));
    let ([accepted], _) = run(snapshot(&[request(7, ANN, BOB, Pending)]), [accept(7, BOB)]);
    let (status, connection) = seen(accepted);
    assert_eq!((status, connection.unwrap().state), (Status::Connected, Connected));
    let expired = Request { created: day(-180), ..request(7, ANN, BOB, Pending) };
    for (request, id, user) in [
        (request(7, ANN, BOB, Pending), 7, CY),
        (request(7, ANN, BOB, Pending), 8, BOB),
        (request(7, ANN, BOB, Silenced), 7, BOB),
        (expired, 7, BOB),
    ] {
        let ([outcome], _) = run(snapshot(&[request]), [accept(id, user)]);
        assert_eq!(outcome, not_found(id));
    }
    // One that another replaced in the same batch.
    let cancel = act(7, ANN, RequestAction::Cancel);
    let new = nth(2).get();
    let commands = [cancel, send(ANN, BOB), accept(7, BOB), accept(new, BOB)];
    let ([_, _, old, accepted], _) = run(snapshot(&[request(7, ANN, BOB, Pending)]), commands);
    assert_eq!(old, not_found(7));
    assert_eq!(seen(accepted).0, Status::Connected);
}

#[test]
fn the_outcome_of_an_action_on_a_user_has_the_status_after_it() {
    let act = |action| Command::ActOnUser(ANN, BOB, action);
    let commands = [act(UserAction::Remove), act(UserAction::Block), act(UserAction::Unblock)];
    let ([removed, blocked, unblocked], changes) = run(snapshot(&[request(7, ANN, BOB, Connected)]), commands);
    assert_eq!(removed, Ok(Outcome::Removed { status: Status::None }));
    let (block, user) = (Block { created: day(0), position: nth(2) }, Arc::clone(&snapshot(&[]).members[1].user));
    assert_eq!(blocked, Ok(Outcome::Blocked { block, user, status: Status::Blocked }));
    assert_eq!(unblocked, Ok(Outcome::Unblocked { status: Status::None }));
    assert_eq!(kinds(&changes), [EventKind::ConnectionRemoved, EventKind::UserBlocked, EventKind::UserUnblocked]);
    let ([unknown], _) = run(snapshot(&[]), [Command::ActOnUser(ANN, NOBODY, UserAction::Block)]);
    assert_eq!(unknown, Err(Rejection::UserNotFound(NOBODY)));
}

#[test]
fn all_viewed_are_the_unviewed_pending_requests_to_the_user() {
    let viewed = |request| Request { viewed: Some(day(-1)), ..request };
    let requests = [
        request(1, BOB, ANN, Pending),
        viewed(request(2, CY, ANN, Pending)),
        request(3, UserId::new(4), ANN, Silenced),
        request(4, UserId::new(5), ANN, Rejected),
        request(5, ANN, UserId::new(6), Pending),
        request(6, UserId::new(7), ANN, Pending),
        Request { created: day(-180), ..request(7, UserId::new(8), ANN, Pending) },
    ];
    let ([outcome], changes) = run(snapshot(&requests), [Command::MarkAllViewed(ANN)]);
    assert_eq!(outcome, Ok(Outcome::AllViewed { marked: 2 }));
    let of_events: Vec<_> = changes.events.iter().map(|event| (event.kind, event.request)).collect();
    let id = |id| Some(RequestId::new(id));
    assert_eq!(
        of_events,
        [(EventKind::RequestViewed, id(1)), (EventKind::RequestViewed, id(6)), (EventKind::RequestExpired, id(7))]
    );
    let ([unknown], _) = run(snapshot(&[]), [Command::MarkAllViewed(NOBODY)]);
    assert_eq!(unknown, Err(Rejection::UserNotFound(NOBODY)));
}

#[test]
fn expired_requests_do_not_count_towards_the_limit_of_sent_requests() {
    let policy = || Policy { max_sent_requests: Some(1), ..Policy::default() };
    let open = request(7, ANN, BOB, Pending);
    let expired = Request { created: day(-180), ..open.clone() };
    let of_others = Request { created: day(-180), ..request(8, BOB, CY, Pending) };
    let ([sent], changes) = run_with(policy(), snapshot(&[expired.clone(), of_others]), [send(ANN, CY)]);
    assert_eq!(seen(sent).0, Status::RequestSent);
    assert_eq!(kinds(&changes), [EventKind::RequestExpired, EventKind::RequestCreated]);
    // Below the limit too, one that has expired is no obstacle to another between the same users.
    let ([sent], changes) = run(snapshot(&[expired]), [send(ANN, BOB)]);
    assert_eq!(seen(sent).0, Status::RequestSent);
    assert_eq!(kinds(&changes), [EventKind::RequestExpired, EventKind::RequestCreated]);
    let ([refused], changes) = run_with(policy(), snapshot(&[open]), [send(ANN, CY)]);
    assert!(matches!(refused, Err(Rejection::LimitReached { .. })), "{refused:?}");
    assert_eq!(changes.events, []);
}

#[test]
fn a_sweep_covers_the_open_requests_between_its_two_positions() {
    let user = UserId::new;
    let requests = [
        request(3, user(11), user(12), Pending),
        request(4, user(21), user(22), Connected),
        Request { created: day(-180), ..request(5, user(31), user(32), Pending) },
        Request { created: day(1), ..request(6, user(41), user(42), Pending) },
        request(8, user(51), user(52), Pending),
        request(9, user(61), user(62), Pending),
        request(10, user(71), user(72), Pending),
    ];
    let mut before = snapshot(&requests);
    before.head.swept = RequestId::new(3);
    for (open_until, swept, out_of_order) in [
        (None, 3, vec![]),
        (Some(5), 5, vec![]),
        (Some(6), 5, vec![]),
        (Some(8), 7, vec![RequestId::new(6)]),
        (Some(9), 7, vec![RequestId::new(6)]),
    ] {
        let sweep = SweepStep { open_until: open_until.map(RequestId::new), ..SweepStep::default() };
        let ([outcome], changes) = run(Snapshot { sweep, ..before.clone() }, [Command::Sweep]);
        let rows = Swept { requests: 1, ..Swept::default() };
        assert_eq!(outcome, Ok(Outcome::Swept { rows, more: false }));
        assert_eq!(changes.requests_deleted, [key(user(31), user(32))]);
        assert_eq!((changes.head.swept, changes.requests_out_of_order), (RequestId::new(swept), out_of_order));
    }
}

#[test]
fn a_sweep_deletes_the_rows_whose_time_is_over() {
    let cutoff = day(0) - TimeDelta::days(30);
    let step =
        |cooled, ahead, events, responses| SweepStep { cooled, ahead, events, responses, ..SweepStep::default() };
    let rows = |cooldowns, events, responses| Swept { cooldowns, events, responses, ..Swept::default() };
    for (step, rows, total, [cooled, ahead, responses]) in [
        (step(0, 0, 0, 0), rows(0, 0, 0), 0, [None, None, None]),
        (step(2, 0, 0, 0), rows(2, 0, 0), 2, [Some(cutoff), None, None]),
        (step(0, 7, 0, 0), rows(7, 0, 0), 7, [None, Some(day(0)), None]),
        (step(0, 0, 0, 5), rows(0, 0, 5), 5, [None, None, Some(day(-1))]),
        (step(2, 7, 3, 5), rows(9, 3, 5), 17, [Some(cutoff), Some(day(0)), Some(day(-1))]),
    ] {
        let sweep = SweepStep { events_until: Some(NEWEST), ..step };
        let ([outcome], changes) = run(Snapshot { sweep, ..snapshot(&[]) }, [Command::Sweep]);
        assert_eq!((outcome, rows.total()), (Ok(Outcome::Swept { rows, more: false }), total));
        assert_eq!([changes.cooled, changes.ahead, changes.responses_deleted], [cooled, ahead, responses]);
        assert_eq!(changes.events_deleted, Some(NEWEST));
    }
    // Without a cooldown, all of them are over.
    let policy = Policy { cooldown: None, ..Policy::default() };
    let sweep = SweepStep { cooled: 1, ..SweepStep::default() };
    let (_, changes) = run_with(policy, Snapshot { sweep, ..snapshot(&[]) }, [Command::Sweep]);
    assert_eq!(changes.cooled, Some(day(0)));
}

#[test]
fn a_sweep_erases_a_deleted_user_from_the_events_that_were_found() {
    const DAN: UserId = UserId::new(31);
    let named = vec![nth(-40), nth(-30)];
    let forget = |named: &[Sequence], searched| {
        Some(ForgetStep::Deletion { event: nth(-10), user: DAN, named: named.to_vec(), searched })
    };
    for (forget, rows, more, forgotten, [until, within]) in [
        (forget(&named, nth(-30)), 2, true, Some((DAN, named.clone())), [Sequence::default(), nth(-30)]),
        (forget(&named, nth(-10)), 2, true, Some((DAN, named.clone())), [nth(-10), Sequence::default()]),
        (forget(&[], nth(-20)), 0, true, None, [Sequence::default(), nth(-20)]),
        (Some(ForgetStep::Passed { until: NEWEST, waits: false }), 0, false, None, [NEWEST, Sequence::default()]),
        (None, 0, false, None, [Sequence::default(); 2]),
    ] {
        let sweep = SweepStep { forget, ..SweepStep::default() };
        let ([outcome], changes) = run(Snapshot { sweep, ..snapshot(&[]) }, [Command::Sweep]);
        let rows = Swept { forgotten: rows, ..Swept::default() };
        assert_eq!(outcome, Ok(Outcome::Swept { rows, more }));
        assert_eq!((changes.forgotten, changes.head.forgotten, changes.head.forgetting), (forgotten, until, within));
    }
}
