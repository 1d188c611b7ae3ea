//! Input that nobody sends by mistake: each field of each request with each kind of wrong value, and with valid values
//! at the limits. An error names a wrong field, alone or together with all others that are wrong. Nothing is changed.
//! No input makes the service fail.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};

use kith::proto::v1 as pb;
use kith::proto::v1::ErrorReason;
use kith::proto::v1::get_user_request::Key;
use prost_types::{FieldMask, Timestamp};
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use crate::cases;
use crate::harness::app::fields;
use crate::harness::{App, refused};

/// How to set a field of a request, and the values to try.
struct Field<R> {
    name: &'static str,
    good: Vec<Change<R>>,
    bad: Vec<Change<R>>,
}

struct Change<R> {
    value: String,
    make: Box<dyn Fn(&mut R) + Send + Sync>,
}

/// Valid and invalid values of one kind.
struct Values<T> {
    good: Vec<T>,
    bad: Vec<T>,
}

fn field<R: 'static, T: Debug + Clone + Send + Sync + 'static>(
    name: &'static str,
    values: Values<T>,
    set: fn(&mut R, T),
) -> Field<R> {
    let changes = |values: Vec<T>| {
        let change = |value: T| Change {
            value: format!("{value:?}").chars().take(80).collect(),
            make: Box::new(move |request: &mut R| set(request, value.clone())),
        };
        values.into_iter().map(change).collect()
    };
    Field { name, good: changes(values.good), bad: changes(values.bad) }
}

// --- kinds of values ---

/// The largest id: 2^53 - 1.
const LARGEST: i64 = 9_007_199_254_740_991;

/// A required id. No user has any of the valid ones.
fn id() -> Values<i64> {
    Values { good: vec![LARGEST, 1_000_000], bad: vec![0, -1, i64::MIN, i64::from(i32::MIN), LARGEST + 1, i64::MAX] }
}

fn optional_id() -> Values<i64> {
    Values { good: vec![0, 1_000_000, LARGEST], bad: vec![-1, i64::MIN, LARGEST + 1, i64::MAX] }
}

fn ids() -> Values<Vec<i64>> {
    Values {
        good: vec![vec![LARGEST], (1..=1_000).collect(), vec![7; 1_000]],
        bad: vec![vec![], (1..=1_001).collect()],
    }
}

/// A revision. Only the first is reached.
fn revision() -> Values<i64> {
    Values { good: vec![0], bad: vec![-1, i64::MIN] }
}

fn page_size() -> Values<i32> {
    Values { good: vec![0, 1, 1_000, 1_001, i32::MAX], bad: vec![-1, -1_000, i32::MIN] }
}

fn page_token() -> Values<String> {
    let bad = ["x", "\0", "AQAAAAAAAAAAAA", "../../etc/passwd", "%00", "é", " ", "==", "' OR 1=1 --"];
    let mut bad: Vec<_> = bad.map(str::to_owned).into();
    bad.push("A".repeat(100_000));
    Values { good: vec![String::new()], bad }
}

fn request_id() -> Values<String> {
    let uuid = || Uuid::new_v4();
    Values {
        good: vec![String::new(), uuid().to_string(), uuid().to_string().to_uppercase()],
        bad: vec![
            "x".to_owned(),
            " ".to_owned(),
            "\0".repeat(36),
            "é".repeat(18),
            uuid().simple().to_string(),
            uuid().braced().to_string(),
            uuid().urn().to_string(),
            uuid().to_string()[..35].to_owned(),
            format!("{} ", uuid()),
            "x".repeat(100_000),
        ],
    }
}

/// A number of an enum with values up to `last`. Those in `refused` are known and still invalid here.
fn number(last: i32, refused: &[i32]) -> Values<i32> {
    let good = (0..=last).filter(|value| !refused.contains(value)).collect();
    Values { good, bad: [&[-1, last + 1, i32::MIN, i32::MAX], refused].concat() }
}

