//! Can the table of events be partitioned while servers run, and do they serve it as before?
//!
//! `deploy/postgres/partition-events.sql` does it, which operators run with psql.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use chrono::TimeDelta;
use futures_util::future::join_all;
use kith::domain::Time;
use kith::domain::policy::Policy;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store;
use tempfile::TempDir;
use tonic::Code;
use uuid::Uuid;

use crate::harness::app::{TestClock, options};
use crate::harness::clients::Clients;
use crate::harness::database::{connect, execute, postgres_values};
use crate::harness::watching::{Watching, fill, from, sequences};
use crate::harness::{App, Database, Engine, available, refused, until};
use crate::rights::{apply, kith, may_not, script, server, set_up, succeeds, url};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/postgres/partition-events.sql");

/// The writers, each with a pair of users, and how often each changes it at most while the table is partitioned.
const WRITERS: i64 = 4;
const CHANGES: i64 = 150;
/// The events of a partition: at first more than the writers make, so that the first one ends where the test wants it.
const EVENTS: i64 = 2_000;
const FEW: i64 = 50;
/// The constraints that a run needs while it makes partitions.
const PROOFS: &str = "SELECT count(*) AS value FROM pg_constraint WHERE conname LIKE 'events_before%'";

/// Makes the table and its partitions those of another role, without rights for others.
const TAKE_AWAY: &str = "REVOKE ALL ON events FROM kith_serve, kith_read; ALTER TABLE events OWNER TO postgres; \
    DO $$ DECLARE made regclass; BEGIN \
        FOR made IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP \
            EXECUTE format('ALTER TABLE %s OWNER TO postgres', made); \
        END LOOP; \
    END $$";

/// Starts the script as the owner of the tables, with these values of psql's variables.
///
/// # Errors
///
/// What psql printed, if it failed.
fn run_script(database: &str, variables: &str) -> impl Future<Output = Result<(), String>> + Send + use<> {
    let sets = variables.split_whitespace().filter_map(|set| set.split_once('='));
    let sets: String = sets.map(|(name, value)| format!("\\set {name} '{value}'\n")).collect();
    let (database, script) = (database.to_owned(), sets + &fs::read_to_string(SCRIPT).expect("a script"));
    let psql = tokio::task::spawn_blocking(move || server().psql("kith_migrate", &database, &script));
    async { psql.await.expect("no panic") }
}

/// A service with the rights of `kith_serve` that deletes no events. Its clock is 40 days late.
async fn service(name: &str) -> App {
    let database = Database::at(&url("postgres", name), Engine::Postgres);
    let late = database.number("SELECT extract(epoch FROM now() - interval '40 days')::bigint AS value").await;
    let clock = TestClock::at(Time::from_timestamp(late, 0).expect("a time"));
    let url = url("kith_serve", name).parse().expect("a URL");
    let store = store::connect(&url, clock.options(options())).await.expect("a store");
    App::over(database, store, clock, |settings| settings.policy.event_retention = None).await
}

/// Blocks and unblocks a user. The script lets a call wait for moments, which are longer than it may on a busy machine.
async fn change(clients: &Clients, user_id: i64, other_user_id: i64) {
    let [block, unblock] = [(); 2].map(|()| Uuid::new_v4().to_string());
    let block = pb::BlockUserRequest { user_id, other_user_id, request_id: block };
    available(async || clients.blocks().block_user(block.clone()).await).await.expect("a block");
    let unblock = pb::UnblockUserRequest { user_id, other_user_id, request_id: unblock };
    available(async || clients.blocks().unblock_user(unblock.clone()).await).await.expect("no block");
}

/// Blocks and unblocks the next user until told to stop.
async fn write(clients: &Clients, user: i64, stop: &AtomicBool) {
    for _ in 0..CHANGES {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        change(clients, user, user + 1).await;
    }
}

/// Lists the events of a user, fewer than a page, until told to stop. None may be missing that was there before.
async fn read(clients: &Clients, user: i64, stop: &AtomicBool) {
    let request = pb::ListEventsRequest { user_ids: vec![user], page_size: 1_000, ..Default::default() };
    let mut before = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let listed = available(async || clients.events().list_events(request.clone()).await).await;
        let events = sequences(&listed.expect("a page").into_inner().events);
        assert!(events.starts_with(&before), "{before:?}, then {events:?}");
        before = events;
    }
}

