//! What do watchers cost, and what happens to them when the database is replaced?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kith::proto::v1::{self as pb, ErrorReason, WatchEventsRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::clients::Clients;
use crate::harness::database::connect;
use crate::harness::faulty::Faulty;
use crate::harness::fold::Fold;
use crate::harness::process::{self, Kith};
use crate::harness::watching::{fill, from, sequences};
use crate::harness::{App, Database, Engine, refused, until};
use crate::on_each_engine;

on_each_engine! {
    async fn a_thousand_watchers_have_one_reader(engine: Engine) {
        let (app, store) = Faulty::app(engine, |_| {}).await;
        let mut watchers = JoinSet::new();
        let (begun, mut count) = watch::channel(0);
        // Each connection has room for 256.
        let connections = [(); 4].map(|()| app.fresh_clients());
        for number in 0..1_000 {
            let (clients, begun) = (connections[number % 4].clone(), begun.clone());
            watchers.spawn(async move {
                let mut watching = clients.watch(from(0, 15_000)).await;
                begun.send_modify(|begun| *begun += 1);
                let mut known = Fold::default();
                while known.sequence < 20 {
                    let message = watching.next().await;
                    message.events.iter().for_each(|event| known.add(event).expect("the next event"));
                }
            });
        }
        tokio::select! {
            begun = count.wait_for(|begun| *begun == 1_000) => assert!(begun.is_ok()),
            ended = watchers.join_next() => panic!("a watcher ended: {ended:?}"),
        }
        let before = store.event_reads();
        for number in 0..20 {
            app.user(&format!("user-{number}")).await;
        }
        assert_eq!(watchers.join_all().await.len(), 1_000);
        // One read for each commit, and one now and then without a notification.
        let reads = store.event_reads() - before;
        assert!(reads < 200, "{reads} reads for 20 commits and 1,000 watchers");
    }
}

/// The maximum cost of slow watchers: the parts of the feed that are held for them (7 MB), and the transport's buffers
/// for each stream. `docs/operations.md` has these figures.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_stop_reading_cost_little_and_delay_nobody() {
    const STOPPED: usize = 20;
    const ROUND: i64 = 3_000;
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let mut reader = kith.clients().watch(from(0, 15_000)).await;
    let mut known = Fold::default();
    let mut round = 0;
    let mut storm = async || {
        round += 1;
        let (clients, until) = (kith.clients(), round * ROUND);
        let rows = (1..=ROUND).map(move |id| {
            let (username, bio) = (format!("user-{id}"), format!("round {round}"));
            let user = pb::User { id, username, bio, ..Default::default() };
            pb::ImportUsersRequest { user: Some(user), request_id: String::new() }
        });
        let import = tokio::spawn(async move { clients.users().import_users(tokio_stream::iter(rows)).await });
        // Concurrently with the writes: the stopped watchers do not delay this one.
        while known.sequence < until {
            let message = reader.next().await;
            message.events.iter().for_each(|event| known.add(event).expect("the next event"));
        }
        import.await.expect("a call").expect("imported");
    };
    storm().await;
    storm().await;
    let before = memory(&kith);
    let mut stopped = Vec::new();
    for number in 0..STOPPED {
        // A separate connection: streams that nobody reads stop the others on their connection.
        let clients = kith.fresh_clients();
        let after = if number % 2 == 0 { Some(0) } else { None };
        let request = WatchEventsRequest { after_sequence: after, ..Default::default() };
        stopped.push(clients.watch(request).await);
    }
    for _ in 0..3 {
        storm().await;
    }
    let grown = memory(&kith).saturating_sub(before);
    assert!(grown < 24 << 20, "{STOPPED} watchers that do not read cost {grown} bytes");
    // They missed nothing: one of each kind continues where it stopped.
    for (watching, first) in stopped.iter_mut().zip([1, 2 * ROUND + 1]) {
        assert_eq!(sequences(&watching.until(5 * ROUND).await), (first..=5 * ROUND).collect::<Vec<_>>());
    }
}

