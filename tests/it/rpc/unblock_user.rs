use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionStatus, ErrorReason, UserStatus};
use tonic::{Code, Response, Status};

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn request(user_id: i64, other_user_id: i64) -> pb::UnblockUserRequest {
    pb::UnblockUserRequest { user_id, other_user_id, request_id: String::new() }
}

async fn unblock(app: &App, user: i64, other: i64) -> Result<Response<pb::UnblockUserResponse>, Status> {
    app.blocks().unblock_user(request(user, other)).await
}

cases! {
    async fn nothing_is_restored(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        app.block(ann, bob).await;
        let before = app.revision().await;
        let response = unblock(&app, ann, bob).await.unwrap().into_inner();
        assert_eq!((response.status(), response.revision), (ConnectionStatus::None, before + 1));
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0; 4], [0; 4]));
        app.connect(ann, bob).await;
    }

    async fn a_request_that_came_during_the_block_is_pending(app: App) {
        let [ann, bob] = people(&app).await;
        app.block(ann, bob).await;
        let id = app.send(bob, ann).await;
        assert_eq!(unblock(&app, ann, bob).await.unwrap().into_inner().status(), ConnectionStatus::RequestReceived);
        app.accept(id, ann).await.unwrap();
    }

    async fn only_the_blocking_user_unblocks_and_the_other_learns_nothing(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.block(ann, bob).await;
        let before = app.revision().await;
        for (who, other) in [(bob, ann), (cy, ann), (ann, cy)] {
            let details = refused(unblock(&app, who, other).await, Code::NotFound, ErrorReason::NotBlocked);
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!((&metadata["user_id"], &metadata["other_user_id"]), (&who.to_string(), &other.to_string()));
        }
        assert_eq!(app.revision().await, before);
        assert_eq!(app.status(ann, bob).await, ConnectionStatus::Blocked);
    }

    async fn unblocking_twice_finds_no_block(app: App) {
        let [ann, bob] = people(&app).await;
        app.block(ann, bob).await;
        unblock(&app, ann, bob).await.unwrap();
        refused(unblock(&app, ann, bob).await, Code::NotFound, ErrorReason::NotBlocked);
    }

    async fn a_user_who_is_not_approved_may_still_unblock(app: App) {
        let [ann, bob] = people(&app).await;
        app.block(ann, bob).await;
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        unblock(&app, ann, bob).await.unwrap();
    }

    async fn the_two_must_differ_and_exist(app: App) {
        let ann = app.user("ann").await;
        let details = refused(unblock(&app, ann, ann).await, Code::InvalidArgument, ErrorReason::SelfRequest);
        assert_eq!(fields(&details), ["other_user_id"]);
        for (who, other) in [(ann, 99), (99, ann)] {
            let details = refused(unblock(&app, who, other).await, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::UnblockUserRequest { request_id: "mine".to_owned(), ..request(0, -1) };
        let refusal = app.blocks().unblock_user(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "other_user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.block(ann, bob).await;
        app.block(ann, cy).await;
        let (_, reused) = repeated!(
            app.blocks().unblock_user(request(ann, bob)),
            other: request(ann, cy),
            meanwhile: app.block(ann, bob).await
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.status(ann, bob).await, ConnectionStatus::Blocked);
        assert_eq!(app.status(ann, cy).await, ConnectionStatus::Blocked);
    }
}
