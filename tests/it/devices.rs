//! Caches of users and counts, and reads that share a round trip, only make a service faster. They must not change a
//! response.

use std::time::Duration;

use kith::proto::v1 as pb;
use kith::store::Options;
use tokio::task::JoinSet;

use crate::harness::app::with_little_memory;
use crate::harness::clients::Clients;
use crate::harness::{App, Database, Engine, invariants};
use crate::{cases, on_each_engine};

/// The names of the senders in a user's list of received requests.
async fn bios_of_senders(app: &App, user: i64) -> Vec<String> {
    received(app, user).await.into_iter().map(|request| request.from_user.expect("a sender").bio).collect()
}

/// Oldest first.
async fn received(app: &App, user_id: i64) -> Vec<pb::ConnectionRequest> {
    let direction = pb::ConnectionRequestDirection::Received.into();
    let request = pb::ListConnectionRequestsRequest { user_id, direction, ..Default::default() };
    let list = app.requests().list_connection_requests(request).await.expect("a list").into_inner();
    list.connection_requests.into_iter().rev().collect()
}

cases! {
    async fn a_changed_profile_shows_at_once_on_every_server(app: App) {
        let other = app.another(|_| {}).await;
        for name in ["ann", "bob", "cy"] {
            app.user(name).await;
        }
        app.send(1, 3).await;
        app.send(2, 3).await;
        assert_eq!(bios_of_senders(&other, 3).await, ["", ""]);
        for round in 0..20 {
            let (writes, reads) = if round % 2 == 0 { (&app, &other) } else { (&other, &app) };
            let bio = format!("round {round}");
            writes.update(1, &bio).await;
            assert_eq!(bios_of_senders(writes, 3).await, [bio.as_str(), ""], "where it was written");
            assert_eq!(bios_of_senders(reads, 3).await, [bio.as_str(), ""], "elsewhere");
        }
    }

    async fn a_user_who_is_created_again_is_the_new_one_on_every_server(app: App) {
        let other = app.another(|_| {}).await;
        for id in [1, 2] {
            app.create(id).await.expect("a user");
        }
        app.update(1, "the first").await;
        app.send(1, 2).await;
        assert_eq!(bios_of_senders(&other, 2).await, ["the first"]);
        app.users().delete_user(pb::DeleteUserRequest { id: 1, request_id: String::new() }).await.expect("deleted");
        assert_eq!(bios_of_senders(&other, 2).await, Vec::<String>::new());
        other.create(1).await.expect("a user");
        other.send(1, 2).await;
        for server in [&app, &other] {
            assert_eq!(bios_of_senders(server, 2).await, [""]);
            assert_eq!(server.counts(1).await, [1, 0, 0, 0]);
        }
    }

    async fn counts_are_exact_when_servers_commit_alternately(app: App) {
        const USERS: i64 = 12;
        let other = app.another(|_| {}).await;
        for id in 1..=USERS {
            app.create(id).await.expect("a user");
        }
        // Both have cached all counts, and the other server changes them.
        for (number, to) in (2..=USERS).enumerate() {
            let server = if number % 2 == 0 { &app } else { &other };
            server.send(1, to).await;
        }
        for server in [&app, &other] {
            assert_eq!(server.counts(1).await, [USERS - 1, 0, 0, 0]);
        }
        invariants::check(&app.database).await;
    }
}

on_each_engine! {
    async fn hardly_any_memory_is_enough_for_many_at_once(engine: Engine) {
        const USERS: i64 = 60;
        let app = App::with_options(engine, with_little_memory(), |settings| {
            (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None);
        })
        .await;
        for id in 1..=USERS {
            app.create(id).await.expect("a user");
        }
        let mut calls = JoinSet::new();
        for from in 1..=USERS {
            let clients = Clients(app.channel());
            calls.spawn(async move {
                for step in 1..=10 {
                    clients.send(from, (from - 1 + step) % USERS + 1).await;
                }
            });
        }
        calls.join_all().await;
        for user in 1..=USERS {
            assert_eq!(app.counts(user).await, [10, 10, 10, 0]);
            assert_eq!(received(&app, user).await.len(), 10);
        }
        invariants::check(&app.database).await;
    }
}

/// One server commits batch after batch without a pause. Another server still gets to commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_does_not_prevent_others_from_writing() {
    const USERS: i64 = 40;
    let database = Database::migrated(Engine::Postgres).await;
    let options = Options { migrate: false, ..Options::default() };
    let url = database.url.clone();
    let busy = App::at(database, &url, options, |settings| {
        (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None);
        settings.policy.cooldown = None;
    })
    .await;
    for id in 1..=USERS + 2 {
        busy.create(id).await.expect("a user");
    }
    let mut load = JoinSet::new();
    for from in (1..=USERS).step_by(2) {
        let clients = Clients(busy.channel());
        load.spawn(async move {
            loop {
                let request = clients.send(from, from + 1).await;
                clients.cancel(request, from).await.expect("cancelled");
            }
        });
    }
    let other = busy.another(|settings| settings.policy.max_sends_per_pair = None).await;
    for _ in 0..20 {
        let sent = tokio::time::timeout(Duration::from_secs(5), other.send(USERS + 1, USERS + 2)).await;
        other.cancel(sent.expect("its turn"), USERS + 1).await.expect("cancelled");
    }
    load.shutdown().await;
    invariants::check(&busy.database).await;
}
