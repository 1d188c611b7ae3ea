use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(id: i64, user_id: i64) -> pb::MarkConnectionRequestViewedRequest {
    pb::MarkConnectionRequestViewedRequest { id, user_id, request_id: String::new() }
}

cases! {
    async fn the_first_view_wins(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let before = app.revision().await;
        let first = app.mark_viewed(id, bob).await.unwrap().into_inner();
        assert_eq!((first.status(), first.revision), (ConnectionStatus::RequestReceived, before + 1));
        let seen = first.connection_request.clone().unwrap();
        assert_eq!((seen.id, seen.state()), (id, State::Pending));
        assert_eq!(seen.viewed.unwrap().seconds, app.clock.now().timestamp());
        assert_eq!(app.counts(bob).await, [0, 1, 0, 0]);
        app.clock.advance(chrono::TimeDelta::minutes(5));
        assert_eq!(app.mark_viewed(id, bob).await.unwrap().into_inner(), first);
        assert_eq!(app.revision().await, first.revision);
        assert_eq!(app.request(id, bob).await.unwrap(), seen);
    }

    async fn the_sender_does_not_see_it(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let before = app.request(id, ann).await.unwrap();
        app.mark_viewed(id, bob).await.unwrap();
        assert_eq!(app.request(id, ann).await.unwrap(), before);
        assert!(app.request(id, 0).await.unwrap().viewed.is_some());
        // Nor after they are connected.
        app.accept(id, bob).await.unwrap();
        assert_eq!(app.request(id, ann).await.unwrap().viewed, None);
    }

    #[with(|settings| settings.policy.disclose_views = true)]
    async fn the_sender_sees_it_if_the_policy_discloses_it(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let viewed = app.mark_viewed(id, bob).await.unwrap().into_inner().connection_request.unwrap().viewed;
        assert!(viewed.is_some());
        assert_eq!(app.request(id, ann).await.unwrap().viewed, viewed);
    }

    async fn a_silenced_request_cannot_be_viewed(app: App) {
        let [ann, bob] = people(&app).await;
        app.block(bob, ann).await;
        let id = app.send(ann, bob).await;
        refused(app.mark_viewed(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        assert_eq!(app.request(id, 0).await.unwrap().viewed, None);
    }

    async fn only_the_receiver_views_and_nobody_else_learns_of_the_request(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        refused(app.mark_viewed(id, ann).await, Code::PermissionDenied, ErrorReason::NotTheReceiver);
        for (id, user) in [(id, cy), (id, 99), (id + 1, bob)] {
            refused(app.mark_viewed(id, user).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        app.cancel(id, ann).await.unwrap();
        refused(app.mark_viewed(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
    }

    async fn a_user_who_is_not_approved_may_still_view(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        app.moderate(bob, "bob", UserStatus::Blocked).await;
        app.mark_viewed(id, bob).await.unwrap();
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::MarkConnectionRequestViewedRequest { request_id: "mine".to_owned(), ..request(0, 0) };
        let refusal = app.requests().mark_connection_request_viewed(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["id", "user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let id = app.send(ann, bob).await;
        let other = app.send(cy, bob).await;
        let (_, reused) = repeated!(
            app.requests().mark_connection_request_viewed(request(id, bob)),
            other: request(other, bob),
            meanwhile: app.accept(id, bob).await.unwrap()
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.counts(bob).await, [0, 1, 1, 1]);
    }
}
