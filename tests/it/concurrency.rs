//! Does the state stay legal under concurrency, on one server and on three?

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use kith::proto::v1::{self as pb, ConnectionStatus, ErrorReason};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::clients::Clients;
use crate::harness::process::Cluster;
use crate::harness::{Database, Engine, invariants, refused};
use crate::on_each_engine;

/// Rounds of each race.
const PAIRS: i64 = 100;
/// Without the limits on sends, which these tests would reach.
const UNLIMITED: [&str; 2] = ["--max-sends-per-hour=0", "--max-sends-per-pair=0"];

/// A cluster with users 1, 2, … `users`.
async fn cluster(engine: Engine, users: i64) -> Cluster {
    let cluster = Cluster::start(engine, &UNLIMITED).await;
    let mut creations = JoinSet::new();
    for id in 1..=users {
        let clients = cluster.clients(0);
        creations.spawn(async move { clients.create(id).await.expect("a user") });
    }
    assert_eq!(creations.join_all().await.len(), usize::try_from(users).unwrap());
    cluster
}

async fn delete(clients: &Clients, id: i64) -> Result<(), Status> {
    clients.users().delete_user(pb::DeleteUserRequest { id, request_id: String::new() }).await?;
    Ok(())
}

type Sent = Result<pb::SendConnectionRequestResponse, Status>;

async fn send(clients: &Clients, from_user_id: i64, to_user_id: i64, request_id: &str) -> Sent {
    let request_id = request_id.to_owned();
    let request = pb::SendConnectionRequestRequest { from_user_id, to_user_id, request_id, message: String::new() };
    Ok(clients.requests().send_connection_request(request).await?.into_inner())
}

fn id_of(sent: &Sent) -> i64 {
    sent.as_ref().expect("a request").connection_request.as_ref().expect("a request").id
}

async fn accept(clients: &Clients, id: i64, user_id: i64) -> Result<ConnectionStatus, Status> {
    Ok(clients.accept(id, user_id).await?.into_inner().status())
}

async fn reject(clients: &Clients, id: i64, user_id: i64) -> Result<(), Status> {
    clients.reject(id, user_id).await.map(drop)
}

async fn restore(clients: &Clients, id: i64, user_id: i64) -> Result<(), Status> {
    clients.restore(id, user_id).await.map(drop)
}

async fn cancel(clients: &Clients, id: i64, user_id: i64) -> Result<(), Status> {
    clients.cancel(id, user_id).await.map(drop)
}

async fn mark_viewed(clients: &Clients, id: i64, user_id: i64) -> Result<(), Status> {
    clients.mark_viewed(id, user_id).await.map(drop)
}

async fn mark_all(clients: &Clients, user_id: i64) -> Result<(), Status> {
    let request = pb::MarkAllConnectionRequestsViewedRequest { user_id, request_id: String::new() };
    clients.requests().mark_all_connection_requests_viewed(request).await.map(drop)
}

async fn block(clients: &Clients, user_id: i64, other_user_id: i64) -> Result<(), Status> {
    let request = pb::BlockUserRequest { user_id, other_user_id, request_id: String::new() };
    clients.blocks().block_user(request).await.map(drop)
}

async fn unblock(clients: &Clients, user_id: i64, other_user_id: i64) -> Result<(), Status> {
    let request = pb::UnblockUserRequest { user_id, other_user_id, request_id: String::new() };
    clients.blocks().unblock_user(request).await.map(drop)
}

async fn remove(clients: &Clients, user_id: i64, other_user_id: i64) -> Result<(), Status> {
    clients.remove(user_id, other_user_id).await.map(drop)
}

