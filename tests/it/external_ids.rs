//! Are external ids stored once, found, embedded and kept unique, and do users with one need no username?

use std::collections::BTreeSet;

use kith::progress::Progress;
use kith::proto::v1 as pb;
use kith::proto::v1::get_user_request::Key;
use kith::proto::v1::{ErrorReason, UserView};
use kith::store::{self, Repair};
use tonic::{Code, Status};

use crate::cases;
use crate::harness::app::fields;
use crate::harness::invariants::later_than_all;
use crate::harness::{App, refused};

/// A user with these keys. 0 and empty texts stand for none.
fn keyed(id: i64, username: &str, external_id: &str) -> pb::User {
    let (username, external_id) = (username.to_owned(), external_id.to_owned());
    pb::User { id, username, external_id, ..Default::default() }
}

async fn create(app: &App, user: pb::User) -> Result<pb::User, Status> {
    let request = pb::CreateUserRequest { user: Some(user), request_id: String::new() };
    Ok(app.users().create_user(request).await?.into_inner().user.unwrap())
}

async fn get(app: &App, key: Key) -> Result<pb::User, Status> {
    let request = pb::GetUserRequest { key: Some(key), ..Default::default() };
    Ok(app.users().get_user(request).await?.into_inner().user.unwrap())
}

async fn by_external_id(app: &App, external_id: &str) -> Result<pb::User, Status> {
    get(app, Key::ExternalId(external_id.to_owned())).await
}

async fn update(app: &App, user: pb::User, path: &str) -> Result<pb::User, Status> {
    let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let request = pb::UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
    Ok(app.users().update_user(request).await?.into_inner().user.unwrap())
}

/// Imports these users. Returns how many were created, updated, unchanged and refused, and each refusal with its field.
async fn import(app: &App, users: Vec<pb::User>) -> ([i64; 4], Vec<(i64, ErrorReason, String)>) {
    let row = |user| pb::ImportUsersRequest { user: Some(user), request_id: String::new() };
    let rows = tokio_stream::iter(users.into_iter().map(row).collect::<Vec<_>>());
    let response = app.users().import_users(rows).await.unwrap().into_inner();
    let refusal = |refusal: &pb::ImportRefusal| {
        assert!(refusal.field_violations.iter().all(|violation| !violation.description.is_empty()));
        (refusal.position, refusal.reason(), refusal.field_violations[0].field.clone())
    };
    let numbers = [response.created, response.updated, response.unchanged, response.refused];
    (numbers, response.refusals.iter().map(refusal).collect())
}

/// The keys of all users, by id.
async fn keys(app: &App) -> Vec<(i64, String, String)> {
    let all = pb::ListUsersRequest { page_size: 1_000, ..Default::default() };
    let users = app.users().list_users(all).await.unwrap().into_inner().users;
    let keys: BTreeSet<_> = users.into_iter().map(|user| (user.id, user.username, user.external_id)).collect();
    keys.into_iter().collect()
}

