use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionStatus, ErrorReason, UserStatus};
use tonic::Code;

use super::{people, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(user_id: i64, other_user_id: i64) -> pb::RemoveConnectionRequest {
    pb::RemoveConnectionRequest { user_id, other_user_id, request_id: String::new() }
}

cases! {
    async fn either_side_ends_it_for_both(app: App) {
        let [ann, bob] = people(&app).await;
        for (who, other) in [(ann, bob), (bob, ann)] {
            let id = app.connect(ann, bob).await;
            let before = app.revision().await;
            let response = app.remove(who, other).await.unwrap().into_inner();
            assert_eq!((response.status(), response.revision), (ConnectionStatus::None, before + 1));
            assert_eq!((app.counts(ann).await, app.counts(bob).await), ([0; 4], [0; 4]));
            assert_eq!(app.status(other, who).await, ConnectionStatus::None);
            refused(app.request(id, 0).await, Code::NotFound, ErrorReason::RequestNotFound);
        }
        // A removal starts no cooldown: they may connect again.
        app.connect(bob, ann).await;
    }

    async fn without_a_connection_there_is_nothing_to_remove(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.send(ann, bob).await;
        let before = app.revision().await;
        for (who, other) in [(ann, bob), (bob, ann), (ann, cy)] {
            let details = refused(app.remove(who, other).await, Code::NotFound, ErrorReason::NotConnected);
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!((&metadata["user_id"], &metadata["other_user_id"]), (&who.to_string(), &other.to_string()));
        }
        assert_eq!(app.revision().await, before);
        app.connect(bob, cy).await;
        app.remove(bob, cy).await.unwrap();
        refused(app.remove(bob, cy).await, Code::NotFound, ErrorReason::NotConnected);
    }

    async fn a_user_who_is_not_approved_may_still_leave(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        app.moderate(ann, "ann", UserStatus::Blocked).await;
        app.moderate(bob, "bob", UserStatus::Unregistered).await;
        app.remove(ann, bob).await.unwrap();
    }

    async fn the_two_must_differ_and_exist(app: App) {
        let ann = app.user("ann").await;
        let details = refused(app.remove(ann, ann).await, Code::InvalidArgument, ErrorReason::SelfRequest);
        assert_eq!(fields(&details), ["other_user_id"]);
        for (who, other) in [(ann, 99), (99, ann)] {
            let details = refused(app.remove(who, other).await, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::RemoveConnectionRequest { request_id: "mine".to_owned(), ..request(0, -1) };
        let refusal = app.connections().remove_connection(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "other_user_id", "request_id"]);
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.connect(ann, bob).await;
        app.connect(ann, cy).await;
        let (_, reused) = repeated!(
            app.connections().remove_connection(request(ann, bob)),
            other: request(ann, cy),
            meanwhile: app.connect(bob, ann).await
        );
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.counts(ann).await, [0, 0, 0, 2]);
    }
}