/// Makes two concurrent calls for each pair `(1, 2), (3, 4), …`, all pairs concurrently. Returns both results.
async fn race<A, B, FutureA, FutureB>(
    cluster: &Cluster,
    one: impl Fn(Clients, i64, i64) -> FutureA,
    other: impl Fn(Clients, i64, i64) -> FutureB,
) -> Vec<(i64, A, B)>
where
    A: Send + 'static,
    B: Send + 'static,
    FutureA: Future<Output = A> + Send + 'static,
    FutureB: Future<Output = B> + Send + 'static,
{
    let mut rounds = JoinSet::new();
    for pair in 0..PAIRS {
        let (low, high, round) = (pair * 2 + 1, pair * 2 + 2, usize::try_from(pair).unwrap());
        // Each of the two starts first in half of the rounds, on different servers.
        let one = tokio::spawn(one(cluster.clients(round), low, high));
        let other = tokio::spawn(other(cluster.clients(round + 1), low, high));
        rounds.spawn(async move { (low, one.await.expect("a response"), other.await.expect("a response")) });
    }
    let rounds = rounds.join_all().await;
    assert_eq!(rounds.len(), usize::try_from(PAIRS).unwrap());
    rounds
}

async fn events(database: &Database, kind: &str) -> i64 {
    database.number(&format!("SELECT count(*) AS value FROM events WHERE kind = '{kind}'")).await
}

async fn requests_in(database: &Database, state: &str) -> i64 {
    database.number(&format!("SELECT count(*) AS value FROM connection_requests WHERE state = '{state}'")).await
}

