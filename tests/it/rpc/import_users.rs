use std::time::Duration;

use futures_util::stream;
use kith::proto::v1 as pb;
use kith::proto::v1::{ErrorReason, UserStatus, get_user_request::Key};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

use super::{REQUEST_ID, full_user};
use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

fn row(user: pb::User) -> pb::ImportUsersRequest {
    pb::ImportUsersRequest { user: Some(user), request_id: String::new() }
}

fn named(id: i64, username: &str) -> pb::ImportUsersRequest {
    row(pb::User { id, username: username.to_owned(), ..Default::default() })
}

fn with_request_id(mut rows: Vec<pb::ImportUsersRequest>) -> Vec<pb::ImportUsersRequest> {
    rows[0].request_id = REQUEST_ID.to_owned();
    rows
}

async fn import(app: &App, rows: Vec<pb::ImportUsersRequest>) -> Result<Response<pb::ImportUsersResponse>, Status> {
    app.users().import_users(tokio_stream::iter(rows)).await
}

async fn imported(app: &App, rows: Vec<pb::ImportUsersRequest>) -> pb::ImportUsersResponse {
    import(app, rows).await.unwrap().into_inner()
}

async fn user(app: &App, id: i64) -> pb::User {
    let request = pb::GetUserRequest { key: Some(Key::Id(id)), ..Default::default() };
    app.users().get_user(request).await.unwrap().into_inner().user.unwrap()
}

/// Created, updated, unchanged, refused.
fn numbers(response: &pb::ImportUsersResponse) -> [i64; 4] {
    [response.created, response.updated, response.unchanged, response.refused]
}

/// Each refused row: its position, the reason, the wrong fields.
fn refusals<'a>(response: &'a pb::ImportUsersResponse) -> Vec<(i64, ErrorReason, Vec<&'a str>)> {
    let fields =
        |refusal: &'a pb::ImportRefusal| refusal.field_violations.iter().map(|wrong| wrong.field.as_str()).collect();
    response.refusals.iter().map(|refusal| (refusal.position, refusal.reason(), fields(refusal))).collect()
}

