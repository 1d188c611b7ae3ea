use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use tonic::Code;

use super::people;
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn of(user_id: i64) -> pb::GetConnectionCountsRequest {
    pb::GetConnectionCountsRequest { user_id, ..Default::default() }
}

cases! {
    async fn they_follow_every_change(app: App) {
        let [ann, bob] = people(&app).await;
        let both = async || (app.counts(ann).await, app.counts(bob).await);
        assert_eq!(both().await, ([0; 4], [0; 4]));
        let id = app.send(ann, bob).await;
        assert_eq!(both().await, ([1, 0, 0, 0], [0, 1, 1, 0]));
        app.mark_viewed(id, bob).await.unwrap();
        assert_eq!(both().await, ([1, 0, 0, 0], [0, 1, 0, 0]));
        app.reject(id, bob).await.unwrap();
        assert_eq!(both().await, ([1, 0, 0, 0], [0; 4]));
        app.restore(id, bob).await.unwrap();
        assert_eq!(both().await, ([1, 0, 0, 0], [0, 1, 0, 0]));
        app.accept(id, bob).await.unwrap();
        assert_eq!(both().await, ([0, 0, 0, 1], [0, 0, 0, 1]));
        app.block(bob, ann).await;
        assert_eq!(both().await, ([0; 4], [0; 4]));
        let unseen = app.send(ann, bob).await;
        assert_eq!(both().await, ([1, 0, 0, 0], [0; 4]));
        app.cancel(unseen, ann).await.unwrap();
        assert_eq!(both().await, ([0; 4], [0; 4]));
    }

    async fn expired_requests_do_not_count(app: App) {
        let [ann, bob, cy] = people(&app).await;
        app.send(ann, bob).await;
        let rejected = app.send(ann, cy).await;
        app.reject(rejected, cy).await.unwrap();
        app.send(cy, bob).await;
        app.clock.advance(chrono::TimeDelta::days(179));
        app.accept(rejected, cy).await.unwrap();
        assert_eq!(app.counts(ann).await, [1, 0, 0, 1]);
        app.clock.advance(chrono::TimeDelta::days(1));
        assert_eq!(app.counts(ann).await, [0, 0, 0, 1]);
        assert_eq!(app.counts(bob).await, [0; 4]);
        assert_eq!(app.counts(cy).await, [0, 0, 0, 1]);
        // They are not subtracted again when a change deletes them.
        app.send(ann, bob).await;
        assert_eq!((app.counts(ann).await, app.counts(bob).await), ([1, 0, 0, 1], [0, 1, 1, 0]));
    }

    async fn they_are_as_new_as_their_revision(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        let response = app.connections().get_connection_counts(of(ann)).await.unwrap().into_inner();
        let revision = app.revision().await;
        let limits = response.limits;
        assert_eq!(response, pb::GetConnectionCountsResponse { connections: 1, revision, epoch: response.epoch.clone(), limits, ..Default::default() });
    }

    #[with(|settings| {
        settings.policy.max_sent_requests = Some(7);
        settings.policy.max_connections = None;
        settings.policy.max_sends_per_hour = Some(3);
    })]
    async fn they_have_the_limits_of_the_server(app: App) {
        let [ann] = people(&app).await;
        let response = app.connections().get_connection_counts(of(ann)).await.unwrap().into_inner();
        let expected = pb::ConnectionLimits { requests_sent: 7, connections: 0, sends_per_hour: 3 };
        assert_eq!(response.limits, Some(expected));
    }

    async fn the_user_must_exist(app: App) {
        let refusal = app.connections().get_connection_counts(of(99)).await;
        let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
    }

    async fn the_id_must_be_right(app: App) {
        for id in [0, -1] {
            let refusal = app.connections().get_connection_counts(of(id)).await;
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["user_id"]);
        }
    }
}
