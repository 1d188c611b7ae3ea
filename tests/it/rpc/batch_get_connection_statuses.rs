use kith::proto::v1 as pb;
use kith::proto::v1::{ConnectionStatus, ErrorReason};
use tonic::Code;

use super::people;
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn request(user_id: i64, other_user_ids: Vec<i64>) -> pb::BatchGetConnectionStatusesRequest {
    pb::BatchGetConnectionStatusesRequest { user_id, other_user_ids, ..Default::default() }
}

cases! {
    async fn statuses_are_in_the_order_of_the_ids_and_equal_single_ones(app: App) {
        use ConnectionStatus::{Blocked, Connected, None, RequestReceived, RequestRejected, RequestSent, Self_};
        let [ann, bob, cy, dee, eve, fay, gus] = people(&app).await;
        let sent = app.send(ann, bob).await;
        let received = app.send(cy, ann).await;
        let rejected = app.send(dee, ann).await;
        app.reject(rejected, ann).await.unwrap();
        let connected = app.connect(eve, ann).await;
        app.block(ann, fay).await;
        app.block(gus, ann).await;
        let refused_unseen = app.send(ann, gus).await;
        let expected = [
            (99, None, 0),
            (fay, Blocked, 0),
            (bob, RequestSent, sent),
            (cy, RequestReceived, received),
            (ann, Self_, 0),
            (dee, RequestRejected, rejected),
            (eve, Connected, connected),
            (gus, RequestSent, refused_unseen),
            (bob, RequestSent, sent),
        ];
        let ids = expected.iter().map(|(id, ..)| *id).collect();
        let response = app.connections().batch_get_connection_statuses(request(ann, ids)).await.unwrap().into_inner();
        assert_eq!(response.revision, app.revision().await);
        let statuses: Vec<_> =
            response.statuses.iter().map(|it| (it.other_user_id, it.status(), it.connection_request_id)).collect();
        assert_eq!(statuses, expected);
        for (id, status, _) in expected {
            assert_eq!(app.status(ann, id).await, status);
        }
        let stranger = app.connections().batch_get_connection_statuses(request(99, vec![ann])).await.unwrap();
        assert_eq!(stranger.into_inner().statuses[0].status(), None);
    }

    async fn a_thousand_ids_and_no_more(app: App) {
        let ann = app.user("ann").await;
        let ids: Vec<i64> = (1..=1_001).collect();
        let refusal = app.connections().batch_get_connection_statuses(request(ann, ids.clone())).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["other_user_ids"]);
        let full = request(ann, ids[..1_000].to_vec());
        let response = app.connections().batch_get_connection_statuses(full).await.unwrap().into_inner();
        assert_eq!(response.statuses.len(), 1_000);
    }

    async fn every_wrong_field_is_named(app: App) {
        for (wrong, expected) in [
            (request(0, vec![]), vec!["user_id", "other_user_ids"]),
            (request(-1, vec![1, 0, 2, -5]), vec!["user_id", "other_user_ids[1]", "other_user_ids[3]"]),
        ] {
            let refusal = app.connections().batch_get_connection_statuses(wrong).await;
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), expected);
        }
    }
}