/// All events up to `last`, which may become known while they are read.
async fn follow(clients: &Clients, mut watching: Watching, last: &AtomicI64) -> Vec<pb::Event> {
    let mut events: Vec<pb::Event> = Vec::new();
    loop {
        match watching.message().await {
            Ok(message) => {
                events.extend(message.events);
                if message.revision >= last.load(Ordering::Relaxed) {
                    return events;
                }
            }
            Err(ended) => {
                assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
                let after = events.last().map_or(0, |event| event.sequence);
                watching = available(async || clients.try_watch(from(after, 100)).await).await.expect("a watch");
            }
        }
    }
}

async fn of_user(clients: &Clients, user: i64) -> Vec<i64> {
    let request = pb::ListEventsRequest { user_ids: vec![user], ..Default::default() };
    sequences(&clients.list_events(request).await)
}

/// Makes so many events that concern users 1 and 2, and as many of 3 and 4.
async fn make(app: &App, events: i64) {
    for _ in 0..events / 2 {
        app.block(1, 2).await;
        app.block(3, 4).await;
        app.unblock(1, 2).await;
        app.unblock(3, 4).await;
    }
}

/// The partitions: the first sequence of each, by its name, and the rows that it has.
async fn partitions(app: &App) -> Vec<(i64, i64)> {
    let query = "SELECT substring(relname FROM '\\d+') || ' ' || count(sequence) AS value \
                 FROM pg_inherits JOIN pg_class AS made ON made.oid = inhrelid \
                 LEFT JOIN events ON events.tableoid = made.oid \
                 WHERE inhparent = 'events'::regclass GROUP BY relname ORDER BY substring(relname FROM '\\d+')::bigint";
    let rows = app.database.values(query).await.into_iter().flatten();
    let numbers = rows.map(|row| {
        let (first, rows) = row.split_once(' ').expect("two numbers");
        (first.parse().expect("a number"), rows.parse().expect("a number"))
    });
    numbers.collect()
}

/// What the script may change: tables and indexes with their files, bounds and rights, and constraints.
async fn structure(app: &App) -> Vec<Option<String>> {
    let query = "SELECT concat_ws(' ', oid, relname, relfilenode, relowner, relacl, pg_get_expr(relpartbound, oid)) AS value \
                 FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                 UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint \
                 ORDER BY 1";
    app.database.values(query).await
}