/// A text of at most `max` characters.
fn text(max: usize, lines: bool) -> Values<String> {
    let mut good: Vec<_> = ["a", "é", "👋", "\u{202e}"].map(|c| c.repeat(max)).into();
    good.extend([String::new(), "'; DROP TABLE users; --".to_owned(), "%_\\".to_owned()]);
    let mut bad: Vec<_> = ["a", "é", "👋"].map(|c| c.repeat(max + 1)).into();
    bad.extend(["\0", "a\0b", "\u{1}", "\u{1b}[0m", "\r", "\u{7f}", "\u{85}", "\u{9f}"].map(str::to_owned));
    let breaks = ["\n", "a\tb"].map(str::to_owned);
    if lines {
        good.extend(breaks)
    } else {
        bad.extend(breaks)
    }
    Values { good, bad }
}

fn username() -> Values<String> {
    let mut bad: Vec<_> = [" ", "a b", "é", "a\0", "a\n", "a.b", "a@b", "👋", "a/b"].map(str::to_owned).into();
    bad.push("a".repeat(256));
    Values { good: vec!["a".repeat(255), "A-Z_09".to_owned(), "-".to_owned(), "0".to_owned()], bad }
}

fn external_id() -> Values<String> {
    let mut good: Vec<_> = ["a", "é", "👋", "\u{202e}"].map(|c| c.repeat(128)).into();
    good.extend(["'; DROP TABLE users; --".to_owned(), "a b".to_owned(), "%_\\".to_owned(), "0".to_owned()]);
    let mut bad: Vec<_> = ["a", "é", "👋"].map(|c| c.repeat(129)).into();
    bad.extend(["\0", "a\0b", "\n", "a\tb", "\u{85}", " ", " a", "a ", "a\u{a0}", "\u{3000}a"].map(str::to_owned));
    Values { good, bad }
}

fn email() -> Values<String> {
    // 254 characters: 64, the sign, and a domain of 189.
    let longest = format!("{}@{}.{}.{}.com", "a".repeat(64), "b".repeat(63), "c".repeat(63), "d".repeat(57));
    assert_eq!(longest.len(), 254);
    let too_long = longest.replace(".com", "d.com");
    let mut bad: Vec<_> = [
        "ann",
        "ann@",
        "@example.com",
        "ann@localhost",
        "a b@example.com",
        "ann@exam\0ple.com",
        "Ann <a@example.com>",
        "ann@example.com\n",
        "a@b@example.com",
        " ",
        "ann@[127.0.0.1]",
    ]
    .map(str::to_owned)
    .into();
    bad.push(too_long);
    Values { good: vec![String::new(), "ann+tag@mail.example.com".to_owned(), longest], bad }
}

fn url() -> Values<String> {
    let of = |length: usize| format!("https://example.com/{}", "a".repeat(length - 20));
    let bad = [
        "x",
        "/a",
        "//example.com",
        "ftp://example.com",
        "javascript:alert(1)",
        "http://",
        "https:///a",
        "https://example.com/\0",
        "https://example.com/\n",
        "https://exa mple.com",
        "file:///etc/passwd",
    ];
    let mut bad: Vec<_> = bad.map(str::to_owned).into();
    bad.push(of(201));
    Values { good: vec![String::new(), of(200), "http://example.com:8080/a?b=c".to_owned()], bad }
}

fn birthday() -> Values<String> {
    let bad = [
        "2001-02-29",
        "2000-13-01",
        "2000-00-01",
        "2000-1-1",
        "01.01.2000",
        "20000101",
        "9999-12-31",
        "+2000-01-01",
        "2000-01-01T00:00:00Z",
        "2000-01-01\0",
        " 2000-01-01",
        "\0",
        "٢٠٠٠-٠١-٠١",
    ];
    let good = ["", "2000-02-29", "1900-01-01", "0001-01-01"];
    Values { good: good.map(str::to_owned).into(), bad: bad.map(str::to_owned).into() }
}

fn time() -> Values<Option<Timestamp>> {
    let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
    let (first, last) = (-62_135_596_800, 253_402_300_799);
    Values {
        good: vec![None, at(0, 0), at(first, 0), at(last, 999_999_999)],
        bad: vec![
            at(first - 1, 0),
            at(last + 1, 0),
            at(i64::MIN, 0),
            at(i64::MAX, 0),
            at(0, -1),
            at(0, 1_000_000_000),
            at(0, i32::MIN),
            at(0, i32::MAX),
            at(i64::MAX, i32::MAX),
        ],
    }
}

