//! Nothing that callers send, and no secret, is in the log: at no level, for no call, and whatever fails.

use kith::proto::v1 as pb;
use serde_json::Value;
use tonic::{Code, Request};

use crate::erasure::{ANN, BOB, CANARY, REQUEST_ID, canary, delete, id, life, readable};
use crate::harness::clients::Clients;
use crate::harness::disk::Disk;
use crate::harness::postgres::server;
use crate::harness::process::{Kith, command};
use crate::harness::{Database, Engine, until};
use crate::on_each_engine;

/// Everything of Kith's.
const LEVEL: &str = "--log-level=trace";
/// The text has the causes of errors too.
const FORMATS: [&str; 2] = ["json", "text"];
/// The password of the database.
const PASSWORD: &str = "canary-password";

/// The URL of a database, with a password if it can have one.
fn with_password(database: &Database) -> String {
    match database.engine {
        Engine::Sqlite => database.url.clone(),
        Engine::Postgres => server().url_of(&format!("postgres:{PASSWORD}"), database.name()),
    }
}

/// Fails if a line has anything that callers sent. Returns the number of lines of calls.
#[track_caller]
fn has_no_canary(log: &str) -> usize {
    let mut calls = 0;
    for line in log.lines() {
        let parsed = line.starts_with('{').then(|| serde_json::from_str::<Value>(line).expect("an object"));
        let text = parsed.map_or_else(|| line.to_owned(), |parsed| parsed.to_string()).to_lowercase();
        assert!(!text.contains(CANARY) && !text.contains(REQUEST_ID), "{line}");
        calls += usize::from(text.contains("kith::telemetry::call"));
    }
    calls
}

/// Calls that are refused. Each has a canary in what it is refused for.
async fn refused(clients: &Clients) {
    let mut calls = 0;
    macro_rules! refused {
        ($($client:ident.$method:ident($request:expr);)+) => {$(
            let mut request = Request::new($request);
            request.metadata_mut().insert("authorization", format!("Bearer {CANARY}-token").parse().expect("a header"));
            assert!(clients.$client().$method(request).await.is_err(), "{}", stringify!($request));
            calls += 1;
        )+};
    }
    let user = |change: fn(&mut pb::User)| {
        let mut user = canary(99);
        change(&mut user);
        Some(user)
    };
    let create = |change| pb::CreateUserRequest { user: user(change), request_id: id() };
    let send = |message: String, request_id: String| pb::SendConnectionRequestRequest {
        from_user_id: BOB,
        to_user_id: ANN,
        message,
        request_id,
    };
    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let by_name = |name: &str| pb::GetUserRequest {
        key: Some(pb::get_user_request::Key::Username(name.to_owned())),
        ..Default::default()
    };
    let by_external_id = |id: &str| pb::GetUserRequest {
        key: Some(pb::get_user_request::Key::ExternalId(id.to_owned())),
        ..Default::default()
    };
    let used = id();
    clients
        .users()
        .update_user(pb::UpdateUserRequest {
            user: Some(canary(ANN)),
            update_mask: mask("location"),
            request_id: used.clone(),
            ..Default::default()
        })
        .await
        .expect("an update");
    refused! {
        users.create_user(create(|user| user.email = format!("{CANARY} at example.com")));
        users.create_user(create(|user| user.bio = format!("{CANARY}\0")));
        users.create_user(create(|user| user.birthday = CANARY.to_owned()));
        users.create_user(create(|user| user.website = format!("ftp://{CANARY}")));
        users.create_user(create(|user| user.username = format!("{CANARY} {CANARY}")));
        users.create_user(create(|user| user.username = format!("{CANARY}-renamed")));
        users.create_user(pb::CreateUserRequest { user: user(|_| {}), request_id: CANARY.to_owned() });
        users.create_user(pb::CreateUserRequest { user: user(|_| {}), request_id: used.clone() });
        users.update_user(pb::UpdateUserRequest { user: user(|_| {}), update_mask: mask(CANARY), ..Default::default() });
        users.get_user(by_name(&format!("{CANARY}-nobody")));
        users.get_user(by_name(&format!("{CANARY} nobody")));
        users.create_user(create(|user| user.external_id = format!("{CANARY}\t{CANARY}")));
        users.create_user(create(|user| user.external_id = canary(ANN).external_id));
        users.get_user(by_external_id(&format!("{CANARY}-nobody")));
        users.get_user(by_external_id(&format!(" {CANARY}")));
        users.batch_get_users(pb::BatchGetUsersRequest { external_ids: vec![format!("{CANARY}\n")], ..Default::default() });
        users.list_users(pb::ListUsersRequest { page_token: CANARY.to_owned(), ..Default::default() });
        requests.send_connection_request(send(CANARY.repeat(200), String::new()));
        requests.send_connection_request(send(CANARY.to_owned(), id()));
        requests.send_connection_request(send(CANARY.to_owned(), used));
        events.list_events(pb::ListEventsRequest { epoch: CANARY.to_owned(), ..Default::default() });
    }
    assert_eq!(calls, 21);
    let rows = [pb::ImportUsersRequest { user: user(|user| user.email = CANARY.to_owned()), request_id: id() }];
    let imported = clients.users().import_users(tokio_stream::iter(rows)).await.expect("an import").into_inner();
    assert_eq!(imported.refused, 1);
}

