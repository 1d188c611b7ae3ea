//! Clocks that are wrong, or were: a past error never binds the present, and what cannot be undone waits.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::time::SystemTime;

use chrono::TimeDelta;
use kith::domain::policy::Policy;
use kith::progress::Progress;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store::{self, Repair};
use tonic::Code;

use crate::cases;
use crate::harness::app::{TestClock, options};
use crate::harness::clients::Clients;
use crate::harness::process::{Kith, command, run};
use crate::harness::{App, Database, Engine, invariants, refused, until};

/// Another server of the same database whose clock differs by this much.
async fn server_off_by(app: &App, by: TimeDelta) -> App {
    let clock = TestClock::at(app.clock.now());
    clock.set_by(by);
    let database = Database::at(&app.database.url, app.database.engine);
    let store = store::connect(&database.url(), clock.options(options())).await.expect("a store");
    App::over(database, store, clock, |settings| {
        settings.policy.max_sends_per_hour = Some(2);
        // So that only the test sweeps.
        settings.sweep_interval = std::time::Duration::from_secs(3_600);
    })
    .await
}

/// Sweeps once, and keeps the feed. Returns the number of rows.
async fn swept(app: &App) -> i64 {
    app.swept(Policy { event_retention: None, ..Policy::default() }).await
}

/// The stored times of a query, in the order of the query.
async fn numbers(app: &App, query: &str) -> Vec<i64> {
    let values = app.database.values(query).await;
    values.into_iter().flatten().map(|value| value.parse().expect("a number")).collect()
}

async fn users<const N: usize>(app: &Clients) -> [i64; N] {
    let mut ids = [0; N];
    for (number, id) in ids.iter_mut().enumerate() {
        *id = app.user(&format!("user-{number}")).await;
    }
    ids
}

fn seconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.expect("a time").seconds
}

/// A program whose clock is wrong from its start, by an offset such as `+200d`.
fn program_off_by(offset: &str, url: &str, args: &[&str]) -> process::Command {
    let mut command = command(&[&["--listen=127.0.0.1:0", "--database-url", url], args].concat());
    // The stopwatch stays right, as on a machine whose clock was set.
    command.env("LD_PRELOAD", faketime()).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

fn faketime() -> PathBuf {
    let libraries = fs::read_dir("/usr/lib").expect("a folder").map(|entry| entry.expect("an entry").path());
    let folders = libraries.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|library| library.exists());
    found.expect("libfaketime; scripts/install-test-tools installs it, or apt-get install libfaketime")
}

/// One send by a server whose clock is 200 days ahead, which sweeps all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_200_days_ahead_neither_expires_requests_nor_stops_time() {
    let database = Database::migrated(Engine::Sqlite).await;
    let sweeping = ["--sweep-interval=10ms", "--log-level=kith=debug"];
    let right = Kith::serve(&database.url, &sweeping).await;
    let [ann, bob, cy] = users(&right.clients()).await;
    let id = right.clients().send(ann, bob).await;
    right.crash().await;

    let ahead = Kith::start(program_off_by("+200d", &database.url, &sweeping)).await;
    let early = ahead.clients().send(cy, bob).await;
    let commits = async |kith: &Kith| kith.log().matches("method=\"commit\"").count();
    until("five sweeps", async || commits(&ahead).await > 6).await;
    let ended = ahead.crash().await;
    assert!(ended.log.contains("the newest event is old"), "{}", ended.log);

    let right = Kith::serve(&database.url, &sweeping).await;
    let clients = right.clients();
    assert_eq!(clients.request(id, bob).await.expect("a request").id, id);
    until("five sweeps", async || commits(&right).await > 5).await;
    let sent = clients.request(clients.send(bob, ann).await, ann).await.expect("a connection");
    let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_secs()).expect("a time");
    assert!((now - seconds(sent.accepted)).abs() < 3_600, "{sent:?}");
    let early = clients.request(early, bob).await.expect("a request");
    assert!(seconds(early.created) > now + 199 * 86_400, "{early:?}");
    assert_eq!(right.log().matches("the newest event lies in the future").count(), 1, "{}", right.log());
    right.crash().await;
    let checked = run(&["check", "--database-url", &database.url]).await;
    assert_eq!(checked.status.code(), Some(1), "{checked:#?}");
    let future = "no time lies in the future\n          events: time of ";
    let is_alone = |line: &str| line.starts_with("1 of ") && line.contains(" checks FAILED");
    assert!(checked.output.contains(future) && checked.output.lines().any(is_alone), "{}", checked.output);
}

