use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use tonic::Code;

use super::{crowd, people};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

const LARGEST: i64 = (1 << 53) - 1;

fn request(ids: Vec<i64>) -> pb::BatchGetUsersRequest {
    pb::BatchGetUsersRequest { ids, ..Default::default() }
}

cases! {
    async fn users_and_missing_ids_are_in_the_order_of_the_ids_and_occur_once(app: App) {
        let [ann, bob, cy] = people(&app).await;
        let asked = vec![cy, 99, ann, cy, LARGEST, 99, bob, ann];
        let response = app.users().batch_get_users(request(asked)).await.unwrap().into_inner();
        let names: Vec<_> = response.users.iter().map(|user| (user.id, user.username.as_str())).collect();
        assert_eq!(names, [(cy, "cy"), (ann, "ann"), (bob, "bob")]);
        assert_eq!(response.not_found_ids, [99, LARGEST]);
        assert_eq!(response.revision, app.revision().await);
    }

    async fn nobody_found_is_an_empty_list(app: App) {
        let response = app.users().batch_get_users(request(vec![5])).await.unwrap().into_inner();
        assert_eq!((response.users.len(), response.not_found_ids), (0, vec![5]));
    }

    async fn a_thousand_ids_and_no_more(app: App) {
        let mut ids = crowd(&app, 1_001).await;
        let refusal = app.users().batch_get_users(request(ids.clone())).await;
        assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), ["ids"]);
        ids.pop();
        ids.reverse();
        let response = app.users().batch_get_users(request(ids.clone())).await.unwrap().into_inner();
        assert_eq!(response.users.iter().map(|user| user.id).collect::<Vec<_>>(), ids);
    }

    async fn each_wrong_id_is_named(app: App) {
        let refusal = app.users().batch_get_users(request(vec![])).await;
        assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), ["ids"]);
        let refusal = app.users().batch_get_users(request(vec![0, 1, i64::MIN, LARGEST + 1])).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["ids[0]", "ids[2]", "ids[3]"]);
    }
}
