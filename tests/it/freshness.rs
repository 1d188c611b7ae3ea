//! Does every read answer at the revision that its caller asks for, or say that it cannot?

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

/// What came of one read: the revision of its answer.
struct Asked {
    rpc: &'static str,
    answer: Result<i64, Status>,
    /// The fields that were wrong beside `min_revision`.
    wrong: Vec<&'static str>,
}

/// How the reads are asked.
#[derive(Clone, Copy)]
struct How {
    min_revision: i64,
    /// Whether the other fields are right.
    right: bool,
    timeout: Option<Duration>,
}

impl How {
    fn at(min_revision: i64) -> Self {
        Self { min_revision, right: true, timeout: None }
    }

    fn request<R>(self, right: R, wrong: R) -> Request<R> {
        let mut request = Request::new(if self.right { right } else { wrong });
        self.timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
        request
    }
}

macro_rules! reads {
    ($($client:ident.$method:ident($request:ident { $($right:tt)* }, { $($wrong:tt)* } => $fields:expr);)+) => {
        /// Asks every read of the API at the same time.
        #[expect(clippy::needless_update, reason = "some requests have no more fields than are given")]
        async fn ask_all(clients: &Clients, how: How) -> Vec<Asked> {
            let mut asked = JoinSet::new();
            $(
                let clients_of_call = clients.clone();
                asked.spawn(async move {
                    let min_revision = how.min_revision;
                    let right = pb::$request { $($right)* min_revision, ..Default::default() };
                    let wrong = pb::$request { $($wrong)* min_revision, ..Default::default() };
                    let answer = clients_of_call.$client().$method(how.request(right, wrong)).await;
                    let answer = answer.map(Response::into_inner).map(|answer| answer.revision);
                    Asked { rpc: stringify!($method), answer, wrong: $fields.to_vec() }
                });
            )+
            let asked = asked.join_all().await;
            assert_eq!(asked.len(), 13);
            asked
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

/// Two users and a request: three revisions.
async fn three_revisions(clients: &Clients) {
    let (ann, bob) = (clients.user("ann").await, clients.user("bob").await);
    assert_eq!((ann, bob, clients.send(ann, bob).await), (1, 2, 3));
}

#[track_caller]
fn not_reached(answer: Result<i64, Status>, revision: i64) {
    let details = refused(answer, Code::Unavailable, ErrorReason::RevisionNotReached);
    assert_eq!(details.error_info().unwrap().metadata["revision"], revision.to_string());
}

cases! {
    async fn every_read_answers_at_a_revision_that_is_reached(app: App) {
        three_revisions(&app).await;
        for min_revision in 0..=3 {
            for Asked { rpc, answer, .. } in ask_all(&app, How::at(min_revision)).await {
                assert_eq!(answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}")), 3, "{rpc}");
            }
        }
    }

    async fn every_read_names_a_negative_revision_with_all_else_that_is_wrong(app: App) {
        three_revisions(&app).await;
        for min_revision in [-1, i64::MIN] {
            for Asked { rpc, answer, .. } in ask_all(&app, How::at(min_revision)).await {
                let details = refused(answer, Code::InvalidArgument, ErrorReason::InvalidFields);
                assert_eq!(fields(&details), ["min_revision"], "{rpc}");
            }
            let how = How { right: false, ..How::at(min_revision) };
            for Asked { rpc, answer, mut wrong } in ask_all(&app, how).await {
                let details = refused(answer, Code::InvalidArgument, ErrorReason::InvalidFields);
                let mut named = fields(&details);
                named.sort_unstable();
                wrong.push("min_revision");
                wrong.sort_unstable();
                assert_eq!(named, wrong, "{rpc}");
            }
        }
    }

    async fn a_revision_that_is_not_reached_is_refused_while_the_caller_still_waits(app: App) {
        three_revisions(&app).await;
        for (min_revision, timeout) in [(4, None), (i64::MAX, Some(Duration::from_millis(400)))] {
            let begun = Instant::now();
            for Asked { answer, .. } in ask_all(&app, How { timeout, ..How::at(min_revision) }).await {
                // Not DEADLINE_EXCEEDED: that would not say why.
                not_reached(answer, 3);
            }
            assert!(begun.elapsed() >= Duration::from_millis(if timeout.is_some() { 250 } else { 950 }));
        }
    }

    async fn what_does_not_exist_is_not_denied_before_its_revision_is_reached(app: App) {
        three_revisions(&app).await;
        let get = |min_revision| pb::GetUserRequest { key: Some(Key::Username("cy".to_owned())), min_revision, ..Default::default() };
        refused(app.users().get_user(get(3)).await, Code::NotFound, ErrorReason::UserNotFound);
        let unknown = app.users().get_user(get(4)).await.map(|answer| answer.into_inner().revision);
        not_reached(unknown, 3);
        let counts = pb::GetConnectionCountsRequest { user_id: 99, min_revision: 4 };
        let unknown = app.connections().get_connection_counts(counts).await.map(|answer| answer.into_inner().revision);
        not_reached(unknown, 3);
    }

    async fn a_page_token_may_be_used_with_another_revision(app: App) {
        three_revisions(&app).await;
        let first = pb::ListUsersRequest { page_size: 1, min_revision: 2, ..Default::default() };
        let page = app.users().list_users(first.clone()).await.unwrap().into_inner();
        let next = pb::ListUsersRequest { page_token: page.next_page_token, min_revision: 3, ..first };
        assert_eq!(app.users().list_users(next.clone()).await.unwrap().into_inner().users.len(), 1);
        let too_new = app.users().list_users(pb::ListUsersRequest { min_revision: 4, ..next }).await;
        not_reached(too_new.map(|answer| answer.into_inner().revision), 3);
        let first = pb::ListEventsRequest { page_size: 2, ..Default::default() };
        let page = app.events().list_events(first.clone()).await.unwrap().into_inner();
        let next = pb::ListEventsRequest { page_token: page.next_page_token, min_revision: 3, ..first };
        assert_eq!(app.events().list_events(next).await.unwrap().into_inner().events.len(), 1);
    }

    async fn a_read_that_waits_is_answered_when_its_revision_comes(app: App) {
        three_revisions(&app).await;
        wait_for_a_commit(&app, &app).await;
    }
}

/// Reads through one service wait for what is committed through another.
async fn wait_for_a_commit(reads: &Clients, writes: &Clients) {
    for round in 0..20 {
        let next = 4 + round;
        let waiting = tokio::spawn({
            let clients = reads.clone();
            async move { ask_all(&clients, How::at(next)).await }
        });
        // One with less patience gives up: those asked before it still wait.
        let counts = pb::GetConnectionCountsRequest { user_id: 1, min_revision: next };
        let mut impatient = Request::new(counts);
        impatient.set_timeout(Duration::from_millis(400));
        let gave_up = reads.connections().get_connection_counts(impatient).await;
        not_reached(gave_up.map(|answer| answer.into_inner().revision), next - 1);
        let begun = Instant::now();
        writes.update(1, &format!("round {round}")).await;
        if begun.elapsed() > Duration::from_millis(500) {
            // The machine is so busy that they may have given up too.
            _ = waiting.await.unwrap();
            continue;
        }
        let committed = Instant::now();
        for Asked { rpc, answer, .. } in waiting.await.unwrap() {
            assert_eq!(answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}")), next, "{rpc}");
        }
        println!("answered {:?} after the commit", committed.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_waits_is_answered_when_another_server_commits() {
    let writes = App::start(Engine::Postgres).await;
    let reads = writes.another(|_| {}).await;
    three_revisions(&writes).await;
    wait_for_a_commit(&reads, &writes).await;
}

/// A caller writes through one server and reads through another: they see what they wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_acknowledged_another_shows() {
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
