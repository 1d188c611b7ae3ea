//! The same random history gives the same answers on SQLite, on PostgreSQL, and by the naive model; and both engines'
//! feeds tell it whole.

use chrono::TimeDelta;
use kith::domain::policy::Policy;
use kith::proto::v1 as pb;
use kith::store::Options;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::{Response, Status};
use tonic_types::StatusExt;

use crate::harness::app::{options, with_little_memory, without_devices};
use crate::harness::fold::Copy;
use crate::harness::watching::{from, sequences};
use crate::harness::{App, Engine, invariants};
use crate::model::{Answer, Model, Op, Seen};
use crate::totals;

const USERS: i64 = 6;
const STEPS: usize = 1_200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_history_has_one_outcome() {
    // What makes a service fast changes no answer, on or off or with hardly any memory.
    for (seed, options) in [(1, options()), (2, without_devices()), (3, with_little_memory())] {
        println!("seed {seed}");
        let sqlite = start(Engine::Sqlite, options.clone()).await;
        let postgres = start(Engine::Postgres, options).await;
        let mut model = Model::default();
        for _ in 0..USERS {
            add_user(&mut model, &[&sqlite, &postgres]).await;
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut changed = 0;
        let mut begun_later = None;
        for step in 0..STEPS {
            if rng.random_ratio(1, 12) {
                let days = [1, 15, 31, 100, 181][rng.random_range(0..5)];
                model.today += days;
                sqlite.clock.advance(TimeDelta::days(days));
                postgres.clock.advance(TimeDelta::days(days));
            }
            let op = random_op(&mut rng, &model);
            let before = model.sequence;
            let expected = model.run(op);
            changed += usize::from(model.sequence > before);
            let answers = [run(&sqlite, op).await, run(&postgres, op).await];
            assert_eq!(answers[0], answers[1], "seed {seed}, step {step}, {op:?}: the engines differ");
            assert_eq!(answers[0], (expected, model.sequence), "seed {seed}, step {step}, {op:?}: not by the model");
            if matches!(op, Op::DeleteUser(_)) && model.users.len() < 4 {
                add_user(&mut model, &[&sqlite, &postgres]).await;
            }
            assert_eq!(
                sqlite.store.seen(),
                postgres.store.seen(),
                "seed {seed}, step {step}, {op:?}: the totals differ"
            );
            if step % 20 == 0 {
                compare_reads(&model, &sqlite, &postgres).await;
                totals::compare(&sqlite).await;
                totals::compare(&postgres).await;
            }
            if step == STEPS / 2 {
                begun_later = Some(Copy::read(&sqlite).await);
            }
        }
        assert!(changed > STEPS / 5, "only {changed} steps of seed {seed} changed anything");
        compare_reads(&model, &sqlite, &postgres).await;
        compare_feeds(&sqlite, &postgres, begun_later.expect("the middle")).await;
        invariants::check(&sqlite.database).await;
        invariants::check(&postgres.database).await;
    }
}

/// The feeds of both engines are one, and what they tell is what can be read: from the start, and from what was read
/// in the middle.
async fn compare_feeds(sqlite: &App, postgres: &App, (mut later, middle): (Copy, i64)) {
    for app in [sqlite, postgres] {
        sweep(app).await;
    }
    let (expected, end) = Copy::read(sqlite).await;
    assert_eq!((&expected, end), (&Copy::read(postgres).await.0, postgres.revision().await));
    let feed = sqlite.watch(from(0, 1_000)).await.until(end).await;
    assert_eq!(feed, postgres.watch(from(0, 1_000)).await.until(end).await, "the engines' feeds differ");
    for app in [sqlite, postgres] {
        assert_eq!(feed, app.list_events(pb::ListEventsRequest::default()).await);
    }
    assert_eq!(sequences(&feed), (1..=end).collect::<Vec<_>>());
    let mut whole = Copy::default();
    feed.iter().for_each(|event| whole.apply(event).expect("the next event"));
    assert_eq!(whole, expected, "the whole feed");
    let rest = postgres.watch(from(middle, 1_000)).await.until(end).await;
    assert_eq!(sequences(&rest), (middle + 1..=end).collect::<Vec<_>>());
    rest.iter().for_each(|event| later.apply(event).expect("the next event"));
    assert_eq!(later, expected, "what was read at {middle}, and the feed from there");
}

/// Ends for good what time has ended: until then it does not show, and the feed does not tell it yet.
pub async fn sweep(app: &App) {
    sweep_by(app, &Policy::default()).await;
}

/// The same by another policy.
pub async fn sweep_by(app: &App, policy: &Policy) {
    let policy = Policy { event_retention: None, ..policy.clone() };
    while app.swept(policy.clone()).await > 0 {}
}

async fn start(engine: Engine, options: Options) -> App {
    App::with_options(engine, options, |settings| {
        (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None);
        settings.policy.event_retention = None;
        // A sweep would write events at moments of its own.
        settings.sweep_interval = std::time::Duration::from_secs(3_600);
    })
    .await
}

async fn add_user(model: &mut Model, apps: &[&App]) {
    let name = format!("user{}", model.sequence);
    for app in apps {
        let id = app.user(&name).await;
        if std::ptr::eq(*app, apps[0]) {
            model.add_user(id);
        }
        assert!(model.users.contains(&id), "the engines assign other ids");
    }
}

fn random_op(rng: &mut StdRng, model: &Model) -> Op {
    let users: Vec<_> = model.users.iter().copied().collect();
    let mut user = || users[rng.random_range(0..users.len())];
    let (one, other) = (user(), user());
    let (sent, received) = model.waiting(one);
    // Mostly requests that are there, now and then any id.
    let known: Vec<_> = sent.into_iter().chain(received).collect();
    let id = if known.is_empty() || rng.random_ratio(1, 5) {
        rng.random_range(1..model.sequence + 2)
    } else {
        known[rng.random_range(0..known.len())]
    };
    match rng.random_range(0..100) {
        0..34 => Op::Send(one, other),
        34..46 => Op::Accept(id, one),
        46..58 => Op::Reject(id, one),
        58..66 => Op::Restore(id, one),
        66..76 => Op::Cancel(id, one),
        76..81 => Op::MarkViewed(id, one),
        81..84 => Op::MarkAllViewed(one),
        84..89 => Op::Remove(one, other),
        89..93 => Op::Block(one, other),
        93..99 => Op::Unblock(one, other),
        _ => Op::DeleteUser(one),
    }
}

/// Runs one operation over the wire; answers it in the model's words, with the revision.
async fn run(app: &App, op: Op) -> (Answer, i64) {
    macro_rules! told {
        ($result:expr) => {
            told($result, |response| {
                (response.connection_request.as_ref().map(seen), response.status(), response.revision)
            })
        };
    }
    let request_id = String::new();
    let answer = match op {
        Op::Send(from, to) => told!(app.try_send(from, to).await),
        Op::Accept(id, user) => told!(app.accept(id, user).await),
        Op::Reject(id, user) => told!(app.reject(id, user).await),
        Op::Restore(id, user) => told!(app.restore(id, user).await),
        Op::Cancel(id, user) => told!(app.cancel(id, user).await),
        Op::MarkViewed(id, user) => told!(app.mark_viewed(id, user).await),
        Op::MarkAllViewed(user_id) => {
            let request = pb::MarkAllConnectionRequestsViewedRequest { user_id, request_id };
            let marked = app.requests().mark_all_connection_requests_viewed(request).await;
            marked.map_or_else(refusal, |response| Answer::Marked(response.into_inner().marked))
        }
        Op::Remove(user, other) => whole(app, user, other, app.remove(user, other).await.map(|_| ())).await,
        Op::Block(user_id, other_user_id) => {
            let request = pb::BlockUserRequest { user_id, other_user_id, request_id };
            whole(app, user_id, other_user_id, app.blocks().block_user(request).await.map(|_| ())).await
        }
        Op::Unblock(user_id, other_user_id) => {
            let request = pb::UnblockUserRequest { user_id, other_user_id, request_id };
            whole(app, user_id, other_user_id, app.blocks().unblock_user(request).await.map(|_| ())).await
        }
        Op::DeleteUser(id) => {
            let deleted = app.users().delete_user(pb::DeleteUserRequest { id, request_id }).await;
            deleted.map_or_else(refusal, |_| Answer::Done)
        }
    };
    (answer, app.revision().await)
}

fn told<T>(
    result: Result<Response<T>, Status>,
    parts: impl Fn(&T) -> (Option<Seen>, pb::ConnectionStatus, i64),
) -> Answer {
    result.map_or_else(refusal, |response| {
        let (seen, status, _) = parts(response.get_ref());
        Answer::Pair(seen, status)
    })
}

/// The answers to these calls have no request: it is looked up by the pair's status.
async fn whole(app: &App, user_id: i64, other_user_id: i64, result: Result<(), Status>) -> Answer {
    if let Err(status) = result {
        return refusal(status);
    }
    let request = pb::GetConnectionStatusRequest { user_id, other_user_id, ..Default::default() };
    let standing = app.connections().get_connection_status(request).await.expect("a status").into_inner();
    let mut id = standing.connection_request_id;
    if standing.status() == pb::ConnectionStatus::Blocked {
        // A block hides the request's id from the status, not the request from its receiver.
        id = rejected_from(app, user_id, other_user_id).await;
    }
    let found = match id {
        0 => None,
        id => Some(app.request(id, user_id).await.expect("a request")),
    };
    Answer::Pair(found.as_ref().map(seen), standing.status())
}

async fn rejected_from(app: &App, user_id: i64, sender: i64) -> i64 {
    let request = pb::ListConnectionRequestsRequest {
        user_id,
        direction: pb::ConnectionRequestDirection::Received.into(),
        state: pb::ConnectionRequestState::Rejected.into(),
        page_size: 1_000,
        ..Default::default()
    };
    let list = app.requests().list_connection_requests(request).await.expect("a list").into_inner();
    let from_sender =
        |request: &&pb::ConnectionRequest| request.from_user.as_ref().is_some_and(|user| user.id == sender);
    list.connection_requests.iter().find(from_sender).map_or(0, |request| request.id)
}

fn seen(request: &pb::ConnectionRequest) -> Seen {
    Seen { id: request.id, state: request.state(), viewed: request.viewed.is_some() }
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_or_else` gives")]
fn refusal(status: Status) -> Answer {
    let details = status.get_error_details();
    let reason = details.error_info().map_or(status.message(), |info| info.reason.as_str());
    Answer::Refused(String::leak(reason.to_owned()))
}

/// Everything that can be read: equal on both engines, and by the model.
async fn compare_reads(model: &Model, sqlite: &App, postgres: &App) {
    for &user in &model.users {
        let expected = model.waiting(user);
        for app in [sqlite, postgres] {
            assert_eq!(app.counts(user).await, model.counts(user), "counts of {user}");
            for &other in &model.users {
                assert_eq!(app.status(user, other).await, model.status(user, other), "{user} towards {other}");
            }
        }
        for direction in [pb::ConnectionRequestDirection::Sent, pb::ConnectionRequestDirection::Received] {
            let request = pb::ListConnectionRequestsRequest {
                user_id: user,
                direction: direction.into(),
                page_size: 1_000,
                ..Default::default()
            };
            let ask = async |app: &App| {
                let list = app.requests().list_connection_requests(request.clone()).await.expect("a list").into_inner();
                pb::ListConnectionRequestsResponse { epoch: String::new(), ..list }
            };
            let (one, other) = (ask(sqlite).await, ask(postgres).await);
            assert_eq!(one, other, "requests of {user}");
            let ids: Vec<_> = one.connection_requests.iter().map(|request| request.id).collect();
            match direction {
                pb::ConnectionRequestDirection::Sent => assert_eq!(ids, expected.0),
                _ => assert_eq!(ids.into_iter().collect::<std::collections::BTreeSet<_>>(), expected.1),
            }
        }
        let request = pb::ListConnectionsRequest { user_id: user, page_size: 1_000, ..Default::default() };
        let ask = async |app: &App| {
            let list = app.connections().list_connections(request.clone()).await.expect("a list").into_inner();
            pb::ListConnectionsResponse { epoch: String::new(), ..list }
        };
        assert_eq!(ask(sqlite).await, ask(postgres).await, "connections of {user}");
    }
}