/// Partitions the table while the service writes, and a reader holds it for some time. Returns all events.
async fn partitioned_under_load(app: &App, name: &'static str) -> Vec<pb::Event> {
    for id in 1..=2 * WRITERS {
        app.create(id).await.expect("a user");
    }
    let (stop, last) = (AtomicBool::new(false), AtomicI64::new(i64::MAX));
    let watching = app.watch(from(0, 100)).await;
    let reader = connect(&app.database.url).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM events").await.expect("a count");
    let partition = async {
        let script = tokio::spawn(run_script(name, &format!("events={EVENTS}")));
        let waits = "SELECT count(*) AS value FROM pg_locks \
                     WHERE mode = 'AccessExclusiveLock' AND NOT granted AND relation = to_regclass('events')";
        until("the script waits for the table", async || app.database.number(waits).await > 0).await;
        // Behind it, but it does not wait for longer than a call may.
        change(app, 1, 2).await;
        reader.batch_execute("COMMIT").await.expect("the end");
        script.await.expect("no panic").expect("partitions");
        stop.store(true, Ordering::Relaxed);
    };
    let writes = join_all((3..2 * WRITERS).step_by(2).map(|user| write(app, user, &stop)));
    let calls = async {
        tokio::join!(partition, writes, read(app, 3, &stop));
        last.store(app.revision().await, Ordering::Relaxed);
    };
    let (events, ()) = tokio::join!(follow(app, watching, &last), calls);
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_serve_partitions_as_they_serve_the_table() {
    let name = "partitions";
    set_up(name).await;
    let app = service(name).await;
    let mut events = partitioned_under_load(&app, name).await;
    assert_eq!(sequences(&events), (1..=app.revision().await).collect::<Vec<_>>());
    assert_eq!(partitions(&app).await, [(0, app.revision().await), (2 * EVENTS, 0)]);

    // Beyond the first partition; the smaller ones begin after it, the last of them without an upper end.
    let mut watching = app.watch(from(app.revision().await, 100)).await;
    fill(&app.database, 2 * EVENTS - 10 - app.revision().await, "5", false).await;
    make(&app, 20).await;
    run_script(name, &format!("events={FEW} ahead=3")).await.expect("smaller partitions");
    make(&app, 100).await;
    run_script(name, &format!("events={FEW} ahead=3")).await.expect("more of them");
    let firsts: Vec<_> = partitions(&app).await;
    let (first, open) = (2 * EVENTS, firsts.last().expect("one").0);
    assert!(firsts.iter().filter(|(_, rows)| *rows > 0).count() > 3, "{firsts:?}");
    assert_eq!((firsts[0], firsts[1].0), ((0, first - 1), first), "{firsts:?}");
    let head = app.revision().await;
    assert_eq!(open, (head / FEW + 3) * FEW, "{firsts:?}");
    assert_eq!(app.database.number(PROOFS).await, 0);
    events.extend(watching.until(head).await);
    assert_eq!(sequences(&events), (1..=head).collect::<Vec<_>>());
    let of_third: Vec<_> = events.iter().filter(|event| event.user_id == 3 || event.other_user_id == 3).collect();
    assert_eq!(of_user(&app, 3).await, of_third.iter().map(|event| event.sequence).collect::<Vec<_>>());

    forgets(&app).await;
    drops_what_is_old(&app, name).await;
    // The rights are those of before, also if the script that gives them has to give all.
    let rights = script().await;
    for _ in 0..2 {
        let partition = format!("events_{}", partitions(&app).await[0].0);
        let statements = [
            "UPDATE events SET batch_id = 1".to_owned(),
            "TRUNCATE events".to_owned(),
            format!("SELECT * FROM {partition}"),
            format!("UPDATE {partition} SET batch_id = 1"),
            format!("DROP TABLE {partition}"),
        ];
        may_not("kith_serve", name, &statements.each_ref().map(String::as_str)).await;
        make(&app, 2).await;
        succeeds(&kith(&["check"], "kith_read", name).await);
        app.database.execute(TAKE_AWAY).await;
        apply(&rights, "postgres", name);
    }
    succeeds(&kith(&["migrate"], "kith_migrate", name).await);
    let variables = format!("events={FEW} ahead=3 retention=30d");
    run_script(name, &variables).await.expect("partitions ahead");
    let before = structure(&app).await;
    run_script(name, &variables).await.expect("nothing to do");
    assert_eq!(structure(&app).await, before);
}

/// Deletes user 1, whose events are in several partitions, and lets the sweep forget them.
async fn forgets(app: &App) {
    let named = "SELECT count(DISTINCT tableoid) AS value FROM events WHERE user_id = 1 OR other_user_id = 1";
    assert!(app.database.number(named).await > 3);
    app.users().delete_user(pb::DeleteUserRequest { id: 1, request_id: String::new() }).await.expect("no user");
    let policy = Policy { forget_after: Some(TimeDelta::hours(1)), event_retention: None, ..Policy::default() };
    let names = "SELECT count(*) AS value FROM events WHERE user_id = 1 OR other_user_id = 1 OR actor_user_id = 1";
    app.clock.advance(TimeDelta::hours(2));
    until("the user is forgotten", async || {
        // A sweep deletes nothing right after a leap of the clock.
        app.clock.advance(TimeDelta::seconds(1));
        app.swept(policy.clone()).await;
        app.database.number(names).await == 0
    })
    .await;
    app.create(1).await.expect("a user");
}

/// Drops partitions by their age: for clients the same as after a sweep.
async fn drops_what_is_old(app: &App, name: &str) {
    let last_old = app.revision().await;
    // Nothing is old yet.
    run_script(name, &format!("events={FEW} ahead=3 retention=50d")).await.expect("nothing to drop");
    assert_eq!(app.database.number("SELECT min(sequence) AS value FROM events").await, 1);
    app.clock.advance(TimeDelta::days(39));
    make(app, FEW).await;
    let until_young = partitions(app).await.into_iter().map(|(first, _)| first).filter(|first| *first <= last_old + 1);
    let oldest = until_young.max().expect("a partition");
    run_script(name, &format!("events={FEW} ahead=3 retention=30d")).await.expect("fewer partitions");
    assert_eq!(partitions(app).await[0].0, oldest);
    let head = app.revision().await;
    for after in [5, oldest - 2] {
        let request = pb::ListEventsRequest { after_sequence: after, ..Default::default() };
        let listed = app.events().list_events(request).await;
        let details = refused(listed, Code::OutOfRange, ErrorReason::CursorExpired);
        assert_eq!(details.error_info().expect("details").metadata["oldest_sequence"], oldest.to_string());
        let watched = app.try_watch(from(after, 100)).await.map(drop);
        refused(watched, Code::OutOfRange, ErrorReason::CursorExpired);
    }
    assert_eq!(
        sequences(&app.watch(from(oldest - 1, 100)).await.until(head).await),
        (oldest..=head).collect::<Vec<_>>()
    );
    let of_third = of_user(app, 3).await;
    assert!(of_third.len() > 10 && of_third[0] >= oldest, "{of_third:?}");
    // However old they are: the partition with the newest event stays.
    run_script(name, &format!("events={FEW} ahead=3 retention=0d")).await.expect("fewer partitions");
    let left = partitions(app).await;
    assert!(left[0].1 > 0 && left[1].1 == 0, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_fills_partitions() {
    for name in ["partitions_from", "partitions_to"] {
        set_up(name).await;
    }
    let app = service("partitions_from").await;
    for id in 1..=20 {
        app.create(id).await.expect("a user");
    }
    app.connect(1, 2).await;
    app.block(3, 4).await;
    let directory = TempDir::with_prefix("kith-test-").expect("a directory");
    let file = directory.path().join("all.ndjson").display().to_string();
    succeeds(&kith(&["export", &file], "kith_read", "partitions_from").await);
    run_script("partitions_to", "events=4").await.expect("partitions");
    succeeds(&kith(&["import", &file, "--events=keep"], "kith_migrate", "partitions_to").await);
    succeeds(&kith(&["check"], "kith_read", "partitions_to").await);
    let filled = "SELECT count(DISTINCT tableoid) AS value FROM events";
    assert_eq!(Database::at(&url("postgres", "partitions_to"), Engine::Postgres).number(filled).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_continues_what_was_interrupted_and_refuses_what_it_did_not_make() {
    let name = "partitions_refused";
    set_up(name).await;
    let (url, super_url) = (url("kith_migrate", name), url("postgres", name));
    for (variables, expected) in [
        ("events=0", "at least 1"),
        ("ahead=0", "at least 1"),
        ("retention=-1d", "not negative"),
        ("retention=soon", "invalid input syntax"),
        ("schema=elsewhere", "no table events in the search path elsewhere"),
    ] {
        let refusal = run_script(name, variables).await.expect_err(variables);
        assert!(refusal.contains(expected), "{variables}: {refusal}");
    }
    let client = connect(&url).await;
    client
        .batch_execute("SELECT pg_advisory_lock(hashtext('kith'), hashtext('partition-events'))")
        .await
        .expect("a lock");
    assert!(run_script(name, "").await.expect_err("a lock").contains("another run has not ended"));
    client.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("no lock");
    // A run that ended after its first step.
    execute(
        &url,
        "ALTER TABLE events ADD CONSTRAINT events_before_700 CHECK (sequence >= 0 AND sequence < 700) NOT VALID",
    )
    .await;
    // In another schema, whose name needs quotes.
    let moves = "CREATE SCHEMA \"Odd\" AUTHORIZATION kith_migrate; \
                 ALTER TABLE events SET SCHEMA \"Odd\"; ALTER TABLE feed SET SCHEMA \"Odd\"";
    execute(&super_url, moves).await;
    run_script(name, "schema=Odd events=300").await.expect("partitions");
    let bounds = "SELECT relname || ' ' || pg_get_expr(relpartbound, oid) AS value FROM pg_class \
                  WHERE relispartition AND relkind = 'r' AND relnamespace = to_regnamespace('\"Odd\"') ORDER BY 1";
    let expected = ["events_0 FOR VALUES FROM ('0') TO ('700')", "events_700 FOR VALUES FROM ('700') TO (MAXVALUE)"];
    assert_eq!(postgres_values(&super_url, bounds).await, expected.map(|bound| Some(bound.to_owned())));
    execute(&url, "CREATE TABLE events (sequence bigint) PARTITION BY RANGE (sequence); CREATE TABLE feed (last_sequence bigint); \
                   INSERT INTO feed VALUES (1)").await;
    assert!(run_script(name, "").await.expect_err("others").contains("this script did not make them"));
}
