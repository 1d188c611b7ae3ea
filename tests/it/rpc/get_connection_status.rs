use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionStatus, ErrorReason};
use tonic::Code;

use super::people;
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

async fn status(app: &App, user_id: i64, other_user_id: i64) -> (ConnectionStatus, i64) {
    let request = pb::GetConnectionStatusRequest { user_id, other_user_id, ..Default::default() };
    let response = app.connections().get_connection_status(request).await.unwrap().into_inner();
    assert_eq!(response.revision, app.revision().await);
    (response.status(), response.connection_request_id)
}

cases! {
    async fn it_follows_the_life_of_a_pair_from_both_sides(app: App) {
        use ConnectionStatus::{Blocked, Connected, None, RequestReceived, RequestRejected, RequestSent};
        let [ann, bob] = people(&app).await;
        let both = async || (status(&app, ann, bob).await, status(&app, bob, ann).await);
        assert_eq!(both().await, ((None, 0), (None, 0)));
        let id = app.send(ann, bob).await;
        assert_eq!(both().await, ((RequestSent, id), (RequestReceived, id)));
        app.reject(id, bob).await.unwrap();
        assert_eq!(both().await, ((RequestSent, id), (RequestRejected, id)));
        app.accept(id, bob).await.unwrap();
        assert_eq!(both().await, ((Connected, id), (Connected, id)));
        app.block(bob, ann).await;
        assert_eq!(both().await, ((None, 0), (Blocked, 0)));
        let silenced = app.send(ann, bob).await;
        assert_eq!(both().await, ((RequestSent, silenced), (Blocked, 0)));
        app.unblock(bob, ann).await;
        assert_eq!(both().await, ((RequestSent, silenced), (RequestReceived, silenced)));
        app.reject(silenced, bob).await.unwrap();
        app.cancel(silenced, ann).await.unwrap();
        assert_eq!(both().await, ((None, 0), (None, 0)));
        // Within the cooldown.
        let silenced = app.send(ann, bob).await;
        assert_eq!(both().await, ((RequestSent, silenced), (None, 0)));
        app.cancel(silenced, ann).await.unwrap();
        assert_eq!(both().await, ((None, 0), (None, 0)));
        let second = app.send(ann, bob).await;
        app.clock.advance(chrono::TimeDelta::days(180));
        assert_eq!(both().await, ((None, 0), (None, 0)));
        assert!(second > silenced);
    }

    async fn one_is_oneself_and_a_stranger_is_nobody(app: App) {
        let ann = app.user("ann").await;
        assert_eq!(status(&app, ann, ann).await, (ConnectionStatus::Self_, 0));
        assert_eq!(status(&app, ann, 99).await, (ConnectionStatus::None, 0));
        assert_eq!(status(&app, 99, ann).await, (ConnectionStatus::None, 0));
        assert_eq!(status(&app, (1 << 53) - 1, 99).await, (ConnectionStatus::None, 0));
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::GetConnectionStatusRequest { user_id: 0, other_user_id: -1, ..Default::default() };
        let refusal = app.connections().get_connection_status(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "other_user_id"]);
    }
}
