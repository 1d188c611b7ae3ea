//! Do reads on replicas see what they must, and cost no call when a replica lags, fails or hangs?

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kith::proto::v1 as pb;
use kith::proto::v1::get_user_request::Key;
use tokio::task::JoinSet;
use tonic::Status;

use crate::freshness::{How, Outcome, read_all};
use crate::harness::clients::Clients;
use crate::harness::database::{connect, execute};
use crate::harness::openmetrics::{Metrics, scrape};
use crate::harness::process::{Kith, run};
use crate::harness::replicated::{Node, urls};
use crate::harness::until;
use crate::read_only::{prepare, write_all};

/// A primary with its replicas, and a server that uses them. The server ends first.
struct Setup {
    kith: Kith,
    replicas: Vec<Node>,
    primary: Node,
}

impl Setup {
    async fn start(count: usize, args: &[&str]) -> Self {
        let primary = Node::primary().await;
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(primary.standby().await);
        }
        let kith = serve(&primary, &replicas.iter().collect::<Vec<_>>(), args).await;
        let setup = Self { kith, replicas, primary };
        for index in 0..count {
            setup.until_used(index, true).await;
        }
        setup
    }

    fn clients(&self) -> Clients {
        self.kith.clients()
    }

    async fn metrics(&self) -> Metrics {
        scrape(&self.kith.metrics_address()).await
    }

    /// The number of reads on a replica with one of these outcomes.
    async fn reads(&self, index: usize, outcomes: &[&str]) -> u64 {
        let metrics = self.metrics().await;
        let host = format!("host=\"127.0.0.1:{}\"", self.replicas[index].port);
        let of = |outcome| metrics.sum("kith_replica_reads_total", &[&host, &format!("outcome=\"{outcome}\"")]);
        outcomes.iter().map(of).sum::<f64>() as u64
    }

    async fn fallbacks(&self) -> u64 {
        self.metrics().await.value("kith_replica_fallbacks_total") as u64
    }

    async fn until_used(&self, index: usize, expected: bool) {
        let sample = format!("kith_replica_used{{host=\"127.0.0.1:{}\"}}", self.replicas[index].port);
        let is_used = async || self.metrics().await.value(&sample) == f64::from(u8::from(expected));
        until("the use of the replica", is_used).await;
    }

    /// The newest revision, and what all replicas have reached.
    async fn settled(&self) -> i64 {
        for replica in &self.replicas {
            self.primary.wait_for(replica).await;
        }
        self.primary.value("(SELECT last_sequence FROM feed)").await.parse().expect("a number")
    }
}

/// A primary with a replica that has a user with the id 1 and the bio "bio". Returns the revision of the bio too.
async fn with_a_bio() -> (Setup, Clients, i64) {
    let setup = Setup::start(1, &[]).await;
    let clients = setup.clients();
    clients.create(1).await.expect("a user");
    let revision = update(&clients, 1, "bio").await;
    setup.primary.wait_for(&setup.replicas[0]).await;
    (setup, clients, revision)
}

/// A server for a primary with these replicas.
async fn serve(primary: &Node, replicas: &[&Node], args: &[&str]) -> Kith {
    let replicas = format!("--replica-url={}", urls(replicas, ""));
    Kith::serve(&primary.url(), &[&["--metrics-listen=127.0.0.1:0", &replicas], args].concat()).await
}

/// What all reads but exports say, without those that depend on the time.
async fn said(clients: &Clients, min_revision: i64) -> BTreeSet<(&'static str, String)> {
    let outcomes = read_all(clients, How::at(min_revision)).await.into_iter();
    let reads = outcomes.filter(|outcome| !outcome.rpc.starts_with("export"));
    let said = |Outcome { rpc, result, said, .. }: Outcome| {
        (rpc, result.map_or_else(|status| format!("{status:?}"), |_| said))
    };
    reads.map(said).collect()
}