cases! {
    #[with(|settings| settings.max_queued_writes = 100)]
    async fn imports_leave_room_for_callers(app: App) {
        let ann = app.user("ann").await;
        let mut imports: JoinSet<_> = (1..=4)
            .map(|import| {
                let rows: Vec<_> = (1..=2_000).map(|row| named(import * 10_000 + row, &format!("{import}-{row}"))).collect();
                let mut users = app.users();
                async move { users.import_users(tokio_stream::iter(rows)).await.unwrap().into_inner().created }
            })
            .collect();
        let (mut calls, mut created) = (0, 0);
        while !imports.is_empty() {
            // No row is refused.
            app.update(ann, &format!("call {calls}")).await;
            calls += 1;
            while let Some(done) = imports.try_join_next() {
                created += done.unwrap();
            }
        }
        assert_eq!(created, 8_000);
        assert!(calls > 4, "only {calls} calls meanwhile");
    }

    #[with(|settings| settings.max_imports = 1)]
    async fn more_imports_than_the_limit_are_refused_until_one_ends(app: App) {
        let (rows, mut imports) = (watch::Sender::new(None), JoinSet::new());
        for _ in 0..2 {
            let (mut users, mut end) = (app.users(), rows.subscribe());
            let row = async move { end.wait_for(Option::is_some).await.unwrap().clone().unwrap() };
            imports.spawn(async move { users.import_users(stream::once(row)).await });
        }
        // Neither has sent a row, and one of them was late.
        refused(imports.join_next().await.unwrap().unwrap(), Code::ResourceExhausted, ErrorReason::Overloaded);
        rows.send_replace(Some(named(1, "ann")));
        assert_eq!(imports.join_next().await.unwrap().unwrap().unwrap().into_inner().created, 1);
        assert_eq!(imported(&app, vec![named(2, "bob")]).await.created, 1);
    }

    #[with(|settings| settings.max_call_time = Duration::from_millis(300))]
    async fn an_import_that_is_not_continued_is_ended(app: App) {
        let (rows, sent) = mpsc::channel(1);
        rows.send(named(1, "ann")).await.unwrap();
        let ended = app.users().import_users(ReceiverStream::new(sent)).await;
        refused(ended, Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
        drop(rows);
    }

    async fn users_are_created_changed_or_left_as_they_are(app: App) {
        let ann = full_user(1, "ann");
        let bob = full_user(2, "bob");
        let first = imported(&app, vec![row(ann.clone()), row(bob.clone())]).await;
        assert_eq!((numbers(&first), first.revision), ([2, 0, 0, 0], app.revision().await));
        let renamed = pb::User { username: "Bobby".to_owned(), email: "b@example.com".to_owned(), ..bob };
        let before = app.revision().await;
        let second = imported(&app, vec![row(ann.clone()), row(renamed.clone()), named(3, "cy")]).await;
        assert_eq!((numbers(&second), second.revision), ([1, 1, 1, 0], before + 2));
        assert_eq!((user(&app, 1).await, user(&app, 2).await), (ann.clone(), renamed));
        let third = imported(&app, vec![row(ann)]).await;
        assert_eq!((numbers(&third), third.revision), ([0, 0, 1, 0], before + 2));
    }

    async fn an_unset_status_joining_and_external_id_stay_and_the_rest_is_emptied(app: App) {
        let status = UserStatus::Unregistered.into();
        let before = pb::User { status, ..full_user(1, "ann") };
        imported(&app, vec![row(before.clone())]).await;
        assert_eq!(numbers(&imported(&app, vec![named(1, "ann")]).await), [0, 1, 0, 0]);
        let expected = pb::User {
            id: 1,
            username: "ann".to_owned(),
            status,
            date_joined: before.date_joined,
            external_id: before.external_id,
            ..Default::default()
        };
        assert_eq!(user(&app, 1).await, expected);
    }

    async fn an_import_changes_no_requests_or_connections(app: App) {
        let (ann, bob) = (app.user("ann").await, app.user("bob").await);
        app.connect(ann, bob).await;
        imported(&app, vec![row(full_user(ann, "Anna"))]).await;
        assert_eq!(app.counts(ann).await, [0, 0, 0, 1]);
    }

    async fn refused_rows_are_named_and_the_good_ones_stored(app: App) {
        app.user("taken").await;
        let rows = vec![
            named(10, "ann"),
            row(pb::User { email: "x".to_owned(), gender: 9, external_id: String::new(), ..full_user(0, "a b") }),
            named(11, "TAKEN"),
            pb::ImportUsersRequest { user: None, request_id: String::new() },
            named(12, "bob"),
            named(-1, "cy"),
        ];
        let response = imported(&app, rows).await;
        assert_eq!(numbers(&response), [2, 0, 0, 4]);
        let all: Vec<_> = refusals(&response);
        assert_eq!(all[0].0, 1);
        let mut wrong = all[0].2.clone();
        wrong.sort_unstable();
        assert_eq!(wrong, ["user.email", "user.gender", "user.id", "user.username"]);
        assert_eq!(all[1..], [
            (2, ErrorReason::UsernameTaken, vec!["user.username"]),
            (3, ErrorReason::InvalidFields, vec!["user"]),
            (5, ErrorReason::InvalidFields, vec!["user.id"]),
        ]);
        assert!(response.refusals.iter().flat_map(|row| &row.field_violations).all(|it| !it.description.is_empty()));
        assert_eq!((user(&app, 10).await.username, user(&app, 12).await.username), ("ann".into(), "bob".into()));
    }

    async fn rows_count_in_their_order(app: App) {
        // Of two rows about one user the later one wins. Of two users with the same name the first one gets it. A name
        // that a row gives up is free for the next.
        for round in 0..10 {
            let id = |number: i64| 1_000 * (round + 1) + number;
            let name = |name: &str| format!("{name}-{round}");
            let mut rows = vec![];
            for number in 0..30 {
                rows.push(named(id(0), &name(&format!("first-{number}"))));
            }
            rows.extend([named(id(1), &name("one")), named(id(2), &name("ONE"))]);
            rows.extend([named(id(0), &name("last")), named(id(3), &name("first-29"))]);
            let response = imported(&app, rows).await;
            assert_eq!(numbers(&response), [3, 30, 0, 1]);
            assert_eq!(refusals(&response), [(31, ErrorReason::UsernameTaken, vec!["user.username"])]);
            assert_eq!(user(&app, id(0)).await.username, name("last"));
            assert_eq!(user(&app, id(3)).await.username, name("first-29"));
        }
    }

    async fn users_may_swap_their_names(app: App) {
        imported(&app, vec![named(1, "ann"), named(2, "bob")]).await;
        for (rows, numbered) in [
            (vec![named(1, "between"), named(2, "ann"), named(1, "bob")], [0, 3, 0, 0]),
            (vec![named(1, "ann"), named(2, "bob")], [0, 2, 0, 0]),
            // One already has the name that the other gives up later.
            (vec![named(1, "bob"), named(3, "ann"), named(2, "cy")], [1, 2, 0, 0]),
        ] {
            let before = app.revision().await;
            let response = imported(&app, rows.clone()).await;
            assert_eq!((numbers(&response), response.revision), (numbered, app.revision().await));
            assert_eq!(response.revision, before + numbered.iter().sum::<i64>());
            for row in &rows[rows.len() - 2..] {
                let row = row.user.as_ref().unwrap();
                assert_eq!(user(&app, row.id).await.username, row.username);
                let by_name = Some(Key::Username(row.username.clone()));
                let found = app.users().get_user(pb::GetUserRequest { key: by_name, ..Default::default() }).await;
                assert_eq!(found.unwrap().into_inner().user.unwrap().id, row.id);
            }
        }
    }

    async fn names_go_round_in_a_long_stream_among_those_who_all_get_another(app: App) {
        let name = |number: i64| format!("user-{number}");
        imported(&app, (0..900).map(|id| named(id + 1, &name(id))).collect()).await;
        imported(&app, vec![named(1_000, "kept")]).await;
        // The first 200 each take the name of the next, and the last of them that of the first.
        let mut rows: Vec<_> = (0..200).map(|id| named(id + 1, &name((id + 1) % 200))).collect();
        // Far apart: two who swap. Without a way: one who wants a name that is kept, and who wants that one's.
        rows.insert(0, named(301, &name(800)));
        rows.extend([named(401, "kept"), named(402, &name(400))]);
        rows.extend((500..800).map(|id| named(id + 1, &name(id))));
        rows.push(named(801, &name(300)));
        let response = imported(&app, rows.clone()).await;
        assert_eq!(numbers(&response), [0, 202, 300, 2]);
        let taken = |position: i64| (position, ErrorReason::UsernameTaken, vec!["user.username"]);
        assert_eq!(refusals(&response), [taken(201), taken(202)]);
        for (place, row) in rows.iter().enumerate().filter(|(place, _)| ![201, 202].contains(place)) {
            let row = row.user.as_ref().unwrap();
            assert_eq!(user(&app, row.id).await.username, row.username, "row {place}");
        }
        assert_eq!((user(&app, 401).await.username, user(&app, 402).await.username), (name(400), name(401)));
    }

    async fn more_than_256_rows_do_not_wait_for_names(app: App) {
        let name = |number: i64| format!("user-{number}");
        imported(&app, (0..300).map(|id| named(id + 1, &name(id))).collect()).await;
        // All want the name of the next: the first 256 fail for lack of the 257th.
        let rows: Vec<_> = (0..300).map(|id| named(id + 1, &name((id + 1) % 300))).collect();
        let response = imported(&app, rows).await;
        assert_eq!(numbers(&response), [0, 0, 0, 300]);
        assert_eq!(user(&app, 1).await.username, name(0));
    }

    async fn a_row_that_waits_is_not_stored_after_a_later_one_about_the_same_user(app: App) {
        imported(&app, vec![named(1, "ann"), named(2, "bob")]).await;
        let rows = vec![named(1, "bob"), named(1, "anna"), named(2, "robert")];
        let response = imported(&app, rows).await;
        assert_eq!(numbers(&response), [0, 2, 0, 1]);
        assert_eq!(refusals(&response), [(0, ErrorReason::UsernameTaken, vec!["user.username"])]);
        assert_eq!((user(&app, 1).await.username, user(&app, 2).await.username), ("anna".into(), "robert".into()));
    }

    async fn so_it_is_if_many_rows_wait(app: App) {
        imported(&app, vec![named(1, "ann"), named(2, "bob"), named(3, "kept")]).await;
        let waiting = |ids: std::ops::Range<i64>| ids.map(|id| named(id, "kept"));
        // The first 256 rows are stored together; in the rest, the first waits while so many others do that they are
        // decided, and the last two are about its user and about the one who has the name.
        let mut rows: Vec<_> = waiting(1_000..1_100).collect();
        rows.extend((2_000..2_156).map(|id| named(id, &format!("user-{id}"))));
        rows.push(named(1, "bob"));
        rows.extend(waiting(1_100..1_260));
        rows.extend([named(1, "anna"), named(2, "robert")]);
        let response = imported(&app, rows).await;
        assert_eq!(numbers(&response), [156, 2, 0, 261]);
        assert_eq!((user(&app, 1).await.username, user(&app, 2).await.username), ("anna".into(), "robert".into()));
    }

    async fn a_stream_may_have_more_rows_than_are_stored_at_once(app: App) {
        let rows: Vec<_> = (1..=1_500)
            .map(|id| if id % 10 == 0 { named(id, "") } else { named(id, &format!("user-{id}")) })
            .collect();
        let response = imported(&app, rows.clone()).await;
        assert_eq!(numbers(&response), [1_350, 0, 0, 150]);
        let positions: Vec<i64> = response.refusals.iter().map(|refusal| refusal.position).collect();
        assert_eq!(positions, (0..150).map(|tenth| 10 * tenth + 9).collect::<Vec<_>>());
        assert_eq!(response.revision, app.revision().await);
        assert_eq!(numbers(&imported(&app, rows).await), [0, 0, 1_350, 150]);
    }

    async fn only_the_first_thousand_refusals_are_named(app: App) {
        let response = imported(&app, (1..=1_200).map(|id| named(id, "")).collect()).await;
        assert_eq!((response.refused, response.refusals.len()), (1_200, 1_000));
        assert_eq!(response.refusals[999].position, 999);
    }

    async fn an_empty_stream_does_nothing(app: App) {
        app.user("ann").await;
        let response = imported(&app, vec![]).await;
        assert_eq!((numbers(&response), response.revision), ([0; 4], app.revision().await));
    }

    async fn a_request_id_belongs_into_the_first_row(app: App) {
        let mut rows = vec![named(1, "ann"), named(2, "bob"), named(3, "cy")];
        rows[1].request_id = REQUEST_ID.to_owned();
        let response = imported(&app, rows).await;
        assert_eq!(numbers(&response), [2, 0, 0, 1]);
        assert_eq!(refusals(&response), [(1, ErrorReason::InvalidFields, vec!["request_id"])]);

        let before = app.revision().await;
        let mut rows = vec![named(4, "dee")];
        rows[0].request_id = "mine".to_owned();
        let details = refused(import(&app, rows).await, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), ["request_id"]);
        assert_eq!(app.revision().await, before);
    }

    async fn a_repeated_stream_gets_the_first_response_and_stores_nothing(app: App) {
        let mut rows: Vec<_> = (1..=600).map(|id| named(id, &format!("user-{id}"))).collect();
        rows[300] = named(301, "");
        let rows = with_request_id(rows);
        let first = imported(&app, rows.clone()).await;
        assert_eq!(numbers(&first), [599, 0, 0, 1]);
        app.users().delete_user(pb::DeleteUserRequest { id: 5, ..Default::default() }).await.unwrap();
        let before = app.revision().await;
        assert_eq!(imported(&app, rows.clone()).await, first);
        assert_eq!(app.revision().await, before);

        let mut changed = rows.clone();
        changed[599] = named(600, "another");
        let mut longer = rows.clone();
        longer.push(named(700, "another"));
        let shorter = rows[..599].to_vec();
        for other in [changed, longer, shorter] {
            let details = refused(import(&app, other).await, Code::InvalidArgument, ErrorReason::RequestIdReused);
            assert_eq!(fields(&details), ["request_id"]);
        }
        let create = pb::CreateUserRequest { user: rows[0].user.clone(), request_id: REQUEST_ID.to_owned() };
        let reused = app.users().create_user(create).await;
        refused(reused, Code::InvalidArgument, ErrorReason::RequestIdReused);
        assert_eq!(app.revision().await, before);
        app.clock.advance(chrono::TimeDelta::hours(24));
        assert_eq!(numbers(&imported(&app, rows).await), [1, 0, 598, 1]);
    }
}