async fn checked(app: &App) {
    let report =
        store::check(&app.database.url(), Repair::Nothing, &later_than_all(), &Progress::default()).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

cases! {
    async fn an_external_id_is_found_as_it_was_given(app: App) {
        for (number, external_id) in
            (1..).zip(["0b1e4f4c-9f3c-4b52", "A", "a", "é", "e\u{301}", "'; --", "%", "1", "a b", "日本"])
        {
            let user = create(&app, keyed(0, &format!("user-{number}"), external_id)).await.unwrap();
            assert_eq!((user.id, user.external_id.as_str()), (number, external_id));
            assert_eq!(by_external_id(&app, external_id).await.unwrap(), user);
        }
        for nobody in ["B", "É", "a  b", "user-1", "01", "_"] {
            let details = refused(by_external_id(&app, nobody).await, Code::NotFound, ErrorReason::UserNotFound);
            assert_eq!(details.error_info().unwrap().metadata["external_id"], nobody);
        }
        for invalid in ["", " A", "A\n"] {
            let details = refused(by_external_id(&app, invalid).await, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["external_id"]);
        }
    }

    async fn an_external_id_belongs_to_one_user_until_they_are_deleted(app: App) {
        let ann = create(&app, keyed(0, "ann", "a-1")).await.unwrap();
        let before = app.revision().await;
        for user in [keyed(0, "bob", "a-1"), keyed(77, "", "a-1"), keyed(0, "ann", "a-1")] {
            let details = refused(create(&app, user).await, Code::AlreadyExists, ErrorReason::UserExists);
            let metadata = &details.error_info().unwrap().metadata;
            assert_eq!((&metadata["user_id"], metadata["external_id"].as_str()), (&ann.id.to_string(), "a-1"));
        }
        // Of the keys that exist, the id comes first. It says nothing of an external id.
        let details = refused(create(&app, keyed(ann.id, "x", "a-1")).await, Code::AlreadyExists, ErrorReason::UserExists);
        assert_eq!(details.error_info().unwrap().metadata.len(), 1);
        assert_eq!(app.revision().await, before);
        app.users().delete_user(pb::DeleteUserRequest { id: ann.id, ..Default::default() }).await.unwrap();
        refused(by_external_id(&app, "a-1").await, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(create(&app, keyed(0, "bob", "a-1")).await.unwrap().id, ann.id + 1);
    }

    async fn no_update_changes_an_external_id(app: App) {
        let ann = create(&app, keyed(0, "ann", "a-1")).await.unwrap();
        let bob = create(&app, keyed(0, "bob", "")).await.unwrap();
        for user in [ann.clone(), keyed(ann.id, "", "a-2"), keyed(bob.id, "", "b-1")] {
            let refusal = update(&app, user, "external_id").await;
            assert!(refusal.as_ref().unwrap_err().message().contains("external_id"), "{refusal:?}");
            let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
            assert_eq!(fields(&details), ["update_mask"]);
        }
        // One that is not in the mask is not looked at.
        let renamed = update(&app, keyed(ann.id, "anna", "a-2"), "username").await.unwrap();
        assert_eq!((renamed.username.as_str(), renamed.external_id.as_str()), ("anna", "a-1"));
    }

    async fn users_with_an_external_id_need_no_username(app: App) {
        for external_id in ["x-1", "x-2"] {
            let user = create(&app, keyed(0, "", external_id)).await.unwrap();
            assert_eq!((user.username.as_str(), user.external_id.as_str()), ("", external_id));
            assert_eq!(by_external_id(&app, external_id).await.unwrap(), user);
        }
        let nobody = create(&app, keyed(0, "", "")).await;
        assert_eq!(fields(&refused(nobody, Code::InvalidArgument, ErrorReason::InvalidFields)), ["user.username"]);
        // The name can be given, given up and taken by another.
        assert_eq!(update(&app, keyed(1, "ann", ""), "username").await.unwrap().username, "ann");
        refused(update(&app, keyed(2, "ANN", ""), "username").await, Code::AlreadyExists, ErrorReason::UsernameTaken);
        assert_eq!(update(&app, keyed(1, "", ""), "username").await.unwrap().username, "");
        refused(get(&app, Key::Username("ann".to_owned())).await, Code::NotFound, ErrorReason::UserNotFound);
        assert_eq!(update(&app, keyed(2, "ANN", ""), "username").await.unwrap().username, "ANN");
        // Not by a user who has nothing else, and nobody is found by an empty name.
        let bob = app.user("bob").await;
        let before = app.revision().await;
        let details = refused(update(&app, keyed(bob, "", ""), "username").await, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["user.username"]);
        assert_eq!(app.revision().await, before);
        let unnamed = get(&app, Key::Username(String::new())).await;
        assert_eq!(fields(&refused(unnamed, Code::InvalidArgument, ErrorReason::InvalidFields)), ["username"]);
        checked(&app).await;
    }

    async fn an_import_sets_an_external_id_once(app: App) {
        let (updated, unchanged) = ([0, 1, 0, 0], [0, 0, 1, 0]);
        app.user("ann").await;
        app.user("bob").await;
        let refusal = |reason, field: &str| vec![(0, reason, field.to_owned())];
        for (user, numbers, refusals) in [
            (keyed(1, "ann", "a-1"), updated, vec![]),
            (keyed(1, "ann", "a-1"), unchanged, vec![]),
            // Unset, it stays.
            (keyed(1, "ann", ""), unchanged, vec![]),
            (keyed(1, "ann", "a-2"), [0, 0, 0, 1], refusal(ErrorReason::InvalidFields, "user.external_id")),
            (keyed(2, "bob", "a-1"), [0, 0, 0, 1], refusal(ErrorReason::UserExists, "user.external_id")),
            (keyed(7, "", "a-1"), [0, 0, 0, 1], refusal(ErrorReason::UserExists, "user.external_id")),
            // The name is cleared as any other field.
            (keyed(1, "", "a-1"), updated, vec![]),
            (keyed(1, "", ""), [0, 0, 0, 1], refusal(ErrorReason::InvalidFields, "user.username")),
            (keyed(2, "ann", ""), updated, vec![]),
        ] {
            let before = app.revision().await;
            assert_eq!(import(&app, vec![user.clone()]).await, (numbers, refusals), "{user:?}");
            assert_eq!(app.revision().await - before, numbers[1], "{user:?}");
        }
        assert_eq!(keys(&app).await, [(1, String::new(), "a-1".to_owned()), (2, "ann".to_owned(), String::new())]);
    }

    async fn a_row_without_an_id_is_about_the_user_with_its_external_id(app: App) {
        let uuid = |number: i64| format!("{number:08x}-9f3c-4b52-8f4c-2a8f5b7e1d3c");
        let rows: Vec<_> = (1..=600).map(|number| keyed(0, "", &uuid(number))).collect();
        assert_eq!(import(&app, rows.clone()).await, ([600, 0, 0, 0], vec![]));
        assert_eq!(import(&app, rows).await, ([0, 0, 600, 0], vec![]));
        // Their ids are dense, in the order of the rows.
        let expected: Vec<_> = (1..=600).map(|number| (number, String::new(), uuid(number))).collect();
        assert_eq!(keys(&app).await, expected);
        // A row with neither is nobody's, and one with both is about the user with the id.
        let rows = vec![keyed(0, "ann", ""), keyed(0, "ann", &uuid(7)), keyed(8, "bob", &uuid(8)), keyed(0, "cy", "new")];
        let refusal = vec![(0, ErrorReason::InvalidFields, "user.id".to_owned())];
        assert_eq!(import(&app, rows).await, ([1, 2, 0, 1], refusal));
        assert_eq!(by_external_id(&app, "new").await.unwrap().id, 601);
        checked(&app).await;
    }

    async fn of_rows_with_one_external_id_the_first_user_keeps_it(app: App) {
        let rows = vec![keyed(1, "ann", "x"), keyed(2, "bob", "x"), keyed(0, "cy", "x"), keyed(3, "dee", "y")];
        let refusal = vec![(1, ErrorReason::UserExists, "user.external_id".to_owned())];
        assert_eq!(import(&app, rows).await, ([2, 1, 0, 1], refusal));
        let expected = [(1, "cy", "x"), (3, "dee", "y")];
        assert_eq!(keys(&app).await, expected.map(|(id, name, key)| (id, name.to_owned(), key.to_owned())));
    }

    async fn users_exchange_their_names_by_external_id(app: App) {
        import(&app, vec![keyed(0, "ann", "a"), keyed(0, "bob", "b"), keyed(0, "cy", "c")]).await;
        assert_eq!(import(&app, vec![keyed(0, "bob", "a"), keyed(0, "", "b"), keyed(0, "ann", "c")]).await.0, [0, 3, 0, 0]);
        let expected = |names: [&str; 3]| -> Vec<_> {
            (1..).zip(names).zip(["a", "b", "c"]).map(|((id, name), key)| (id, name.to_owned(), key.to_owned())).collect()
        };
        assert_eq!(keys(&app).await, expected(["bob", "", "ann"]));
        assert_eq!(import(&app, vec![keyed(0, "ann", "a"), keyed(3, "bob", "")]).await, ([0, 2, 0, 0], vec![]));
        assert_eq!(keys(&app).await, expected(["ann", "", "bob"]));
        // A row that waits for its name is refused if a later one is about the same user, whichever key each has.
        let taken = vec![(0, ErrorReason::UsernameTaken, "user.username".to_owned())];
        for (first, last) in [
            (keyed(1, "bob", ""), keyed(0, "anna", "a")),
            (keyed(0, "bob", "a"), keyed(1, "anne", "")),
            (keyed(0, "bob", "a"), keyed(0, "ann", "a")),
        ] {
            let name = last.username.clone();
            assert_eq!(import(&app, vec![first, last]).await, ([0, 1, 0, 1], taken.clone()));
            assert_eq!(keys(&app).await, expected([&name, "", "bob"]));
        }
        checked(&app).await;
    }

    async fn many_users_are_read_by_ids_and_external_ids_together(app: App) {
        for (name, external_id) in [("ann", "a"), ("bob", "b"), ("cy", ""), ("dee", "d")] {
            create(&app, keyed(0, name, external_id)).await.unwrap();
        }
        let ask = async |ids: &[i64], external_ids: &[&str]| {
            let external_ids = external_ids.iter().map(|id| (*id).to_owned()).collect();
            let request = pb::BatchGetUsersRequest { ids: ids.to_vec(), external_ids, ..Default::default() };
            let response = app.users().batch_get_users(request).await.unwrap().into_inner();
            assert_eq!(response.revision, app.revision().await);
            assert_eq!((response.omitted_ids.len(), response.omitted_external_ids.len()), (0, 0));
            let found: Vec<_> = response.users.into_iter().map(|user| user.id).collect();
            (found, response.not_found_ids, response.not_found_external_ids)
        };
        let missing = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(ask(&[], &["d", "A", "a", "d", "x", "A"]).await, (vec![4, 1], vec![], missing(&["A", "x"])));
        assert_eq!(ask(&[3, 2, 9], &["b", "a", "c"]).await, (vec![3, 2, 1], vec![9], missing(&["c"])));
        assert_eq!(ask(&[1], &[]).await, (vec![1], vec![], vec![]));
    }

    async fn a_batch_of_large_users_names_the_external_ids_that_it_leaves_out(app: App) {
        let large = |number: i64| pb::User { bio: "👋".repeat(5_000), ..keyed(0, "", &format!("x-{number}")) };
        import(&app, (1..=250).map(large).collect()).await;
        let mut left: Vec<_> = (1..=250).map(|number| format!("x-{number}")).chain(["none".to_owned()]).collect();
        let (mut found, mut calls) = (vec![], 0);
        while !left.is_empty() {
            let ids = if calls == 0 { vec![250] } else { vec![] };
            let request = pb::BatchGetUsersRequest { ids, external_ids: left, ..Default::default() };
            let batch = app.users().batch_get_users(request).await.unwrap().into_inner();
            found.extend(batch.users.iter().map(|user| user.id));
            left = batch.omitted_external_ids;
            calls += 1;
            assert_eq!(batch.not_found_external_ids.len(), usize::from(left.is_empty()));
        }
        assert!(calls > 1, "{calls}");
        assert_eq!(found[..2], [250, 1]);
        assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>().len()), (251, 250));
    }

    async fn every_response_has_the_external_ids_of_its_users(app: App) {
        let [ann, bob] = [("", "a"), ("", "b")].map(|(name, key)| create(&app, keyed(0, name, key)));
        let (ann, bob) = (ann.await.unwrap(), bob.await.unwrap());
        let sent = app.try_send(ann.id, bob.id).await.unwrap().into_inner().connection_request.unwrap();
        let both = |request: &pb::ConnectionRequest| {
            [&request.from_user, &request.to_user].map(|user| user.as_ref().unwrap().external_id.clone())
        };
        assert_eq!(both(&sent), ["a", "b"]);
        app.accept(sent.id, bob.id).await.unwrap();
        for view in [UserView::Full, UserView::Basic, UserView::Id] {
            let list = pb::ListConnectionsRequest { user_id: ann.id, user_view: view.into(), ..Default::default() };
            let page = app.connections().list_connections(list).await.unwrap().into_inner();
            assert_eq!(page.connections[0].user.as_ref().unwrap().external_id, "b", "{view:?}");
        }
    }

    async fn another_server_knows_what_this_one_stored(app: App) {
        // Its writer has Ann in memory, without an external id, when another server gives her one.
        app.user("ann").await;
        let another = app.another(|_| {}).await;
        assert_eq!(import(&another, vec![keyed(1, "ann", "a-1")]).await.0, [0, 1, 0, 0]);
        let taken = create(&app, keyed(0, "", "a-1")).await;
        refused(taken, Code::AlreadyExists, ErrorReason::UserExists);
        assert_eq!(import(&app, vec![keyed(1, "ann", "a-2")]).await.0, [0, 0, 0, 1]);
        assert_eq!(update(&app, keyed(1, "", ""), "username").await.unwrap().external_id, "a-1");
        assert_eq!(by_external_id(&another, "a-1").await.unwrap().username, "");
    }
}