/// The resident memory of a server in bytes.
#[cfg(target_os = "linux")]
fn memory(kith: &Kith) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", kith.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

on_each_engine! {
    async fn after_a_restore_old_positions_are_refused(engine: Engine) {
        let database = Database::migrated(engine).await;
        let kith = Kith::serve(&database.url, &[]).await;
        kith.clients().user("ann").await;
        let (epoch, _) = position(&kith.clients(), None, "").await.expect("a position");
        kith.signal("TERM");
        assert!(kith.wait().await.status.success());
        let backup = database.copy().await;

        // Events that are missing from the backup.
        let kith = Kith::serve(&database.url, &[]).await;
        for name in ["bob", "eve"] {
            kith.clients().user(name).await;
        }
        let (same, last) = position(&kith.clients(), None, "").await.expect("a position");
        assert_eq!((&same, last), (&epoch, 3), "a restart is no restore");
        drop(kith);

        let restored = process::run(&["restore-epoch", &format!("--database-url={}", backup.url)]).await;
        assert!(restored.status.success(), "{restored:?}");
        let kith = Kith::serve(&backup.url, &[]).await;
        let clients = kith.clients();
        // Beyond the end, which is enough to recognise it.
        let refusal = position(&clients, Some(last), "").await;
        refused(refusal, Code::FailedPrecondition, ErrorReason::WrongEpoch);
        // The restored database reaches the same sequence with other events.
        for name in ["zoe", "max", "kim"] {
            clients.user(name).await;
        }
        let refusal = position(&clients, Some(last), &epoch).await;
        let details = refused(refusal, Code::FailedPrecondition, ErrorReason::WrongEpoch);
        let (new, _) = position(&clients, Some(last), "").await.expect("a position, without an epoch");
        assert_eq!(details.error_info().expect("info").metadata["epoch"], new);
        assert_ne!(new, epoch);
    }

    async fn watchers_that_stop_reading_do_not_delay_reads_of_the_table_by_others(engine: Engine) {
        const EVENTS: i64 = 10_000;
        let app = App::start(engine).await;
        // The following events have the time of this one, so they are not expired.
        app.user("ann").await;
        fill(&app.database, EVENTS - 1, "800", false).await;
        let mut stopped = Vec::new();
        for _ in 0..8 {
            // A separate connection with a buffer for only a part of the events.
            let endpoint = Channel::from_shared(app.address.clone()).expect("an address");
            let channel = endpoint.initial_stream_window_size(4_096).connect_lazy();
            stopped.push(Clients(channel).watch(from(0, 15_000)).await);
        }
        assert_eq!(app.watch(from(0, 15_000)).await.until(EVENTS).await.len(), 10_000);
        for mut watching in stopped {
            assert_eq!(sequences(&watching.until(EVENTS).await), (1..=EVENTS).collect::<Vec<_>>());
        }
    }

    async fn a_watch_ends_with_an_error_when_the_database_is_replaced(engine: Engine) {
        let app = App::start(engine).await;
        app.user("ann").await;
        let mut watching = app.watch(from(0, 15_000)).await;
        assert_eq!(watching.next().await.revision, 1);
        app.database.execute("UPDATE feed SET epoch = 'another'").await;
        refused(watching.message().await, Code::FailedPrecondition, ErrorReason::WrongEpoch);
    }
}

/// The epoch and the revision at which a watch begins.
pub async fn position(clients: &Clients, after_sequence: Option<i64>, epoch: &str) -> Result<(String, i64), Status> {
    let request = WatchEventsRequest { after_sequence, epoch: epoch.to_owned(), ..Default::default() };
    let first = clients.try_watch(request).await?.message().await?;
    Ok((first.epoch, first.revision))
}

