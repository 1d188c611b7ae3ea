use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, get_user_request::Key};
use tonic::Code;

use super::full_user;
use crate::cases;
use crate::harness::app::fields;
use crate::harness::refused;

fn by(key: Key) -> pb::GetUserRequest {
    pb::GetUserRequest { key: Some(key), ..Default::default() }
}

cases! {
    async fn a_user_is_found_by_id_and_by_name_in_any_case(app: App) {
        app.user("bob").await;
        let user = full_user(9, "Ann_X-1");
        let create = pb::CreateUserRequest { user: Some(user.clone()), request_id: String::new() };
        app.users().create_user(create).await.unwrap();
        let name = |name: &str| Key::Username(name.to_owned());
        for key in [Key::Id(9), name("Ann_X-1"), name("ann_x-1"), name("ANN_X-1")] {
            let response = app.users().get_user(by(key)).await.unwrap().into_inner();
            assert_eq!(response.user, Some(user.clone()));
            assert_eq!(response.revision, app.revision().await);
        }
    }

    async fn a_user_who_does_not_exist_is_not_found(app: App) {
        app.user("ann").await;
        let refusal = app.users().get_user(by(Key::Id(99))).await;
        let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], "99");
        let refusal = app.users().get_user(by(Key::Username("an".to_owned()))).await;
        let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(details.error_info().unwrap().metadata["username"], "an");
    }

    async fn the_key_must_be_given_and_right(app: App) {
        for (request, field) in [
            (pb::GetUserRequest { key: None, ..Default::default() }, "key"),
            (by(Key::Id(0)), "id"),
            (by(Key::Id(-1)), "id"),
            (by(Key::Username(String::new())), "username"),
            (by(Key::Username("a b".to_owned())), "username"),
            (by(Key::Username("a".repeat(256))), "username"),
        ] {
            let refusal = app.users().get_user(request).await;
            assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), [field]);
        }
    }
}
