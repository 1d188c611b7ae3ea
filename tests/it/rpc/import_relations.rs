use std::time::Duration;

use kith::domain::policy::Policy;
use kith::progress::Progress;
use kith::proto::v1 as pb;
use kith::proto::v1::relation_row::Row;
use kith::proto::v1::user_reference::Key;
use kith::proto::v1::{ConflictRule, ConnectionRequestState, CrossingRule, ErrorReason, PendingAge, RefusalReason};
use kith::store::{self, Repair};
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::full_user;
use crate::cases;
use crate::harness::app::fields;
use crate::harness::invariants::later_than_all;
use crate::harness::{App, refused};

/// A day in the past of every test, counted from one on which nothing has expired yet.
fn day(app: &App, day: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: app.clock.now().timestamp() - (100 - day) * 86_400, nanos: 0 })
}

fn id(id: i64) -> Option<pb::UserReference> {
    Some(pb::UserReference { key: Some(Key::Id(id)) })
}

fn external_id(id: &str) -> Option<pb::UserReference> {
    Some(pb::UserReference { key: Some(Key::ExternalId(id.to_owned())) })
}

fn username(name: &str) -> Option<pb::UserReference> {
    Some(pb::UserReference { key: Some(Key::Username(name.to_owned())) })
}

fn user(user: pb::User) -> pb::RelationRow {
    pb::RelationRow { row: Some(Row::User(pb::UserRow { user: Some(user), position: 0 })) }
}

fn named(id: i64, username: &str, external_id: &str) -> pb::RelationRow {
    let (username, external_id) = (username.to_owned(), external_id.to_owned());
    user(pb::User { id, username, external_id, ..Default::default() })
}

fn connection(from: i64, to: i64) -> pb::ConnectionRow {
    pb::ConnectionRow { from: id(from), to: id(to), ..Default::default() }
}

fn connected(row: pb::ConnectionRow) -> pb::RelationRow {
    pb::RelationRow { row: Some(Row::Connection(row)) }
}

fn request(from: i64, to: i64, state: ConnectionRequestState) -> pb::RequestRow {
    pb::RequestRow { from: id(from), to: id(to), state: state.into(), ..Default::default() }
}

fn requested(row: pb::RequestRow) -> pb::RelationRow {
    pb::RelationRow { row: Some(Row::Request(row)) }
}

fn pending(from: i64, to: i64) -> pb::RelationRow {
    requested(request(from, to, ConnectionRequestState::Pending))
}

fn blocked(user: i64, other: i64) -> pb::RelationRow {
    let row = pb::BlockRow { user: id(user), other: id(other), ..Default::default() };
    pb::RelationRow { row: Some(Row::Block(row)) }
}

fn messages(options: pb::ImportOptions, rows: &[pb::RelationRow], size: usize) -> Vec<pb::ImportRelationsRequest> {
    let first = pb::ImportRelationsRequest { options: Some(options), rows: vec![] };
    let rest = rows.chunks(size).map(|rows| pb::ImportRelationsRequest { options: None, rows: rows.to_vec() });
    [first].into_iter().chain(rest).collect()
}

async fn send(
    app: &App,
    messages: Vec<pb::ImportRelationsRequest>,
) -> Result<Vec<pb::ImportRelationsResponse>, Status> {
    let mut stream = app.imports().import_relations(tokio_stream::iter(messages)).await?.into_inner();
    let mut responses = Vec::new();
    while let Some(response) = stream.message().await? {
        responses.push(response);
    }
    Ok(responses)
}

/// What became of an import.
#[derive(Debug, PartialEq)]
struct Imported {
    /// Created, unchanged, replaced, refused.
    numbers: [i64; 4],
    refusals: Vec<(i64, RefusalReason)>,
}

fn done(numbers: [i64; 4], refusals: &[(i64, RefusalReason)]) -> Imported {
    Imported { numbers, refusals: refusals.to_vec() }
}

async fn import_with(app: &App, options: pb::ImportOptions, rows: Vec<pb::RelationRow>) -> Imported {
    let total = i64::try_from(rows.len()).unwrap();
    let responses = send(app, messages(options, &rows, 1_000)).await.unwrap();
    let last = responses.last().unwrap();
    assert_eq!((last.position, last.revision), (total, app.revision().await));
    assert_eq!(last.created + last.unchanged + last.replaced + last.refused, total);
    let refusals = responses.iter().flat_map(|response| &response.refusals);
    let refusals = refusals.map(|refusal| (refusal.position, refusal.reason())).collect();
    Imported { numbers: [last.created, last.unchanged, last.replaced, last.refused], refusals }
}