/// Changes a user's bio. Returns the revision.
async fn update(clients: &Clients, id: i64, bio: &str) -> i64 {
    let user = pb::User { id, bio: bio.to_owned(), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
    let request = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
    clients.users().update_user(request).await.expect("a user").into_inner().revision
}

/// Reads a user's bio by the id, which the cache may have, or by the name.
async fn bio(clients: &Clients, id: i64, by_name: bool, min_revision: i64) -> Result<String, Status> {
    let key = Some(if by_name { Key::Username(format!("user-{id}")) } else { Key::Id(id) });
    let request = pb::GetUserRequest { key, min_revision, ..Default::default() };
    Ok(clients.users().get_user(request).await?.into_inner().user.expect("a user").bio)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_reads_are_the_same_on_a_replica_and_need_no_primary() {
    let mut setup = Setup::start(1, &[]).await;
    let plain = Kith::serve(&setup.primary.url(), &[]).await;
    let prepared = prepare(&plain.clients()).await;
    for (rpc, written) in write_all(&plain.clients(), &prepared).await {
        written.unwrap_or_else(|status| panic!("{rpc}: {status:?}"));
    }
    let revision = setup.settled().await;
    let expected = said(&plain.clients(), revision).await;
    assert_eq!(expected.len(), 13, "each read once");
    // On a busy machine the replica may be left out for a moment.
    until("reads on the replica alone", async || {
        let before = setup.fallbacks().await;
        assert_eq!(said(&setup.clients(), revision).await, expected);
        setup.fallbacks().await == before && setup.reads(0, &["served", "waited"]).await >= 13
    })
    .await;
    drop(plain);
    setup.primary.kill();
    until("the same without the primary", async || said(&setup.clients(), revision).await == expected).await;
}

/// Writes and then reads with the revision, by some callers, while the replay of the replica stops and goes on.
async fn reads_after_writes(pairs: usize, callers: i64) {
    let setup = Setup::start(1, &["--max-sends-per-hour=0", "--max-sends-per-pair=0"]).await;
    let clients = setup.clients();
    for id in 1..=callers + 1 {
        clients.create(id).await.expect("a user");
    }
    let ended = Arc::new(AtomicBool::new(false));
    let url = setup.replicas[0].url();
    let stalling = tokio::spawn({
        let (ended, url) = (Arc::clone(&ended), url.clone());
        async move {
            let replica = connect(&url).await;
            let mut stalls = 0;
            while !ended.load(Ordering::Relaxed) {
                replica.batch_execute("SELECT pg_wal_replay_pause()").await.expect("a pause");
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..100))).await;
                replica.batch_execute("SELECT pg_wal_replay_resume()").await.expect("a replay");
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..50))).await;
                stalls += 1;
            }
            stalls
        }
    });
    let mut calling = JoinSet::new();
    for id in 1..=callers {
        let clients = clients.clone();
        calling.spawn(async move {
            let other = callers + 1;
            let (mut stale, mut refused, mut request) = (0, 0, 0);
            for round in 0..pairs / callers as usize {
                let expected = format!("round {round}");
                let revision = update(&clients, id, &expected).await;
                match bio(&clients, id, round % 2 == 0, revision).await {
                    Ok(found) => stale += usize::from(found != expected),
                    Err(_) => refused += 1,
                }
                // Every other round has a request, which another statement reads.
                let revision = match round % 4 {
                    0 => {
                        let sent = clients.try_send(id, other).await.expect("a request").into_inner();
                        request = sent.connection_request.expect("a request").id;
                        sent.revision
                    }
                    2 => clients.cancel(request, id).await.expect("no request").into_inner().revision,
                    _ => continue,
                };
                let request =
                    pb::GetConnectionCountsRequest { user_id: id, min_revision: revision, ..Default::default() };
                match clients.connections().get_connection_counts(request).await {
                    Ok(counts) => stale += usize::from(counts.into_inner().requests_sent != i64::from(round % 4 == 0)),
                    Err(_) => refused += 1,
                }
            }
            (stale, refused)
        });
    }
    let (stale, refused) =
        calling.join_all().await.into_iter().fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
    ended.store(true, Ordering::Relaxed);
    assert!(stalling.await.expect("stalls") > 0);
    let mut counts = [0; 4];
    for (count, outcome) in counts.iter_mut().zip(["served", "waited", "behind", "failed"]) {
        *count = setup.reads(0, &[outcome]).await;
    }
    let [served, waited, behind, failed] = counts;
    println!("of the replica: {served} at once, {waited} after a wait; behind {behind} times, failed {failed} times");
    assert_eq!((stale, refused), (0, 0), "stale and refused reads");
    assert!(
        served + waited > 0 && behind > 0,
        "the replica served {served} and {waited}, and was behind {behind} times"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_right_after_writes_are_neither_stale_nor_refused_while_a_replica_stalls() {
    reads_after_writes(1_000, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; `make replicas`"]
async fn a_hundred_thousand_reads_right_after_writes_are_neither_stale_nor_refused() {
    reads_after_writes(100_000, 64).await;
}

/// The users on all pages of a list of connections. The first page reflects this revision.
async fn listed(clients: &Clients, user_id: i64, min_revision: i64) -> Vec<i64> {
    let mut request = pb::ListConnectionsRequest { user_id, min_revision, page_size: 3, ..Default::default() };
    let mut users = Vec::new();
    loop {
        let page = clients.connections().list_connections(request.clone()).await.expect("a page").into_inner();
        users.extend(page.connections.into_iter().map(|connection| connection.user.expect("a user").id));
        if page.next_page_token.is_empty() {
            return users;
        }
        request = pb::ListConnectionsRequest { page_token: page.next_page_token, min_revision: 0, ..request };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_from_replicas_that_lag_differently_have_every_row_once() {
    let setup = Setup::start(2, &["--replica-reads=stale-ok", "--replica-max-lag=1h"]).await;
    let clients = setup.clients();
    for id in 1..=9 {
        clients.create(id).await.expect("a user");
    }
    for other in 2..=9 {
        clients.connect(1, other).await;
    }
    setup.settled().await;
    setup.replicas[1].pause_replay().await;
    // These move to the top of the list, for all but the second replica.
    for other in [2, 3, 4] {
        clients.remove(1, other).await.expect("no connection");
        clients.connect(1, other).await;
    }
    setup.primary.wait_for(&setup.replicas[0]).await;
    let revision = setup.primary.value("(SELECT last_sequence FROM feed)").await.parse().expect("a number");
    for _ in 0..5 {
        assert_eq!(listed(&clients, 1, revision).await, [4, 3, 2, 9, 8, 7, 6, 5]);
    }
    // Without a revision the first page may be of either replica.
    let mut first_pages = BTreeSet::new();
    for round in 0..10 {
        // Each read is another replica's turn.
        for _ in 0..round % 2 {
            bio(&clients, 1, true, 0).await.expect("a user");
        }
        let users = listed(&clients, 1, 0).await;
        assert_eq!(users.iter().collect::<BTreeSet<_>>().len(), users.len(), "a row twice in {users:?}");
        first_pages.insert(users[0]);
    }
    assert_eq!(first_pages, [4, 9].into(), "both replicas had first pages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_costs_no_read_and_is_used_again() {
    let (mut setup, clients, revision) = with_a_bio().await;
    let ended = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..8 {
        let (clients, ended) = (clients.clone(), Arc::clone(&ended));
        callers.spawn(async move {
            let mut reads = 0;
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(bio(&clients, 1, caller % 2 == 0, revision).await.expect("a user"), "bio");
                reads += 1;
            }
            reads
        });
    }
    let served = async |setup: &Setup| setup.reads(0, &["served", "waited"]).await;
    until("reads of the replica", async || served(&setup).await > 0).await;
    // Its sessions end, as by a conflict with what it replays.
    let client = connect(&setup.replicas[0].url()).await;
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kith'";
    until("a failure", async || {
        client.batch_execute(end_sessions).await.expect("ended");
        setup.reads(0, &["failed"]).await > 0
    })
    .await;
    drop(client);
    setup.until_used(0, true).await;
    for _ in 0..2 {
        setup.replicas[0].kill();
        setup.until_used(0, false).await;
        let before = setup.fallbacks().await;
        until("reads of the primary", async || setup.fallbacks().await > before).await;
        let address = format!("--address={}", setup.kith.address);
        assert!(run(&["healthcheck", &address]).await.status.success(), "a replica has no part in health");
        setup.replicas[0].start();
        setup.until_used(0, true).await;
        let before = served(&setup).await;
        until("reads of the replica", async || served(&setup).await > before).await;
    }
    ended.store(true, Ordering::Relaxed);
    assert!(callers.join_all().await.into_iter().all(|reads: u64| reads > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_costs_no_read() {
    let (setup, clients, revision) = with_a_bio().await;
    let read = async || {
        let mut reads = JoinSet::new();
        for _ in 0..8 {
            let clients = clients.clone();
            reads.spawn(async move { bio(&clients, 1, true, revision).await });
        }
        for read in reads.join_all().await {
            assert_eq!(read.expect("a user"), "bio");
        }
    };
    // Its connections are open.
    until("reads of the replica", async || {
        read().await;
        setup.reads(0, &["served", "waited"]).await >= 8
    })
    .await;
    setup.replicas[0].freeze();
    // These wait for the replica until its check has failed.
    read().await;
    assert!(setup.reads(0, &["failed"]).await > 0);
    setup.until_used(0, false).await;
    assert_eq!(bio(&clients, 1, true, revision).await.expect("a user"), "bio");
    setup.replicas[0].thaw();
    setup.until_used(0, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waits_on_a_replica_for_a_migration_runs_on_the_primary() {
    let (setup, clients, revision) = with_a_bio().await;
    // The replica has replayed the lock, and not yet its end.
    let migration = connect(&setup.primary.url()).await;
    migration.batch_execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let locks = "(SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'users'::regclass)";
    until("the lock on the replica", async || setup.replicas[0].value(locks).await == "1").await;
    setup.replicas[0].pause_replay().await;
    migration.batch_execute("COMMIT").await.expect("no lock");
    assert_eq!(bio(&clients, 1, true, revision).await.expect("a user"), "bio");
    assert_eq!(setup.reads(0, &["failed"]).await, 1);
    setup.replicas[0].resume_replay().await;
    setup.until_used(0, true).await;
    assert_eq!(bio(&clients, 1, true, revision).await.expect("a user"), "bio");
    assert_eq!(setup.reads(0, &["failed"]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_without_a_revision_use_replicas_only_if_they_may_be_stale_and_never_one_that_lags_too_much() {
    let setup = Setup::start(1, &["--replica-reads=stale-ok"]).await;
    let fresh = serve(&setup.primary, &[&setup.replicas[0]], &[]).await;
    let clients = setup.clients();
    clients.create(1).await.expect("a user");
    setup.settled().await;
    setup.until_used(0, true).await;
    setup.replicas[0].pause_replay().await;
    update(&clients, 1, "new").await;
    assert_eq!(bio(&fresh.clients(), 1, true, 0).await.expect("a user"), "new", "its callers see their own writes");
    assert_eq!(bio(&clients, 1, true, 0).await.expect("a user"), "", "it may be as old as the setting says");
    setup.until_used(0, false).await;
    let metrics = setup.metrics().await;
    let of = |name: &str| metrics.value(&format!("{name}{{host=\"127.0.0.1:{}\"}}", setup.replicas[0].port));
    assert_eq!(of("kith_replica_lag_revisions"), 1.0);
    assert!(of("kith_replica_lag_seconds") > 1.0);
    assert_eq!(bio(&clients, 1, true, 0).await.expect("a user"), "new", "from the primary");
    setup.replicas[0].resume_replay().await;
    setup.until_used(0, true).await;
    let before = setup.reads(0, &["served"]).await;
    assert_eq!(bio(&clients, 1, true, 0).await.expect("a user"), "new");
    assert_eq!(setup.reads(0, &["served"]).await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_away_or_no_replica_of_this_database_is_not_used() {
    let primary = Node::primary().await;
    let mut away = primary.standby().await;
    away.kill();
    // Of another database: its feed has another epoch.
    let stranger = Node::primary().await;
    execute(&stranger.url(), "UPDATE feed SET epoch = 'another'").await;
    let strange = stranger.standby().await;
    stranger.wait_for(&strange).await;
    let kith = serve(&primary, &[&away, &strange, &primary], &[]).await;
    let clients = kith.clients();
    clients.create(1).await.expect("a user");
    for hint in ["it is not a standby", "the replica's feed is not that of the primary"] {
        until("the log says why", async || kith.log().contains(hint)).await;
    }
    let revision = update(&clients, 1, "bio").await;
    assert_eq!(bio(&clients, 1, true, revision).await.expect("a user"), "bio");
    let metrics = scrape(&kith.metrics_address()).await;
    assert_eq!(metrics.sum("kith_replica_used", &[]), 0.0);
    assert_eq!(metrics.sum("kith_replica_reads_total", &[]), 0.0);
    assert_eq!(metrics.value("kith_replica_fallbacks_total"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_has_a_lost_commit_serves_no_read_of_the_epoch_that_followed() {
    let mut setup = Setup::start(1, &[]).await;
    let next = setup.primary.standby().await;
    // The server finds the new primary by itself.
    let hosts = urls(&[&setup.primary, &next], "&target_session_attrs=read-write");
    let replica = format!("--replica-url={}", setup.replicas[0].url());
    setup.kith = Kith::serve(&hosts, &["--metrics-listen=127.0.0.1:0", &replica]).await;
    let clients = setup.clients();
    for id in [1, 2] {
        clients.create(id).await.expect("a user");
    }
    setup.primary.wait_for(&next).await;
    next.stop_streaming().await;
    let lost = update(&clients, 1, "lost").await;
    setup.primary.wait_for(&setup.replicas[0]).await;
    setup.until_used(0, true).await;
    let served = async |setup: &Setup| setup.reads(0, &["served", "waited"]).await;
    assert_eq!(bio(&clients, 1, true, lost).await.expect("a user"), "lost");
    assert_eq!(served(&setup).await, 1);
    setup.primary.kill();
    next.promote().await;
    // The first commit on the new primary has the number of the lost one. The replica has that number too.
    let revision = loop {
        let user = pb::User { id: 2, bio: "new".to_owned(), ..Default::default() };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] });
        let request = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
        if let Ok(updated) = clients.users().update_user(request).await {
            break updated.into_inner().revision;
        }
    };
    assert_eq!(revision, lost);
    for (id, by_name, expected) in [(1, true, ""), (1, false, ""), (2, true, "new"), (2, false, "new")] {
        assert_eq!(bio(&clients, id, by_name, revision).await.expect("a user"), expected, "{id} {by_name}");
    }
    assert_eq!(served(&setup).await, 1, "no read of the replica since");
    // It serves again once it follows the new primary.
    setup.replicas[0].stop();
    next.rejoin(&mut setup.replicas[0]).await;
    setup.until_used(0, true).await;
    for (id, expected) in [(1, ""), (2, "new")] {
        assert_eq!(bio(&clients, id, true, revision).await.expect("a user"), expected);
    }
    assert_eq!(served(&setup).await, 3);
}

/// The CPU time of a node's processes for so many reads, by sixteen callers: look-ups and a list of each of their users.
async fn cpu_of_reads(node: &Node, clients: &Clients, reads: usize, min_revision: i64) -> Duration {
    let before = node.cpu();
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let clients = clients.clone();
        callers.spawn(async move {
            for round in 0..reads / 16 {
                let user_id = (caller + round) as i64 % 8 + 2;
                if round % 5 == 0 {
                    let request = pb::ListConnectionsRequest { user_id: 1, min_revision, ..Default::default() };
                    clients.connections().list_connections(request).await.map(drop)
                } else {
                    let request = pb::GetConnectionStatusRequest {
                        user_id,
                        other_user_id: 1,
                        min_revision,
                        ..Default::default()
                    };
                    clients.connections().get_connection_status(request).await.map(drop)
                }
                .expect("a read");
            }
        });
    }
    callers.join_all().await;
    node.cpu() - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute; `make replicas`"]
async fn reads_on_a_replica_cost_the_primary_next_to_nothing() {
    const READS: usize = 8_000;
    let setup = Setup::start(1, &[]).await;
    for id in 1..=9 {
        setup.clients().create(id).await.expect("a user");
    }
    for other in 2..=9 {
        setup.clients().connect(1, other).await;
    }
    let revision = setup.settled().await;
    let with = cpu_of_reads(&setup.primary, &setup.clients(), READS, revision).await;
    // Started now: the times of sessions that end while they are read would be missed.
    let plain = Kith::serve(&setup.primary.url(), &[]).await;
    let without = cpu_of_reads(&setup.primary, &plain.clients(), READS, revision).await;
    let micros = |time: Duration| time.as_micros() / READS as u128;
    println!("CPU of the primary for a read: {} µs without the replica, {} µs with it", micros(without), micros(with));
    assert_eq!(setup.fallbacks().await, 0);
    assert!(with * 10 < without, "{with:?} of {without:?}");
}
