//! Does a caller that goes away leave anything behind?

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kith::proto::v1 as pb;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::cases;
use crate::harness::{Engine, database, invariants};

const SEED: u64 = 20_261_124;
const USERS: i64 = 46;
/// One for each pair of users.
const CALLS: i64 = USERS * (USERS - 1) / 2;
const TASKS: u64 = 16;

/// The number of calls that ended in each way.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: AtomicI64,
    dropped: AtomicI64,
    timed_out: AtomicI64,
}

cases! {
    #[with(|settings| (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None))]
    async fn callers_that_go_away_leave_nothing_behind(app: App) {
        println!("seed {SEED}");
        for number in 0..USERS {
            app.user(&format!("user-{number}")).await;
        }
        let pairs: Vec<_> = (1..=USERS).flat_map(|from| (from + 1..=USERS).map(move |to| (from, to))).collect();
        assert_eq!(i64::try_from(pairs.len()).unwrap(), CALLS);
        let (pairs, acknowledged, tally) = (Arc::new(Mutex::new(pairs)), Arc::new(Mutex::new(Vec::new())), Arc::new(Tally::default()));
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let mut rng = StdRng::seed_from_u64(SEED + task);
            let (pairs, acknowledged, tally) = (Arc::clone(&pairs), Arc::clone(&acknowledged), Arc::clone(&tally));
            // A separate connection: HTTP/2 closes one on which too many calls are dropped before they are handled.
            let channel = Channel::from_shared(app.address.clone()).expect("an address").connect_lazy();
            tasks.spawn(async move {
                loop {
                    let Some((from_user_id, to_user_id)) = pairs.lock().unwrap().pop() else { return };
                    let send = pb::SendConnectionRequestRequest { from_user_id, to_user_id, ..Default::default() };
                    let mut request = Request::new(send);
                    let way = rng.random_range(0..4);
                    if way == 1 {
                        request.set_timeout(Duration::from_micros(rng.random_range(1..4_000)));
                    }
                    let mut requests = pb::connection_request_service_client::ConnectionRequestServiceClient::new(channel.clone());
                    let mut reads = pb::connection_service_client::ConnectionServiceClient::new(channel.clone());
                    let (yields, pause) = (rng.random_range(0..50_u32), Duration::from_micros(rng.random_range(0..4_000)));
                    let call = tokio::spawn(async move {
                        // A read is dropped too, so that its database connection is abandoned as well.
                        let read = pb::ListConnectionsRequest { user_id: from_user_id, ..Default::default() };
                        let (sent, _read) = tokio::join!(requests.send_connection_request(request), reads.list_connections(read));
                        sent.map(|sent| sent.into_inner().connection_request.expect("a request").id)
                    });
                    match way {
                        2 => for _ in 0..yields {
                            tokio::task::yield_now().await;
                        },
                        3 => tokio::time::sleep(pause).await,
                        _ => {}
                    }
                    if way > 1 {
                        call.abort();
                    }
                    match call.await {
                        Ok(Ok(id)) => {
                            tally.acknowledged.fetch_add(1, Ordering::SeqCst);
                            acknowledged.lock().unwrap().push((id, from_user_id, to_user_id));
                        }
                        Ok(Err(status)) => {
                            assert!(way == 1 && matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
                            tally.timed_out.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(dropped) => {
                            assert!(dropped.is_cancelled(), "{dropped}");
                            tally.dropped.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("a task that ends well");
        }
        println!("{:?}: {tally:?}", app.database.engine);
        let counts = [&tally.acknowledged, &tally.dropped, &tally.timed_out];
        let [succeeded, dropped, timed_out] = counts.map(|count| count.load(Ordering::SeqCst));
        assert_eq!(succeeded + dropped + timed_out, CALLS);
        assert!(succeeded > 200 && dropped > 200 && timed_out > 20, "{tally:?}");

        // The service still works, and everything that was queued before has been executed now.
        let last = app.user("last").await;
        assert_nothing_is_open(&app).await;
        let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
        for (id, from, to) in &acknowledged {
            let stored = app.request(*id, 0).await.expect("an acknowledged request");
            assert_eq!((stored.from_user.unwrap().id, stored.to_user.unwrap().id), (*from, *to));
        }
        let mut reads = JoinSet::new();
        for _ in 0..100 {
            let mut users = app.users();
            let key = pb::get_user_request::Key::Id(last);
            reads.spawn(async move { users.get_user(pb::GetUserRequest { key: Some(key), ..Default::default() }).await });
        }
        assert_eq!(reads.join_all().await.into_iter().filter(Result::is_ok).count(), 100);
        let events = invariants::check(&app.database).await;
        // One for each user and each request, whether its caller received the response or not.
        let requests = app.database.number("SELECT count(*) AS value FROM connection_requests").await;
        assert!(requests >= succeeded, "{requests} of {succeeded}");
        assert_eq!(events, USERS + 1 + requests);
    }
}

async fn assert_nothing_is_open(app: &crate::harness::App) {
    match app.database.engine {
        Engine::Sqlite => {
            // Completely or not at all.
            let mut outside = database::sqlite(app.database.path());
            let begin = "PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK";
            diesel::connection::SimpleConnection::batch_execute(&mut outside, begin).expect("no open transaction");
        }
        Engine::Postgres => {
            let open = "SELECT count(*) AS value FROM pg_stat_activity \
                        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
            assert_eq!(app.database.number(open).await, 0);
            let connections = "SELECT count(*) AS value FROM pg_stat_activity \
                        WHERE datname = current_database() AND application_name = 'kith'";
            assert!(
                app.database.number(connections).await > 1,
                "the service has no connections, so the test proves nothing"
            );
        }
    }
}
