use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use tonic::Code;

use super::{pages, people, wrong_tokens};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn of(user_id: i64, other_user_id: i64) -> pb::ListMutualConnectionsRequest {
    pb::ListMutualConnectionsRequest { user_id, other_user_id, ..Default::default() }
}

async fn users(app: &App, request: pb::ListMutualConnectionsRequest) -> Vec<i64> {
    let total = app.connections().list_mutual_connections(request.clone()).await.unwrap().into_inner().total;
    for page_size in [1, 2] {
        let request = pb::ListMutualConnectionsRequest { page_size, ..request.clone() };
        let pages = pages!(app.connections().list_mutual_connections(request).users);
        assert_eq!(i64::try_from(pages.concat().len()), Ok(total));
    }
    pages!(app.connections().list_mutual_connections(request).users).concat().iter().map(|user| user.id).collect()
}

cases! {
    async fn those_connected_to_both_come_in_the_order_of_the_first(app: App) {
        let [ann, bob, cy, dee, eve, fay, gus] = people(&app).await;
        for (one, other) in [(ann, cy), (ann, dee), (eve, ann), (ann, fay), (bob, eve), (dee, bob), (bob, cy)] {
            app.connect(one, other).await;
        }
        // A connection of only one of them, a request to the other, and the two themselves do not count.
        app.send(bob, fay).await;
        app.connect(bob, gus).await;
        app.connect(ann, bob).await;
        assert_eq!(users(&app, of(ann, bob)).await, [eve, dee, cy]);
        assert_eq!(users(&app, of(bob, ann)).await, [cy, dee, eve]);
        let response = app.connections().list_mutual_connections(of(ann, bob)).await.unwrap().into_inner();
        assert_eq!((response.total, response.users[0].username.as_str()), (3, "eve"));
        app.remove(ann, dee).await.unwrap();
        app.block(cy, bob).await;
        assert_eq!(users(&app, of(ann, bob)).await, [eve]);
    }

    async fn nobody_is_an_empty_list(app: App) {
        let [ann, bob] = people(&app).await;
        app.connect(ann, bob).await;
        let response = app.connections().list_mutual_connections(of(ann, bob)).await.unwrap().into_inner();
        let revision = app.revision().await;
        assert_eq!(response, pb::ListMutualConnectionsResponse { revision, epoch: response.epoch.clone(), ..Default::default() });
    }

    async fn tokens_cannot_be_altered_or_moved_to_another_list(app: App) {
        let [ann, bob, cy, dee] = people(&app).await;
        for (one, other) in [(ann, cy), (ann, dee), (bob, cy), (bob, dee)] {
            app.connect(one, other).await;
        }
        for result in wrong_tokens!(
            app.connections().list_mutual_connections(of(ann, bob)),
            others: [of(bob, ann), of(ann, cy)]
        ) {
            let details = refused(result, Code::InvalidArgument, ErrorReason::InvalidPageToken);
            assert_eq!(fields(&details), ["page_token"]);
        }
        let larger = pb::ListMutualConnectionsRequest { page_size: i32::MAX, ..of(ann, bob) };
        assert_eq!(app.connections().list_mutual_connections(larger).await.unwrap().into_inner().users.len(), 2);
    }

    async fn the_two_must_differ_and_exist(app: App) {
        let ann = app.user("ann").await;
        let refusal = app.connections().list_mutual_connections(of(ann, ann)).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::SelfRequest);
        assert_eq!(fields(&details), ["other_user_id"]);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], ann.to_string());
        for request in [of(ann, 99), of(99, ann)] {
            let refusal = app.connections().list_mutual_connections(request).await;
            let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        }
    }

    async fn every_wrong_field_is_named(app: App) {
        let wrong = pb::ListMutualConnectionsRequest {
            user_id: 0, other_user_id: 0, page_size: -1, page_token: "x".to_owned(), ..Default::default() };
        let refusal = app.connections().list_mutual_connections(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user_id", "other_user_id", "page_size", "page_token"]);
    }
}
