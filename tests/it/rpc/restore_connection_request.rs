use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn request(id: i64, user_id: i64) -> pb::RestoreConnectionRequestRequest {
    pb::RestoreConnectionRequestRequest { id, user_id, request_id: String::new() }
}

async fn rejected(app: &App, from: i64, to: i64) -> i64 {
    let id = app.send(from, to).await;
    app.reject(id, to).await.unwrap();
    id
}

cases! {
    async fn it_is_pending_again_with_its_first_times(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let rejected = app.reject(id, bob).await.unwrap().into_inner().connection_request.unwrap();
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let before = app.revision().await;
        let response = app.restore(id, bob).await.unwrap().into_inner();
        assert_eq!((response.status(), response.revision), (ConnectionStatus::RequestReceived, before + 1));
        let expected = pb::ConnectionRequest { state: State::Pending.into(), rejected: None, ..rejected };
        assert!(expected.viewed.is_some());
        assert_eq!(response.connection_request, Some(expected.clone()));
        assert_eq!(app.request(id, bob).await.unwrap(), expected);
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([1, 0, 0, 0], [0, 1, 0, 0]));
    }

    async fn a_request_born_rejected_comes_back_unviewed(app: App) {
        let [ann, bob] = people(&app).await;
        app.block(bob, ann).await;
        let id = app.send(ann, bob).await;
        app.unblock(bob, ann).await;
        let seen = app.restore(id, bob).await.unwrap().into_inner().connection_request.unwrap();
        assert_eq!((seen.state(), seen.viewed), (State::Pending, None));
        assert_eq!(app.counts(bob).await, [0, 1, 1, 0]);
    }

    async fn restoring_a_pending_request_changes_nothing(app: App) {
        let [ann, bob] = people(&app).await;
        let id = rejected(&app, ann, bob).await;
        let first = app.restore(id, bob).await.unwrap().into_inner();
        assert_eq!(app.restore(id, bob).await.unwrap().into_inner(), first);
        assert_eq!(app.revision().await, first.revision);
    }

    async fn only_the_receiver_restores_and_nobody_else_learns_of_the_request(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = rejected(&app, ann, bob).await;
        let refusal = app.restore(id, ann).await.unwrap_err();
        refused::<()>(Err(refusal.clone()), Code::PermissionDenied, ErrorReason::NotTheReceiver);
        for (id, user) in [(id, cy), (id, 99), (id + 1, bob)] {
            refused(app.restore(id, user).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        // The sender gets the same error whether there was a rejection or not.
        app.restore(id, bob).await.unwrap();
        let again = app.restore(id, ann).await.unwrap_err();
        assert_eq!((again.message(), again.details()), (refusal.message(), refusal.details()));
        app.reject(id, bob).await.unwrap();
        app.cancel(id, ann).await.unwrap();
        refused(app.restore(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
    }

    async fn a_connection_cannot_be_restored(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.connect(ann, bob).await;
        refused(app.restore(id, bob).await, Code::FailedPrecondition, ErrorReason::AlreadyConnected);
    }

    async fn the_receiver_must_be_approved_the_sender_need_not(app: App) {
        let [ann, bob] = people(&app).await;
        let id = rejected(&app, ann, bob).await;
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        for status in [UserStatus::Blocked, UserStatus::Unregistered] {
            app.moderate(bob, "bob", status).await;
            let details = refused(app.restore(id, bob).await, Code::FailedPrecondition, ErrorReason::UserNotApproved);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], bob.to_string());
        }
        app.moderate(bob, "bob", UserStatus::Approved).await;
        app.restore(id, bob).await.unwrap();
    }

    async fn a_block_of_ones_own_is_in_the_way(app: App) {
        let [ann, bob] = people(&app).await;
        let id = rejected(&app, ann, bob).await;
        app.block(bob, ann).await;
        let details = refused(app.restore(id, bob).await, Code::FailedPrecondition, ErrorReason::BlockedByYou);
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!((&metadata["user_id"], &metadata["other_user_id"]), (&bob.to_string(), &ann.to_string()));
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::RestoreConnectionRequestRequest { request_id: "mine".to_owned(), ..request(0, 0) };
        let refusal = app.requests().restore_connection_request(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["id", "user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let (id, other) = (rejected(&app, ann, bob).await, rejected(&app, cy, bob).await);
        let (_, reused) = repeated!(
            app.requests().restore_connection_request(request(id, bob)),
            other: request(other, bob),
            meanwhile: app.reject(id, bob).await.unwrap()
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::RequestRejected);
    }
}