/// Makes calls with canaries while the database fails. Returns how they failed.
async fn failing(clients: &Clients) -> Vec<Code> {
    let users = |page_size| pb::ListUsersRequest { page_size, ..Default::default() };
    let create = pb::CreateUserRequest { user: Some(canary(98)), request_id: id() };
    let message = format!("{CANARY} message");
    let send = pb::SendConnectionRequestRequest { from_user_id: ANN, to_user_id: BOB, message, request_id: id() };
    let events = pb::ListEventsRequest::default();
    let code = |result: Result<(), tonic::Status>| result.map_or_else(|status| status.code(), |()| Code::Ok);
    vec![
        code(clients.users().list_users(users(10)).await.map(drop)),
        code(clients.users().create_user(create).await.map(drop)),
        code(clients.requests().send_connection_request(send).await.map(drop)),
        code(clients.events().list_events(events).await.map(drop)),
    ]
}

/// Waits until a server fails by SQL, and then makes calls.
async fn broken(database: &Database, kith: &Kith, sql: [&str; 2], expected: impl Fn(&[Code]) -> bool) {
    database.execute(sql[0]).await;
    let codes = failing(&kith.clients()).await;
    assert!(expected(&codes), "{codes:?} after {}", sql[0]);
    database.execute(sql[1]).await;
}

on_each_engine! {
    async fn no_call_and_no_failure_of_the_database_logs_what_callers_sent(engine: Engine) {
        for format in FORMATS {
            let database = Database::migrated(engine).await;
            let log = troubled(&database, format).await;
            let calls = has_no_canary(&log);
            assert!(calls > 100, "{calls} calls in {log}");
            for words in ["batch commit failed", "is invalid", "store call", "ERROR"] {
                assert!(log.contains(words), "no {words} in {log}");
            }
        }
    }
}

/// Makes every call, and lets the database fail in every way. Returns the log.
async fn troubled(database: &Database, format: &str) -> String {
    let kith = Kith::serve(&with_password(database), &[LEVEL, &format!("--log-format={format}")]).await;
    let clients = kith.clients();
    life(&clients).await;
    assert!(readable(&clients, 40).await.contains(CANARY));
    refused(&clients).await;
    // Without its tables.
    let fails = |codes: &[Code]| codes.iter().all(|code| *code != Code::Ok);
    let [gone, back] = ["users RENAME TO gone", "gone RENAME TO users"].map(|rest| format!("ALTER TABLE {rest}"));
    broken(database, &kith, [&gone, &back], |codes| codes[0] == Code::Unavailable).await;
    // With values that no version of Kith writes, and that are data of a user.
    for (table, column, row) in [
        ("events", "kind", "sequence = 1"),
        ("connection_requests", "state", "from_user_id = 71"),
        ("request_ids", "id", "actor_user_id = 71"),
    ] {
        let damage = format!("UPDATE {table} SET {column} = '{CANARY} ' || {column} WHERE {row}");
        let repair = format!("UPDATE {table} SET {column} = replace({column}, '{CANARY} ', '') WHERE {row}");
        broken(database, &kith, [&damage, &repair], |codes| codes.contains(&Code::Internal) || table == "request_ids")
            .await;
    }
    // A constraint that names the values which violate it.
    let unique = "CREATE UNIQUE INDEX no_message_twice ON connection_requests (message) WHERE message <> ''";
    database.execute(unique).await;
    let message = format!("{CANARY} message 71");
    let again = pb::SendConnectionRequestRequest { from_user_id: BOB, to_user_id: 74, message, request_id: id() };
    clients.requests().send_connection_request(again).await.expect_err("a second one");
    delete(&clients, ANN).await;
    if database.engine == Engine::Sqlite {
        database.execute("DROP TABLE request_ids").await;
        assert!(fails(&failing(&clients).await[1..3]));
    } else {
        // The server ends its sessions.
        let sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                        WHERE datname = current_database() AND pid <> pg_backend_pid()";
        database.execute(sessions).await;
        failing(&clients).await;
    }
    kith.signal("TERM");
    kith.wait().await.log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_logs_nothing_that_callers_sent() {
    let disk = Disk::new();
    let url = format!("--database-url={}", disk.url());
    let kith = Kith::start(disk.command(&command(&["serve", "--listen=127.0.0.1:0", &url, LEVEL]), false)).await;
    let clients = kith.clients();
    clients
        .users()
        .create_user(pb::CreateUserRequest { user: Some(canary(ANN)), request_id: id() })
        .await
        .expect("a user");
    disk.fill(kith.pid());
    until("writes fail", async || {
        let user = pb::User { id: 1_000, ..canary(1_000) };
        let create = pb::CreateUserRequest { user: Some(user), request_id: id() };
        if clients.users().create_user(create).await.is_err() {
            return true;
        }
        delete(&clients, 1_000).await;
        false
    })
    .await;
    until("the log has the cause", async || kith.log().contains(disk.words())).await;
    has_no_canary(&kith.log());
}
