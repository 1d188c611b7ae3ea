//! Does every read reflect the revision that its caller requires, or fail with the reason?

use std::time::{Duration, Instant};

use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use kith::proto::v1::get_user_request::Key;
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status};

use crate::cases;
use crate::harness::app::fields;
use crate::harness::clients::Clients;
use crate::harness::{App, Engine, refused};

/// The result of one read: its revision.
pub struct Outcome {
    pub rpc: &'static str,
    pub result: Result<i64, Status>,
    /// The whole response of a read that is no export.
    pub said: String,
    /// The fields that were invalid besides `min_revision`.
    wrong: Vec<&'static str>,
}

/// How the reads are made.
#[derive(Clone, Copy)]
pub struct How {
    min_revision: i64,
    epoch: &'static str,
    /// Whether the other fields are valid.
    right: bool,
    timeout: Option<Duration>,
}

impl How {
    pub fn at(min_revision: i64) -> Self {
        Self { min_revision, epoch: "", right: true, timeout: None }
    }

    fn request<R>(self, right: R, wrong: R) -> Request<R> {
        let mut request = Request::new(if self.right { right } else { wrong });
        self.timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
        request
    }
}

/// Begins an export. Its first message has the revision.
async fn export(clients: Clients, how: How) -> Outcome {
    let How { min_revision, epoch, .. } = how;
    let request =
        |id| pb::ExportUserRequest { id, min_revision, min_revision_epoch: epoch.to_owned(), ..Default::default() };
    let result = async {
        let stream = clients.users().export_user(how.request(request(1), request(0))).await?;
        Ok(stream.into_inner().message().await?.expect("a message").revision)
    };
    Outcome { rpc: "export_user", result: result.await, said: String::new(), wrong: vec!["id"] }
}

/// The same for an export of everything.
async fn export_all(clients: Clients, how: How) -> Outcome {
    let How { min_revision, epoch, .. } = how;
    let request = || pb::ExportRelationsRequest { min_revision, min_revision_epoch: epoch.to_owned() };
    let result = async {
        let stream = clients.imports().export_relations(how.request(request(), request())).await?;
        let mut stream = stream.into_inner();
        let revision = stream.message().await?.expect("a message").revision;
        // To the end: the server has few of them at a time.
        while stream.message().await?.is_some() {}
        Ok(revision)
    };
    Outcome { rpc: "export_relations", result: result.await, said: String::new(), wrong: vec![] }
}

macro_rules! reads {
    ($($client:ident.$method:ident($request:ident { $($right:tt)* }, { $($wrong:tt)* } => $fields:expr);)+) => {
        /// Makes every read of the API concurrently.
        pub async fn read_all(clients: &Clients, how: How) -> Vec<Outcome> {
            let mut outcomes = JoinSet::new();
            $(
                let clients_of_call = clients.clone();
                outcomes.spawn(async move {
                    let mut right = pb::$request { $($right)* ..Default::default() };
                    let mut wrong = pb::$request { $($wrong)* ..Default::default() };
                    for request in [&mut right, &mut wrong] {
                        request.min_revision = how.min_revision;
                        request.min_revision_epoch = how.epoch.to_owned();
                    }
                    let result = clients_of_call.$client().$method(how.request(right, wrong)).await;
                    let result = result.map(Response::into_inner);
                    let said = result.as_ref().map(|response| format!("{response:?}")).unwrap_or_default();
                    let result = result.map(|response| response.revision);
                    Outcome { rpc: stringify!($method), result, said, wrong: $fields.to_vec() }
                });
            )+
            outcomes.spawn(export(clients.clone(), how));
            outcomes.spawn(export_all(clients.clone(), how));
            let outcomes = outcomes.join_all().await;
            assert_eq!(outcomes.len(), 15);
            outcomes
        }
    };
}

