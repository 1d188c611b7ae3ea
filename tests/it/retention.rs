//! Is everything that is stored for a limited time deleted afterwards, and nothing else?

use std::time::Duration;

use chrono::TimeDelta;
use kith::store::Options;

use crate::harness::{App, Database, Engine, until};
use crate::{cases, on_each_engine};

const EVENTS: &str = "SELECT count(*) AS value FROM events";
const ANSWERS: &str = "SELECT count(*) AS value FROM request_ids";

/// Many old events and stored responses, and one of each that is not old. The tests' clock begins at 1,780,000,000.
async fn seed(database: &Database, events: usize, responses: usize) {
    let time = |seconds: i64| match database.engine {
        Engine::Sqlite => format!("{seconds}000000"),
        Engine::Postgres => format!("to_timestamp({seconds})"),
    };
    let bytes = if database.engine == Engine::Sqlite { "x'00'" } else { "'\\x00'::bytea" };
    let (old, young, last) = (time(1_770_000_000), time(1_779_999_000), events + 1);
    let numbers =
        |count: usize| format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= {count})");
    let many_events = numbers(events);
    let many_responses = numbers(responses);
    let sql = format!(
        "BEGIN; \
         {many_events} INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, user_id) \
         SELECT i, i / 4096, CASE WHEN i = {last} THEN {young} ELSE {old} END, i, 'USER_UPDATED', 'OPERATOR', 1 FROM n; \
         {many_responses} INSERT INTO request_ids (caller, id, fingerprint, response, without_profiles, created) \
         SELECT 'operator', 'old-' || i, {bytes}, {bytes}, {bytes}, CASE WHEN i > {responses} THEN {young} ELSE {old} END FROM n; \
         UPDATE feed SET last_sequence = {last}, last_time = {young}; COMMIT;"
    );
    database.execute(&sql).await;
}

async fn served(database: Database, change: fn(&mut kith::server::Settings)) -> App {
    let url = database.url.clone();
    App::at(database, &url, Options { migrate: false, ..Options::default() }, change).await
}

on_each_engine! {
    async fn a_sweep_goes_on_until_nothing_old_is_left(engine: Engine) {
        for (events, responses) in [(9_000, 0), (0, 2_200), (4_100, 1_700)] {
            let database = Database::migrated(engine).await;
            seed(&database, events, responses).await;
            // No sweep runs except the one at the start.
            let app = served(database, |settings| settings.sweep_interval = Duration::from_secs(3_600)).await;
            until("the end of the sweep", async || {
                app.database.number(EVENTS).await == 1 && app.database.number(ANSWERS).await == 1
            })
            .await;
            // The next event follows. Its sequence continues after the deleted ones.
            app.user("ann").await;
            let newest = app.database.number("SELECT max(sequence) AS value FROM events").await;
            assert_eq!(newest, i64::try_from(events).unwrap() + 2);
        }
    }

    async fn without_a_retention_every_event_is_stored(engine: Engine) {
        let database = Database::migrated(engine).await;
        seed(&database, 100, 600).await;
        let app = served(database, |settings| settings.policy.event_retention = None).await;
        until("the end of the sweep", async || app.database.number(ANSWERS).await == 1).await;
        assert_eq!(app.database.number(EVENTS).await, 101);
    }
}

/// Sends requests to user 1 from 2, 3, …. Returns their ids.
async fn sent_to_first(app: &App, users: i64) -> Vec<i64> {
    for id in 1..=users {
        assert_eq!(app.user(&format!("user-{id}")).await, id);
    }
    let mut ids = Vec::new();
    for from in 2..=users {
        ids.push(app.send(from, 1).await);
    }
    ids
}

/// The pending requests, as they are stored.
async fn stored(app: &App) -> Vec<i64> {
    let stored = app.database.values("SELECT id AS value FROM connection_requests ORDER BY id").await;
    stored.into_iter().flatten().map(|id| id.parse().expect("an id")).collect()
}

