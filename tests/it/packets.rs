//! What does the traffic between the service and PostgreSQL show of what a caller must not know?
//!
//! Whoever calls can measure how long a call takes, and that follows the round trips. So a send must not take another
//! number of them because the receiver blocks the sender, or rejected them before.

use std::collections::BTreeSet;
use std::time::Duration;

use kith::store::Options;

use crate::commits::behind_a_proxy;
use crate::harness::proxy::{Passed, Point, Proxy};
use crate::harness::{App, Database, Engine};

const ROUNDS: i64 = 4;
const LATENCY: Duration = Duration::from_millis(20);

/// Sends of user 1, and cancels, in situations that they must not be able to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Situation {
    Nothing,
    Block,
    Cooldown,
    /// There is a request already: this one its sender may know. It waits, or was refused in one way or another.
    Pending,
    Rejected,
    BlockedAfter,
}

use Situation::{Block, BlockedAfter, Cooldown, Nothing, Pending, Rejected};

/// What passed on the connection that writes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traffic {
    to_server: usize,
    to_client: usize,
    round_trips: usize,
    /// The rows of counts that were written.
    counts: i64,
}

impl Traffic {
    fn passed(recorded: &[Passed]) -> Self {
        let begin = recorded.iter().find(|passed| passed.point == Some(Point::Begin)).expect("a transaction");
        let writer: Vec<_> = recorded.iter().filter(|passed| passed.connection == begin.connection).collect();
        let to_server = writer.iter().filter(|passed| passed.to_server).count();
        let round_trips = round_trips(&writer);
        Self { to_server, to_client: writer.len() - to_server, round_trips, counts: 0 }
    }
}

/// How often everything that was asked had been answered, so that the service had to be waiting for it: each `Sync` is
/// answered by one `ReadyForQuery`.
fn round_trips(messages: &[&Passed]) -> usize {
    let (mut unanswered, mut found) = (0_i32, 0);
    for Passed { to_server, letter, .. } in messages {
        match (to_server, letter) {
            (true, 'S') => unanswered += 1,
            (false, 'Z') => {
                unanswered -= 1;
                found += usize::from(unanswered == 0);
            }
            _ => {}
        }
    }
    found
}

/// The traffic of one send of user 1 to another user, and of the cancellation of the request.
async fn send_and_cancel(proxy: &Proxy, app: &App, other: i64, situation: Situation) -> [Traffic; 2] {
    let first = match situation {
        Nothing => None,
        Block => {
            app.block(other, 1).await;
            None
        }
        Cooldown => {
            let id = app.send(1, other).await;
            app.reject(id, other).await.expect("a rejection");
            app.cancel(id, 1).await.expect("a cancellation");
            None
        }
        Pending => Some(app.send(1, other).await),
        Rejected => {
            let id = app.send(1, other).await;
            app.reject(id, other).await.expect("a rejection");
            Some(id)
        }
        BlockedAfter => {
            let id = app.send(1, other).await;
            app.block(other, 1).await;
            Some(id)
        }
    };
    proxy.record();
    let sent = app.try_send(1, other).await;
    let sending = Traffic::passed(&proxy.recorded());
    let sending = if first.is_some() { sending } else { Traffic { counts: written(app).await, ..sending } };
    let id = first.unwrap_or_else(|| sent.expect("a request").into_inner().connection_request.expect("a request").id);
    proxy.record();
    app.cancel(id, 1).await.expect("a cancellation");
    [sending, Traffic { counts: written(app).await, ..Traffic::passed(&proxy.recorded()) }]
}

/// The rows of counts that the last commit wrote.
pub async fn written(app: &App) -> i64 {
    app.database.number("SELECT count(*) AS value FROM user_counts WHERE xmin = (SELECT xmin FROM feed)").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_takes_the_same_traffic_whatever_its_receiver_did() {
    let situations = [Nothing, Block, Cooldown, Pending, Rejected, BlockedAfter];
    let (proxy, app) = behind_a_proxy(ROUNDS * 6 + 1).await;
    // Longer than it takes to send what goes out together, so that a second round trip shows as one.
    proxy.set_latency(LATENCY);
    let (mut sends, mut cancels) = (BTreeSet::new(), BTreeSet::new());
    let mut other = 1;
    for round in 0..ROUNDS {
        for situation in situations {
            other += 1;
            let traffic = send_and_cancel(&proxy, &app, other, situation).await;
            println!("{situation:?}: {traffic:?}");
            // In the first rounds statements are prepared.
            if round >= 2 {
                let [sending, cancelling] = traffic;
                assert_eq!((sending.round_trips, cancelling.round_trips), (2, 2), "{situation:?}");
                let refused = matches!(situation, Pending | Rejected | BlockedAfter);
                assert_eq!((sending.counts, cancelling.counts), (if refused { 0 } else { 2 }, 2), "{situation:?}");
                sends.insert(sending);
                cancels.insert(cancelling);
            }
        }
    }
    // A refused send writes nothing: its sender knows that there is a request.
    let sends: BTreeSet<_> = sends.into_iter().map(|traffic| Traffic { counts: 0, ..traffic }).collect();
    assert_eq!((sends.len(), cancels.len()), (1, 1), "{sends:#?} {cancels:#?}");
}

/// To a third party a request that exists is like one that does not, also while none of its users is cached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_by_a_third_party_takes_the_same_traffic_whether_the_request_exists() {
    let (proxy, app) = behind_a_proxy(2 * ROUNDS + 1).await;
    let mut requests = Vec::new();
    for number in 1..=ROUNDS {
        requests.push(app.send(2 * number, 2 * number + 1).await);
    }
    let (database, options) =
        (Database::at(&app.database.url, Engine::Postgres), Options { migrate: false, ..Options::default() });
    let fresh = App::at(database, &proxy.url, options, |settings| {
        settings.sweep_interval = Duration::from_secs(3_600);
    })
    .await;
    // So that statements are prepared, and the third party is cached.
    for _ in 0..2 {
        fresh.accept(999_999, 1).await.expect_err("no request");
    }
    proxy.set_latency(LATENCY);
    let mut seen = BTreeSet::new();
    for id in requests {
        for id in [id, 999_999] {
            proxy.record();
            fresh.accept(id, 1).await.expect_err("no request of this user");
            seen.insert(Traffic::passed(&proxy.recorded()));
        }
    }
    assert_eq!(seen.iter().map(|traffic| traffic.round_trips).collect::<Vec<_>>(), [2], "{seen:#?}");
}
