//! The outcome of a commit on PostgreSQL that loses its connection, arrives late, or follows another server's.

use chrono::TimeDelta;
use kith::proto::v1::get_user_request::Key;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store::Options;
use tonic::Code;

use crate::faults::{reveals_nothing, sent, users, with_id};
use crate::harness::clients::Clients;
use crate::harness::proxy::{Cut, Passed, Proxy};
use crate::harness::{App, Database, Engine, invariants, refused, until};

/// A service that connects to its database through a proxy, with users 1, 2, …
pub async fn behind_a_proxy(number: i64) -> (Proxy, App) {
    let database = Database::migrated(Engine::Postgres).await;
    let proxy = Proxy::before(&database);
    let options = Options { migrate: false, ..Options::default() };
    let app = App::at(database, &proxy.url, options, |settings| {
        (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None)
    })
    .await;
    users(&app, number).await;
    (proxy, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_of_a_commit_whose_response_is_lost_is_looked_up() {
    const ROUNDS: i64 = 20;
    let (proxy, app) = behind_a_proxy(ROUNDS * 2 + 2).await;
    let mut to = 2;
    for round in 0..ROUNDS {
        for cut in [Cut::AfterCommit, Cut::BeforeCommit] {
            to += 1;
            if round % 2 == 0 {
                // So that the next round finds everything cached.
                app.send(2, to).await;
            }
            proxy.next(cut);
            // The caller need not know whether it was committed the first time or the second.
            let id = app.send(1, to).await;
            assert_eq!(app.request(id, 1).await.expect("a request").to_user.expect("a user").id, to);
        }
    }
    assert_eq!(i64::try_from(proxy.cuts()).unwrap(), ROUNDS * 2);
    assert_eq!(sent(&app.database).await, ROUNDS * 3);
    invariants::check(&app.database).await;
}

/// The next commit and the next read find what a lost commit changed in the caches, and load no user again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_response_is_lost_updates_the_caches() {
    const ROUNDS: i64 = 10;
    let (proxy, app) = behind_a_proxy(ROUNDS * 2 + 1).await;
    let read = async |id| {
        let request = pb::GetUserRequest { key: Some(Key::Id(id)), ..Default::default() };
        app.users().get_user(request).await.expect("a response").into_inner().user.expect("a user")
    };
    // With the first read, the cache of users becomes valid.
    read(1).await;
    for to in (2..=ROUNDS * 2).step_by(2) {
        proxy.next(Cut::AfterCommit);
        app.send(1, to).await;
        proxy.record();
        app.send(1, to + 1).await;
        assert_eq!(users_loaded(&proxy.recorded()), [""; 0]);

        proxy.next(Cut::AfterCommit);
        app.moderate(to, &format!("user-{to}"), pb::UserStatus::Blocked).await;
        proxy.record();
        assert_eq!(read(to).await.status(), pb::UserStatus::Blocked);
        assert_eq!(users_loaded(&proxy.recorded()), [""; 0]);
    }
    assert_eq!(i64::try_from(proxy.cuts()).unwrap(), ROUNDS * 2);
    invariants::check(&app.database).await;
}

/// The statements that loaded users or their counts.
fn users_loaded(recorded: &[Passed]) -> Vec<&str> {
    let statements =
        recorded.iter().filter(|passed| passed.letter == 'B').filter_map(|passed| passed.statement.as_deref());
    let of_users = |text: &str| text.contains("FROM \"users\"") || text.contains("FROM \"user_counts\"");
    statements.filter(|text| of_users(text)).collect()
}

/// What was sent on a lost connection may still arrive while its outcome is looked up. PostgreSQL waits for it until
/// `idle_in_transaction_session_timeout`, and the look-up waits for PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrives_after_it_was_settled_changes_nothing() {
    const ROUNDS: i64 = 2;
    let (proxy, app) = behind_a_proxy(ROUNDS + 2).await;
    app.send(1, 2).await;
    for to in 3..=ROUNDS + 2 {
        proxy.next(Cut::Late);
        let id = app.send(1, to).await;
        assert_eq!(app.request(id, 1).await.expect("a request").to_user.expect("a user").id, to);
    }
    assert_eq!(i64::try_from(proxy.cuts()).unwrap(), ROUNDS);
    assert_eq!(sent(&app.database).await, ROUNDS + 1);
    invariants::check(&app.database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_cannot_be_looked_up_has_an_unknown_outcome_and_its_repetition_returns_it() {
    const ROUNDS: i64 = 10;
    let (proxy, app) = behind_a_proxy(ROUNDS + 1).await;
    for to in 2..=ROUNDS + 1 {
        let send = with_id(1, to);
        proxy.next(Cut::AfterCommitAndDown);
        let lost = app.requests().send_connection_request(send.clone()).await;
        reveals_nothing(lost, Code::Unavailable, ErrorReason::OutcomeUnknown);
        // Nothing reaches the database, so nothing was committed.
        let refused = app.requests().send_connection_request(with_id(to, 1)).await;
        reveals_nothing(refused, Code::Unavailable, ErrorReason::DatabaseUnavailable);
        proxy.next(Cut::Never);
        let first = app.requests().send_connection_request(send.clone()).await.expect("a response").into_inner();
        let again = app.requests().send_connection_request(send).await.expect("a response").into_inner();
        assert_eq!(first, again);
    }
    assert_eq!(i64::try_from(proxy.cuts()).unwrap(), ROUNDS);
    assert_eq!(sent(&app.database).await, ROUNDS);
    invariants::check(&app.database).await;
}

/// One server sends a request. Another deletes its receiver before the request is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_another_server_comes_before_is_decided_anew() {
    let (proxy, app) = behind_a_proxy(4).await;
    let other = app.another(|_| {}).await;
    // So that the first server has users 1 and 2 cached.
    app.send(1, 3).await;
    app.send(4, 2).await;
    let mut users = other.users();
    let deletion = users.delete_user(pb::DeleteUserRequest { id: 2, ..Default::default() });
    let (send, deleted) = tokio::join!(app.try_send(1, 2), proxy.hold().meanwhile(deletion));
    deleted.expect("a deletion");
    refused(send, Code::NotFound, ErrorReason::UserNotFound);
    invariants::check(&app.database).await;
}

/// One server accepts a request. Another cancels it before that is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptance_that_another_server_comes_before_is_decided_anew() {
    let (proxy, app) = behind_a_proxy(3).await;
    let other = app.another(|_| {}).await;
    let id = app.send(1, 2).await;
    // So that no count would become negative.
    app.send(1, 3).await;
    app.send(3, 2).await;
    let (accepted, cancelled) = tokio::join!(app.accept(id, 2), proxy.hold().meanwhile(other.cancel(id, 1)));
    cancelled.expect("a cancellation");
    refused(accepted, Code::NotFound, ErrorReason::RequestNotFound);
    invariants::check(&app.database).await;
}