cases! {
    #[with(|settings| settings.sweep_interval = Duration::from_millis(20))]
    async fn a_request_dated_in_the_future_neither_stops_the_sweep_nor_is_it_forgotten(app: App) {
        let ids = sent_to_first(&app, 6).await;
        let day = |days: i64| match app.database.engine {
            Engine::Sqlite => format!("created + {}", days * 86_400_000_000),
            Engine::Postgres => format!("created + interval '{days} days'"),
        };
        // The first and the last but one; the others one day apart.
        let dates = ids.iter().zip([300, 1, 2, 400, 3]);
        let dates: String = dates.map(|(id, days)| format!(" WHEN {id} THEN {}", day(days))).collect();
        app.database.execute(&format!("UPDATE connection_requests SET created = CASE id {dates} END")).await;
        let marked = "SELECT count(*) AS value FROM connection_requests WHERE out_of_order";
        until("both marked", async || app.database.number(marked).await == 2).await;
        for (after, left) in [
            (TimeDelta::days(180), vec![0, 1, 2, 3, 4]),
            (TimeDelta::days(1), vec![0, 2, 3, 4]),
            (TimeDelta::days(2), vec![0, 3]),
            (TimeDelta::days(297), vec![3]),
            (TimeDelta::days(100), vec![]),
        ] {
            app.clock.advance(after);
            let left: Vec<_> = left.into_iter().map(|number: usize| ids[number]).collect();
            assert_eq!(app.counts(1).await[1], i64::try_from(left.len()).unwrap(), "at once, after {after}");
            until(&format!("{left:?} after {after}"), async || stored(&app).await == left).await;
        }
        // After the last of them is gone, the next one is still found.
        let next = app.send(2, 1).await;
        app.clock.advance(TimeDelta::days(180));
        until("the end of the next one", async || !stored(&app).await.contains(&next)).await;
    }

    #[with(|settings| settings.sweep_interval = Duration::from_secs(3_600))]
    async fn an_expired_request_is_not_counted_before_it_is_swept(app: App) {
        let ids = sent_to_first(&app, 4).await;
        app.accept(ids[0], 1).await.expect("a connection");
        assert_eq!(app.counts(1).await, [0, 2, 2, 1]);
        app.clock.advance(TimeDelta::days(180) - TimeDelta::microseconds(1));
        assert_eq!(app.counts(1).await, [0, 2, 2, 1]);
        app.clock.advance(TimeDelta::microseconds(1));
        assert_eq!(app.counts(1).await, [0, 0, 0, 1]);
        assert_eq!(app.counts(3).await, [0, 0, 0, 0]);
        assert_eq!(stored(&app).await, ids);
    }

    #[with(|settings| settings.sweep_interval = Duration::from_millis(20))]
    async fn an_event_is_stored_until_its_retention_ends(app: App) {
        app.user("ann").await;
        app.clock.advance(TimeDelta::days(10));
        app.user("bob").await;
        let oldest = "SELECT min(sequence) AS value FROM events";
        for (more, gone) in [(TimeDelta::days(20) - TimeDelta::microseconds(1), 0), (TimeDelta::microseconds(1), 1)] {
            app.clock.advance(more);
            // After the second sweep since the clock was set has ended, the first one has too.
            for round in 0..2 {
                let done = format!("{ANSWERS} WHERE id = 'old-{gone}-{round}'");
                let old = if app.database.engine == Engine::Sqlite { "0" } else { "to_timestamp(0)" };
                let bytes = if app.database.engine == Engine::Sqlite { "x'00'" } else { "'\\x00'::bytea" };
                app.database.execute(&format!("INSERT INTO request_ids (caller, id, fingerprint, response, without_profiles, created) \
                    VALUES ('operator', 'old-{gone}-{round}', {bytes}, {bytes}, {bytes}, {old})")).await;
                until("a sweep", async || app.database.number(&done).await == 0).await;
            }
            assert_eq!(app.database.number(oldest).await, 1 + gone);
        }
    }
}
