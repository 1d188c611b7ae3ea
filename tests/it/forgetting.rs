//! Do the events forget a user who was deleted, and nobody else?

use std::time::Duration;

use chrono::TimeDelta;
use kith::domain::policy::Policy;
use kith::proto::v1 as pb;
use kith::store::Options;

use crate::erasure::{ANN, BOB, canary, delete, id, life};
use crate::harness::{App, Database, Engine, invariants, until};
use crate::{cases, on_each_engine};

const EVENTS: &str = "SELECT count(*) AS value FROM events";

/// Forgets deleted users after two hours, and no event by its age.
fn forgetful() -> Policy {
    Policy { forget_after: Some(TimeDelta::hours(2)), event_retention: None, ..Policy::default() }
}

/// The events as a viewer sees them. 0: an operator.
async fn events(app: &App, viewer_user_id: i64) -> Vec<pb::Event> {
    app.list_events(pb::ListEventsRequest { viewer_user_id, ..Default::default() }).await
}

/// The same events without a user in those up to `end`.
fn without(user: i64, end: i64, mut events: Vec<pb::Event>) -> Vec<pb::Event> {
    for event in events.iter_mut().filter(|event| event.sequence <= end) {
        for id in [&mut event.user_id, &mut event.other_user_id, &mut event.actor_user_id] {
            *id = if *id == user { 0 } else { *id };
        }
    }
    events
}

/// The number of events that name Ann.
async fn naming_ann(app: &App) -> i64 {
    let names = format!("user_id = {ANN} OR other_user_id = {ANN} OR actor_user_id = {ANN}");
    app.database.number(&format!("{EVENTS} WHERE {names}")).await
}

async fn create_ann(app: &App) {
    let create = pb::CreateUserRequest { user: Some(canary(ANN)), request_id: id() };
    app.users().create_user(create).await.expect("a user");
}

cases! {
    #[with(|settings| settings.sweep_interval = Duration::from_secs(3_600))]
    async fn after_its_time_a_deleted_user_is_in_no_event_up_to_the_deletion(app: App) {
        life(&app).await;
        app.clock.advance(TimeDelta::minutes(1));
        delete(&app, ANN).await;
        let end = app.revision().await;
        // Another user with the same id.
        create_ann(&app).await;
        app.send(ANN, BOB).await;
        let viewers = [0, ANN, BOB];
        let mut before = Vec::new();
        for viewer in viewers {
            before.push(events(&app, viewer).await);
        }
        assert_eq!(before[0][before[0].len() - 3].kind(), pb::EventKind::UserDeleted);
        assert!(before[2].iter().any(|event| event.sequence <= end && event.user_id == ANN));
        let is_off = Policy { forget_after: None, ..forgetful() };
        for (after, policy, forgets) in [
            (TimeDelta::hours(2) - TimeDelta::microseconds(1), forgetful(), false),
            (TimeDelta::microseconds(1), is_off.clone(), false),
            (TimeDelta::zero(), forgetful(), true),
            (TimeDelta::days(1), forgetful(), true),
            (TimeDelta::zero(), is_off, true),
        ] {
            app.clock.advance(after);
            while app.swept(policy.clone()).await > 0 {}
            for (viewer, before) in viewers.into_iter().zip(&before) {
                let expected = if forgets { without(ANN, end, before.clone()) } else { before.clone() };
                assert_eq!(events(&app, viewer).await, expected, "as {viewer} sees them, {after} later");
            }
            invariants::check(&app.database).await;
        }
        // Only the new user has the id: their creation, and the request.
        assert_eq!(naming_ann(&app).await, 2);
        let of_ann = app.list_events(pb::ListEventsRequest { user_ids: vec![ANN], ..Default::default() }).await;
        assert_eq!(of_ann, before[0][before[0].len() - 2..]);
    }

    #[with(|settings| settings.sweep_interval = Duration::from_secs(3_600))]
    async fn a_user_with_many_events_is_forgotten_in_several_steps(app: App) {
        create_ann(&app).await;
        let (bob, cy) = (app.user("bob").await, app.user("cy").await);
        app.block(ANN, cy).await;
        for _ in 0..280 {
            app.block(ANN, bob).await;
            app.unblock(ANN, bob).await;
        }
        delete(&app, ANN).await;
        app.clock.advance(TimeDelta::hours(2));
        let before = events(&app, 0).await;
        let end = app.revision().await;
        let named = naming_ann(&app).await;
        assert_eq!(app.swept(forgetful()).await, 500);
        assert_eq!(naming_ann(&app).await, named - 500);
        // Half of a user is forgotten: the block of Cy ends with an event that still names both.
        invariants::check(&app.database).await;
        assert_eq!(app.swept(forgetful()).await, named - 500);
        assert_eq!(app.swept(forgetful()).await, 0);
        assert_eq!(events(&app, 0).await, without(ANN, end, before));
        invariants::check(&app.database).await;
    }

    // The cache of another server learns who was deleted from the events.
    #[with(|settings| settings.sweep_interval = Duration::from_secs(3_600))]
    async fn a_deleted_user_is_not_cached_although_the_event_has_forgotten_them(app: App) {
        create_ann(&app).await;
        app.user("bob").await;
        let another = app.another(|settings| settings.sweep_interval = Duration::from_secs(3_600)).await;
        let get = || pb::GetUserRequest { key: Some(pb::get_user_request::Key::Id(ANN)), ..Default::default() };
        another.users().get_user(get()).await.expect("a user");
        delete(&app, ANN).await;
        app.clock.advance(TimeDelta::hours(2));
        while app.swept(forgetful()).await > 0 {}
        assert_eq!(naming_ann(&app).await, 0);
        let gone = another.users().get_user(get()).await.expect_err("no user");
        assert_eq!(gone.code(), tonic::Code::NotFound);
    }

    // Otherwise the deletion would hold up all later ones until then.
    #[with(|settings| settings.sweep_interval = Duration::from_secs(3_600))]
    async fn a_deletion_dated_in_the_future_has_the_time_of_the_next_event(app: App) {
        create_ann(&app).await;
        delete(&app, ANN).await;
        let end = app.revision().await;
        let later = if app.database.engine == Engine::Sqlite { "time * 2" } else { "time + interval '40 years'" };
        app.database.execute(&format!("UPDATE events SET time = {later} WHERE sequence = {end}")).await;
        app.clock.advance(TimeDelta::hours(1));
        app.user("bob").await;
        for (hours, named) in [(1, 2), (1, 0)] {
            app.clock.advance(TimeDelta::hours(hours));
            while app.swept(forgetful()).await > 0 {}
            assert_eq!(naming_ann(&app).await, named);
        }
    }
}