/// One server sends with a request id. Before that is decided, another uses the id for a call that changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_that_another_server_takes_before_is_refused() {
    let (proxy, app) = behind_a_proxy(2).await;
    let other = app.another(|_| {}).await;
    let send = with_id(1, 2);
    let mark = pb::MarkAllConnectionRequestsViewedRequest { user_id: 1, request_id: send.request_id.clone() };
    let (mut requests, mut others) = (app.requests(), other.requests());
    let taken = proxy.hold().meanwhile(others.mark_all_connection_requests_viewed(mark.clone()));
    let (sent, marked) = tokio::join!(requests.send_connection_request(send), taken);
    refused(sent, Code::InvalidArgument, ErrorReason::RequestIdReused);
    let marked = marked.expect("marked").into_inner();
    assert_eq!(others.mark_all_connection_requests_viewed(mark).await.expect("marked again").into_inner(), marked);
    assert_eq!(self::sent(&app.database).await, 0);
    invariants::check(&app.database).await;
}

/// A batch follows one of the same server, but another server has changed the head in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_follows_another_servers_is_decided_on_new_data() {
    let (proxy, app) = behind_a_proxy(4).await;
    let other = app.another(|_| {}).await;
    let (id, theirs) = (app.send(1, 2).await, app.send(3, 4).await);
    let (first, second) = (Clients::clone(&app), Clients::clone(&app));
    let mut held = proxy.hold();
    let rejected = tokio::spawn(async move { first.reject(id, 2).await });
    held.reached().await;
    let next = proxy.hold();
    let restored = tokio::spawn(async move { second.restore(id, 2).await });
    other.reject(theirs, 4).await.expect("a rejection");
    held.go_on();
    rejected.await.expect("a call").expect("a rejection");
    next.meanwhile(async { other.restore(theirs, 4).await.expect("a restoration") }).await;
    restored.await.expect("a call").expect("a restoration");
    invariants::check(&app.database).await;
}

/// A server has a user cached, but not their counts, when another server suspends them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_to_a_user_whom_another_server_suspended_is_refused() {
    let (_proxy, app) = behind_a_proxy(3).await;
    let other = app.another(|_| {}).await;
    // So that the first server has the head cached, and user 2 from a read.
    other.send(1, 3).await;
    other.users().get_user(pb::GetUserRequest { key: Some(Key::Id(2)), ..Default::default() }).await.expect("a user");
    app.moderate(2, "user-2", pb::UserStatus::Blocked).await;
    refused(other.try_send(1, 2).await, Code::FailedPrecondition, ErrorReason::UserNotApproved);
    invariants::check(&app.database).await;
}

/// A cooldown that was over is deleted at one server, without an event, before another decides with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_another_server_sweeps_before_is_decided_anew() {
    let (proxy, app) = behind_a_proxy(2).await;
    let rejected = app.send(1, 2).await;
    app.reject(rejected, 2).await.expect("a rejection");
    app.cancel(rejected, 1).await.expect("a cancellation");
    app.clock.advance(TimeDelta::days(31));
    let sweep = async {
        let other = app.another(|settings| settings.policy.cooldown = None).await;
        let left = "SELECT count(*) AS value FROM cooldowns";
        until("the sweep at its start", async || app.database.number(left).await == 0).await;
        other
    };
    let (id, _other) = tokio::join!(app.send(1, 2), proxy.hold().meanwhile(sweep));
    assert_eq!(app.request(id, 1).await.expect("a request").to_user.expect("a user").id, 2);
    invariants::check(&app.database).await;
}
