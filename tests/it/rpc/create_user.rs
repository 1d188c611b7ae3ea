use std::collections::BTreeSet;

use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, UserStatus, get_user_request::Key};
use prost_types::Timestamp;
use tokio::task::JoinSet;
use tonic::Code;

use super::{REQUEST_ID, full_user, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::clients::Clients;
use crate::harness::{App, refused};

const LARGEST: i64 = (1 << 53) - 1;

fn request(user: pb::User) -> pb::CreateUserRequest {
    pb::CreateUserRequest { user: Some(user), request_id: String::new() }
}

fn named(id: i64, username: &str) -> pb::CreateUserRequest {
    request(pb::User { id, username: username.to_owned(), ..Default::default() })
}

async fn stored(app: &App, id: i64) -> pb::User {
    let request = pb::GetUserRequest { key: Some(Key::Id(id)), ..Default::default() };
    app.users().get_user(request).await.unwrap().into_inner().user.unwrap()
}

cases! {
    async fn every_field_is_stored_and_returned(app: App) {
        let before = app.revision().await;
        let user = full_user(7, "ann");
        let response = app.users().create_user(request(user.clone())).await.unwrap().into_inner();
        assert_eq!(response.user, Some(user.clone()));
        assert_eq!(response.revision, before + 1);
        assert_eq!(stored(&app, 7).await, user);
    }

    async fn unset_fields_get_their_defaults(app: App) {
        let user = app.users().create_user(named(0, "ann")).await.unwrap().into_inner().user.unwrap();
        let now = Timestamp { seconds: app.clock.now().timestamp(), nanos: 0 };
        let expected = pb::User {
            id: 1,
            username: "ann".to_owned(),
            date_joined: Some(now),
            status: UserStatus::Approved.into(),
            ..Default::default()
        };
        assert_eq!(user, expected);
    }

    async fn ids_are_assigned_in_order_and_never_again(app: App) {
        assert_eq!(app.user("ann").await, 1);
        app.users().delete_user(pb::DeleteUserRequest { id: 1, ..Default::default() }).await.unwrap();
        assert_eq!(app.user("bob").await, 2);
        // A refused call takes none.
        refused(app.users().create_user(named(0, "bob")).await, Code::AlreadyExists, ErrorReason::UsernameTaken);
        assert_eq!(app.user("cy").await, 3);
    }

    async fn ids_that_were_named_do_not_move_the_counter_and_are_skipped(app: App) {
        app.users().create_user(named(LARGEST, "ann")).await.unwrap();
        assert_eq!(app.user("bob").await, 1);
        app.users().delete_user(pb::DeleteUserRequest { id: LARGEST, ..Default::default() }).await.unwrap();
        assert_eq!(app.user("cy").await, 2);
        for id in [3, 4] {
            app.create(id).await.unwrap();
        }
        assert_eq!(app.user("dee").await, 5);
        assert_eq!(app.user("eve").await, 6);
    }

    async fn many_ids_are_assigned_at_once_after_an_import_of_as_many(app: App) {
        const NAMED: i64 = 700;
        let row = |id: i64| {
            let user = pb::User { id, username: format!("named-{id}"), ..Default::default() };
            pb::ImportUsersRequest { user: Some(user), request_id: String::new() }
        };
        app.users().import_users(tokio_stream::iter((1..=NAMED).map(row).collect::<Vec<_>>())).await.unwrap();
        let creations: JoinSet<i64> = (0..200)
            .map(|number| {
                let clients = Clients::clone(&app);
                async move { clients.user(&format!("assigned-{number}")).await }
            })
            .collect();
        let ids: BTreeSet<i64> = creations.join_all().await.into_iter().collect();
        assert_eq!((ids.len(), ids.range(..=NAMED).count()), (200, 0), "{ids:?}");
        assert!(ids.iter().all(|id| *id < 1_000_000), "{ids:?}");
    }

    async fn without_any_id_left_one_must_be_named(app: App) {
        app.database.execute(&format!("UPDATE feed SET last_assigned_user_id = {}", LARGEST - 1)).await;
        assert_eq!(app.user("ann").await, LARGEST);
        let refusal = app.users().create_user(named(0, "bob")).await;
        assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), ["user.id"]);
        assert_eq!(app.users().create_user(named(1, "bob")).await.unwrap().into_inner().user.unwrap().id, 1);
    }

    async fn times_are_stored_to_the_microsecond_from_the_first_year_to_the_last(app: App) {
        for (id, seconds, given, stored_nanos) in
            [(1, -62_135_596_800, 0, 0), (2, 253_402_300_799, 999_999_999, 999_999_000), (3, -1, 1_999, 1_000)]
        {
            let date_joined = Some(Timestamp { seconds, nanos: given });
            let user = pb::User { date_joined, ..full_user(id, &format!("user-{id}")) };
            let created = app.users().create_user(request(user)).await.unwrap().into_inner().user.unwrap();
            assert_eq!(created.date_joined, Some(Timestamp { seconds, nanos: stored_nanos }));
            assert_eq!(stored(&app, id).await, created);
        }
    }

    async fn every_wrong_field_is_named_and_nothing_changes(app: App) {
        let before = app.revision().await;
        let long = "x".repeat(5_001);
        let wrong = pb::CreateUserRequest {
            user: Some(pb::User {
                id: -1,
                username: "a b".to_owned(),
                real_name: long.clone(),
                email: "ann".to_owned(),
                email_isvalid: true,
                date_joined: Some(Timestamp { seconds: i64::MAX, nanos: -1 }),
                bio: long.clone(),
                location: long.clone(),
                birthday: "1.1.2000".to_owned(),
                description: long,
                gender: 9,
                status: -9,
                website: "ftp://example.com".to_owned(),
                avatar: "a.png".to_owned(),
                cover: "javascript:alert(1)".to_owned(),
                external_id: " ".to_owned(),
            }),
            request_id: "mine".to_owned(),
        };
        let refusal = app.users().create_user(wrong).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), [
            "user.id", "user.username", "user.real_name", "user.email", "user.date_joined", "user.bio",
            "user.location", "user.birthday", "user.description", "user.gender", "user.status", "user.website",
            "user.avatar", "user.cover", "user.external_id", "request_id",
        ]);
        let nobody = pb::CreateUserRequest { user: None, request_id: String::new() };
        let refusal = app.users().create_user(nobody).await;
        assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), ["user"]);
        assert_eq!(app.revision().await, before);
    }

    async fn an_id_is_used_once(app: App) {
        let ann = app.user("ann").await;
        let before = app.revision().await;
        let refusal = app.users().create_user(named(ann, "bob")).await;
        let details = refused(refusal, Code::AlreadyExists, ErrorReason::UserExists);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], ann.to_string());
        assert_eq!(app.revision().await, before);
    }

    async fn a_name_is_used_once_in_whatever_case(app: App) {
        let ann = app.user("Ann").await;
        let before = app.revision().await;
        for name in ["Ann", "ann", "ANN"] {
            let refusal = app.users().create_user(named(0, name)).await;
            let details = refused(refusal, Code::AlreadyExists, ErrorReason::UsernameTaken);
            assert_eq!(details.error_info().unwrap().metadata["username"], name);
        }
        assert_eq!(app.revision().await, before);
        app.users().delete_user(pb::DeleteUserRequest { id: ann, ..Default::default() }).await.unwrap();
        app.user("ANN").await;
    }

    async fn a_repetition_does_not_create_a_user_again_who_was_deleted(app: App) {
        let create = pb::CreateUserRequest { request_id: REQUEST_ID.to_owned(), ..named(0, "ann") };
        let first = app.users().create_user(create.clone()).await.unwrap().into_inner();
        app.users().delete_user(pb::DeleteUserRequest { id: 1, ..Default::default() }).await.unwrap();
        let again = app.users().create_user(create).await.unwrap().into_inner();
        assert_eq!(again.user, Some(pb::User { id: 1, ..Default::default() }));
        assert_eq!((again.revision, app.revision().await), (first.revision, first.revision + 1));
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let (first, reused) = repeated!(
            app.users().create_user(named(0, "ann")),
            other: named(0, "bob"),
            meanwhile: app.update(1, "changed since").await
        );
        assert_eq!(first.user.unwrap().id, 1);
        let details = refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(fields(&details), ["request_id"]);
        assert_eq!(details.error_info().unwrap().metadata["request_id"], REQUEST_ID);
        // The same body for another method is a different call.
        let delete = pb::DeleteUserRequest { id: 1, request_id: REQUEST_ID.to_owned() };
        refused(app.users().delete_user(delete).await, Code::InvalidArgument, ErrorReason::RequestIdReused);
        app.clock.advance(chrono::TimeDelta::hours(24));
        let late = pb::CreateUserRequest { request_id: REQUEST_ID.to_owned(), ..named(0, "cy") };
        assert_eq!(app.users().create_user(late).await.unwrap().into_inner().user.unwrap().id, 2);
    }

    async fn an_error_is_not_stored_for_a_repetition(app: App) {
        let ann = app.user("ann").await;
        let create = pb::CreateUserRequest { request_id: REQUEST_ID.to_owned(), ..named(0, "ann") };
        refused(app.users().create_user(create.clone()).await, Code::AlreadyExists, ErrorReason::UsernameTaken);
        app.users().delete_user(pb::DeleteUserRequest { id: ann, ..Default::default() }).await.unwrap();
        app.users().create_user(create).await.unwrap();
    }
}
