use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, Gender, UserStatus, get_user_request::Key};
use prost_types::{FieldMask, Timestamp};
use tonic::Code;

use super::{full_user, repeated};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

const WRITABLE: [&str; 9] =
    ["real_name", "bio", "location", "birthday", "description", "gender", "website", "avatar", "cover"];
const OPERATORS_ONLY: [&str; 5] = ["username", "email", "email_isvalid", "date_joined", "status"];
const JOINED: Timestamp = Timestamp { seconds: 1_600_000_000, nanos: 0 };

fn request(user: pb::User, paths: &[&str]) -> pb::UpdateUserRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    pb::UpdateUserRequest { user: Some(user), update_mask: Some(FieldMask { paths }), ..Default::default() }
}

/// The same on behalf of a user.
fn request_by(user_id: i64, user: pb::User, paths: &[&str]) -> pb::UpdateUserRequest {
    pb::UpdateUserRequest { user_id, ..request(user, paths) }
}

fn all_fields() -> Vec<&'static str> {
    WRITABLE.into_iter().chain(OPERATORS_ONLY).collect()
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
        date_joined: Some(JOINED),
        bio: "Other.".to_owned(),
        location: "Basel".to_owned(),
        birthday: "1999-12-31".to_owned(),
        description: "Diver".to_owned(),
        gender: Gender::Male.into(),
        status: UserStatus::Blocked.into(),
        website: "https://other.example.com/".to_owned(),
        avatar: "https://other.example.com/a".to_owned(),
        cover: "https://other.example.com/c".to_owned(),
        external_id: "other".to_owned(),
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
        "username" => to.username = from.username,
        "email" => to.email = from.email,
        "email_isvalid" => to.email_isvalid = from.email_isvalid,
        "date_joined" => to.date_joined = from.date_joined,
        "status" => to.status = from.status,
        _ => panic!("{path} is not writable"),
    }
}