reads! {
    users.get_user(GetUserRequest { key: Some(Key::Id(1)), }, { key: Some(Key::Id(-1)), } => ["id"]);
    users.batch_get_users(BatchGetUsersRequest { ids: vec![1], }, { ids: vec![0], } => ["ids[0]"]);
    users.list_users(ListUsersRequest { page_size: 1, }, { page_size: -1, } => ["page_size"]);
    requests.get_connection_request(
        GetConnectionRequestRequest { id: 3, user_id: 1, }, { id: 0, user_id: -1, } => ["id", "user_id"]
    );
    requests.list_connection_requests(
        ListConnectionRequestsRequest { user_id: 1, direction: 1, }, { user_id: 0, } => ["user_id", "direction"]
    );
    connections.list_connections(ListConnectionsRequest { user_id: 1, }, { user_id: 0, } => ["user_id"]);
    connections.get_connection_status(
        GetConnectionStatusRequest { user_id: 1, other_user_id: 2, }, { user_id: 1, } => ["other_user_id"]
    );
    connections.batch_get_connection_statuses(
        BatchGetConnectionStatusesRequest { user_id: 1, other_user_ids: vec![2], }, { user_id: 1, } => ["other_user_ids"]
    );
    connections.get_connection_counts(GetConnectionCountsRequest { user_id: 1, }, { user_id: 0, } => ["user_id"]);
    connections.list_mutual_connections(
        ListMutualConnectionsRequest { user_id: 1, other_user_id: 2, }, { user_id: 1, } => ["other_user_id"]
    );
    blocks.list_blocked_users(ListBlockedUsersRequest { user_id: 1, }, { page_token: "x".to_owned(), user_id: 1, } => ["page_token"]);
    events.list_events(ListEventsRequest { viewer_user_id: 1, }, { after_sequence: -1, } => ["after_sequence"]);
    events.list_events(ListEventsRequest { page_size: 1, }, { user_id: 1, } => ["other_user_id"]);
}

/// Creates two users and a request: three revisions.
async fn three_revisions(clients: &Clients) {
    let (ann, bob) = (clients.user("ann").await, clients.user("bob").await);
    assert_eq!((ann, bob, clients.send(ann, bob).await), (1, 2, 3));
}

#[track_caller]
fn not_reached(result: Result<i64, Status>, revision: i64) {
    let details = refused(result, Code::Unavailable, ErrorReason::RevisionNotReached);
    assert_eq!(details.error_info().unwrap().metadata["revision"], revision.to_string());
}

cases! {
    async fn every_read_reflects_a_revision_that_is_reached(app: App) {
        three_revisions(&app).await;
        for min_revision in 0..=3 {
            for Outcome { rpc, result, .. } in read_all(&app, How::at(min_revision)).await {
                assert_eq!(result.unwrap_or_else(|status| panic!("{rpc}: {status:?}")), 3, "{rpc}");
            }
        }
    }

    async fn every_read_names_a_negative_revision_with_all_other_violations(app: App) {
        three_revisions(&app).await;
        for min_revision in [-1, i64::MIN] {
            for Outcome { rpc, result, .. } in read_all(&app, How::at(min_revision)).await {
                let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidFields);
                assert_eq!(fields(&details), ["min_revision"], "{rpc}");
            }
            let how = How { right: false, ..How::at(min_revision) };
            for Outcome { rpc, result, mut wrong, .. } in read_all(&app, how).await {
                let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidFields);
                let mut named = fields(&details);
                named.sort_unstable();
                wrong.push("min_revision");
                wrong.sort_unstable();
                assert_eq!(named, wrong, "{rpc}");
            }
        }
    }

    async fn every_read_refuses_the_epoch_of_another_feed(app: App) {
        three_revisions(&app).await;
        for min_revision in [0, 3] {
            for Outcome { rpc, result, .. } in read_all(&app, How { epoch: "another", ..How::at(min_revision) }).await {
                let details = refused(result, Code::FailedPrecondition, ErrorReason::WrongEpoch);
                let metadata = &details.error_info().unwrap().metadata;
                assert!(!metadata["epoch"].is_empty() && !metadata.contains_key("common_sequence"), "{rpc}: {metadata:?}");
            }
        }
    }

    async fn a_revision_that_is_not_reached_is_refused_while_the_caller_still_waits(app: App) {
        three_revisions(&app).await;
        // The second one depends on time: a service responds after three quarters of the deadline, and the client needs
        // the last quarter to receive the error. The deadline is as long as it can be without exceeding the first case.
        for (min_revision, timeout) in [(4, None), (i64::MAX, Some(Duration::from_millis(1_200)))] {
            let begun = Instant::now();
            for Outcome { result, .. } in read_all(&app, How { timeout, ..How::at(min_revision) }).await {
                // Not DEADLINE_EXCEEDED, which would not give the reason.
                not_reached(result, 3);
            }
            assert!(begun.elapsed() >= Duration::from_millis(if timeout.is_some() { 750 } else { 950 }));
        }
    }

    async fn not_found_is_not_returned_before_the_revision_is_reached(app: App) {
        three_revisions(&app).await;
        let get = |min_revision| pb::GetUserRequest { key: Some(Key::Username("cy".to_owned())), min_revision, ..Default::default() };
        refused(app.users().get_user(get(3)).await, Code::NotFound, ErrorReason::UserNotFound);
        let unknown = app.users().get_user(get(4)).await.map(|response| response.into_inner().revision);
        not_reached(unknown, 3);
        let counts = pb::GetConnectionCountsRequest { user_id: 99, min_revision: 4, ..Default::default() };
        let unknown = app.connections().get_connection_counts(counts).await.map(|response| response.into_inner().revision);
        not_reached(unknown, 3);
    }

    async fn a_page_token_may_be_used_with_another_revision(app: App) {
        three_revisions(&app).await;
        let first = pb::ListUsersRequest { page_size: 1, min_revision: 2, ..Default::default() };
        let page = app.users().list_users(first.clone()).await.unwrap().into_inner();
        let next = pb::ListUsersRequest { page_token: page.next_page_token, min_revision: 3, ..first };
        assert_eq!(app.users().list_users(next.clone()).await.unwrap().into_inner().users.len(), 1);
        let too_new = app.users().list_users(pb::ListUsersRequest { min_revision: 4, ..next }).await;
        not_reached(too_new.map(|response| response.into_inner().revision), 3);
        let first = pb::ListEventsRequest { page_size: 2, ..Default::default() };
        let page = app.events().list_events(first.clone()).await.unwrap().into_inner();
        let next = pb::ListEventsRequest { page_token: page.next_page_token, min_revision: 3, ..first };
        assert_eq!(app.events().list_events(next).await.unwrap().into_inner().events.len(), 1);
    }

    async fn a_waiting_read_returns_when_its_revision_is_committed(app: App) {
        three_revisions(&app).await;
        wait_for_a_commit(&app, &app).await;
    }
}

