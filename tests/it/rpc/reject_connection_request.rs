use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(id: i64, user_id: i64) -> pb::RejectConnectionRequestRequest {
    pb::RejectConnectionRequestRequest { id, user_id, request_id: String::new() }
}

cases! {
    async fn the_receiver_sees_it_rejected_and_viewed(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let before = app.revision().await;
        let response = app.reject(id, bob).await.unwrap().into_inner();
        assert_eq!((response.status(), response.revision), (ConnectionStatus::RequestRejected, before + 2));
        let seen = response.connection_request.unwrap();
        assert_eq!((seen.id, seen.state(), seen.accepted), (id, State::Rejected, None));
        assert_eq!(seen.rejected.unwrap().seconds, app.clock.now().timestamp());
        assert_eq!(seen.viewed, seen.rejected);
        assert_eq!(app.request(id, bob).await.unwrap(), seen);
        assert_eq!(app.request(id, 0).await.unwrap(), seen);
        assert_eq!(app.counts(bob).await, [0; 4]);
    }

    async fn the_sender_sees_what_they_saw_before(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let before = (app.request(id, ann).await.unwrap(), app.counts(ann).await, app.status(ann, bob).await);
        app.clock.advance(chrono::TimeDelta::minutes(5));
        app.reject(id, bob).await.unwrap();
        let after = (app.request(id, ann).await.unwrap(), app.counts(ann).await, app.status(ann, bob).await);
        assert_eq!(after, before);
        assert_eq!((after.0.state(), after.0.rejected, after.0.viewed), (State::Pending, None, None));
    }

    #[with(|settings| settings.policy.disclose_rejections = true)]
    async fn the_sender_sees_it_if_the_policy_discloses_it(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.unwrap();
        let seen = app.request(id, ann).await.unwrap();
        assert_eq!((seen.state(), seen.rejected.is_some(), seen.viewed), (State::Rejected, true, None));
    }

    async fn rejecting_twice_changes_nothing(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let first = app.reject(id, bob).await.unwrap().into_inner();
        app.clock.advance(chrono::TimeDelta::minutes(5));
        assert_eq!(app.reject(id, bob).await.unwrap().into_inner(), first);
        assert_eq!(app.revision().await, first.revision);
    }

    async fn only_the_receiver_rejects_and_nobody_else_learns_of_the_request(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        refused(app.reject(id, ann).await, Code::PermissionDenied, ErrorReason::NotTheReceiver);
        for (id, user) in [(id, cy), (id, 99), (id + 1, bob)] {
            refused(app.reject(id, user).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        app.cancel(id, ann).await.unwrap();
        refused(app.reject(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
    }

    async fn a_connection_cannot_be_rejected(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.connect(ann, bob).await;
        let details = refused(app.reject(id, bob).await, Code::FailedPrecondition, ErrorReason::AlreadyConnected);
        assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
    }

    async fn a_user_who_is_not_approved_may_still_reject(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.moderate(bob, "bob", UserStatus::Blocked).await;
        app.moderate(ann, "ann", UserStatus::Unregistered).await;
        app.reject(id, bob).await.unwrap();
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::RejectConnectionRequestRequest { request_id: "mine".to_owned(), ..request(-1, 0) };
        let refusal = app.requests().reject_connection_request(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["id", "user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        let other = app.send(cy, bob).await;
        let (_, reused) = repeated!(
            app.requests().reject_connection_request(request(id, bob)),
            other: request(other, bob),
            meanwhile: app.accept(id, bob).await.unwrap()
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::Connected);
    }
}