/// Tests the notification itself: the reader also reads once a second, which would hide that none arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_notified_of_commits_by_others_again_after_it_lost_its_listening_connection() {
    let one = App::start(Engine::Postgres).await;
    let other = one.another(|_| {}).await;
    let mut changes = one.store.changes();
    let listening = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let listeners = async || one.database.number(&format!("SELECT count(*) AS value {listening}")).await;
    until("both servers listen", async || listeners().await == 2).await;

    changes.mark_unchanged();
    other.user("ann").await;
    changes.changed().await.expect("a store");

    let ended = one.database.number(&format!("SELECT count(pg_terminate_backend(pid)) AS value {listening}")).await;
    assert_eq!(ended, 2);
    let mut watching = one.watch(from(0, 15_000)).await;
    other.user("bob").await;
    assert_eq!(sequences(&watching.until(2).await), [1, 2], "the reader reads without a notification");

    until("both servers listen again", async || listeners().await == 2).await;
    // The store also reports that it listens again. Only the change after that comes from a commit.
    changes.mark_unchanged();
    other.user("eve").await;
    changes.changed().await.expect("a store");
    assert_eq!(sequences(&watching.until(3).await), [3]);
}

fn mutual(user_id: i64, other_user_id: i64) -> pb::ListMutualConnectionsRequest {
    pb::ListMutualConnectionsRequest { user_id, other_user_id, ..Default::default() }
}

/// The feed has a separate connection: long reads that use all of theirs neither delay it nor end watches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_receive_events_while_every_long_read_is_stuck_on_postgresql() {
    let app = App::with(Engine::Postgres, |settings| settings.sweep_interval = Duration::from_secs(3_600)).await;
    for name in ["ann", "bob"] {
        app.user(name).await;
    }
    let mut watching = app.watch(from(2, 300_000)).await;
    let mut locker = connect(&app.database.url).await;
    let lock = locker.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE connection_requests IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let mut lists = JoinSet::new();
    for _ in 0..8 {
        let mut connections = app.connections();
        lists.spawn(async move { connections.list_mutual_connections(mutual(1, 2)).await });
    }
    // They use all connections once another long read is refused.
    until("a refusal", async || {
        let list = app.users().list_users(pb::ListUsersRequest::default()).await;
        list.is_err_and(|status| status.code() == Code::ResourceExhausted)
    })
    .await;
    app.user("cy").await;
    assert_eq!(sequences(&watching.next().await.events), [3]);
    let mut behind = app.watch(from(0, 300_000)).await;
    assert_eq!(behind.until(3).await.len(), 3);
    lock.commit().await.expect("unlocked");
    lists.join_all().await;
}

/// The same on SQLite, where only other reads can delay a read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_receive_events_before_long_reads_that_came_earlier_on_sqlite() {
    const CONNECTED: i64 = 20_000;
    let app = App::start(Engine::Sqlite).await;
    for name in ["ann", "bob"] {
        app.user(name).await;
    }
    let connections = |user: i64| {
        format!(
            "WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < {CONNECTED}) \
             INSERT INTO connection_requests (id, low_user_id, high_user_id, from_user_id, to_user_id, state, position, \
                                              message, created, accepted) \
             SELECT {user} * 1000000 + i, {user}, i, {user}, i, 'CONNECTED', {user} * 1000000 + i, '', 0, 0 FROM n"
        )
    };
    app.database.execute(&format!("{}; {}", connections(1), connections(2))).await;
    let mut watching = app.watch(from(2, 300_000)).await;
    // Examines all connections and returns none.
    let mutual = pb::MutualFilter::Excluded.into();
    let excluded = pb::ListConnectionsRequest { user_id: 1, viewer_user_id: 2, mutual, ..Default::default() };
    let (mut lists, done) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..200 {
        let (mut connections, done, excluded) = (app.connections(), Arc::clone(&done), excluded.clone());
        lists.spawn(async move {
            connections.list_connections(excluded).await.expect("a list");
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    // After the first of them has ended, the others are in the queue.
    lists.join_next().await.expect("a list").expect("no panic");
    app.user("cy").await;
    assert_eq!(sequences(&watching.next().await.events), [3]);
    let done = done.load(Ordering::SeqCst);
    assert!(done < 150, "{done} lists were done before the event arrived");
    lists.shutdown().await;
}