on_each_engine! {
    async fn crossing_requests_become_one_connection_once(engine: Engine) {
        let cluster = cluster(engine, PAIRS * 2).await;
        let rounds = race(
            &cluster,
            |clients, low, high| async move { send(&clients, low, high, "").await },
            |clients, low, high| async move { send(&clients, high, low, "").await },
        )
        .await;
        for (low, one, other) in rounds {
            assert_eq!(id_of(&one), id_of(&other), "users {low} and {}", low + 1);
            let mut statuses = [one.unwrap().status(), other.unwrap().status()];
            statuses.sort();
            assert_eq!(statuses, [ConnectionStatus::RequestSent, ConnectionStatus::Connected]);
        }
        let database = &cluster.database;
        assert_eq!((requests_in(database, "CONNECTED").await, requests_in(database, "PENDING").await), (PAIRS, 0));
        assert_eq!((events(database, "CONNECTION_CREATED").await, events(database, "REQUEST_CREATED").await), (PAIRS, PAIRS));
        let exact = "SELECT count(*) AS value FROM user_counts WHERE connections = 1 AND requests_sent = 0 \
                     AND requests_received = 0 AND requests_unviewed = 0";
        assert_eq!(database.number(exact).await, PAIRS * 2);
        assert_eq!(invariants::check(database).await, PAIRS * 4);
    }

    async fn no_request_and_no_connection_gets_past_a_block(engine: Engine) {
        let cluster = cluster(engine, PAIRS * 2).await;
        let database = &cluster.database;
        // The receiver blocks the sender. The sender sees a pending request, whichever came first.
        let rounds = race(
            &cluster,
            |clients, low, high| async move { send(&clients, low, high, "").await },
            |clients, low, high| async move { block(&clients, high, low).await },
        )
        .await;
        for (_, sent, blocked) in rounds {
            assert_eq!(sent.expect("a request").status(), ConnectionStatus::RequestSent);
            blocked.expect("a block");
        }
        assert_eq!((requests_in(database, "SILENCED").await, requests_in(database, "PENDING").await), (PAIRS, 0));
        invariants::check(database).await;
        // The sender blocks too, and sends again: the request is deleted, or the send is refused.
        let rounds = race(
            &cluster,
            |clients, low, high| async move { send(&clients, low, high, "").await },
            |clients, low, high| async move { block(&clients, low, high).await },
        )
        .await;
        for (_, sent, blocked) in rounds {
            blocked.expect("a block");
            // Before the block, the request from above was still pending.
            let code = sent.expect_err("a refusal").code();
            assert!(matches!(code, Code::AlreadyExists | Code::FailedPrecondition), "{code:?}");
        }
        assert_eq!(requests_in(database, "PENDING").await + requests_in(database, "CONNECTED").await, 0);
        invariants::check(database).await;
    }

    async fn a_block_ends_a_connection_that_is_accepted_at_the_same_time(engine: Engine) {
        let cluster = cluster(engine, PAIRS * 2).await;
        let ids = Arc::new(Mutex::new(BTreeMap::new()));
        for pair in 0..PAIRS {
            let (from, to) = (pair * 2 + 1, pair * 2 + 2);
            let sent = send(&cluster.clients(0), from, to, "").await;
            ids.lock().unwrap().insert(from, id_of(&sent));
        }
        let rounds = race(
            &cluster,
            |clients, low, high| {
                let id = ids.lock().unwrap()[&low];
                async move { accept(&clients, id, high).await }
            },
            |clients, low, high| async move { block(&clients, low, high).await },
        )
        .await;
        for (_, accepted, blocked) in rounds {
            blocked.expect("a block");
            if let Err(status) = accepted {
                assert_eq!(status.code(), Code::NotFound, "{status:?}");
            }
        }
        let database = &cluster.database;
        assert_eq!(requests_in(database, "PENDING").await + requests_in(database, "CONNECTED").await, 0);
        assert_eq!(events(database, "USER_BLOCKED").await, PAIRS);
        assert_eq!(events(database, "CONNECTION_CREATED").await, events(database, "CONNECTION_REMOVED").await);
        invariants::check(database).await;
    }

    async fn of_an_acceptance_and_a_cancellation_one_wins(engine: Engine) {
        let cluster = cluster(engine, PAIRS * 2).await;
        let ids = Arc::new(Mutex::new(BTreeMap::new()));
        for pair in 0..PAIRS {
            let (from, to) = (pair * 2 + 1, pair * 2 + 2);
            let sent = send(&cluster.clients(0), from, to, "").await;
            ids.lock().unwrap().insert(from, id_of(&sent));
        }
        let id = |low: i64| ids.lock().unwrap()[&low];
        let rounds = race(
            &cluster,
            |clients, low, high| {
                let id = id(low);
                async move { accept(&clients, id, high).await }
            },
            |clients, low, _| {
                let id = id(low);
                async move { cancel(&clients, id, low).await }
            },
        )
        .await;
        let mut accepted = 0;
        for (_, acceptance, cancellation) in rounds {
            match acceptance {
                Ok(status) => {
                    assert_eq!(status, ConnectionStatus::Connected);
                    refused(cancellation, Code::FailedPrecondition, ErrorReason::AlreadyConnected);
                    accepted += 1;
                }
                refusal => {
                    refused(refusal, Code::NotFound, ErrorReason::RequestNotFound);
                    cancellation.expect("a cancellation");
                }
            }
        }
        println!("{engine:?}: {accepted} of {PAIRS} were accepted, the rest cancelled");
        let database = &cluster.database;
        let rows = "SELECT count(*) AS value FROM connection_requests";
        assert_eq!((database.number(rows).await, requests_in(database, "CONNECTED").await), (accepted, accepted));
        assert_eq!(events(database, "REQUEST_CANCELLED").await, PAIRS - accepted);
        invariants::check(database).await;
    }

    async fn of_a_hundred_equal_requests_one_is_made(engine: Engine) {
        let cluster = cluster(engine, 2).await;
        let mut calls = JoinSet::new();
        for call in 0..100 {
            let clients = cluster.clients(call);
            calls.spawn(async move { send(&clients, 1, 2, "").await });
        }
        let (made, refusals): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), refusals.len()), (1, 99));
        for refusal in refusals {
            let details = refused(refusal, Code::AlreadyExists, ErrorReason::RequestPending);
            assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id_of(&made[0]).to_string());
        }
        assert_eq!(events(&cluster.database, "REQUEST_CREATED").await, 1);
        invariants::check(&cluster.database).await;
    }

    async fn a_hundred_requests_with_one_request_id_get_one_response(engine: Engine) {
        let cluster = cluster(engine, 2).await;
        let mut calls = JoinSet::new();
        for call in 0..100 {
            let clients = cluster.clients(call);
            calls.spawn(async move { send(&clients, 1, 2, "0b5a4c1e-97d2-4f0e-8a63-5d1c2b7e9f40").await });
        }
        let responses: Vec<_> = calls.join_all().await.into_iter().map(|response| response.expect("a response")).collect();
        assert_eq!(responses.len(), 100);
        assert!(responses.iter().all(|response| *response == responses[0]), "{responses:#?}");
        assert_eq!(events(&cluster.database, "REQUEST_CREATED").await, 1);
        invariants::check(&cluster.database).await;
    }

    async fn a_storm_leaves_a_legal_state(engine: Engine) {
        const USERS: i64 = 30;
        const TASKS: u64 = 32;
        const CALLS: u64 = 157;
        let seed: u64 = std::env::var("KITH_TEST_SEED").map_or(20_261_123, |seed| seed.parse().expect("a number"));
        println!("KITH_TEST_SEED={seed}");
        let cluster = cluster(engine, USERS).await;
        let known = Arc::new(Known::default());
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let clients = cluster.clients(usize::try_from(task).unwrap());
            let (known, rng) = (Arc::clone(&known), StdRng::seed_from_u64(seed + task));
            tasks.spawn(async move { storm(clients, rng, known, USERS, CALLS).await });
        }
        let mut tally = Tally::new();
        for done in tasks.join_all().await {
            for (call, (ok, refused)) in done {
                let sum = tally.entry(call).or_default();
                *sum = (sum.0 + ok, sum.1 + refused);
            }
        }
        println!("{engine:?}: calls that were carried out and refused: {tally:?}");
        assert_eq!(tally.values().map(|(ok, refused)| ok + refused).sum::<u64>(), TASKS * CALLS);
        assert_eq!(tally.len(), 12);
        assert!(tally.values().all(|(ok, _)| *ok > 0), "one kind of call never took place: {tally:?}");
        let events = invariants::check(&cluster.database).await;
        assert!(events > 1_000, "{events} events");
    }
}