// --- the tables ---

/// A user's fields, for any request that has one.
macro_rules! profile {
    () => {
        vec![
            field("user.username", username(), |it, value| user(it).username = value),
            field("user.real_name", text(255, false), |it, value| user(it).real_name = value),
            field("user.email", email(), |it, value| user(it).email = value),
            field("user.date_joined", time(), |it, value| user(it).date_joined = value),
            field("user.bio", text(5_000, true), |it, value| user(it).bio = value),
            field("user.location", text(100, false), |it, value| user(it).location = value),
            field("user.birthday", birthday(), |it, value| user(it).birthday = value),
            field("user.description", text(50, false), |it, value| user(it).description = value),
            field("user.gender", number(2, &[]), |it, value| user(it).gender = value),
            field("user.status", number(3, &[]), |it, value| user(it).status = value),
            field("user.website", url(), |it, value| user(it).website = value),
            field("user.avatar", url(), |it, value| user(it).avatar = value),
            field("user.cover", url(), |it, value| user(it).cover = value),
            field("user.external_id", external_id(), |it, value| user(it).external_id = value),
        ]
    };
}

macro_rules! page {
    ($request:ident) => {
        [
            field("page_size", page_size(), |it: &mut pb::$request, value| it.page_size = value),
            field("page_token", page_token(), |it, value| it.page_token = value),
            field("min_revision", revision(), |it, value| it.min_revision = value),
        ]
    };
}

/// A user that no other row of the tables has.
fn fresh() -> pb::User {
    static LAST: AtomicI64 = AtomicI64::new(1_000);
    let id = LAST.fetch_add(1, Ordering::SeqCst);
    pb::User { id, username: format!("user-{id}"), ..Default::default() }
}

