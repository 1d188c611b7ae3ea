//! What does a kill leave of a long change? Either nothing or all of it, or a position from which it goes on.

use std::time::{Instant, UNIX_EPOCH};

use kith::proto::v1 as pb;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::erasure::{ANN, CANARY, delete, files_with, life};
use crate::harness::clients::Clients;
use crate::harness::database::connect;
use crate::harness::process::Kith;
use crate::harness::{Database, Engine, invariants, until};
use crate::on_each_engine;

/// The user who is deleted.
const POPULAR: i64 = 1;
/// Users of whom each sends a request to the popular one.
const SENDERS: i64 = 1_500;

/// A database in which many rows go with one user.
async fn crowded(engine: Engine) -> Database {
    let database = Database::migrated(engine).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let user = |id| pb::User { id, username: format!("user-{id}"), ..Default::default() };
    let row = |id| pb::ImportUsersRequest { user: Some(user(id)), ..Default::default() };
    let rows: Vec<_> = (POPULAR..=POPULAR + SENDERS).map(row).collect();
    kith.clients().users().import_users(tokio_stream::iter(rows)).await.expect("an import");
    let mut sends = JoinSet::new();
    for from in POPULAR + 1..=POPULAR + SENDERS {
        let clients = kith.clients();
        sends.spawn(async move { clients.send(from, POPULAR).await });
    }
    sends.join_all().await;
    kith.signal("TERM");
    kith.wait().await;
    database
}

/// Deletes the popular user. Returns whether that is acknowledged.
async fn deletes(clients: &Clients) -> bool {
    let request = pb::DeleteUserRequest { id: POPULAR, request_id: String::new() };
    clients.users().delete_user(request).await.is_ok()
}

/// Begins the deletion in a server, which is killed after `moment`. Returns whether the deletion was acknowledged.
async fn killed_while_deleting(database: &Database, moment: impl Future<Output = ()>) -> bool {
    let kith = Kith::serve(&database.url, &[]).await;
    let clients = kith.clients();
    clients.counts(POPULAR).await;
    let deletion = tokio::spawn(async move { deletes(&clients).await });
    moment.await;
    kith.crash().await;
    deletion.await.expect("a call")
}

/// Returns whether the user is there with all their requests. Otherwise nothing of them is.
async fn is_whole(database: &Database) -> bool {
    // It recovers what the kill left.
    let kith = Kith::serve(&database.url, &[]).await;
    let sent = kith.clients().counts(POPULAR + 1).await[0];
    invariants::check(database).await;
    let of_popular = async |rows: &str| database.number(&format!("SELECT count(*) AS value FROM {rows}")).await;
    let users = of_popular(&format!("users WHERE id = {POPULAR}")).await;
    let requests = of_popular(&format!("connection_requests WHERE to_user_id = {POPULAR}")).await;
    let deletions = of_popular("events WHERE kind = 'USER_DELETED'").await;
    assert!(
        [(1, SENDERS, 0, 1), (0, 0, 1, 0)].contains(&(users, requests, deletions, sent)),
        "{users} users, {requests} requests, {deletions} deletions, {sent} sent"
    );
    users == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_killed_is_done_or_not_on_sqlite() {
    const KILLS: u32 = 6;
    let database = crowded(Engine::Sqlite).await;
    let took = {
        let copy = database.copy().await;
        let kith = Kith::serve(&copy.url, &[]).await;
        kith.clients().counts(POPULAR).await;
        let begun = Instant::now();
        assert!(deletes(&kith.clients()).await);
        begun.elapsed()
    };
    for kill in 0..KILLS {
        let copy = database.copy().await;
        let acknowledged = killed_while_deleting(&copy, sleep(took * kill / (KILLS - 1))).await;
        assert!(!(is_whole(&copy).await && acknowledged), "an acknowledged deletion is lost");
    }
}

/// The transaction is held up in the middle: others have a lock on a table that it changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_killed_is_done_or_not_on_postgresql() {
    let database = crowded(Engine::Postgres).await;
    let waiting = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kith' \
                   AND wait_event_type = 'Lock'";
    for terminated in [false, true] {
        let copy = database.copy().await;
        let mut locker = connect(&copy.url).await;
        let lock = locker.transaction().await.expect("a transaction");
        lock.batch_execute("LOCK TABLE user_counts IN SHARE MODE").await.expect("a lock");
        let held_up = async || copy.number(&format!("SELECT count(*) AS value {waiting}")).await == 1;
        let acknowledged = killed_while_deleting(&copy, until("it waits", held_up)).await;
        assert!(!acknowledged);
        if terminated {
            copy.number(&format!("SELECT count(pg_terminate_backend(pid)) AS value {waiting}")).await;
        }
        lock.commit().await.expect("unlocked");
        // PostgreSQL carries out what it has received, unless it notices before the end that its client is gone.
        let left = "SELECT count(*) AS value FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name = 'kith'";
        until("its connections end", async || copy.number(left).await == 0).await;
        let whole = is_whole(&copy).await;
        assert!(whole || !terminated);
    }
}