/// The clock of a server does not matter on PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_two_days_ahead_uses_the_clock_of_postgresql() {
    let database = Database::migrated(Engine::Postgres).await;
    let ahead = Kith::start(program_off_by("+2d", &database.url, &[])).await;
    let [ann, bob] = users(&ahead.clients()).await;
    ahead.clients().send(ann, bob).await;
    assert!(ahead.log().contains("the clock of this host is not that of the database"), "{}", ahead.log());
    let wrong = "SELECT count(*) AS value FROM events WHERE abs(extract(epoch FROM time - clock_timestamp())) > 3600";
    assert_eq!(database.number(wrong).await, 0);
    assert!(run(&["check", "--database-url", &database.url]).await.status.success());
}

cases! {
    #[with(|settings| settings.policy.max_sends_per_hour = Some(2))]
    async fn a_server_two_days_ahead_does_not_stop_time_for_the_others(app: App) {
        let [ann, bob, cy, dee, eve] = users(&app).await;
        let ahead = server_off_by(&app, TimeDelta::days(2)).await;
        let now = app.clock.now().timestamp();
        let early = ahead.send(ann, bob).await;
        // The right server writes right times.
        let sent = app.send(ann, cy).await;
        let request = app.request(sent, ann).await.expect("a request");
        assert_eq!(seconds(request.created), now);
        // The hour that began in the future is none.
        app.send(ann, dee).await;
        let full = refused(app.try_send(ann, eve).await, Code::ResourceExhausted, ErrorReason::LimitReached);
        let delay = full.retry_info().and_then(|retry| retry.retry_delay).expect("a delay");
        assert!(delay.as_secs() <= 3_600, "{delay:?}");
        app.clock.advance(TimeDelta::from_std(delay).expect("short"));
        app.send(ann, eve).await;
        // What happens to the early request is never before its creation.
        app.accept(early, bob).await.expect("a connection");
        let connected = app.request(early, ann).await.expect("a request");
        assert_eq!(connected.accepted, connected.created);
        assert_eq!(seconds(connected.created), now + 2 * 86_400);
        invariants::check(&app.database).await;
    }

    async fn events_are_in_the_order_of_their_sequence_whatever_the_clock_shows(app: App) {
        let [ann, bob] = users(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.set_by(TimeDelta::hours(-1));
        app.mark_viewed(id, bob).await.expect("viewed");
        app.accept(id, bob).await.expect("a connection");
        app.clock.set_by(TimeDelta::hours(36));
        app.remove(ann, bob).await.expect("no connection");
        let listed = app.events().list_events(pb::ListEventsRequest::default()).await.expect("a list");
        let events = listed.into_inner().events;
        let kinds: Vec<_> = events.iter().map(|event| event.kind()).collect();
        use pb::EventKind::{ConnectionCreated, ConnectionRemoved, RequestCreated, RequestViewed, UserCreated};
        assert_eq!(kinds, [UserCreated, UserCreated, RequestCreated, RequestViewed, ConnectionCreated, ConnectionRemoved]);
        let base = seconds(events[0].time);
        let times: Vec<_> = events.iter().map(|event| seconds(event.time) - base).collect();
        assert_eq!(times, [0, 0, 0, -3_600, -3_600, 35 * 3_600]);
        invariants::check(&app.database).await;
    }

    async fn two_servers_36_hours_apart_agree_on_the_order_and_on_limits(app: App) {
        let [ann, bob, cy, dee, eve, fay] = users(&app).await;
        let (slow, fast) = (server_off_by(&app, TimeDelta::zero()).await, server_off_by(&app, TimeDelta::hours(36)).await);
        let mut ids = Vec::new();
        for (server, to) in [(&slow, bob), (&fast, cy), (&slow, dee), (&fast, eve)] {
            ids.push(server.send(ann, to).await);
        }
        assert!(ids.is_sorted(), "{ids:?}");
        // Each begins an hour of its own, because that of the other is over, or did not begin yet.
        for server in [&slow, &fast] {
            while let Err(status) = server.try_send(ann, fay).await.map(drop) {
                let delay = refused(Err::<(), _>(status), Code::ResourceExhausted, ErrorReason::LimitReached);
                let delay = delay.retry_info().and_then(|retry| retry.retry_delay).expect("a delay");
                assert!(delay.as_secs() <= 3_600, "{delay:?}");
                server.clock.advance(TimeDelta::from_std(delay).expect("short"));
            }
            let id = numbers(&app, &format!("SELECT max(id) AS value FROM connection_requests WHERE to_user_id = {fay}")).await[0];
            server.cancel(id, ann).await.expect("cancelled");
        }
        invariants::check(&app.database).await;
    }

    #[with(|settings| settings.sweep_interval = std::time::Duration::from_secs(3_600))]
    async fn a_clock_200_days_ahead_destroys_nothing_for_an_hour(app: App) {
        let [ann, bob, cy] = users(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.set_by(TimeDelta::days(200));
        for _ in 0..3 {
            assert_eq!(swept(&app).await, 0);
        }
        // A server that starts while the clock is wrong has nothing to compare it with but the newest event.
        let started = server_off_by(&app, TimeDelta::zero()).await;
        assert_eq!(swept(&started).await, 0);
        started.send(ann, cy).await;
        app.clock.set_by(TimeDelta::days(-200));
        assert_eq!(app.request(id, bob).await.expect("a request").id, id);
        assert_eq!(swept(&app).await, 0);
        app.clock.advance(TimeDelta::hours(1));
        assert_eq!(app.request(id, bob).await.expect("a request").id, id);
        // An hour after the last leap it is time that passes.
        app.clock.advance(TimeDelta::days(180));
        assert!(swept(&app).await > 0);
        app.request(id, ann).await.expect_err("it has expired");
        invariants::check(&app.database).await;
    }

    #[with(|settings| settings.sweep_interval = std::time::Duration::from_secs(3_600))]
    async fn a_cooldown_that_begins_in_the_future_begins_now(app: App) {
        let [ann, bob] = users(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.set_by(TimeDelta::days(100));
        app.reject(id, bob).await.expect("rejected");
        app.cancel(id, ann).await.expect("cancelled");
        app.clock.set_by(TimeDelta::days(-100));
        app.user("cy").await;
        app.clock.advance(TimeDelta::hours(1));
        assert!(swept(&app).await > 0);
        assert_eq!(swept(&app).await, 0);
        app.clock.advance(TimeDelta::days(30) - TimeDelta::seconds(1));
        let silenced = app.send(ann, bob).await;
        app.request(silenced, bob).await.expect_err("it is silenced");
        app.cancel(silenced, ann).await.expect("cancelled");
        app.clock.advance(TimeDelta::seconds(1));
        app.send(ann, bob).await;
        assert_eq!(app.counts(bob).await[1], 1);
        invariants::check(&app.database).await;
    }

    async fn the_feed_is_deleted_in_order_whatever_its_times_are(app: App) {
        let [ann] = users(&app).await;
        let rename = async |name: &str| app.moderate(ann, name, pb::UserStatus::Approved).await;
        app.clock.set_by(TimeDelta::days(100));
        rename("ahead").await;
        app.clock.set_by(TimeDelta::days(-200));
        rename("behind").await;
        app.clock.set_by(TimeDelta::days(100));
        rename("right").await;
        app.clock.advance(TimeDelta::days(29));
        assert_eq!(app.swept(Policy::default()).await, 0, "neither one that is dated in the past");
        rename("young").await;
        app.clock.advance(TimeDelta::days(1));
        assert!(app.swept(Policy::default()).await > 0);
        let left = "SELECT sequence AS value FROM events ORDER BY sequence";
        assert_eq!(numbers(&app, left).await, [5], "nor does one that is dated in the future keep those before it");
    }

    async fn the_check_reports_times_in_the_future(app: App) {
        let [ann, bob] = users(&app).await;
        app.clock.set_by(TimeDelta::days(2));
        app.send(ann, bob).await;
        app.clock.set_by(TimeDelta::days(-2));
        app.user("cy").await;
        let clock = app.clock.options(options()).clock;
        let report = store::check(&app.database.url(), Repair::Nothing, &clock, &Progress::default()).await.expect("a report");
        let broken: Vec<_> = report.checks.iter().filter(|checked| !checked.holds()).collect();
        let [checked] = &broken[..] else { panic!("{broken:#?}") };
        assert_eq!(checked.name, "no time lies in the future");
        assert_eq!(
            checked.rows,
            ["events: time of 3", "connection_requests: created of 3", &format!("user_counts: sends_since of {ann}")]
        );
    }
}