cases! {
    async fn each_field_changes_alone(app: App) {
        let mut expected = ann(&app).await;
        for path in all_fields() {
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
        let never = ["id", "external_id", "*", "", "Bio", "user.bio", "realName", "bio.text", "\0"];
        let by = |acting: i64, paths: Vec<&'static str>| paths.into_iter().map(move |path| (acting, path));
        for (acting, path) in by(0, never.into()).chain(by(7, never.into())).chain(by(7, OPERATORS_ONLY.into())) {
            // Even with the value that is there.
            for value in [user.clone(), other_values(7)] {
                let refusal = app.users().update_user(request_by(acting, value, &[path, "bio"])).await;
                let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
                assert_eq!(fields(&details), ["update_mask"], "{path:?}");
            }
        }
        assert_eq!(app.revision().await, before);
        assert_eq!(stored(&app, 7).await, user);
    }

    async fn users_change_themselves_and_nobody_else(app: App) {
        let user = ann(&app).await;
        let bob = app.user("bob").await;
        let response = app.users().update_user(request_by(7, other_values(7), &["bio"])).await.unwrap().into_inner();
        assert_eq!(response.user, Some(pb::User { bio: "Other.".to_owned(), ..user.clone() }));
        app.users().update_user(request(other_values(7), &["location"])).await.unwrap();
        let actors = "SELECT actor || coalesce(CAST(actor_user_id AS text), '') AS value FROM events \
                      WHERE kind = 'USER_UPDATED' ORDER BY sequence";
        assert_eq!(app.database.values(actors).await, [Some("USER7".to_owned()), Some("OPERATOR".to_owned())]);
        let before = app.revision().await;
        for (acting, updated) in [(bob, 7), (7, bob), (7, 99), (99, 7)] {
            let refusal = app.users().update_user(request_by(acting, other_values(updated), &["bio"])).await;
            let details = refused(refusal, Code::PermissionDenied, ErrorReason::NotTheUser);
            assert_eq!(details.error_info().unwrap().metadata["user_id"], updated.to_string());
        }
        // Whoever is suspended may still say who they are.
        app.moderate(bob, "bob", UserStatus::Blocked).await;
        app.users().update_user(request_by(bob, other_values(bob), &["bio"])).await.unwrap();
        assert_eq!(app.revision().await, before + 2);
    }

    async fn a_rename_takes_a_free_name_and_frees_the_old_one(app: App) {
        let user = ann(&app).await;
        let bob = app.user("Bob").await;
        let rename = |id: i64, name: &str| {
            request(pb::User { id, username: name.to_owned(), ..Default::default() }, &["username"])
        };
        let before = app.revision().await;
        let refusal = app.users().update_user(rename(7, "BOB")).await;
        let details = refused(refusal, Code::AlreadyExists, ErrorReason::UsernameTaken);
        assert_eq!(details.error_info().unwrap().metadata["username"], "BOB");
        assert_eq!((app.revision().await, stored(&app, 7).await), (before, user));
        // One's own name in another case, then another.
        for name in ["ANN", "Anna"] {
            app.users().update_user(rename(7, name)).await.unwrap();
            assert_eq!(stored(&app, 7).await.username, name);
        }
        app.users().update_user(rename(bob, "ann")).await.unwrap();
        app.user("bob").await;
        let by_name = pb::GetUserRequest { key: Some(Key::Username("ann".to_owned())), ..Default::default() };
        assert_eq!(app.users().get_user(by_name).await.unwrap().into_inner().user.unwrap().id, bob);
    }

    async fn a_suspension_counts_from_the_next_call_on(app: App) {
        ann(&app).await;
        let bob = app.user("bob").await;
        let status = |status: UserStatus| {
            request(pb::User { id: bob, status: status.into(), ..Default::default() }, &["status"])
        };
        app.users().update_user(status(UserStatus::Blocked)).await.unwrap();
        refused(app.try_send(7, bob).await, Code::FailedPrecondition, ErrorReason::UserNotApproved);
        app.users().update_user(status(UserStatus::Approved)).await.unwrap();
        app.send(7, bob).await;
    }

    async fn what_an_operator_names_must_be_set_if_it_cannot_be_empty(app: App) {
        ann(&app).await;
        let bob = app.user("bob").await;
        let clear = async |id: i64, paths: &[&str]| {
            let refusal = app.users().update_user(request(pb::User { id, ..Default::default() }, paths)).await;
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            fields(&details).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(clear(7, &OPERATORS_ONLY).await, ["user.date_joined", "user.status"]);
        // Only the stored user shows whether the name may be empty.
        assert_eq!(clear(bob, &["username"]).await, ["user.username"]);
    }

    async fn an_update_of_what_has_changed_since_is_a_conflict(app: App) {
        let user = ann(&app).await;
        let bob = app.user("bob").await;
        let read = app.revision().await;
        let update = |location: &str, expected_revision: i64| {
            let user = pb::User { id: 7, location: location.to_owned(), ..Default::default() };
            pb::UpdateUserRequest { expected_revision, ..request(user, &["location"]) }
        };
        // Nothing that others do, or that happens between users, is a change of the user.
        app.connect(7, bob).await;
        app.update(bob, "new").await;
        let own = app.users().update_user(update("Rome", read)).await.unwrap().into_inner().revision;
        let conflict = app.users().update_user(update("Oslo", own - 1)).await;
        let details = refused(conflict, Code::Aborted, ErrorReason::Conflict);
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!((metadata["user_id"].as_str(), metadata["revision"].as_str()), ("7", own.to_string().as_str()));
        assert_eq!(app.revision().await, own);
        // An update that changes nothing does not count, and an import counts as any change.
        app.users().update_user(update("Rome", own)).await.unwrap();
        app.users().update_user(update("Oslo", own)).await.unwrap();
        app.moderate(7, "ann", UserStatus::Approved).await;
        let imported = app.revision().await;
        refused(app.users().update_user(update("Rome", imported - 1)).await, Code::Aborted, ErrorReason::Conflict);
        // Other servers, which have not seen the change, know of it too; and so does one that forgets.
        let other = app.another(|_| {}).await;
        refused(other.users().update_user(update("Rome", imported - 1)).await, Code::Aborted, ErrorReason::Conflict);
        other.users().update_user(update("Rome", imported)).await.unwrap();
        refused(app.users().update_user(update("Oslo", imported)).await, Code::Aborted, ErrorReason::Conflict);
        // Whoever is created again is somebody else.
        let before = app.revision().await;
        app.users().delete_user(pb::DeleteUserRequest { id: 7, ..Default::default() }).await.unwrap();
        app.users().create_user(pb::CreateUserRequest { user: Some(user), ..Default::default() }).await.unwrap();
        refused(app.users().update_user(update("Rome", before)).await, Code::Aborted, ErrorReason::Conflict);
    }

    async fn a_retry_of_an_update_with_a_revision_gets_the_first_answer(app: App) {
        ann(&app).await;
        let mut update = request(other_values(7), &["bio"]);
        update.expected_revision = app.revision().await;
        let mut other = update.clone();
        other.expected_revision -= 1;
        let (first, reused) = repeated!(app.users().update_user(update), other: other, meanwhile: app.update(7, "x").await);
        assert_eq!(first.user.unwrap().bio, "Other.");
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
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
