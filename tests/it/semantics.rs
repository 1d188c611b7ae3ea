//! The rules as tables: what `docs/semantics.md` says is what the rule book does, in every situation that can arise.
//!
//! The situations are found by walking: from nothing between two users, by every command of either and by time, until
//! nothing new is found.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use chrono::TimeDelta;
use kith::domain::Time;
use kith::domain::counts::{Counts, SendWindow};
use kith::domain::decide::{Decision, Moment, PairCommand, Party, Rejection, decide, expire};
use kith::domain::event::{Actor, Cause, Event, EventKind};
use kith::domain::id::{PairKey, Sequence, UserId};
use kith::domain::pair::{Message, Pair, RequestState};
use kith::domain::policy::Policy;
use kith::domain::user::UserStatus;
use kith::domain::view::{Viewer, status, visible, visible_event};
use tonic_types::StatusExt;

const ANN: UserId = UserId::new(1);
const BOB: UserId = UserId::new(2);

type NamedCommand = (&'static str, fn() -> PairCommand);

const COMMANDS: [NamedCommand; 9] = [
    ("Send", || PairCommand::Send(Message::default())),
    ("Accept", || PairCommand::Accept(Message::default())),
    ("Reject", || PairCommand::Reject),
    ("Restore", || PairCommand::Restore),
    ("Cancel", || PairCommand::Cancel),
    ("MarkViewed", || PairCommand::MarkViewed),
    ("Remove", || PairCommand::Remove),
    ("Block", || PairCommand::Block),
    ("Unblock", || PairCommand::Unblock),
];

/// The rows of a table: the state, and whether a cooldown of its sender runs.
const STATES: [(&str, bool); 10] = [
    ("absent", false),
    ("absent", true),
    ("pending", false),
    ("pending, viewed", false),
    ("silenced", false),
    ("silenced, told", false),
    ("silenced, viewed", false),
    ("silenced", true),
    ("rejected", true),
    ("connected", false),
];

/// The time in the middle of everything: what happened just before is neither expired nor cooled.
fn noon() -> Time {
    Time::from_timestamp_micros(1_780_000_000_000_000).expect("a time")
}

fn party(id: UserId) -> Party {
    let status = Some(UserStatus::Approved);
    Party { id, status, counts: Counts::default(), sends: SendWindow::default() }
}

fn empty() -> Pair {
    Pair::empty(PairKey::of(ANN, BOB).expect("two users"))
}

fn state(pair: &Pair) -> &'static str {
    let Some(request) = &pair.request else { return "absent" };
    match (request.state, request.viewed.is_some()) {
        (RequestState::Pending, false) => "pending",
        (RequestState::Pending, true) => "pending, viewed",
        (RequestState::Silenced, false) if request.was_told() => "silenced, told",
        (RequestState::Silenced, false) => "silenced",
        (RequestState::Silenced, true) => "silenced, viewed",
        // A rejection is a view too.
        (RequestState::Rejected, _) => "rejected",
        (RequestState::Connected, _) => "connected",
    }
}

/// A state with the cooldown of its sender, where it makes a difference.
fn named((state, cooldown): (&str, bool)) -> String {
    if cooldown && state != "rejected" { format!("{state}, cooldown") } else { state.to_owned() }
}

/// What makes two situations the same to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Situation {
    state: &'static str,
    /// Whether a cooldown of the sender runs.
    cooldown: bool,
    /// The sender; without a request the user whose cooldown runs.
    from: Option<UserId>,
    ann_blocks: bool,
    bob_blocks: bool,
    /// Whether a cooldown of the other user runs too.
    other_cooldown: bool,
}

/// A situation in which neither user blocks the other.
fn without_blocks(state: &'static str, cooldown: bool, from: Option<UserId>) -> Situation {
    Situation { state, cooldown, from, ann_blocks: false, bob_blocks: false, other_cooldown: false }
}

fn situation(pair: &Pair) -> Situation {
    let cools = |user: UserId| pair.side(user).cooldown.is_some();
    let cooling = [ANN, BOB].into_iter().find(|user| cools(*user));
    let from = pair.request.as_ref().map(|request| request.from).or(cooling);
    Situation {
        state: state(pair),
        cooldown: from.is_some_and(cools),
        from,
        ann_blocks: pair.side(ANN).block.is_some(),
        bob_blocks: pair.side(BOB).block.is_some(),
        other_cooldown: from.is_some_and(|from| cools(pair.key.other_than(from))),
    }
}