/// Makes a call with each value of each field, one at a time, and then with everything wrong.
///
/// A valid call may still end with NOT_FOUND.
async fn probe<R, T>(
    app: &App,
    base: impl Fn() -> R,
    table: Vec<Field<R>>,
    call: impl AsyncFn(R) -> Result<Response<T>, Status>,
) {
    let rpc = std::any::type_name::<R>();
    for Field { name, good, bad } in &table {
        assert!(!good.is_empty() && !bad.is_empty());
        for Change { value, make } in good {
            let mut request = base();
            make(&mut request);
            let code = call(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
            assert!([Code::Ok, Code::NotFound].contains(&code), "{rpc}, {name} = {value}: {code}");
        }
        for Change { value, make } in bad {
            let before = app.revision().await;
            let mut request = base();
            make(&mut request);
            let Err(status) = call(request).await else { panic!("{rpc} takes {name} = {value}") };
            assert_eq!(status.code(), Code::InvalidArgument, "{rpc}, {name} = {value}: {status:?}");
            let details = status.get_error_details();
            assert_eq!(fields(&details), [*name], "{rpc}, {name} = {value}");
            let violation = &details.bad_request().unwrap().field_violations[0];
            assert!(!violation.description.is_empty());
            assert!(status.message().len() < 1_000, "{rpc} echoes {name} = {value}");
            assert_eq!(app.revision().await, before, "{rpc}, {name} = {value}");
        }
    }
    // Every field is wrong, in each way.
    let most = table.iter().map(|field| field.bad.len()).max().unwrap();
    for round in 0..most {
        let before = app.revision().await;
        let mut request = base();
        for field in &table {
            (field.bad[round % field.bad.len()].make)(&mut request);
        }
        let Err(status) = call(request).await else { panic!("{rpc} takes anything") };
        assert_eq!(status.code(), Code::InvalidArgument, "{rpc}: {status:?}");
        let details = status.get_error_details();
        let mut named = fields(&details);
        let mut expected: Vec<_> = table.iter().map(|field| field.name).collect();
        named.sort_unstable();
        expected.sort_unstable();
        assert_eq!(named, expected, "{rpc}, round {round}");
        assert_eq!(app.revision().await, before);
    }
}

macro_rules! probed {
    ($app:ident, $client:ident.$method:ident, $base:expr, $table:expr) => {
        probe(&$app, || $base, $table.into_iter().collect(), async |request| $app.$client().$method(request).await)
    };
}

cases! {
    async fn creations(app: App) {
        fn user(request: &mut pb::CreateUserRequest) -> &mut pb::User {
            request.user.as_mut().unwrap()
        }
        let mut table = profile!();
        table.push(field("request_id", request_id(), |it: &mut pb::CreateUserRequest, value| it.request_id = value));
        let base = || pb::CreateUserRequest { user: Some(fresh()), request_id: String::new() };
        // A username at the limit can be used only once.
        let create = async |request: pb::CreateUserRequest| {
            let created = app.users().create_user(request).await?;
            let id = created.get_ref().user.as_ref().unwrap().id;
            app.users().delete_user(pb::DeleteUserRequest { id, ..Default::default() }).await?;
            Ok(created)
        };
        probe(&app, base, table, create).await;
        let id = field("user.id", optional_id(), |it: &mut pb::CreateUserRequest, value| user(it).id = value);
        probe(&app, base, vec![id], create).await;
    }

    async fn imports(app: App) {
        fn user(request: &mut pb::ImportUsersRequest) -> &mut pb::User {
            request.user.as_mut().unwrap()
        }
        let mut table = profile!();
        // With an external id, even an invalid one, none is needed.
        let mut ids = id();
        ids.bad.retain(|id| *id != 0);
        table.push(field("user.id", ids, |it: &mut pb::ImportUsersRequest, value| user(it).id = value));
        let base = || pb::ImportUsersRequest { user: Some(fresh()), request_id: String::new() };
        // A refused row has the same violations as a call.
        let import = async |row: pb::ImportUsersRequest| {
            let id = row.user.as_ref().unwrap().id;
            let response = app.users().import_users(tokio_stream::iter([row])).await?;
            let Some(refusal) = response.get_ref().refusals.first() else {
                app.users().delete_user(pb::DeleteUserRequest { id, ..Default::default() }).await?;
                return Ok(response);
            };
            assert_eq!(refusal.reason(), pb::ErrorReason::InvalidFields);
            let mut details = ErrorDetails::new();
            for wrong in &refusal.field_violations {
                details.add_bad_request_violation(&wrong.field, &wrong.description);
            }
            Err(Status::with_error_details(Code::InvalidArgument, "refused", details))
        };
        probe(&app, base, table, import).await;
        let request_id = field("request_id", request_id(), |it: &mut pb::ImportUsersRequest, value| {
            it.request_id = value;
        });
        probe(&app, base, vec![request_id], import).await;
    }

    async fn updates(app: App) {
        fn user(request: &mut pb::UpdateUserRequest) -> &mut pb::User {
            request.user.as_mut().unwrap()
        }
        let mut table: Vec<Field<pb::UpdateUserRequest>> = profile!();
        // No update names it.
        table.retain(|field| field.name != "user.external_id");
        let paths: Vec<_> =
            table.iter().filter_map(|field| field.name.strip_prefix("user.")).map(str::to_owned).collect();
        assert_eq!(paths.len(), 13);
        // Unlike a new user's, these must be set.
        for (name, unset) in [("user.date_joined", "None"), ("user.status", "0")] {
            let field = table.iter_mut().find(|field| field.name == name).unwrap();
            let (bad, good) = field.good.drain(..).partition(|change| change.value == unset);
            field.good = good;
            field.bad.extend::<Vec<_>>(bad);
        }
        table.push(field("user.id", id(), |it, value| user(it).id = value));
        table.push(field("expected_revision", revision(), |it, value| it.expected_revision = value));
        table.push(field("request_id", request_id(), |it, value| it.request_id = value));
        let existing = pb::User { date_joined: Some(Timestamp::default()), status: 1, ..fresh() };
        let create = pb::CreateUserRequest { user: Some(existing.clone()), request_id: String::new() };
        app.users().create_user(create).await.unwrap();
        let all = || Some(FieldMask { paths: paths.clone() });
        let base = || pb::UpdateUserRequest { user: Some(existing.clone()), update_mask: all(), ..Default::default() };
        probed!(app, users.update_user, base(), table).await;
        let (acting, bio) = (existing.id, vec!["bio".to_owned()]);
        let on_behalf = || pb::UpdateUserRequest {
            user_id: acting, update_mask: Some(FieldMask { paths: bio.clone() }), ..base()
        };
        let bad = optional_id().bad;
        let user_id = Values { good: vec![0, acting], bad };
        let user_id = field("user_id", user_id, |it: &mut pb::UpdateUserRequest, value| it.user_id = value);
        probed!(app, users.update_user, on_behalf(), [user_id]).await;
        let masks = Values {
            good: vec![vec!["bio".to_owned()], vec!["bio".to_owned(), "bio".to_owned()]],
            bad: vec![vec![], vec!["\0".repeat(10_000)], vec!["*".to_owned()], vec!["user.bio".to_owned()]],
        };
        let mask = field("update_mask", masks, |it: &mut pb::UpdateUserRequest, paths| {
            it.update_mask = Some(FieldMask { paths });
        });
        probed!(app, users.update_user, base(), [mask]).await;
    }

    async fn other_calls_about_users(app: App) {
        let by_id = field("id", id(), |it: &mut pb::GetUserRequest, value| it.key = Some(Key::Id(value)));
        let view = field("user_view", number(3, &[]), |it: &mut pb::GetUserRequest, value| it.user_view = value);
        let base = || pb::GetUserRequest { key: Some(Key::Id(1)), ..Default::default() };
        probed!(app, users.get_user, base(), [by_id, view]).await;
        let by_id = field("id", id(), |it: &mut pb::ExportUserRequest, value| it.id = value);
        let min = field("min_revision", revision(), |it: &mut pb::ExportUserRequest, value| it.min_revision = value);
        probed!(app, users.export_user, pb::ExportUserRequest { id: 1, ..Default::default() }, [by_id, min]).await;
        let own = Values { good: vec![0, LARGEST], bad: optional_id().bad };
        let own = field("user_id", own, |it: &mut pb::ExportUserRequest, value| it.user_id = value);
        probed!(app, users.export_user, pb::ExportUserRequest { id: LARGEST, ..Default::default() }, [own]).await;
        let by_name =
            field("username", username(), |it: &mut pb::GetUserRequest, value| it.key = Some(Key::Username(value)));
        probed!(app, users.get_user, pb::GetUserRequest::default(), [by_name]).await;
        let by_external_id = field("external_id", external_id(), |it: &mut pb::GetUserRequest, value| {
            it.key = Some(Key::ExternalId(value));
        });
        probed!(app, users.get_user, pb::GetUserRequest::default(), [by_external_id]).await;
        let keys = external_id();
        let keys = Values {
            good: vec![vec![], keys.good.clone(), [keys.good.clone(), keys.good].concat()],
            bad: vec![(0..1_000).map(|number| number.to_string()).collect()],
        };
        let keys = field("external_ids", keys, |it: &mut pb::BatchGetUsersRequest, value| it.external_ids = value);
        let base = || pb::BatchGetUsersRequest { ids: vec![1], ..Default::default() };
        probed!(app, users.batch_get_users, base(), [keys]).await;
        let ids = field("ids", ids(), |it: &mut pb::BatchGetUsersRequest, value| it.ids = value);
        let view = field("user_view", number(3, &[]), |it: &mut pb::BatchGetUsersRequest, value| it.user_view = value);
        let base = || pb::BatchGetUsersRequest { ids: vec![1], ..Default::default() };
        probed!(app, users.batch_get_users, base(), [ids, view]).await;
        let view = field("user_view", number(3, &[]), |it: &mut pb::ListUsersRequest, value| it.user_view = value);
        let table = [view].into_iter().chain(page!(ListUsersRequest));
        probed!(app, users.list_users, pb::ListUsersRequest::default(), table).await;
        let delete = || pb::DeleteUserRequest { id: 9_000_000, request_id: String::new() };
        let table = [
            field("id", id(), |it: &mut pb::DeleteUserRequest, value| it.id = value),
            field("request_id", request_id(), |it, value| it.request_id = value),
        ];
        probed!(app, users.delete_user, delete(), table).await;
    }

    async fn sends(app: App) {
        let base = || pb::SendConnectionRequestRequest {
            from_user_id: 9_000_000, to_user_id: 9_000_001, ..Default::default()
        };
        let table = [
            field("from_user_id", id(), |it: &mut pb::SendConnectionRequestRequest, value| it.from_user_id = value),
            field("to_user_id", id(), |it, value| it.to_user_id = value),
            field("message", text(500, true), |it, value| it.message = value),
            field("request_id", request_id(), |it, value| it.request_id = value),
        ];
        probed!(app, requests.send_connection_request, base(), table).await;
        // The message is also stored and returned unchanged.
        for message in text(500, true).good {
            let (from_user_id, to_user_id) =
                (app.user(&fresh().username).await, app.user(&fresh().username).await);
            let send = pb::SendConnectionRequestRequest { from_user_id, to_user_id, message, ..Default::default() };
            let sent = app.requests().send_connection_request(send.clone()).await.unwrap().into_inner();
            let id = sent.connection_request.unwrap().id;
            assert_eq!(app.request(id, to_user_id).await.unwrap().message, send.message);
        }
    }

    async fn actions_on_requests(app: App) {
        macro_rules! transitions {
            ($($method:ident: $request:ident),+) => {$(
                let base = || pb::$request { id: 9_000_000, user_id: 9_000_001, ..Default::default() };
                let table = [
                    field("id", id(), |it: &mut pb::$request, value| it.id = value),
                    field("user_id", id(), |it, value| it.user_id = value),
                    field("request_id", request_id(), |it, value| it.request_id = value),
                ];
                probed!(app, requests.$method, base(), table).await;
            )+};
        }
        transitions!(
            accept_connection_request: AcceptConnectionRequestRequest,
            reject_connection_request: RejectConnectionRequestRequest,
            restore_connection_request: RestoreConnectionRequestRequest,
            cancel_connection_request: CancelConnectionRequestRequest,
            mark_connection_request_viewed: MarkConnectionRequestViewedRequest
        );
        let base = || pb::AcceptConnectionRequestRequest { id: 9_000_000, user_id: 9_000_001, ..Default::default() };
        let reply = field("reply", text(500, true), |it: &mut pb::AcceptConnectionRequestRequest, value| it.reply = value);
        probed!(app, requests.accept_connection_request, base(), [reply]).await;
        let base = || pb::MarkAllConnectionRequestsViewedRequest { user_id: 9_000_000, request_id: String::new() };
        let table = [
            field("user_id", id(), |it: &mut pb::MarkAllConnectionRequestsViewedRequest, value| it.user_id = value),
            field("request_id", request_id(), |it, value| it.request_id = value),
        ];
        probed!(app, requests.mark_all_connection_requests_viewed, base(), table).await;
    }

    async fn reads_of_requests(app: App) {
        let base = || pb::GetConnectionRequestRequest { id: 9_000_000, user_id: 0, ..Default::default() };
        let table = [
            field("id", id(), |it: &mut pb::GetConnectionRequestRequest, value| it.id = value),
            field("user_view", number(3, &[]), |it, value| it.user_view = value),
            field("user_id", optional_id(), |it, value| it.user_id = value),
        ];
        probed!(app, requests.get_connection_request, base(), table).await;
        let base =
            || pb::ListConnectionRequestsRequest { user_id: 9_000_000, direction: 1, ..Default::default() };
        let table = [
            field("user_id", id(), |it: &mut pb::ListConnectionRequestsRequest, value| it.user_id = value),
            field("direction", number(2, &[0]), |it, value| it.direction = value),
            field("state", number(4, &[3, 4]), |it, value| it.state = value),
            field("user_view", number(3, &[]), |it, value| it.user_view = value),
        ];
        probed!(app, requests.list_connection_requests, base(), table.into_iter().chain(page!(ListConnectionRequestsRequest))).await;
    }

    async fn calls_about_connections(app: App) {
        let base = || pb::ListConnectionsRequest { user_id: 9_000_000, viewer_user_id: 9_000_001, ..Default::default() };
        let table = [
            field("user_id", id(), |it: &mut pb::ListConnectionsRequest, value| it.user_id = value),
            field("viewer_user_id", optional_id(), |it, value| it.viewer_user_id = value),
            field("mutual", number(3, &[]), |it, value| it.mutual = value),
            field("user_view", number(3, &[]), |it, value| it.user_view = value),
        ];
        probed!(app, connections.list_connections, base(), table.into_iter().chain(page!(ListConnectionsRequest))).await;
        let base = || pb::ListMutualConnectionsRequest {
            user_id: 9_000_000, other_user_id: 9_000_001, ..Default::default()
        };
        let table = [
            field("user_id", id(), |it: &mut pb::ListMutualConnectionsRequest, value| it.user_id = value),
            field("user_view", number(3, &[]), |it, value| it.user_view = value),
            field("other_user_id", id(), |it, value| it.other_user_id = value),
        ];
        probed!(app, connections.list_mutual_connections, base(), table.into_iter().chain(page!(ListMutualConnectionsRequest))).await;
        let base = || pb::GetConnectionStatusRequest { user_id: 9_000_000, other_user_id: 9_000_001, ..Default::default() };
        let table = [
            field("user_id", id(), |it: &mut pb::GetConnectionStatusRequest, value| it.user_id = value),
            field("other_user_id", id(), |it, value| it.other_user_id = value),
        ];
        probed!(app, connections.get_connection_status, base(), table).await;
        let base = || pb::BatchGetConnectionStatusesRequest { user_id: 9_000_000, other_user_ids: vec![1], ..Default::default() };
        let table = [
            field("user_id", id(), |it: &mut pb::BatchGetConnectionStatusesRequest, value| it.user_id = value),
            field("other_user_ids", ids(), |it, value| it.other_user_ids = value),
        ];
        probed!(app, connections.batch_get_connection_statuses, base(), table).await;
        let user = field("user_id", id(), |it: &mut pb::GetConnectionCountsRequest, value| it.user_id = value);
        probed!(app, connections.get_connection_counts, pb::GetConnectionCountsRequest { user_id: 1, ..Default::default() }, [user]).await;
    }

    async fn removals_and_blocks(app: App) {
        macro_rules! relations {
            ($($client:ident.$method:ident: $request:ident),+) => {$(
                let base = || pb::$request { user_id: 9_000_000, other_user_id: 9_000_001, request_id: String::new() };
                let table = [
                    field("user_id", id(), |it: &mut pb::$request, value| it.user_id = value),
                    field("other_user_id", id(), |it, value| it.other_user_id = value),
                    field("request_id", request_id(), |it, value| it.request_id = value),
                ];
                probed!(app, $client.$method, base(), table).await;
            )+};
        }
        relations!(
            connections.remove_connection: RemoveConnectionRequest,
            blocks.block_user: BlockUserRequest,
            blocks.unblock_user: UnblockUserRequest
        );
        let base = || pb::ListBlockedUsersRequest { user_id: 9_000_000, ..Default::default() };
        let user = field("user_id", id(), |it: &mut pb::ListBlockedUsersRequest, value| it.user_id = value);
        let view = field("user_view", number(3, &[]), |it: &mut pb::ListBlockedUsersRequest, value| it.user_view = value);
        probed!(app, blocks.list_blocked_users, base(), [user, view].into_iter().chain(page!(ListBlockedUsersRequest))).await;
    }

    async fn watches_and_lists_of_events(app: App) {
        let heartbeats = || {
            let of = |(seconds, nanos)| Some(prost_types::Duration { seconds, nanos });
            let bad = [(0, 0), (0, 99_999_999), (-1, 0), (300, 1), (i64::MAX, 0), (i64::MIN, 0), (1, -1), (1, i32::MAX)];
            Values {
                good: [None].into_iter().chain([(0, 100_000_000), (300, 0), (15, 999_999_999)].map(of)).collect(),
                bad: bad.map(of).into(),
            }
        };
        let many = || Values { good: vec![vec![], vec![LARGEST], vec![7; 1_000]], bad: vec![(1..=1_001).collect()] };
        let table = [
            field("after_sequence", revision(), |it: &mut pb::WatchEventsRequest, value| it.after_sequence = Some(value)),
            field("user_ids", many(), |it, value| it.user_ids = value),
            field("kinds[1]", number(14, &[0]), |it, value| it.kinds = vec![1, value]),
            field("viewer_user_id", optional_id(), |it, value| it.viewer_user_id = value),
            field("heartbeat_interval", heartbeats(), |it, value| it.heartbeat_interval = value),
        ];
        probed!(app, events.watch_events, pb::WatchEventsRequest::default(), table).await;
        let one = field("user_ids[1]", id(), |it: &mut pb::WatchEventsRequest, value| it.user_ids = vec![1, value]);
        probed!(app, events.watch_events, pb::WatchEventsRequest::default(), [one]).await;
        let base = || pb::ListEventsRequest { user_id: 9_000_000, other_user_id: 9_000_001, ..Default::default() };
        let table = [
            field("after_sequence", revision(), |it: &mut pb::ListEventsRequest, value| it.after_sequence = value),
            field("user_ids", many(), |it, value| it.user_ids = value),
            field("kinds[1]", number(14, &[0]), |it, value| it.kinds = vec![1, value]),
            field("viewer_user_id", optional_id(), |it, value| it.viewer_user_id = value),
            field("user_id", id(), |it, value| it.user_id = value),
        ];
        probed!(app, events.list_events, base(), table.into_iter().chain(page!(ListEventsRequest))).await;
        let table = [
            field("user_ids[1]", id(), |it: &mut pb::ListEventsRequest, value| it.user_ids = vec![1, value]),
            field("other_user_id", id(), |it, value| it.other_user_id = value),
        ];
        probed!(app, events.list_events, base(), table).await;
        // An epoch is any text. The error for another feed's epoch has no field.
        for epoch in ["x", "\u{1}", "é👋", "' OR 1=1 --", &"A".repeat(100_000)] {
            let request = pb::ListEventsRequest { epoch: epoch.to_owned(), ..Default::default() };
            let details = refused(app.events().list_events(request).await, Code::FailedPrecondition, ErrorReason::WrongEpoch);
            assert!(details.error_info().unwrap().metadata["epoch"].len() < 100, "ours, and not what was sent");
        }
    }

    async fn a_message_that_is_too_large_is_not_read(app: App) {
        let bio = "x".repeat(256 * 1024);
        let user = pb::User { bio, ..fresh() };
        let create = pb::CreateUserRequest { user: Some(user.clone()), request_id: String::new() };
        let details = refused(app.users().create_user(create).await, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
        assert_eq!(details.error_info().unwrap().metadata["maximum"], "262144");
        assert!(details.retry_info().is_none(), "a retry fails as well");
        // Of a stream, an earlier message is not affected.
        let small = pb::ImportUsersRequest { user: Some(fresh()), request_id: String::new() };
        let row = pb::ImportUsersRequest { user: Some(user), request_id: String::new() };
        for rows in [vec![row.clone()], vec![small, row]] {
            let refusal = app.users().import_users(tokio_stream::iter(rows)).await;
            refused(refusal, Code::ResourceExhausted, ErrorReason::MessageTooLarge);
        }
        assert_eq!(app.revision().await, 0);
    }

    async fn a_method_that_does_not_exist_is_not_implemented(app: App) {
        for path in ["/kith.v1.UserService/Nothing", "/kith.v1.Nothing/GetUser", "/kith.v2.UserService/GetUser", "/"] {
            let mut client = tonic::client::Grpc::new(app.channel());
            client.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<pb::GetUserRequest, pb::GetUserResponse>::default();
            let request = tonic::Request::new(pb::GetUserRequest::default());
            let refusal = client.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
            assert_eq!(refusal.code(), Code::Unimplemented, "{path}");
        }
    }
}

/// A request whose username is not valid UTF-8.
#[derive(Clone, PartialEq, prost::Message)]
struct NoText {
    #[prost(bytes = "vec", tag = "2")]
    username: Vec<u8>,
}

cases! {
    async fn bytes_that_are_no_message_are_the_callers_fault(app: App) {
        let mut client = tonic::client::Grpc::new(app.channel());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<NoText, pb::GetUserResponse>::default();
        let path = http::uri::PathAndQuery::from_static("/kith.v1.UserService/GetUser");
        let request = tonic::Request::new(NoText { username: vec![0xff] });
        let refusal = client.unary(request, path, codec).await;
        let message = refusal.as_ref().unwrap_err().message().to_owned();
        assert_eq!(message, "the request could not be decoded", "no word of the decoder's");
        let details = refused(refusal, Code::InvalidArgument, ErrorReason::InvalidFields);
        assert_eq!(fields(&details), [""]);
    }
}