/// Reads through one service wait for a commit through another.
///
/// A read waits for one second at most. On a busy machine the commit may take longer. So a round may fail, but not most
/// of them: that does not depend on the duration of any single call.
async fn wait_for_a_commit(reads: &Clients, writes: &Clients) {
    const ROUNDS: i64 = 20;
    let mut late = 0;
    for next in 4..4 + ROUNDS {
        let waiting = tokio::spawn({
            let clients = reads.clone();
            async move { read_all(&clients, How::at(next)).await }
        });
        // A read with a short deadline gives up before the commit. The others still wait.
        let mut impatient =
            Request::new(pb::GetConnectionCountsRequest { user_id: 1, min_revision: next, ..Default::default() });
        impatient.set_timeout(Duration::from_millis(50));
        reads.connections().get_connection_counts(impatient).await.expect_err("a revision that is not committed yet");
        writes.update(1, &format!("revision {next}")).await;
        let outcomes = waiting.await.unwrap();
        late += i64::from(outcomes.iter().any(|outcome| outcome.result.is_err()));
        for Outcome { rpc, result, .. } in outcomes {
            match result {
                Ok(revision) => assert_eq!(revision, next, "{rpc}"),
                given_up => not_reached(given_up, next - 1),
            }
        }
    }
    assert!(late < ROUNDS / 2, "in {late} of {ROUNDS} rounds a read did not return after the commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_read_returns_when_another_server_commits() {
    let writes = App::start(Engine::Postgres).await;
    let reads = writes.another(|_| {}).await;
    three_revisions(&writes).await;
    wait_for_a_commit(&reads, &writes).await;
}

/// A caller that writes through one server and reads through another sees its own writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_shows_acknowledged_writes() {
    let one = App::start(Engine::Postgres).await;
    let other = one.another(|_| {}).await;
    three_revisions(&one).await;
    for round in 0..20 {
        let (writes, reads) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let bio = format!("round {round}");
        writes.update(1, &bio).await;
        let min_revision = writes.revision().await;
        let get = pb::GetUserRequest { key: Some(Key::Id(1)), min_revision, ..Default::default() };
        assert_eq!(reads.users().get_user(get).await.unwrap().into_inner().user.unwrap().bio, bio);
    }
}
