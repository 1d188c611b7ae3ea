use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, Gender, UserStatus, get_user_request::Key};
use prost_types::FieldMask;
use tonic::Code;

use super::{full_user, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

const WRITABLE: [&str; 9] =
    ["real_name", "bio", "location", "birthday", "description", "gender", "website", "avatar", "cover"];
const READ_ONLY: [&str; 6] = ["id", "username", "email", "email_isvalid", "date_joined", "status"];

fn request(user: pb::User, paths: &[&str]) -> pb::UpdateUserRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    pb::UpdateUserRequest { user: Some(user), update_mask: Some(FieldMask { paths }), request_id: String::new() }
}

async fn ann(app: &App) -> pb::User {
    let user = full_user(7, "ann");
    let create = pb::CreateUserRequest { user: Some(user.clone()), request_id: String::new() };
    app.users().create_user(create).await.unwrap();
    user
}

async fn stored(app: &App, id: i64) -> pb::User {
    let request = pb::GetUserRequest { key: Some(Key::Id(id)), ..Default::default() };
    app.users().get_user(request).await.unwrap().into_inner().user.unwrap()
}

/// A user whose fields all differ from those of `full_user`.
fn other_values(id: i64) -> pb::User {
    pb::User {
        id,
        username: "other".to_owned(),
        real_name: "Other".to_owned(),
        email: "other@example.com".to_owned(),
        email_isvalid: false,
        date_joined: None,
        bio: "Other.".to_owned(),
        location: "Basel".to_owned(),
        birthday: "1999-12-31".to_owned(),
        description: "Diver".to_owned(),
        gender: Gender::Male.into(),
        status: UserStatus::Blocked.into(),
        website: "https://other.example.com/".to_owned(),
        avatar: "https://other.example.com/a".to_owned(),
        cover: "https://other.example.com/c".to_owned(),
    }
}

/// Copies one field.
fn set(path: &str, from: &pb::User, to: &mut pb::User) {
    let from = from.clone();
    match path {
        "real_name" => to.real_name = from.real_name,
        "bio" => to.bio = from.bio,
        "location" => to.location = from.location,
        "birthday" => to.birthday = from.birthday,
        "description" => to.description = from.description,
        "gender" => to.gender = from.gender,
        "website" => to.website = from.website,
        "avatar" => to.avatar = from.avatar,
        "cover" => to.cover = from.cover,
        _ => panic!("{path} is not writable"),
    }
}

cases! {
    async fn each_field_changes_alone(app: App) {
        let mut expected = ann(&app).await;
        for path in WRITABLE {
            let before = expected.clone();
            set(path, &other_values(7), &mut expected);
            assert_ne!(expected, before);
            let response = app.users().update_user(request(other_values(7), &[path])).await.unwrap().into_inner();
            assert_eq!(response.user, Some(expected.clone()), "{path}");
            assert_eq!(response.revision, app.revision().await);
            assert_eq!(stored(&app, 7).await, expected);
        }
        // All fields at once: named and unset means empty.
        let before = app.revision().await;
        let emptied = app.users().update_user(request(pb::User { id: 7, ..Default::default() }, &WRITABLE)).await;
        for path in WRITABLE {
            set(path, &pb::User::default(), &mut expected);
        }
        assert_eq!(emptied.unwrap().into_inner().user, Some(expected));
        assert_eq!(app.revision().await, before + 1);
    }

    async fn an_update_without_a_change_writes_nothing(app: App) {
        let user = ann(&app).await;
        let before = app.revision().await;
        let response = app.users().update_user(request(user.clone(), &WRITABLE)).await.unwrap().into_inner();
        assert_eq!((response.user, response.revision), (Some(user), before));
        assert_eq!(app.revision().await, before);
    }

    async fn read_only_and_unknown_fields_are_refused(app: App) {
        let user = ann(&app).await;
        let before = app.revision().await;
        let unknown = ["*", "", "Bio", "user.bio", "realName", "bio.text", "\0"];
        for path in READ_ONLY.into_iter().chain(unknown) {
            // Even with the current value.
            for value in [user.clone(), other_values(7)] {
                let refusal = app.users().update_user(request(value, &[path, "bio"])).await;
                let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
                assert_eq!(fields(&details), ["update_mask"], "{path:?}");
            }
        }
        assert_eq!(app.revision().await, before);
        assert_eq!(stored(&app, 7).await, user);
    }

    async fn something_must_be_named(app: App) {
        let user = ann(&app).await;
        let none = pb::UpdateUserRequest { user: Some(user.clone()), ..Default::default() };
        for update in [request(user, &[]), none] {
            let refusal = app.users().update_user(update).await;
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["update_mask"]);
        }
    }

    async fn every_invalid_field_in_the_mask_is_reported_and_no_other(app: App) {
        ann(&app).await;
        let wrong = pb::User {
            id: -7,
            real_name: "\0".to_owned(),
            bio: "x".repeat(5_001),
            location: "\n".to_owned(),
            birthday: "2999-01-01".to_owned(),
            description: "x".repeat(51),
            gender: 3,
            website: "x".to_owned(),
            avatar: "x".to_owned(),
            cover: "x".to_owned(),
            // Not named in the mask, so not read.
            email: "wrong".to_owned(),
            ..Default::default()
        };
        let update = pb::UpdateUserRequest { request_id: "mine".to_owned(), ..request(wrong.clone(), &WRITABLE) };
        let refusal = app.users().update_user(update).await;
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        let mut expected = vec!["user.id".to_owned()];
        expected.extend(WRITABLE.map(|path| format!("user.{path}")));
        expected.push("request_id".to_owned());
        assert_eq!(fields(&details), expected);
        let refusal = app.users().update_user(request(pb::User { id: 7, ..wrong }, &["cover"])).await;
        assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), ["user.cover"]);
    }

    async fn a_user_who_does_not_exist_is_not_updated(app: App) {
        let refusal = app.users().update_user(request(other_values(7), &["bio"])).await;
        let details = refused(refusal, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(details.error_info().unwrap().metadata["user_id"], "7");
    }

    async fn a_repetition_returns_the_first_response(app: App) {
        let user = ann(&app).await;
        let (first, reused) = repeated!(
            app.users().update_user(request(other_values(7), &["bio"])),
            other: request(other_values(7), &["location"]),
            meanwhile: app.users().update_user(request(user.clone(), &["bio"])).await.unwrap()
        );
        assert_eq!(first.user.unwrap().bio, "Other.");
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(stored(&app, 7).await, user);
    }

    async fn requests_show_the_new_profile(app: App) {
        let user = ann(&app).await;
        let bob = app.user("bob").await;
        let id = app.send(7, bob).await;
        app.users().update_user(request(other_values(7), &["real_name"])).await.unwrap();
        let embedded = app.request(id, bob).await.unwrap().from_user.unwrap();
        assert_eq!(embedded, pb::User { real_name: "Other".to_owned(), ..user });
    }
}
