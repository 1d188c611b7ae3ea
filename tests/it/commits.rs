//! What becomes of a commit on PostgreSQL that is cut off, that arrives late, or that another server comes before?

use chrono::TimeDelta;
use kith::proto::v1::get_user_request::Key;
use kith::proto::v1::{self as pb, ErrorReason};
use kith::store::{self, Options};
use tonic::Code;

use crate::faults::{sent, tells_nothing, users, with_id};
use crate::harness::clients::Clients;
use crate::harness::proxy::{Cut, Proxy};
use crate::harness::{App, Database, Engine, invariants, refused, until};

/// A service that reaches its database by way of a proxy, with users 1, 2, …
pub async fn behind_a_proxy(number: i64) -> (Proxy, App) {
    let database = Database::migrated(Engine::Postgres).await;
    let proxy = Proxy::before(&database);
    let url = proxy.url.parse().expect("a URL");
    let store = store::connect(&url, Options { migrate: false, ..Options::default() }).await.expect("a store");
    let app = App::over(database, store, |settings| {
        (settings.policy.max_sends_per_hour, settings.policy.max_sends_per_pair) = (None, None)
    })
    .await;
    users(&app, number).await;
    (proxy, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_settled() {
    const ROUNDS: i64 = 20;
    let (proxy, app) = behind_a_proxy(ROUNDS * 2 + 2).await;
    let mut to = 2;
    for round in 0..ROUNDS {
        for cut in [Cut::AfterCommit, Cut::BeforeCommit] {
            to += 1;
            if round % 2 == 0 {
                // So that the next one finds everything cached.
                app.send(2, to).await;
            }
            proxy.next(cut);
            // Whether it had taken place, or was made again, the caller need not know.
            let id = app.send(1, to).await;
            assert_eq!(app.request(id, 1).await.expect("a request").to_user.expect("a user").id, to);
        }
    }
    assert_eq!(i64::try_from(proxy.cuts()).unwrap(), ROUNDS * 2);
    assert_eq!(sent(&app.database).await, ROUNDS * 3);
    invariants::check(&app.database).await;
}

/// What was sent on a connection that is lost may still be on its way when its outcome is looked up. PostgreSQL waits for
/// it for `idle_in_transaction_session_timeout`, and the look-up for PostgreSQL.
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
async fn a_commit_that_cannot_be_settled_is_told_as_unknown_and_its_repetition_tells() {
    const ROUNDS: i64 = 10;
    let (proxy, app) = behind_a_proxy(ROUNDS + 1).await;
    for to in 2..=ROUNDS + 1 {
        let send = with_id(1, to);
        proxy.next(Cut::AfterCommitAndDown);
        let lost = app.requests().send_connection_request(send.clone()).await;
        tells_nothing(lost, Code::Unavailable, ErrorReason::OutcomeUnknown);
        // Nothing reaches the database: certainly not done.
        let refused = app.requests().send_connection_request(with_id(to, 1)).await;
        tells_nothing(refused, Code::Unavailable, ErrorReason::DatabaseUnavailable);
        proxy.next(Cut::Never);
        let first = app.requests().send_connection_request(send.clone()).await.expect("an answer").into_inner();
        let again = app.requests().send_connection_request(send).await.expect("an answer").into_inner();
        assert_eq!(first, again);
    }
    assert_eq!(i64::try_from(proxy.cuts()).unwrap(), ROUNDS);
    assert_eq!(sent(&app.database).await, ROUNDS);
    invariants::check(&app.database).await;
}

/// A request is sent at one server, and its receiver deleted at another before it is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_another_server_comes_before_is_decided_anew() {
    let (proxy, app) = behind_a_proxy(4).await;
    let other = app.another(|_| {}).await;
    // So that this one knows all that it needs of 1 and 2.
    app.send(1, 3).await;
    app.send(4, 2).await;
    let mut users = other.users();
    let deletion = users.delete_user(pb::DeleteUserRequest { id: 2, ..Default::default() });
    let (send, deleted) = tokio::join!(app.try_send(1, 2), proxy.hold().meanwhile(deletion));
    deleted.expect("a deletion");
    refused(send, Code::NotFound, ErrorReason::UserNotFound);
    invariants::check(&app.database).await;
}

/// A request is accepted at one server, and cancelled at another before it is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptance_that_another_server_comes_before_is_decided_anew() {
    let (proxy, app) = behind_a_proxy(3).await;
    let other = app.another(|_| {}).await;
    let id = app.send(1, 2).await;
    // So that no count would come below zero.
    app.send(1, 3).await;
    app.send(3, 2).await;
    let (accepted, cancelled) = tokio::join!(app.accept(id, 2), proxy.hold().meanwhile(other.cancel(id, 1)));
    cancelled.expect("a cancellation");
    refused(accepted, Code::NotFound, ErrorReason::RequestNotFound);
    invariants::check(&app.database).await;
}

/// A request id is used at one server for a send, and at another, before it is decided, for what changes nothing.
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

/// A batch follows one of the same server, whose head another server replaces in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_batch_that_another_server_comes_before_is_decided_anew() {
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

/// A server has read a user, but not their counts, when another server suspends them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_to_a_user_whom_another_server_suspended_is_refused() {
    let (_proxy, app) = behind_a_proxy(3).await;
    let other = app.another(|_| {}).await;
    // So that it knows the head, and 2 from a read.
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