on_each_engine! {
    async fn the_forgetting_goes_on_after_each_kill(engine: Engine) {
        const USERS: i64 = 200;
        /// Events of each: the creation, blocks and unblocks, the deletion.
        const EACH: i64 = 22;
        const KILLS: i64 = 5;
        let database = Database::migrated(engine).await;
        let now = UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        let time = |seconds: u64| match engine {
            Engine::Sqlite => format!("{seconds}000000"),
            Engine::Postgres => format!("to_timestamp({seconds})"),
        };
        // The newest event is young: after a long time without any, the clock may be wrong, and the sweep waits.
        let (old, young, last) = (time(now - 86_400), time(now - 60), USERS * EACH);
        database.execute(&format!(
            "BEGIN; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
             INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id, other_user_id) \
             SELECT i, i / 4096, {old}, i, CASE WHEN i % {EACH} = 1 THEN 'USER_CREATED' WHEN i % {EACH} = 0 THEN 'USER_DELETED' \
                    WHEN i % 2 = 0 THEN 'USER_BLOCKED' ELSE 'USER_UNBLOCKED' END, 'OPERATOR', (i - 1) / {EACH} + 10, \
                    CASE WHEN i % {EACH} > 1 THEN 9 END \
             FROM n; \
             INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id, other_user_id) \
             SELECT {last} + 1, ({last} + 1) / 4096, {young}, {last} + 1, 'USER_UNBLOCKED', 'OPERATOR', 8, 9; \
             UPDATE feed SET last_sequence = {last} + 1, last_time = {young}; COMMIT;"
        ))
        .await;
        let forgotten = async || database.number("SELECT forgotten AS value FROM feed").await;
        let mut lost = 0;
        for kill in 1..=KILLS {
            let kith = Kith::serve(&database.url, &["--forget-after=1h", "--event-retention=0"]).await;
            until("it goes on", async || forgotten().await >= last * kill / (KILLS + 1)).await;
            kith.crash().await;
            invariants::check(&database).await;
            let named = "SELECT count(*) AS value FROM events CROSS JOIN feed WHERE sequence <= forgotten AND user_id <> 0";
            assert_eq!(database.number(named).await, 0, "a user who was forgotten is named");
            lost += i64::from(forgotten().await < last);
        }
        assert!(lost > 0, "it was never killed before its end");
        let kith = Kith::serve(&database.url, &["--forget-after=1h", "--event-retention=0"]).await;
        until("its end", async || forgotten().await >= last).await;
        let named = "SELECT user_id || '-' || coalesce(other_user_id, 9) AS value FROM events GROUP BY value ORDER BY value";
        let named: Vec<_> = database.values(named).await.into_iter().flatten().collect();
        assert_eq!(named, ["0-9", "8-9"]);
        invariants::check(&database).await;
        drop(kith);
    }
}

/// The server that deleted the user is killed before it cuts the log of SQLite, which another one has open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_cuts_the_log_that_has_a_deleted_user() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let _reader = Kith::serve(&database.url, &["--read-only"]).await;
    life(&kith.clients()).await;
    delete(&kith.clients(), ANN).await;
    kith.crash().await;
    assert!(!files_with(&database, CANARY).is_empty());
    // A log that is only used anew keeps its length, and in time commits overwrite what is in it.
    let before = log_length(&database);
    let kith = Kith::serve(&database.url, &[]).await;
    // The first sweep has it copied, and a later commit cuts it.
    until("the log is cut", async || {
        kith.clients().user(&format!("user-{}", uuid::Uuid::new_v4().simple())).await;
        log_length(&database) < before
    })
    .await;
    assert!(files_with(&database, CANARY).is_empty());
}

/// The length of SQLite's log, in bytes.
fn log_length(database: &Database) -> u64 {
    std::fs::metadata(format!("{}-wal", database.path())).expect("a log").len()
}