fn name(pair: &Pair) -> String {
    let Situation { state, cooldown, .. } = situation(pair);
    named((state, cooldown))
}

fn run(pair: &Pair, command: &PairCommand, actor: UserId) -> Result<Decision, Rejection> {
    let moment = Moment { time: noon(), next: next(pair) };
    decide(pair, command, &party(actor), &party(pair.key.other_than(actor)), &Policy::default(), moment)
}

/// The next event, after those that made the pair what it is.
fn next(pair: &Pair) -> Sequence {
    pair.request.as_ref().map_or(Sequence::new(100), |request| Sequence::new(request.position.get() + 100))
}

/// What time alone makes of a pair, `days` later: its request may have expired, and cooldowns may be over.
fn later(pair: &Pair, days: i64) -> Decision {
    let moment = Moment { time: noon() + TimeDelta::days(days), next: next(pair) };
    let unchanged = || Decision { pair: pair.clone(), events: Vec::new(), sent: false };
    let mut decision = expire(pair, &Policy::default(), moment).unwrap_or_else(unchanged);
    for user in [ANN, BOB] {
        let cooldown = &mut decision.pair.side_mut(user).cooldown;
        *cooldown = cooldown.filter(|since| Policy::default().in_cooldown(Some(*since), moment.time));
    }
    decision
}

/// Every situation that can arise, with a pair that is in it.
fn reachable() -> BTreeMap<Situation, Pair> {
    let mut found = BTreeMap::from([(situation(&empty()), empty())]);
    let mut unvisited = vec![empty()];
    while let Some(pair) = unvisited.pop() {
        let by_commands = COMMANDS.iter().flat_map(|(_, command)| {
            [ANN, BOB]
                .into_iter()
                .filter_map(|actor| Some(run(&pair, &command(), actor).ok()?.pair))
                .collect::<Vec<_>>()
        });
        let by_time = [31, 181].into_iter().map(|days| later(&pair, days).pair);
        for next in by_commands.chain(by_time).collect::<Vec<_>>() {
            // The first way to get there: later ones only add to what has ended.
            if let Entry::Vacant(entry) = found.entry(situation(&next)) {
                entry.insert(next.clone());
                unvisited.push(next);
            }
        }
    }
    found
}

fn reason(rejection: Rejection) -> String {
    let status = tonic::Status::from(rejection);
    status.get_error_details().error_info().expect("an ErrorInfo").reason.clone()
}

