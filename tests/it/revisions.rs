//! What the revisions of a user are who calls with a credential of their own: they say nothing of what the user may not
//! see, and do what revisions are for.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use kith::domain::policy::Policy;
use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use kith::store::{self, Servers};
use tonic::Code;

use crate::cases;
use crate::freshness::{How, Outcome, read_all};
use crate::harness::app::described;
use crate::harness::clients::Clients;
use crate::harness::watching::{from, now, sequences};
use crate::harness::{App, refused};
use crate::rpc::full_user;

const ANN: i64 = 1;
const BOB: i64 = 2;
const CY: i64 = 3;

/// Ann, Bob and Cy, and a request from Ann to Bob. Returns its id: the newest event that Ann may see.
async fn sent(app: &App) -> i64 {
    for id in [ANN, BOB] {
        app.create(id).await.expect("a user");
    }
    let request = app.send(ANN, BOB).await;
    app.create(CY).await.expect("a user");
    request
}

/// The revisions of all reads that a user can make. Some are for operators.
async fn revisions(ann: &Clients) -> Vec<i64> {
    let read = read_all(ann, How::at(0)).await;
    let of_users = read.into_iter().filter(|read| !["list_users", "export_relations"].contains(&read.rpc));
    of_users.map(|Outcome { rpc, result, .. }| result.unwrap_or_else(|status| panic!("{rpc}: {status:?}"))).collect()
}

/// Bob rejects Ann's request, restores it, and blocks her; and much happens between others.
async fn much_in_secret(app: &App, request: i64) {
    app.reject(request, BOB).await.expect("a rejection");
    app.restore(request, BOB).await.expect("a request");
    app.block(BOB, ANN).await;
    app.connect(BOB, CY).await;
}

/// More of it, which can happen any number of times.
async fn more_in_secret(app: &App) {
    app.unblock(BOB, ANN).await;
    app.block(BOB, ANN).await;
    app.remove(BOB, CY).await.expect("a connection");
    app.connect(BOB, CY).await;
}

async fn counts_revision(clients: &Clients, min_revision: i64) -> Result<i64, tonic::Status> {
    let request = pb::GetConnectionCountsRequest { min_revision, ..Default::default() };
    Ok(clients.connections().get_connection_counts(request).await?.into_inner().revision)
}

