use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn request(user_id: i64) -> pb::MarkAllConnectionRequestsViewedRequest {
    pb::MarkAllConnectionRequestsViewedRequest { user_id, request_id: String::new() }
}

async fn mark_all(app: &App, user: i64) -> pb::MarkAllConnectionRequestsViewedResponse {
    app.requests().mark_all_connection_requests_viewed(request(user)).await.unwrap().into_inner()
}

cases! {
    async fn every_pending_request_to_the_user_is_viewed_and_no_other(app: App) {
        let [ann, bob, cy, dee, eve] = people(&app).await;
        let viewed = app.send(bob, ann).await;
        let earlier = app.mark_viewed(viewed, ann).await.unwrap().into_inner().connection_request.unwrap().viewed;
        app.clock.advance(chrono::TimeDelta::minutes(5));
        let (second, third) = (app.send(cy, ann).await, app.send(dee, ann).await);
        let sent = app.send(ann, eve).await;
        let elsewhere = app.send(cy, eve).await;
        app.block(ann, eve).await;
        app.unblock(ann, eve).await;
        let response = mark_all(&app, ann).await;
        assert_eq!((response.marked, response.revision), (2, app.revision().await));
        assert_eq!(app.counts(ann).await, [0, 3, 0, 0]);
        for id in [second, third] {
            let seen = app.request(id, ann).await.unwrap();
            assert_eq!(seen.viewed.unwrap().seconds, app.clock.now().timestamp());
        }
        assert_eq!(app.request(viewed, ann).await.unwrap().viewed, earlier);
        assert_eq!(app.request(elsewhere, eve).await.unwrap().viewed, None);
        refused(app.request(sent, ann).await, Code::NotFound, ErrorReason::RequestNotFound);
        let again = mark_all(&app, ann).await;
        assert_eq!(again, pb::MarkAllConnectionRequestsViewedResponse { marked: 0, ..response.clone() });
        assert_eq!(app.revision().await, response.revision);
    }

    async fn silenced_requests_are_left_alone(app: App) {
        let [ann, bob] = people(&app).await;
        app.block(ann, bob).await;
        let id = app.send(bob, ann).await;
        assert_eq!(mark_all(&app, ann).await.marked, 0);
        assert_eq!(app.request(id, 0).await.unwrap().viewed, None);
    }

    async fn requests_that_expired_are_not_counted(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.send(bob, ann).await;
        app.clock.advance(chrono::TimeDelta::days(179));
        app.send(cy, ann).await;
        app.clock.advance(chrono::TimeDelta::days(1));
        assert_eq!(mark_all(&app, ann).await.marked, 1);
        assert_eq!(app.counts(ann).await, [0, 1, 0, 0]);
    }

    async fn a_user_who_is_not_approved_may_still_view(app: App) {
        let [ann, bob] = people(&app).await;
        app.send(bob, ann).await;
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        assert_eq!(mark_all(&app, ann).await.marked, 1);
    }

    async fn the_user_must_exist(app: App) {
        let refusal = app.requests().mark_all_connection_requests_viewed(request(99)).await;
        let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::MarkAllConnectionRequestsViewedRequest { user_id: 0, request_id: "mine".to_owned() };
        let refusal = app.requests().mark_all_connection_requests_viewed(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.send(bob, ann).await;
        let (first, reused) = repeated!(
            app.requests().mark_all_connection_requests_viewed(request(ann)),
            other: request(bob),
            meanwhile: app.send(cy, ann).await
        );
        assert_eq!(first.marked, 1);
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.counts(ann).await, [0, 2, 1, 0]);
    }
}