fn events(decision: &Decision) -> String {
    let one = |event: &Event| match event.cause {
        Some(cause) => format!("`{}` ({})", event.kind.name(), cause.name()),
        None => format!("`{}`", event.kind.name()),
    };
    decision.events.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn cell(outcome: Result<Decision, Rejection>) -> String {
    match outcome {
        Err(rejection) => format!("`{}`", reason(rejection)),
        Ok(decision) if decision.events.is_empty() => "no change".to_owned(),
        Ok(decision) => format!("→ {}: {}", name(&decision.pair), events(&decision)),
    }
}

/// One table for each command: rows for states and who acts, columns for blocks.
fn commands_table() -> String {
    let reachable = reachable();
    let mut text = String::new();
    for (name, command) in COMMANDS {
        let _ = write!(
            text,
            "### {name}\n\n| before | by | no block | the actor blocks | the other blocks |\n|---|---|---|---|---|\n"
        );
        for before in STATES {
            let froms: &[_] = if before == ("absent", false) { &[None] } else { &[Some(ANN), Some(BOB)] };
            for from in froms {
                let by = match from {
                    None => "either",
                    Some(ANN) => "its sender",
                    Some(_) => "its receiver",
                };
                // Ann acts: her block is the actor's.
                let cells = [(false, false), (true, false), (false, true)].map(|(ann_blocks, bob_blocks)| {
                    let (state, cooldown) = before;
                    let at = Situation { ann_blocks, bob_blocks, ..without_blocks(state, cooldown, *from) };
                    reachable.get(&at).map_or_else(|| "–".to_owned(), |pair| cell(run(pair, &command(), ANN)))
                });
                let _ = writeln!(text, "| {} | {by} | {} |", named(before), cells.join(" | "));
            }
        }
        text.push('\n');
    }
    text
}

/// The situations without blocks that Ann's requests can be in, as the tables name them.
fn of_ann() -> impl Iterator<Item = (String, Pair)> {
    let mut reachable = reachable();
    let rows = STATES.into_iter().filter_map(move |row| {
        let (state, cooldown) = row;
        Some((named(row), reachable.remove(&without_blocks(state, cooldown, Some(ANN)))?))
    });
    rows.collect::<Vec<_>>().into_iter()
}

fn time_table() -> String {
    let mut text = "| before | 31 days later | 181 days later |\n|---|---|---|\n".to_owned();
    for (before, pair) in of_ann() {
        let cells = [31, 181].map(|days| match later(&pair, days) {
            decision if !decision.events.is_empty() => format!("→ {}: {}", name(&decision.pair), events(&decision)),
            decision if name(&decision.pair) == before => "the same".to_owned(),
            decision => format!("→ {}", name(&decision.pair)),
        });
        let _ = writeln!(text, "| {before} | {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

/// What one wrong thing about the two users does to each command, in a situation where it would otherwise do
/// something.
fn users_table() -> String {
    let full = |policy: &Policy| Counts {
        requests_sent: policy.max_sent_requests.expect("a limit"),
        connections: policy.max_connections.expect("a limit"),
        ..Counts::default()
    };
    type Change = (&'static str, fn(&mut Party, &mut Party, Counts));
    const CHANGES: [Change; 8] = [
        ("actor unknown", |actor, _, _| actor.status = None),
        ("other unknown", |_, other, _| other.status = None),
        ("actor not approved", |actor, _, _| actor.status = Some(UserStatus::Blocked)),
        ("other not approved", |_, other, _| other.status = Some(UserStatus::Unregistered)),
        ("too many sent", |actor, _, full| actor.counts.requests_sent = full.requests_sent),
        ("sends too fast", |actor, _, _| actor.sends = SendWindow { since: Some(noon()), count: 100 }),
        ("actor's connections", |actor, _, full| actor.counts.connections = full.connections),
        ("other's connections", |_, other, full| other.counts.connections = full.connections),
    ];
    let policy = Policy::default();
    let reachable = reachable();
    let cases: [(&str, usize, Situation); 10] = [
        ("Send", 0, without_blocks("absent", false, None)),
        ("Send, crossing", 0, without_blocks("pending", false, Some(BOB))),
        ("Accept", 1, without_blocks("pending", false, Some(BOB))),
        ("Reject", 2, without_blocks("pending", false, Some(BOB))),
        ("Restore", 3, without_blocks("rejected", true, Some(BOB))),
        ("Cancel", 4, without_blocks("pending", false, Some(ANN))),
        ("MarkViewed", 5, without_blocks("pending", false, Some(BOB))),
        ("Remove", 6, without_blocks("connected", false, Some(ANN))),
        ("Block", 7, without_blocks("absent", false, None)),
        ("Unblock", 8, Situation { ann_blocks: true, ..without_blocks("absent", false, None) }),
    ];
    let mut text = format!("| command | {} |\n", CHANGES.map(|(name, _)| name).join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(CHANGES.len()));
    for (name, command, situation) in cases {
        let cells = CHANGES.map(|(_, change)| {
            let (mut actor, mut other) = (party(ANN), party(BOB));
            change(&mut actor, &mut other, full(&policy));
            let moment = Moment { time: noon(), next: next(&reachable[&situation]) };
            match decide(&reachable[&situation], &COMMANDS[command].1(), &actor, &other, &policy, moment) {
                Ok(decision) => {
                    assert!(!decision.events.is_empty(), "{name} does nothing in {situation:?}");
                    "allowed".to_owned()
                }
                Err(rejection) => format!("`{}`", reason(rejection)),
            }
        });
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

fn views_table() -> String {
    let mut text = "| state | its sender sees | its receiver sees | an operator sees |\n|---|---|---|---|\n".to_owned();
    let policy = Policy::default();
    for (before, pair) in of_ann() {
        let Some(request) = &pair.request else { continue };
        let seen = |viewer| {
            visible(request, viewer, &policy, noon()).map_or("nothing".to_owned(), |seen| {
                let times = [("viewed", seen.viewed), ("rejected", seen.rejected), ("accepted", seen.accepted)];
                let set: Vec<_> = times.iter().filter(|(_, time)| time.is_some()).map(|(name, _)| *name).collect();
                let with = if set.is_empty() { String::new() } else { format!(" ({})", set.join(", ")) };
                format!("{}{with}", seen.state.name().to_lowercase())
            })
        };
        let standing = |user| format!("{:?}", status(&pair, user, &policy, noon()).0);
        let _ = writeln!(
            text,
            "| {before} | {}; `{}` | {}; `{}` | {} |",
            seen(Viewer::User(ANN)),
            standing(ANN),
            seen(Viewer::User(BOB)),
            standing(BOB),
            seen(Viewer::Operator),
        );
    }
    text.push('\n');
    text
}

/// Every event that can arise, as far as a viewer can tell them apart.
fn arising() -> Vec<Event> {
    let event = |kind, cause, actor, other| {
        let (sequence, time) = (Sequence::new(100), noon());
        Event { sequence, time, kind, cause, actor, user: ANN, other, request: None, silenced: false, principal: None }
    };
    // Those that no command on a pair makes.
    let of_a_pair = [EventKind::RequestCancelled, EventKind::ConnectionRemoved, EventKind::UserUnblocked];
    let mut all: Vec<_> = [EventKind::UserCreated, EventKind::UserUpdated, EventKind::UserDeleted]
        .map(|kind| event(kind, None, Actor::Operator, None))
        .into();
    all.push(event(EventKind::UserUpdated, None, Actor::User(ANN), None));
    all.extend(of_a_pair.map(|kind| event(kind, Some(Cause::UserDeleted), Actor::Operator, Some(BOB))));
    for pair in reachable().values() {
        let decisions = COMMANDS.iter().flat_map(|(_, command)| [ANN, BOB].map(|actor| run(pair, &command(), actor)));
        let decisions: Vec<_> = decisions.filter_map(Result::ok).chain([later(pair, 181)]).collect();
        all.extend(decisions.into_iter().flat_map(|decision| decision.events).filter(|event| event.user == ANN));
    }
    let mut seen = HashSet::new();
    all.retain(|event| seen.insert((event.kind, event.cause, event.actor, event.silenced)));
    let rank = |cause: Option<Cause>| Cause::ALL.iter().position(|known| Some(*known) == cause);
    let kind = |event: &Event| EventKind::ALL.iter().position(|known| *known == event.kind);
    all.sort_by_key(|event| (kind(event), rank(event.cause), event.actor != Actor::User(ANN), event.silenced));
    all
}

/// What each of the two users of an event receives who watches the feed on their own behalf.
fn feed_table() -> String {
    let mut text =
        "| event | on behalf of | `user_id` receives it | `other_user_id` receives it |\n|---|---|---|---|\n"
            .to_owned();
    let received = |event: &Event, viewer: UserId, disclose_rejections: bool, disclose_views: bool| {
        let policy = Policy { disclose_rejections, disclose_views, ..Policy::default() };
        visible_event(event, Viewer::User(viewer), &policy)
    };
    for event in arising() {
        let cells = [ANN, BOB].map(|viewer| {
            if event.other.is_none() && viewer == BOB {
                return "–".to_owned();
            }
            let seen = [(false, false), (true, false), (false, true)]
                .map(|(rejections, views)| received(&event, viewer, rejections, views));
            let (seen, only_with) = match seen {
                [Some(seen), ..] => (seen, ""),
                [None, Some(seen), _] => (seen, ", with `--disclose-rejections`"),
                [None, None, Some(seen)] => (seen, ", with `--disclose-views`"),
                [None, None, None] => return "no".to_owned(),
            };
            let cause = if seen.cause == event.cause { "" } else { ", without the cause" };
            format!("yes{cause}{only_with}")
        });
        let actor = match event.actor {
            Actor::User(ANN) => "`user_id`",
            Actor::User(_) => "`other_user_id`",
            Actor::Operator => "an operator",
            Actor::System => "Kith",
        };
        let cause = event.cause.map(|cause| format!(" ({})", cause.name())).unwrap_or_default();
        let silenced = if event.silenced { ", silenced" } else { "" };
        let _ = writeln!(text, "| `{}`{cause}{silenced} | {actor} | {} |", event.kind.name(), cells.join(" | "));
    }
    text.push('\n');
    text
}

/// The part of the document between its two marks.
fn documented(name: &str) -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md"));
    let document = document.expect("docs/semantics.md");
    let (begin, end) = (format!("<!-- table: {name} -->\n\n"), "<!-- end -->");
    let (_, rest) = document.split_once(&begin).unwrap_or_else(|| panic!("no table {name}"));
    rest.split_once(end).expect("an end").0.to_owned()
}

#[track_caller]
fn assert_documented(name: &str, table: &str) {
    let documented = documented(name);
    assert!(documented == table, "docs/semantics.md has another table {name}; the rule book says:\n\n{table}");
}

#[test]
fn every_command_in_every_situation_does_what_is_documented() {
    assert_documented("commands", &commands_table());
}

#[test]
fn time_does_what_is_documented() {
    assert_documented("time", &time_table());
}

#[test]
fn users_and_limits_refuse_what_is_documented() {
    assert_documented("users", &users_table());
}

#[test]
fn viewers_see_what_is_documented() {
    assert_documented("views", &views_table());
}

#[test]
fn watchers_receive_what_is_documented() {
    let kinds: HashSet<_> = arising().iter().map(|event| event.kind).collect();
    assert_eq!(kinds.len(), EventKind::ALL.len(), "every kind arises");
    assert_documented("feed", &feed_table());
}

#[test]
fn what_holds_between_two_users_holds_in_every_situation_that_can_arise() {
    let reachable = reachable();
    for (Situation { state, cooldown, from, ann_blocks, bob_blocks, .. }, pair) in &reachable {
        let blocked = *ann_blocks || *bob_blocks;
        let live = state.starts_with("pending") || *state == "connected";
        assert!(!(blocked && live), "{state} across a block");
        assert!(!(live && *cooldown), "{state} within a cooldown");
        // A sender who blocks takes their own request back.
        let blocks = *from == Some(ANN) && *ann_blocks || *from == Some(BOB) && *bob_blocks;
        assert!(!(blocks && pair.request.is_some()), "a blocker's request waits");
        if let Some(request) = &pair.request {
            let silence = blocked || *cooldown;
            assert!(request.state != RequestState::Silenced || silence || !request.was_told(), "{pair:?}");
            assert_eq!(request.rejected.is_some(), request.state == RequestState::Rejected);
            assert_eq!(request.accepted.is_some(), request.state == RequestState::Connected);
        }
    }
    let found: HashSet<_> = reachable.keys().map(|at| (at.state, at.cooldown)).collect();
    assert!(STATES.iter().all(|row| found.contains(row)), "every row of the tables arises: {found:?}");
}

#[test]
fn every_change_has_its_events_and_no_change_has_none() {
    let mut seen = std::collections::BTreeSet::new();
    for pair in reachable().values() {
        for (name, command) in COMMANDS {
            for actor in [ANN, BOB] {
                let Ok(decision) = run(pair, &command(), actor) else { continue };
                assert_eq!(decision.events.is_empty(), decision.pair == *pair, "{name}: {pair:?}");
                let sequences: Vec<_> = decision.events.iter().map(|event| event.sequence.get()).collect();
                let first = next(pair).get();
                assert_eq!(sequences, (first..first + i64::try_from(sequences.len()).unwrap()).collect::<Vec<_>>());
                seen.extend(decision.events.iter().map(|event| event.kind.name()));
            }
        }
        seen.extend(later(pair, 181).events.iter().map(|event| event.kind.name()));
    }
    let of_users = [EventKind::UserCreated, EventKind::UserUpdated, EventKind::UserDeleted];
    let expected = EventKind::ALL.iter().filter(|kind| !of_users.contains(kind)).map(|kind| kind.name()).collect();
    assert_eq!(seen, expected);
}

/// Prints the document's tables: `cargo test --test it print_the_tables -- --ignored --nocapture`.
#[test]
#[ignore = "prints"]
fn print_the_tables() {
    for (name, table) in [
        ("commands", commands_table()),
        ("time", time_table()),
        ("users", users_table()),
        ("views", views_table()),
        ("feed", feed_table()),
    ] {
        println!("<!-- table: {name} -->\n\n{table}<!-- end -->\n");
    }
}
