//! What do callers receive when the database fails, is slow, or is lost? What is the state afterwards?

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream;
use kith::proto::v1::connection_request_service_client::ConnectionRequestServiceClient;
use kith::proto::v1::user_service_client::UserServiceClient;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::server::{SERVICES, Settings, serve};
use kith::store::StoreError;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::ErrorDetails;
use uuid::Uuid;

use crate::harness::database::connect;
use crate::harness::faulty::{CAUSE, Fault, Faulty};
use crate::harness::process::Kith;
use crate::harness::raw::RawChannel;
use crate::harness::watching::{fill, from, now};
use crate::harness::{App, Database, Engine, invariants, refused, until};
use crate::on_each_engine;

const REFUSED: Fault = Fault::Fails(|| StoreError::Refused(CAUSE.into()));
const UNAVAILABLE: Fault = Fault::Fails(|| StoreError::Unavailable(CAUSE.into()));
const UNKNOWN: Fault = Fault::Fails(|| StoreError::OutcomeUnknown(CAUSE.into()));
const INTERNAL: Fault = Fault::Fails(|| StoreError::Internal(CAUSE.into()));
const CORRUPT: Fault = Fault::Fails(|| StoreError::Corrupt { column: "canary", detail: CAUSE.to_owned() });

/// Checks an error with [`refused`]. It must reveal nothing of the service's internals.
#[track_caller]
pub fn reveals_nothing<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: ErrorReason) -> ErrorDetails {
    if let Err(status) = &result {
        let all = format!("{} {} {:?}", status.message(), String::from_utf8_lossy(status.details()), status.metadata());
        let all = all.to_lowercase();
        for word in
            ["canary", "select", "hunter2", "diesel", "/var/", "postgres", "sqlite", "tokio", "server closed", "panick"]
        {
            assert!(!all.contains(word), "{word:?} in {all}");
        }
        assert!(std::error::Error::source(status).is_none(), "{status:?}");
    }
    refused(result, code, reason)
}

fn send(from_user_id: i64, to_user_id: i64) -> pb::SendConnectionRequestRequest {
    pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() }
}

pub fn with_id(from_user_id: i64, to_user_id: i64) -> pb::SendConnectionRequestRequest {
    let request_id = Uuid::new_v4().to_string();
    pb::SendConnectionRequestRequest { request_id, ..send(from_user_id, to_user_id) }
}

fn key(id: i64) -> pb::GetUserRequest {
    pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(id)), ..Default::default() }
}

pub async fn users(app: &App, number: i64) {
    for id in 1..=number {
        assert_eq!(app.user(&format!("user-{id}")).await, id);
    }
}