on_each_engine! {
    async fn the_sweep_goes_on_until_all_deleted_users_are_forgotten(engine: Engine) {
        let database = Database::migrated(engine).await;
        let time = |seconds: i64| match engine {
            Engine::Sqlite => format!("{seconds}000000"),
            Engine::Postgres => format!("to_timestamp({seconds})"),
        };
        // More events than a sweep searches for a deletion. Of the last thousand each tenth is a deletion of one of nine
        // users, whom the earlier ones do not name. The tests' clock begins at 1,780,000,000.
        let (old, young) = (time(1_779_900_000), time(1_779_999_000));
        database.execute(&format!(
            "BEGIN; \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 21000) \
             INSERT INTO events (sequence, stretch, time, batch_id, kind, actor, actor_user_id, user_id, other_user_id) \
             SELECT i, i / 4096, CASE WHEN i > 20900 THEN {young} ELSE {old} END, i, \
                    CASE WHEN i > 20000 AND i % 10 = 0 THEN 'USER_DELETED' ELSE 'USER_BLOCKED' END, 'USER', \
                    CASE WHEN i > 20000 THEN 1 ELSE 101 END + i / 10 % 9, CASE WHEN i > 20000 THEN 1 ELSE 101 END + i / 10 % 9, CASE WHEN i > 20000 AND i % 10 = 0 THEN NULL ELSE i / 10 % 9 + 11 END \
             FROM n; UPDATE feed SET last_sequence = 21000, last_time = {young}; COMMIT;"
        ))
        .await;
        let url = database.url.clone();
        // One sweep for each deletion would take minutes, if a sweep did not go on at once.
        let app = App::at(database, &url, Options { migrate: false, ..Options::default() }, |settings| {
            settings.policy.forget_after = Some(TimeDelta::hours(2));
            settings.sweep_interval = Duration::from_secs(5);
        })
        .await;
        // As long as it goes on: each of some ninety commits waits for the disk.
        let mut forgotten = 0;
        while forgotten < 20_909 {
            let before = forgotten;
            until("the next deletion whose time has come", async || {
                forgotten = app.database.number("SELECT forgotten AS value FROM feed").await;
                forgotten > before
            })
            .await;
        }
        assert_eq!(forgotten, 20_909, "the last one whose time has come");
        for (named, count) in [
            // All but the nine events that follow the last deletion of each of eight users. That of the ninth is the last
            // event whose time has come.
            ("user_id = 0 AND actor_user_id = 0 AND sequence BETWEEN 20001 AND 20900", 828),
            ("sequence > 20900 AND (user_id = 0 OR actor_user_id = 0)", 0),
            ("other_user_id = 0", 0),
        ] {
            assert_eq!(app.database.number(&format!("{EVENTS} WHERE {named}")).await, count, "{named}");
        }
    }
}