/// For each kind of call, how often it was executed and how often the rules refused it.
type Tally = BTreeMap<&'static str, (u64, u64)>;

/// What the tasks of a storm share, so that they act on the same things.
#[derive(Default)]
struct Known {
    /// Request, sender, receiver.
    sent: Mutex<Vec<(i64, i64, i64)>>,
    blocked: Mutex<Vec<(i64, i64)>>,
}

/// One of the most recent entries.
fn recent<T: Copy>(all: &Mutex<Vec<T>>, rng: &mut StdRng) -> Option<T> {
    let all = all.lock().unwrap();
    all.get(all.len().saturating_sub(rng.random_range(1..=40))).copied()
}

/// Random calls of one task. The only errors allowed are refusals by the rules.
async fn storm(clients: Clients, mut rng: StdRng, known: Arc<Known>, users: i64, calls: u64) -> Tally {
    let mut tally = Tally::new();
    for _ in 0..calls {
        let one = rng.random_range(1..=users);
        let other = (one + rng.random_range(1..users) - 1) % users + 1;
        let (id, from, to) = recent(&known.sent, &mut rng).unwrap_or((1, one, other));
        let (call, result) = match rng.random_range(0..100) {
            0..30 => ("send", {
                let sent = send(&clients, one, other, "").await;
                if sent.is_ok() {
                    known.sent.lock().unwrap().push((id_of(&sent), one, other));
                }
                sent.map(drop)
            }),
            30..42 => ("accept", accept(&clients, id, to).await.map(drop)),
            42..52 => ("reject", reject(&clients, id, to).await),
            52..59 => ("restore", restore(&clients, id, to).await),
            59..67 => ("cancel", cancel(&clients, id, from).await),
            67..73 => ("mark viewed", mark_viewed(&clients, id, to).await),
            73..75 => ("mark all viewed", mark_all(&clients, one).await),
            75..80 => ("block", {
                known.blocked.lock().unwrap().push((from, to));
                block(&clients, from, to).await
            }),
            80..89 => ("unblock", {
                let (user, other) = recent(&known.blocked, &mut rng).unwrap_or((one, other));
                unblock(&clients, user, other).await
            }),
            89..95 => ("remove", remove(&clients, from, to).await),
            95..98 => ("read", read(&clients, one, other).await),
            98.. => ("delete and create", {
                let deleted = delete(&clients, one).await;
                if deleted.is_ok() {
                    // Nobody else creates the user that this call deleted.
                    clients.create(one).await.expect("a user");
                }
                deleted
            }),
            ..0 => unreachable!(),
        };
        let count = tally.entry(call).or_default();
        match result {
            Ok(()) => count.0 += 1,
            Err(status) => {
                let by_the_rules = matches!(
                    status.code(),
                    Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::PermissionDenied
                );
                assert!(by_the_rules, "{call}: {status:?}");
                count.1 += 1;
            }
        }
    }
    tally
}

