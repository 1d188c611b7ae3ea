//! Are usernames of all scripts stored, found, kept unique and refused as `--usernames` says, and does `kith check`
//! agree?

use kith::domain::text::UsernameRule;
use kith::progress::Progress;
use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use kith::proto::v1::get_user_request::Key;
use kith::store::{self, Repair};
use tonic::{Code, Status};

use crate::cases;
use crate::harness::app::fields;
use crate::harness::invariants::later_than_all;
use crate::harness::{App, refused};

async fn create(app: &App, username: &str) -> Result<pb::User, Status> {
    let user = pb::User { username: username.to_owned(), ..Default::default() };
    let response = app.users().create_user(pb::CreateUserRequest { user: Some(user), ..Default::default() }).await?;
    Ok(response.into_inner().user.expect("a user"))
}

async fn by_name(app: &App, username: &str) -> Result<i64, Status> {
    let request = pb::GetUserRequest { key: Some(Key::Username(username.to_owned())), ..Default::default() };
    Ok(app.users().get_user(request).await?.into_inner().user.expect("a user").id)
}

async fn rename(app: &App, id: i64, username: &str) -> Result<pb::User, Status> {
    let user = pb::User { id, username: username.to_owned(), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["username".to_owned()] });
    let update = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
    Ok(app.users().update_user(update).await?.into_inner().user.expect("a user"))
}

cases! {
    #[with(|settings| settings.policy.usernames = UsernameRule::Open)]
    async fn open_names_are_stored_found_and_unique(app: App) {
        for (name, same, stored) in [
            ("José.García", "JOSE\u{301}.GARCI\u{301}A", "José.García"),
            ("Straße", "STRASSE", "Straße"),
            ("o'neil+x@example.com", "O'Neil+X@Example.com", "o'neil+x@example.com"),
            ("李小龍", "李小龍", "李小龍"),
            ("שלום1", "שלום1", "שלום1"),
            ("Ann", "aNN", "Ann"),
        ] {
            let user = create(&app, name).await.unwrap();
            assert_eq!(user.username, stored);
            for name in [name, same] {
                assert_eq!(by_name(&app, name).await.unwrap(), user.id, "{name}");
                let taken = create(&app, name).await;
                refused(taken, Code::AlreadyExists, ErrorReason::UsernameTaken);
            }
        }
        let (jose, ann) = (by_name(&app, "josé.garcía").await.unwrap(), by_name(&app, "ann").await.unwrap());
        refused(rename(&app, ann, "JOSÉ.GARCÍA").await, Code::AlreadyExists, ErrorReason::UsernameTaken);
        // Users exchange names whose keys only Unicode relates.
        let row = |id: i64, username: &str| {
            let user = pb::User { id, username: username.to_owned(), ..Default::default() };
            pb::ImportUsersRequest { user: Some(user), ..Default::default() }
        };
        let swap = vec![row(jose, "ANN"), row(ann, "JOSÉ.garcía")];
        let swapped = app.users().import_users(tokio_stream::iter(swap)).await.unwrap().into_inner();
        assert_eq!((swapped.updated, swapped.refused), (2, 0));
        assert_eq!((by_name(&app, "ann").await.unwrap(), by_name(&app, "josé.garcía").await.unwrap()), (jose, ann));
        let report = store::check(&app.database.url(), Repair::Nothing, &later_than_all(), &Progress::default()).await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }

    #[with(|settings| settings.policy.usernames = UsernameRule::Open)]
    async fn open_names_still_have_rules(app: App) {
        let ann = app.user("ann").await;
        for name in ["", " ann", "ann ", "a b", "a\u{7}", "a\u{202e}b", "annשלום", "\u{301}", "👋", "a/b", "e\u{301}\u{301}"] {
            for refusal in [create(&app, name).await.map(drop), rename(&app, ann, name).await.map(drop)] {
                let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
                assert_eq!(fields(&details), ["user.username"], "{name:?}");
            }
        }
    }

    async fn names_are_ascii_unless_they_are_open(app: App) {
        for name in ["José", "a.b", "o'neil", "a+b", "a@b", "李"] {
            let details = refused(create(&app, name).await, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["user.username"], "{name:?}");
        }
        // A server with the other rule shares the database, and what it stored remains.
        let open = app.another(|settings| settings.policy.usernames = UsernameRule::Open).await;
        let jose = create(&open, "José").await.unwrap();
        let page = app.users().list_users(pb::ListUsersRequest::default()).await.unwrap().into_inner();
        assert_eq!(page.users, [jose]);
        refused(by_name(&app, "José").await, Code::InvalidArgument, ErrorReason::InvalidFields);
    }
}