async fn import(app: &App, rows: Vec<pb::RelationRow>) -> Imported {
    import_with(app, pb::ImportOptions::default(), rows).await
}

/// Users 1 to `count`.
async fn crowd(app: &App, count: i64) {
    let rows = (1..=count).map(|id| named(id, &format!("user-{id}"), "")).collect();
    assert_eq!(import(app, rows).await.numbers, [count, 0, 0, 0]);
}

async fn status(app: &App, user_id: i64, other_user_id: i64) -> pb::ConnectionStatus {
    let request = pb::GetConnectionStatusRequest { user_id, other_user_id, ..Default::default() };
    app.connections().get_connection_status(request).await.unwrap().into_inner().status()
}

async fn checked(app: &App) {
    let report =
        store::check(&app.database.url(), Repair::Nothing, &later_than_all(), &Progress::default()).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// One row of each kind, between the users 1 to 9.
fn each(app: &App) -> Vec<pb::RelationRow> {
    use ConnectionRequestState::{Rejected, Silenced, Withdrawn};
    let at = |at| day(app, at);
    vec![
        connected(pb::ConnectionRow {
            created: at(1),
            viewed: at(2),
            connected: at(3),
            message: "Hi".to_owned(),
            reply: "Hello".to_owned(),
            ..connection(1, 2)
        }),
        requested(pb::RequestRow {
            created: at(4),
            viewed: at(5),
            message: "Hi".to_owned(),
            ..request(1, 3, ConnectionRequestState::Pending)
        }),
        requested(pb::RequestRow { created: at(6), viewed: at(7), rejected: at(90), ..request(1, 4, Rejected) }),
        requested(pb::RequestRow { created: at(8), ..request(1, 5, Silenced) }),
        requested(pb::RequestRow { rejected: at(91), ..request(1, 6, Withdrawn) }),
        pb::RelationRow {
            row: Some(Row::Block(pb::BlockRow { user: id(1), other: id(7), created: at(9), ..Default::default() })),
        },
    ]
}

cases! {
    async fn each_kind_of_row_is_stored_with_its_dates_and_told_as_imported(app: App) {
        crowd(&app, 9).await;
        let before = app.revision().await;
        assert_eq!(import(&app, each(&app)).await, done([6, 0, 0, 0], &[]));
        use pb::ConnectionStatus::{Blocked, Connected, RequestReceived, RequestRejected, RequestSent};
        for (user, other, expected) in [
            (1, 2, Connected), (2, 1, Connected), (1, 3, RequestSent), (3, 1, RequestReceived), (1, 4, RequestSent),
            (4, 1, RequestRejected), (1, 5, RequestSent), (5, 1, pb::ConnectionStatus::None), (1, 7, Blocked),
        ] {
            assert_eq!(status(&app, user, other).await, expected, "{user} to {other}");
        }
        let list = pb::ListConnectionsRequest { user_id: 2, ..Default::default() };
        let connections = app.connections().list_connections(list).await.unwrap().into_inner().connections;
        assert_eq!(connections[0].connected, day(&app, 3));
        let request = app.request(connections[0].connection_request_id, 0).await.unwrap();
        assert_eq!((request.created, request.viewed, request.accepted), (day(&app, 1), day(&app, 2), day(&app, 3)));
        assert_eq!((request.message.as_str(), request.reply.as_str()), ("Hi", "Hello"));
        // The cooldown of a withdrawn request holds the next one back.
        app.send(1, 6).await;
        assert_eq!(status(&app, 6, 1).await, pb::ConnectionStatus::None);
        let events = pb::ListEventsRequest { after_sequence: before, page_size: 1_000, ..Default::default() };
        let events = app.events().list_events(events).await.unwrap().into_inner().events;
        let of_import = events.len() - 1;
        assert!(events[..of_import].iter().all(|event| event.cause() == pb::EventCause::Imported), "{events:#?}");
        assert_ne!(events[of_import].cause(), pb::EventCause::Imported);
        checked(&app).await;
    }

    async fn the_same_rows_again_change_nothing(app: App) {
        crowd(&app, 9).await;
        assert_eq!(import(&app, each(&app)).await.numbers, [6, 0, 0, 0]);
        let before = app.revision().await;
        let mut rows: Vec<_> = (1..=9).map(|id| named(id, &format!("user-{id}"), "")).collect();
        rows.extend(each(&app));
        assert_eq!(import(&app, rows).await, done([0, 15, 0, 0], &[]));
        assert_eq!(app.revision().await, before);
    }

    async fn users_are_named_by_id_username_or_external_id_and_may_come_in_the_same_stream(app: App) {
        let rows = vec![
            named(0, "", "a-1"),
            named(0, "Bob", ""),
            named(7, "cy", "c-1"),
            connected(pb::ConnectionRow { from: external_id("a-1"), to: username("BOB"), ..Default::default() }),
            connected(pb::ConnectionRow { from: external_id("c-1"), to: id(1), ..Default::default() }),
            connected(pb::ConnectionRow { from: username("cy"), to: username("bob"), ..Default::default() }),
            connected(pb::ConnectionRow { from: external_id("A-1"), to: username("dan"), ..Default::default() }),
        ];
        assert_eq!(import(&app, rows.clone()).await, done([6, 0, 0, 1], &[(6, RefusalReason::UserNotFound)]));
        for (user, other) in [(1, 2), (7, 1), (7, 2)] {
            assert_eq!(status(&app, user, other).await, pb::ConnectionStatus::Connected);
        }
        // Again, a row with nothing but a name is about the user who has it.
        assert_eq!(import(&app, rows.clone()).await, done([0, 6, 0, 1], &[(6, RefusalReason::UserNotFound)]));
        let options = pb::ImportOptions { create_missing_users: true, ..Default::default() };
        assert_eq!(import_with(&app, options, rows).await, done([1, 6, 0, 0], &[]));
        let key = pb::GetUserRequest { key: Some(pb::get_user_request::Key::Username("dan".to_owned())), ..Default::default() };
        let dan = app.users().get_user(key).await.unwrap().into_inner().user.unwrap();
        assert_eq!(dan.status(), pb::UserStatus::Unregistered);
        checked(&app).await;
    }

    async fn rows_that_cannot_be_stored_are_refused_with_their_reasons(app: App) {
        crowd(&app, 5).await;
        let at = |at| day(&app, at);
        let rows = vec![
            pb::RelationRow { row: None },
            connected(pb::ConnectionRow { message: "\0".to_owned(), ..connection(1, 2) }),
            connected(pb::ConnectionRow { created: at(3), connected: at(2), ..connection(1, 2) }),
            connected(connection(1, 1)),
            connected(connection(1, 9)),
            user(pb::User { email: "nobody".to_owned(), ..full_user(6, "six") }),
            named(6, "USER-1", ""),
            named(1, "user-1", "x-1"),
            named(2, "user-2", "x-1"),
            named(1, "user-1", "x-2"),
            blocked(1, 3),
            connected(connection(3, 1)),
            connected(connection(4, 5)),
            pending(4, 5),
            connected(connection(5, 4)),
            requested(pb::RequestRow { created: at(-200), ..request(2, 3, ConnectionRequestState::Pending) }),
        ];
        use RefusalReason as R;
        let refusals = [
            (0, R::UnknownType), (1, R::InvalidFields), (2, R::DateOrder), (3, R::SelfRequest), (4, R::UserNotFound),
            (5, R::InvalidFields), (6, R::UsernameTaken), (8, R::ExternalIdTaken), (9, R::InvalidFields), (11, R::Blocked),
            (13, R::ConflictingState), (14, R::DuplicatePair), (15, R::Expired),
        ];
        assert_eq!(import(&app, rows).await, done([2, 0, 1, 13], &refusals));
        checked(&app).await;
    }

    async fn another_state_in_the_database_stays_or_is_replaced(app: App) {
        crowd(&app, 4).await;
        app.connect(1, 2).await;
        app.block(1, 3).await;
        let rows = || vec![pending(1, 2), connected(connection(1, 3)), pending(1, 4), blocked(2, 1)];
        use RefusalReason::{Blocked, ConflictingState};
        let of_first_pair = vec![pending(1, 2)];
        assert_eq!(import(&app, of_first_pair.clone()).await, done([0, 0, 0, 1], &[(0, ConflictingState)]));
        let rule = |rule: ConflictRule| pb::ImportOptions { on_conflict: rule.into(), ..Default::default() };
        let failing: Vec<_> = rows()[2..].iter().cloned().chain(of_first_pair).chain([pending(3, 4)]).collect();
        let fail = send(&app, messages(rule(ConflictRule::Fail), &failing, 9)).await.unwrap();
        let last = fail.last().unwrap();
        // The block ends a connection, which is a conflict too, and nothing after it is stored.
        assert_eq!((last.position, last.created, last.refused), (1, 1, 1), "{fail:?}");
        assert_eq!(status(&app, 3, 4).await, pb::ConnectionStatus::None);
        let replaced = import_with(&app, rule(ConflictRule::Replace), rows()).await;
        assert_eq!(replaced, done([0, 1, 1, 2], &[(0, Blocked), (1, Blocked)]));
        assert_eq!((status(&app, 2, 1).await, status(&app, 1, 2).await), (pb::ConnectionStatus::Blocked, pb::ConnectionStatus::None));
        checked(&app).await;
    }

    async fn crossing_requests_connect_or_the_older_remains(app: App) {
        crowd(&app, 4).await;
        let at = |at| day(&app, at);
        let rows = |one: i64, other: i64| vec![
            requested(pb::RequestRow { created: at(5), message: "later".to_owned(), ..request(one, other, ConnectionRequestState::Pending) }),
            requested(pb::RequestRow { created: at(4), message: "earlier".to_owned(), ..request(other, one, ConnectionRequestState::Pending) }),
        ];
        assert_eq!(import(&app, rows(1, 2)).await, done([2, 0, 0, 0], &[]));
        assert_eq!(status(&app, 1, 2).await, pb::ConnectionStatus::Connected);
        let older = pb::ImportOptions { crossing: CrossingRule::Older.into(), ..Default::default() };
        assert_eq!(import_with(&app, older, rows(3, 4)).await, done([1, 0, 0, 1], &[(0, RefusalReason::DuplicatePair)]));
        assert_eq!(status(&app, 4, 3).await, pb::ConnectionStatus::RequestSent);
    }

    async fn old_requests_expire_or_begin_now_and_undated_rows_have_the_default_date(app: App) {
        crowd(&app, 4).await;
        let old = requested(pb::RequestRow { created: day(&app, -300), ..request(1, 2, ConnectionRequestState::Pending) });
        assert_eq!(import(&app, vec![old.clone()]).await, done([0, 0, 0, 1], &[(0, RefusalReason::Expired)]));
        let now = pb::ImportOptions { pending_age: PendingAge::Now.into(), ..Default::default() };
        assert_eq!(import_with(&app, now, vec![old]).await, done([1, 0, 0, 0], &[]));
        let dated = pb::ImportOptions { default_date: day(&app, 7), ..Default::default() };
        assert_eq!(import_with(&app, dated, vec![connected(connection(3, 4))]).await, done([1, 0, 0, 0], &[]));
        let list = pb::ListConnectionsRequest { user_id: 3, ..Default::default() };
        let connections = app.connections().list_connections(list).await.unwrap().into_inner().connections;
        assert_eq!(connections[0].connected, day(&app, 7));
    }

    #[with(|settings| settings.policy = Policy { max_connections: Some(1), max_sent_requests: Some(1), max_sends_per_hour: Some(1), ..Policy::default() })]
    async fn limits_do_not_apply(app: App) {
        crowd(&app, 6).await;
        let rows = vec![connected(connection(1, 2)), connected(connection(1, 3)), pending(1, 4), pending(1, 5), pending(1, 6)];
        // The second connection and request are above them, and the third.
        let warnings = [1, 3, 4].map(|position| (position, RefusalReason::LimitReached));
        assert_eq!(import(&app, rows).await, done([5, 0, 0, 0], &warnings));
        assert_eq!(app.counts(1).await, [3, 0, 0, 2]);
    }

    async fn a_client_learns_how_far_its_rows_are_stored_and_resumes_there(app: App) {
        crowd(&app, 30).await;
        let rows: Vec<_> = (2..=30).map(|other| pending(1, other)).collect();
        let (messages, received) = mpsc::channel(9);
        let first = pb::ImportRelationsRequest { options: Some(pb::ImportOptions::default()), rows: vec![] };
        messages.send(first).await.unwrap();
        let mut responses = app.imports().import_relations(ReceiverStream::new(received)).await.unwrap().into_inner();
        let mut position = 0;
        for rows in rows[..20].chunks(4) {
            // The next rows are sent only when these are stored.
            messages.send(pb::ImportRelationsRequest { options: None, rows: rows.to_vec() }).await.unwrap();
            let response = responses.message().await.unwrap().unwrap();
            position += 4;
            assert_eq!((response.position, response.created), (position, position));
            assert_eq!(app.counts(1).await[0], position);
        }
        // The client goes away, and comes back with the rest.
        drop((messages, responses));
        let rest = rows[usize::try_from(position).unwrap()..].to_vec();
        assert_eq!(import(&app, rest).await.numbers, [9, 0, 0, 0]);
        assert_eq!(import(&app, rows).await.numbers, [0, 29, 0, 0]);
    }

    async fn a_dry_run_says_what_an_import_would_do_and_stores_nothing(app: App) {
        crowd(&app, 9).await;
        app.connect(2, 3).await;
        let mut rows = each(&app);
        rows.extend([
            named(1, "user-1", "x-1"),
            named(2, "user-1", ""),
            named(0, "", "new"),
            named(0, "other", "new"),
            connected(pb::ConnectionRow { from: external_id("new"), to: id(1), ..Default::default() }),
            pending(2, 3),
            connected(connection(9, 99)),
        ]);
        // The same rows once more, in another message.
        let twice: Vec<_> = rows.iter().chain(&rows).cloned().collect();
        let before = app.revision().await;
        let dry = pb::ImportOptions { dry_run: true, ..Default::default() };
        let tried = send(&app, messages(dry, &twice, rows.len())).await.unwrap();
        assert_eq!(app.revision().await, before);
        let stored = send(&app, messages(pb::ImportOptions::default(), &twice, rows.len())).await.unwrap();
        let told = |responses: &[pb::ImportRelationsResponse]| {
            let refusals: Vec<_> = responses.iter().flat_map(|response| &response.refusals).map(|refusal| (refusal.position, refusal.reason())).collect();
            let last = responses.last().unwrap();
            // Whether the second run finds the users of a dry run unchanged is not known.
            (last.position, last.created, last.refused, last.unchanged + last.replaced, refusals)
        };
        assert_eq!(told(&tried), told(&stored));
        checked(&app).await;
    }

    async fn the_options_come_first_and_once(app: App) {
        let rows = |number: usize| vec![pb::RelationRow::default(); number];
        let options = || Some(pb::ImportOptions::default());
        let message = |options, rows| pb::ImportRelationsRequest { options, rows };
        for (messages, field) in [
            (vec![], "options"),
            (vec![message(None, rows(1))], "options"),
            (vec![message(options(), vec![]), message(options(), vec![])], "options"),
            (vec![message(options(), rows(1_001))], "rows"),
            (vec![message(options(), vec![]), message(None, rows(1_001))], "rows"),
            (vec![message(Some(pb::ImportOptions { crossing: 9, ..Default::default() }), vec![])], "options.crossing"),
        ] {
            let refusal = send(&app, messages).await;
            assert_eq!(fields(&refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields)), [field]);
        }
        let nothing = send(&app, vec![message(options(), vec![])]).await.unwrap();
        let revision = app.revision().await;
        assert_eq!(nothing, [pb::ImportRelationsResponse { revision, epoch: nothing[0].epoch.clone(), ..Default::default() }]);
    }

    #[with(|settings| settings.max_call_time = Duration::from_millis(300))]
    async fn an_import_that_is_not_continued_is_ended(app: App) {
        let (messages, received) = mpsc::channel(1);
        messages.send(pb::ImportRelationsRequest { options: Some(pb::ImportOptions::default()), rows: vec![] }).await.unwrap();
        let mut responses = app.imports().import_relations(ReceiverStream::new(received)).await.unwrap().into_inner();
        refused(responses.message().await, Code::DeadlineExceeded, ErrorReason::DeadlinePassed);
        drop(messages);
    }

    #[with(|settings| settings.max_imports = 1)]
    async fn more_imports_than_the_limit_are_refused(app: App) {
        let (messages, received) = mpsc::channel(1);
        messages.send(pb::ImportRelationsRequest { options: Some(pb::ImportOptions::default()), rows: vec![] }).await.unwrap();
        let running = app.imports().import_relations(ReceiverStream::new(received)).await.unwrap();
        let another = send(&app, vec![pb::ImportRelationsRequest { options: Some(pb::ImportOptions::default()), rows: vec![] }]).await;
        refused(another, Code::ResourceExhausted, ErrorReason::Overloaded);
        drop((messages, running));
    }
}