cases! {
    async fn a_users_revision_moves_with_what_they_may_see_and_with_nothing_else(app: App) {
        let request = sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        assert!(revisions(&ann).await.iter().all(|revision| *revision == request));
        much_in_secret(&app, request).await;
        assert!(revisions(&ann).await.iter().all(|revision| *revision == request));
        // A write that changes nothing.
        let marked = pb::MarkAllConnectionRequestsViewedRequest::default();
        let marked = ann.requests().mark_all_connection_requests_viewed(marked).await.unwrap().into_inner();
        assert_eq!(marked.revision, request);
        // Another one, and what others do before her eyes.
        let end = app.revision().await;
        let to_cy = ann.try_send(ANN, CY).await.unwrap().into_inner();
        assert_eq!(to_cy.revision, end + 1);
        assert!(revisions(&ann).await.iter().all(|revision| *revision == end + 1));
        app.accept(to_cy.connection_request.unwrap().id, CY).await.unwrap();
        app.update(ANN, "hello").await;
        assert!(revisions(&ann).await.iter().all(|revision| *revision == end + 3));
        let updated = pb::UpdateUserRequest {
            user: Some(pb::User { id: ANN, bio: "hello".to_owned(), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["bio".to_owned()] }),
            ..Default::default()
        };
        more_in_secret(&app).await;
        assert_eq!(ann.users().update_user(updated).await.unwrap().into_inner().revision, end + 3);
    }

    async fn a_user_reads_what_they_wrote_and_cannot_ask_where_the_feed_ends(app: App) {
        let request = sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        assert_eq!(counts_revision(&ann, request).await.unwrap(), request);
        much_in_secret(&app, request).await;
        for later in [request + 1, app.revision().await, app.revision().await + 1] {
            let details = refused(counts_revision(&ann, later).await, Code::Unavailable, ErrorReason::RevisionNotReached);
            assert_eq!(details.error_info().unwrap().metadata["revision"], request.to_string());
        }
    }

    async fn a_user_cannot_ask_where_an_epoch_ended(app: App) {
        let request = sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        let counts = |min_revision, min_revision_epoch| {
            pb::GetConnectionCountsRequest { min_revision, min_revision_epoch, ..Default::default() }
        };
        let epoch = ann.connections().get_connection_counts(counts(0, String::new())).await.unwrap().into_inner().epoch;
        much_in_secret(&app, request).await;
        let end = app.revision().await;
        store::restore_epoch(&app.database.url(), Servers::Ignored).await.expect("a new epoch");
        more_in_secret(&app).await;
        let read = ann.connections().get_connection_counts(counts(request, epoch.clone())).await.unwrap().into_inner();
        assert_eq!(read.revision, request);
        assert_ne!(read.epoch, epoch);
        let list = pb::ListEventsRequest { after_sequence: request, epoch: epoch.clone(), ..Default::default() };
        assert_eq!(ann.list_events(list).await, []);
        let mut told = BTreeSet::new();
        for later in [request + 1, end - 1, end, end + 1, app.revision().await, app.revision().await + 1] {
            let read = ann.connections().get_connection_counts(counts(later, epoch.clone())).await.map(drop);
            let list = pb::ListEventsRequest { after_sequence: later, epoch: epoch.clone(), ..Default::default() };
            let list = ann.events().list_events(list).await.map(drop);
            let watch = pb::WatchEventsRequest { epoch: epoch.clone(), ..from(later, 100) };
            let watch = ann.try_watch(watch).await.map(drop);
            for (call, result) in [("read", read), ("list", list), ("watch", watch)] {
                told.insert((call, described(result.as_ref().expect_err("a refusal"))));
                let details = refused(result, Code::FailedPrecondition, ErrorReason::WrongEpoch);
                assert_eq!(details.error_info().unwrap().metadata["common_sequence"], request.to_string(), "{call} {later}");
            }
        }
        assert_eq!(told.len(), 3, "{told:#?}");
    }

    async fn a_repeated_call_of_a_user_has_the_first_response(app: App) {
        sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        let request_id = uuid::Uuid::from_u128(7).to_string();
        let send = pb::SendConnectionRequestRequest { to_user_id: CY, request_id, ..Default::default() };
        let first = ann.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
        app.reject(first.connection_request.as_ref().unwrap().id, CY).await.unwrap();
        assert_eq!(ann.requests().send_connection_request(send).await.unwrap().into_inner(), first);
    }

    async fn a_user_lists_and_watches_without_a_gap_and_without_a_hint(app: App) {
        let request = sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        much_in_secret(&app, request).await;
        for from_now in [false, true] {
            let listed = counts_revision(&ann, 0).await.unwrap();
            let start = if from_now { now(100) } else { from(listed, 100) };
            let mut watching = ann.try_watch(start).await.unwrap();
            assert_eq!(watching.next().await.revision, listed);
            more_in_secret(&app).await;
            // Two heartbeats later, the watch has read all of it.
            assert_eq!((watching.next().await.revision, watching.next().await.revision), (listed, listed));
            app.update(ANN, &format!("bio {}", app.revision().await)).await;
            let told = watching.next_events().await;
            let end = app.revision().await;
            assert_eq!((sequences(&told.events), told.revision), (vec![end], end));
            assert_eq!(watching.next().await.revision, end);
        }
    }

    async fn a_users_cursor_is_one_that_they_were_told(app: App) {
        let request = sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        much_in_secret(&app, request).await;
        let list = |after_sequence| pb::ListEventsRequest { after_sequence, ..Default::default() };
        for after in [0, ANN, request] {
            let listed = ann.events().list_events(list(after)).await.unwrap().into_inner();
            assert_eq!((sequences(&listed.events).last().copied().unwrap_or(request), listed.revision), (request, request));
        }
        let end = app.revision().await;
        for later in [request + 1, end, end + 1] {
            refused(ann.events().list_events(list(later)).await, Code::FailedPrecondition, ErrorReason::WrongEpoch);
            let watching = ann.try_watch(from(later, 100)).await.map(drop);
            refused(watching, Code::FailedPrecondition, ErrorReason::WrongEpoch);
        }
    }

    async fn what_a_setting_discloses_only_later_is_a_cursor_too(app: App) {
        let request = sent(&app).await;
        app.reject(request, BOB).await.unwrap();
        let rejected = app.revision().await;
        let policy = Policy { disclose_rejections: true, ..Policy::default() };
        let ann = app.as_user(ANN, policy).await;
        let listed = ann.list_events(pb::ListEventsRequest::default()).await;
        assert_eq!(sequences(&listed).last(), Some(&rejected));
        let after = pb::ListEventsRequest { after_sequence: rejected, ..Default::default() };
        assert_eq!(ann.list_events(after).await, []);
        assert_eq!(ann.watch(from(rejected, 100)).await.next().await.revision, rejected);
    }

    async fn a_user_whose_events_are_no_longer_retained_misses_none(app: App) {
        let request = sent(&app).await;
        let ann = app.as_user(ANN, Policy::default()).await;
        app.clock.advance(TimeDelta::days(31));
        app.block(BOB, CY).await;
        app.swept(Policy::default()).await;
        let revision = counts_revision(&ann, 0).await.unwrap();
        assert_eq!(revision, request, "the event is no longer stored");
        let mut watching = ann.watch(from(revision, 100)).await;
        let after = |after_sequence| pb::ListEventsRequest { after_sequence, ..Default::default() };
        assert_eq!(ann.list_events(after(revision)).await, []);
        app.update(ANN, "here").await;
        let end = app.revision().await;
        assert_eq!(sequences(&watching.next_events().await.events), [end]);
        // An older one may have missed something. Where the feed begins now is nobody's business.
        for cursor in [ANN, request] {
            let details = refused(ann.events().list_events(after(cursor)).await, Code::OutOfRange, ErrorReason::CursorExpired);
            assert!(details.error_info().unwrap().metadata.is_empty());
            let details = refused(ann.try_watch(from(cursor, 100)).await.map(drop), Code::OutOfRange, ErrorReason::CursorExpired);
            assert!(details.error_info().unwrap().metadata.is_empty());
        }
    }

    async fn the_responses_to_a_users_writes_show_others_as_the_basic_view_does(app: App) {
        for id in [ANN, BOB] {
            let user = Some(full_user(id, &format!("user-{id}")));
            app.users().create_user(pb::CreateUserRequest { user, ..Default::default() }).await.unwrap();
        }
        let ann = app.as_user(ANN, Policy::default()).await;
        let send = pb::SendConnectionRequestRequest {
            to_user_id: BOB,
            request_id: uuid::Uuid::from_u128(7).to_string(),
            ..Default::default()
        };
        let first = ann.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
        let again = ann.requests().send_connection_request(send).await.unwrap().into_inner();
        assert_eq!(first, again);
        let request = first.connection_request.unwrap();
        let (own, other) = (request.from_user.unwrap(), request.to_user.unwrap());
        let basic = |user: pb::User| pb::User {
            id: user.id,
            username: user.username,
            real_name: user.real_name,
            avatar: user.avatar,
            status: user.status,
            external_id: user.external_id,
            ..Default::default()
        };
        assert_eq!((own, other), (full_user(ANN, "user-1"), basic(full_user(BOB, "user-2"))));
        let block = pb::BlockUserRequest { other_user_id: BOB, ..Default::default() };
        let blocked = ann.blocks().block_user(block).await.unwrap().into_inner().block.unwrap().user.unwrap();
        assert_eq!(blocked, basic(full_user(BOB, "user-2")));
    }
}