pub async fn sent(database: &Database) -> i64 {
    database.number("SELECT count(*) AS value FROM events WHERE kind = 'REQUEST_CREATED'").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_its_deadline_and_its_change_may_still_be_made() {
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    users(&app, 2).await;
    let (channel, origin) = RawChannel::connect(&app.address).await;
    let mut requests = ConnectionRequestServiceClient::with_origin(channel.clone(), origin.clone());
    store.commits(Fault::Blocks);
    let send = with_id(1, 2);
    let mut request = Request::new(send.clone());
    request.set_timeout(Duration::from_millis(50));
    let response = requests.send_connection_request(request).await;
    reveals_nothing(response, Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
    // Its commit had begun, and continues without it. The same request_id returns the outcome.
    store.commits(Fault::None);
    requests.send_connection_request(send).await.expect("the response");
    assert_eq!(sent(&app.database).await, 1);

    store.reads(Fault::Blocks);
    let mut users = UserServiceClient::with_origin(channel, origin);
    let mut request = Request::new(key(1));
    request.set_timeout(Duration::from_millis(50));
    reveals_nothing(users.get_user(request).await, Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
    store.reads(Fault::None);
    users.get_user(key(1)).await.expect("a user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_its_batch_is_removed_from_the_queue_at_its_deadline() {
    let (app, store) =
        Faulty::app(Engine::Sqlite, |settings| settings.max_call_time = Duration::from_millis(300)).await;
    users(&app, 3).await;
    store.commits(Fault::Blocks);
    let before = store.begun_so_far();
    let first = tokio::spawn({
        let mut requests = app.requests();
        async move { requests.send_connection_request(send(1, 2)).await }
    });
    store.begun(before + 1).await;
    // This one waits behind it, longer than the server allows any call.
    reveals_nothing(app.try_send(2, 3).await, Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
    reveals_nothing(first.await.unwrap(), Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
    store.commits(Fault::None);
    // Later commands are committed later. By then both outcomes are certain.
    app.send(1, 3).await;
    let made = "SELECT from_user_id || '-' || to_user_id AS value FROM connection_requests ORDER BY id";
    let made: Vec<_> = app.database.values(made).await.into_iter().flatten().collect();
    assert_eq!(made, ["1-2", "1-3"]);
}

on_each_engine! {
    async fn each_fault_of_the_store_has_its_own_error(engine: Engine) {
        use ErrorReason::{DatabaseUnavailable, InternalFault, OutcomeUnknown};
        let (app, store) = Faulty::app(engine, |_| {}).await;
        users(&app, 2).await;
        store.take_batches();
        for (fault, code, reason, attempts) in [
            (UNAVAILABLE, Code::Unavailable, DatabaseUnavailable, 3),
            // Never retried: it may have been committed.
            (UNKNOWN, Code::Unavailable, OutcomeUnknown, 1),
            (REFUSED, Code::Internal, InternalFault, 3),
            (INTERNAL, Code::Internal, InternalFault, 1),
            (CORRUPT, Code::Internal, InternalFault, 1),
        ] {
            store.commits(fault);
            let status = app.try_send(1, 2).await.map(drop);
            if code == Code::Internal {
                let message = status.as_ref().expect_err("a fault").message();
                assert_eq!(message, "internal error; its cause is in the server's log");
            }
            reveals_nothing(status, code, reason);
            assert_eq!(store.take_batches(), vec![1; attempts], "{reason:?}");
        }
        store.commits(Fault::None);
        for (fault, code, reason) in [
            (UNAVAILABLE, Code::Unavailable, DatabaseUnavailable),
            (REFUSED, Code::Unavailable, DatabaseUnavailable),
            (Fault::Fails(|| StoreError::Overloaded), Code::ResourceExhausted, ErrorReason::Overloaded),
            (INTERNAL, Code::Internal, InternalFault),
            (CORRUPT, Code::Internal, InternalFault),
        ] {
            store.reads(fault);
            let page = pb::ListUsersRequest::default();
            let counts = pb::GetConnectionCountsRequest { user_id: 1, ..Default::default() };
            let status = pb::GetConnectionStatusRequest { user_id: 1, other_user_id: 2, ..Default::default() };
            let request = pb::GetConnectionRequestRequest { id: 1, user_id: 1, ..Default::default() };
            let blocked = pb::ListBlockedUsersRequest { user_id: 1, ..Default::default() };
            reveals_nothing(app.users().get_user(key(1)).await, code, reason);
            reveals_nothing(app.users().list_users(page).await, code, reason);
            reveals_nothing(app.connections().get_connection_counts(counts).await, code, reason);
            reveals_nothing(app.connections().get_connection_status(status).await, code, reason);
            reveals_nothing(app.requests().get_connection_request(request).await, code, reason);
            reveals_nothing(app.blocks().list_blocked_users(blocked).await, code, reason);
        }
        store.reads(Fault::None);
        app.send(1, 2).await;
        assert_eq!(sent(&app.database).await, 1);
        invariants::check(&app.database).await;
    }

    async fn a_command_that_the_database_refuses_does_not_take_its_batch_with_it(engine: Engine) {
        const CALLS: i64 = 16;
        let (app, store) = Faulty::app(engine, |_| {}).await;
        users(&app, CALLS * 2).await;
        store.commits(Fault::Poison("poison", || StoreError::Refused(CAUSE.into())));
        // Batches form by timing. A round without a batch of several commands proves nothing.
        let (mut rounds, mut shared) = (0, false);
        while !shared {
            rounds += 1;
            assert!(rounds < 50, "no batch of more than one");
            store.take_batches();
            let mut calls = JoinSet::new();
            for from in 1..=CALLS {
                let (mut requests, mut cancels) = (app.requests(), app.requests());
                let message = if from == CALLS / 2 { "poison" } else { "hello" }.to_owned();
                calls.spawn(async move {
                    let request = pb::SendConnectionRequestRequest { message, ..send(from, from + CALLS) };
                    let response = requests.send_connection_request(request).await;
                    if let Ok(response) = &response {
                        let id = response.get_ref().connection_request.as_ref().unwrap().id;
                        let request = pb::CancelConnectionRequestRequest { id, user_id: from, ..Default::default() };
                        cancels.cancel_connection_request(request).await.expect("a cancellation");
                    }
                    (from, response)
                });
            }
            for (from, response) in calls.join_all().await {
                if from == CALLS / 2 {
                    reveals_nothing(response, Code::Internal, ErrorReason::InternalFault);
                } else {
                    response.expect("a request");
                }
            }
            // The whole batch three times, then the poison three times alone.
            let batches = store.take_batches();
            shared = batches.windows(3).any(|tries| tries[0] > 1 && tries.iter().all(|size| *size == tries[0]));
        }
        invariants::check(&app.database).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_database_and_the_process_does_not() {
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    let mut health = HealthClient::new(app.channel());
    let mut check = async |service: &str| {
        let service = service.to_owned();
        health.check(HealthCheckRequest { service }).await.expect("a response").into_inner().status()
    };
    until("a first response", async || check(SERVICES[0]).await == ServingStatus::Serving).await;
    for (fault, status) in [
        (UNAVAILABLE, ServingStatus::NotServing),
        (Fault::None, ServingStatus::Serving),
        // No response at all counts as failure too.
        (Fault::Blocks, ServingStatus::NotServing),
        (Fault::None, ServingStatus::Serving),
        (Fault::Panics, ServingStatus::NotServing),
        (Fault::None, ServingStatus::Serving),
    ] {
        store.reads(fault);
        for service in SERVICES {
            until(&format!("{status:?} of {service}"), async || check(service).await == status).await;
        }
        assert_eq!(check("").await, ServingStatus::Serving);
    }
    // Reads succeed, and writes do not. Once they do, health finds out by itself.
    for fault in [UNAVAILABLE, Fault::Panics] {
        store.commits(fault);
        app.create(1).await.expect_err("no write");
        until("an end of health", async || check(SERVICES[0]).await == ServingStatus::NotServing).await;
        store.commits(Fault::None);
        until("health", async || check(SERVICES[0]).await == ServingStatus::Serving).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_believes_the_writes_of_calls_more_than_its_own() {
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    users(&app, 3).await;
    let mut health = HealthClient::new(app.channel());
    let mut serves = async || {
        let check = HealthCheckRequest { service: SERVICES[0].to_owned() };
        health.check(check).await.expect("a response").into_inner().status() == ServingStatus::Serving
    };
    until("health", &mut serves).await;
    // As on a full disk: what calls write does not fit, and what a probe writes does.
    store.commits(Fault::Poison("large", || StoreError::OutcomeUnknown("no room".into())));
    let large = || pb::SendConnectionRequestRequest { message: "large".to_owned(), ..send(1, 2) };
    until("an end of health", async || {
        app.requests().send_connection_request(large()).await.expect_err("no room");
        !serves().await
    })
    .await;
    app.send(1, 3).await;
    until("health", &mut serves).await;
    // One failure is no reason to take a server out, but to probe.
    let before = store.probes();
    app.requests().send_connection_request(large()).await.expect_err("no room");
    until("a probe", async || {
        assert!(serves().await);
        store.probes() > before
    })
    .await;
    assert!(serves().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_feed_that_panics_begins_anew() {
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    users(&app, 2).await;
    let mut live = app.watch(now(100)).await;
    live.next().await;
    let before = store.event_reads();
    store.reads(Fault::Panics);
    let id = app.send(1, 2).await;
    until("a read", async || store.event_reads() > before).await;
    store.reads(Fault::None);
    assert_eq!(live.until(id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_sent_away_from_a_database_that_is_lost_and_not_before() {
    for fault in [UNAVAILABLE, Fault::Blocks, REFUSED] {
        let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
        users(&app, 2).await;
        fill(&app.database, 2_000, "800", false).await;
        let mut live = app.watch(now(100)).await;
        let mut idle = app.watch(now(300_000)).await;
        // This one has so many events to read that it stays behind as long as nobody reads its stream.
        let mut behind = app.watch(from(0, 100)).await;
        store.reads(fault);
        let begun = Instant::now();
        for watching in [&mut live, &mut idle, &mut behind] {
            let end: Result<(), Status> = Err(watching.end().await);
            reveals_nothing(end, Code::Unavailable, ErrorReason::DatabaseUnavailable);
            assert!(begun.elapsed() > Duration::from_secs(4), "too soon: {:?}", begun.elapsed());
        }
        // New watchers do not wait for ever either, however many there are: only two of them read at a time.
        let late = join_all((0..40).map(|_| app.try_watch(from(0, 100))));
        for late in timeout(Duration::from_secs(30), late).await.expect("all end") {
            reveals_nothing(late.map(drop), Code::Unavailable, ErrorReason::DatabaseUnavailable);
        }
        store.reads(Fault::None);
        assert_eq!(app.watch(from(0, 100)).await.until(2_002).await.len(), 2_002);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_fails_for_a_moment_only_delays_watchers() {
    static FAILURES: AtomicUsize = AtomicUsize::new(0);
    const COUNTED: Fault = Fault::Fails(|| {
        FAILURES.fetch_add(1, Ordering::SeqCst);
        StoreError::Unavailable(CAUSE.into())
    });
    let (app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    users(&app, 2).await;
    fill(&app.database, 20_000, "800", false).await;
    let mut live = app.watch(now(300_000)).await;
    let mut behind = app.watch(from(0, 300_000)).await;
    let mut received = behind.next().await.events.len();
    for _ in 0..3 {
        store.reads(COUNTED);
        app.send(1, 2).await;
        let before = FAILURES.load(Ordering::SeqCst);
        until("failures", async || FAILURES.load(Ordering::SeqCst) > before + 3).await;
        store.reads(Fault::None);
        assert_eq!(live.next().await.events.len(), 1);
        let cancelled = app.request(app.revision().await, 1).await.expect("a request");
        app.cancel(cancelled.id, 1).await.expect("cancelled");
        assert_eq!(live.next().await.events.len(), 1);
    }
    let end = app.revision().await;
    received += behind.until(end).await.len();
    assert_eq!(i64::try_from(received).unwrap(), end);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_postgresql_ends_are_replaced() {
    const ROUNDS: i64 = 20;
    let app = App::start(Engine::Postgres).await;
    users(&app, ROUNDS + 1).await;
    let ours = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kith'";
    let mut ended = 0;
    for to in 2..=ROUNDS + 1 {
        let pids = app.database.values(&format!("SELECT pid AS value {ours}")).await;
        let pids = pids.into_iter().flatten().collect::<Vec<_>>().join(",");
        ended += app.database.number(&format!("SELECT count(pg_terminate_backend(pid)) AS value {ours}")).await;
        // Only those: the connection that listens reconnects automatically.
        let left = format!("SELECT count(*) AS value {ours} AND pid = ANY('{{{pids}}}')");
        until("their end", async || app.database.number(&left).await == 0).await;
        let mut reads = JoinSet::new();
        for _ in 0..8 {
            let mut users = app.users();
            reads.spawn(async move { users.get_user(key(1)).await });
        }
        app.send(1, to).await;
        for read in reads.join_all().await {
            read.expect("a user");
        }
    }
    assert!(ended >= ROUNDS * 2, "{ended} connections ended");
    assert_eq!(sent(&app.database).await, ROUNDS);
    invariants::check(&app.database).await;
}

on_each_engine! {
    async fn acknowledged_writes_survive_a_kill(engine: Engine) {
        const KILLS: usize = 5;
        const USERS: i64 = 200;
        const SEED: u64 = 20_261_125;
        println!("seed {SEED}");
        let mut rng = StdRng::seed_from_u64(SEED);
        let database = Database::migrated(engine).await;
        let args = ["--max-sends-per-hour=0", "--max-sends-per-pair=0", "--max-sent-requests=0"];
        let pairs = (1..=USERS).flat_map(|from| (1..=USERS).filter(move |to| from < *to).map(move |to| (from, to)));
        let pairs = Arc::new(Mutex::new(pairs.collect::<Vec<_>>()));
        let acknowledged = Arc::new(Mutex::new(HashSet::new()));
        let mut lost = 0;
        for kill in 0..KILLS {
            let kith = Kith::serve(&database.url, &args).await;
            let clients = kith.clients();
            if kill == 0 {
                for id in 1..=USERS {
                    let user = pb::User { username: format!("user-{id}"), ..Default::default() };
                    let request = pb::CreateUserRequest { user: Some(user), ..Default::default() };
                    clients.users().create_user(request).await.expect("a user");
                }
            }
            let mut tasks = JoinSet::new();
            for _ in 0..16 {
                let (mut requests, pairs, acknowledged) = (clients.requests(), Arc::clone(&pairs), Arc::clone(&acknowledged));
                tasks.spawn(async move {
                    loop {
                        let (from, to) = pairs.lock().unwrap().pop().expect("a pair");
                        // The first failure is the kill.
                        let Ok(response) = requests.send_connection_request(send(from, to)).await else { return };
                        acknowledged.lock().unwrap().insert(response.into_inner().connection_request.unwrap().id);
                    }
                });
            }
            let enough = acknowledged.lock().unwrap().len() + rng.random_range(100..300);
            until("enough of a load", async || acknowledged.lock().unwrap().len() >= enough).await;
            kith.crash().await;
            lost += tasks.join_all().await.len();
        }
        assert_eq!(lost, KILLS * 16);
        // After another start the server recovers what the kill left, and serves.
        let kith = Kith::serve(&database.url, &args).await;
        let (from_user_id, to_user_id) = pairs.lock().unwrap().pop().unwrap();
        let last = kith.clients().requests().send_connection_request(send(from_user_id, to_user_id)).await;
        last.expect("a request");
        let stored = database.values("SELECT id AS value FROM connection_requests").await;
        let stored: HashSet<i64> = stored.into_iter().flatten().map(|id| id.parse().unwrap()).collect();
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        println!("{engine:?}: {} acknowledged, {} stored, {KILLS} kills", acknowledged.len(), stored.len());
        assert!(acknowledged.len() >= KILLS * 100);
        assert_eq!(acknowledged.difference(&stored).collect::<Vec<_>>(), Vec::<&i64>::new());
        invariants::check(&database).await;
    }
}

/// A database that is suspended while a server sweeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_although_its_sweep_gets_no_response() {
    let (_app, store) = Faulty::app(Engine::Sqlite, |_| {}).await;
    store.commits(Fault::Blocks);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (stop, stopped) = oneshot::channel::<()>();
    let settings = Settings { drain_time: Duration::from_millis(50), ..Settings::default() };
    let stopped = stream::once(async { _ = stopped.await });
    let server = tokio::spawn(serve(listener, Arc::<Faulty>::clone(&store), settings, stopped));
    store.sweeps_begun(2).await;
    drop(stop);
    let ended = timeout(Duration::from_secs(30), server).await.expect("an end");
    ended.expect("a server").expect("a good end");
}

/// PostgreSQL executes what was sent to it, whether or not a client waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_long_read_holds_its_slot_until_it_has_ended() {
    let app = App::start(Engine::Postgres).await;
    let mut locker = connect(&app.database.url).await;
    let lock = locker.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    for _ in 0..4 {
        let mut list = Request::new(pb::ListUsersRequest::default());
        list.set_timeout(Duration::from_millis(100));
        app.users().list_users(list).await.expect_err("no response in time");
    }
    until("a refusal", async || {
        let list = app.users().list_users(pb::ListUsersRequest::default()).await;
        list.expect_err("the table is locked").code() == Code::ResourceExhausted
    })
    .await;
    lock.commit().await.expect("unlocked");
    until("its end", async || app.users().list_users(pb::ListUsersRequest::default()).await.is_ok()).await;
}
