use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(id: i64, user_id: i64) -> pb::CancelConnectionRequestRequest {
    pb::CancelConnectionRequestRequest { id, user_id, request_id: String::new() }
}

cases! {
    async fn the_request_is_gone_for_everyone(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let before = app.revision().await;
        let response = app.cancel(id, ann).await.unwrap().into_inner();
        assert_eq!(response.connection_request, None);
        assert_eq!((response.status(), response.revision), (ConnectionStatus::None, before + 1));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0; 4], [0; 4]));
        for viewer in [ann, bob, 0] {
            refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::None);
        refused(app.cancel(id, ann).await, Code::NotFound, ErrorReason::RequestNotFound);
        assert!(app.send(ann, bob).await > id);
        assert_eq!(app.counts(bob).await, [0, 1, 1, 0]);
    }

    async fn the_wait_after_a_rejection_goes_on_unnoticed(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.unwrap();
        app.clock.advance(chrono::TimeDelta::days(29));
        let response = app.cancel(id, ann).await.unwrap().into_inner();
        assert_eq!((response.connection_request, response.status), (None, ConnectionStatus::None.into()));
        for viewer in [ann, bob, 0] {
            refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        let second = app.send(ann, bob).await;
        assert_eq!(app.request(second, ann).await.unwrap().state(), State::Pending);
        refused(app.request(second, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        assert_eq!(app.request(second, 0).await.unwrap().state(), State::Silenced);
        assert_eq!(app.counts(bob).await, [0; 4]);
        app.cancel(second, ann).await.unwrap();
        app.clock.advance(chrono::TimeDelta::days(1));
        let third = app.send(ann, bob).await;
        assert_eq!(app.request(third, bob).await.unwrap().state(), State::Pending);
    }

    #[with(|settings| settings.policy.cooldown = None)]
    async fn without_a_cooldown_there_is_no_wait(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.unwrap();
        app.cancel(id, ann).await.unwrap();
        let second = app.send(ann, bob).await;
        assert_eq!(app.request(second, bob).await.unwrap().state(), State::Pending);
    }

    async fn only_the_sender_cancels_and_nobody_else_learns_of_the_request(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        let details = refused(app.cancel(id, bob).await, Code::PermissionDenied, ErrorReason::NotTheSender);
        assert_eq!(details.error_info().unwrap().metadata["connection_request_id"], id.to_string());
        for (id, user) in [(id, cy), (id, 99), (id + 1, ann)] {
            refused(app.cancel(id, user).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
    }

    async fn a_connection_cannot_be_cancelled(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.connect(ann, bob).await;
        refused(app.cancel(id, ann).await, Code::FailedPrecondition, ErrorReason::AlreadyConnected);
        assert_eq!(app.counts(ann).await, [0, 0, 0, 1]);
    }

    async fn a_user_who_is_not_approved_may_still_cancel(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        app.cancel(id, ann).await.unwrap();
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::CancelConnectionRequestRequest { request_id: "mine".to_owned(), ..request(0, 0) };
        let refusal = app.requests().cancel_connection_request(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["id", "user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        let other = app.send(ann, cy).await;
        let (_, reused) = repeated!(
            app.requests().cancel_connection_request(request(id, ann)),
            other: request(other, ann),
            meanwhile: app.send(ann, bob).await
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.counts(ann).await, [2, 0, 0, 0]);
    }
}