async fn read(clients: &Clients, user_id: i64, other_user_id: i64) -> Result<(), Status> {
    let request = pb::ListConnectionsRequest { user_id, viewer_user_id: other_user_id, ..Default::default() };
    clients.connections().list_connections(request).await?;
    clients
        .connections()
        .get_connection_counts(pb::GetConnectionCountsRequest { user_id, ..Default::default() })
        .await?;
    Ok(())
}

mod the_check {
    use super::*;
    use crate::cases;

    // A check that never finds anything proves nothing. `check.rs` shows that those of the library can fail.
    cases! {
        async fn it_finds_violations(app: App) {
            let users = [app.user("ann").await, app.user("bob").await, app.user("cy").await];
            app.connect(users[0], users[1]).await;
            app.send(users[1], users[2]).await;
            assert_eq!(invariants::violations(&app.database).await, Vec::<String>::new());
            for (breaks, mends, named) in [
                (
                    "UPDATE user_counts SET connections = connections + 1 WHERE user_id = 1",
                    "UPDATE user_counts SET connections = connections - 1 WHERE user_id = 1",
                    "each count equals what it counts",
                ),
                (
                    "UPDATE feed SET last_sequence = last_sequence + 1",
                    "UPDATE feed SET last_sequence = last_sequence - 1",
                    "the feed is whole: 1, 2, … n",
                ),
                (
                    "UPDATE events SET kind = 'CONNECTION_REMOVED' WHERE kind = 'CONNECTION_CREATED'",
                    "UPDATE events SET kind = 'CONNECTION_CREATED' WHERE kind = 'CONNECTION_REMOVED'",
                    "each pair is connected as often as",
                ),
                (
                    "UPDATE events SET kind = 'USER_DELETED' WHERE sequence = 3",
                    "UPDATE events SET kind = 'USER_CREATED' WHERE sequence = 3",
                    "there are as many users",
                ),
                (
                    "DELETE FROM events WHERE sequence = 1",
                    "INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id) \
                         SELECT 1, 0, time, 1, kind, actor, 1 FROM events WHERE sequence = 2",
                    "the feed is whole: 1, 2, … n",
                ),
            ] {
                app.database.execute(breaks).await;
                let found = invariants::violations(&app.database).await;
                assert!(found.iter().any(|violation| violation.starts_with(named)), "{breaks}: {found:?}");
                app.database.execute(mends).await;
                assert_eq!(invariants::violations(&app.database).await, Vec::<String>::new(), "{mends}");
            }
        }
    }
}
