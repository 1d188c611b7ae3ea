use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus, ErrorReason, UserStatus};
use tonic::{Code, Response, Status};

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn request(user_id: i64, other_user_id: i64) -> pb::BlockUserRequest {
    pb::BlockUserRequest { user_id, other_user_id, request_id: String::new() }
}

async fn block(app: &App, user: i64, other: i64) -> Result<Response<pb::BlockUserResponse>, Status> {
    app.blocks().block_user(request(user, other)).await
}

cases! {
    async fn the_blocker_sees_the_block_and_the_other_nothing(app: App) {
        let [ann, bob] = people(&app).await;
        let before = app.revision().await;
        let response = block(&app, ann, bob).await.unwrap().into_inner();
        assert_eq!((response.status(), response.revision), (ConnectionStatus::Blocked, before + 1));
        let stands = response.block.unwrap();
        assert_eq!(stands.created.unwrap().seconds, app.clock.now().timestamp());
        assert_eq!(stands.user.unwrap().username, "bob");
        assert_eq!(app.status(ann, bob).await, ConnectionStatus::Blocked);
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::None);
    }

    async fn blocking_twice_changes_nothing(app: App) {
        let [ann, bob] = people(&app).await;
        let first = block(&app, ann, bob).await.unwrap().into_inner();
        app.clock.advance(chrono::TimeDelta::minutes(5));
        assert_eq!(block(&app, ann, bob).await.unwrap().into_inner(), first);
        assert_eq!(app.revision().await, first.revision);
    }

    async fn a_connection_ends(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.connect(ann, bob).await;
        let before = app.revision().await;
        block(&app, bob, ann).await.unwrap();
        assert_eq!(app.revision().await, before + 2);
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0; 4], [0; 4]));
        for viewer in [ann, bob, 0] {
            refused(app.request(id, viewer).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
    }

    async fn the_blockers_own_request_is_cancelled(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        block(&app, ann, bob).await.unwrap();
        refused(app.request(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0; 4], [0; 4]));
        // A rejected request leaves its cooldown.
        app.unblock(ann, bob).await;
        let id = app.send(ann, bob).await;
        app.reject(id, bob).await.unwrap();
        block(&app, ann, bob).await.unwrap();
        refused(app.request(id, bob).await, Code::NotFound, ErrorReason::RequestNotFound);
        assert_eq!(app.counts(ann).await, [0; 4]);
        app.unblock(ann, bob).await;
        let again = app.send(ann, bob).await;
        assert_eq!(app.request(again, 0).await.unwrap().state(), State::Silenced);
    }

    async fn a_request_to_the_blocker_is_silenced_and_its_sender_learns_nothing(app: App) {
        let [ann, bob] = people(&app).await;
        let id = app.send(ann, bob).await;
        let before = (app.request(id, ann).await.unwrap(), app.counts(ann).await, app.status(ann, bob).await);
        app.clock.advance(chrono::TimeDelta::minutes(5));
        block(&app, bob, ann).await.unwrap();
        let after = (app.request(id, ann).await.unwrap(), app.counts(ann).await, app.status(ann, bob).await);
        assert_eq!(after, before);
        let truth = app.request(id, 0).await.unwrap();
        assert_eq!((truth.state(), truth.rejected, truth.viewed), (State::Silenced, None, None));
        assert_eq!(app.counts(bob).await, [0; 4]);
    }

    async fn both_may_block_each_other(app: App) {
        let [ann, bob] = people(&app).await;
        block(&app, ann, bob).await.unwrap();
        block(&app, bob, ann).await.unwrap();
        app.unblock(ann, bob).await;
        assert_eq!(app.status(ann, bob).await, ConnectionStatus::None);
        assert_eq!(app.status(bob, ann).await, ConnectionStatus::Blocked);
    }

    async fn a_user_who_is_not_approved_may_still_block(app: App) {
        let [ann, bob] = people(&app).await;
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        app.moderate(bob, "bob", UserStatus::Unregistered).await;
        block(&app, ann, bob).await.unwrap();
    }

    async fn the_two_must_differ_and_exist(app: App) {
        let ann = app.user("ann").await;
        let details = refused(block(&app, ann, ann).await, Code::InvalidArgument, ErrorReason::SelfRequest);
        assert_eq!(fields(&details), ["other_user_id"]);
        for (who, other) in [(ann, 99), (99, ann)] {
            let details = refused(block(&app, who, other).await, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::BlockUserRequest { request_id: "mine".to_owned(), ..request(-1, 0) };
        let refusal = app.blocks().block_user(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "other_user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let (_, reused) = repeated!(
            app.blocks().block_user(request(ann, bob)),
            other: request(ann, cy),
            meanwhile: app.unblock(ann, bob).await
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.status(ann, bob).await, ConnectionStatus::None);
        assert_eq!(app.status(ann, cy).await, ConnectionStatus::None);
    }
}
