//! What remains of a user who was deleted: nothing but ids.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kith::proto::v1 as pb;
use kith::proto::v1::get_user_request::Key;

use crate::cases;
use crate::harness::clients::Clients;
use crate::harness::{App, Database, Engine, until};

/// In every text of the user, and in nothing else.
pub const CANARY: &str = "canary";
/// At the beginning of every `request_id`.
pub const REQUEST_ID: &str = "ca4a4a4a";

/// A user whose every text has a canary.
pub fn canary(id: i64) -> pb::User {
    pb::User {
        id,
        username: format!("{CANARY}-{id}"),
        real_name: format!("{CANARY} real name"),
        email: format!("{CANARY}@example.com"),
        email_isvalid: true,
        bio: format!("{CANARY} bio ").repeat(400),
        location: format!("{CANARY} location"),
        birthday: "1987-06-05".to_owned(),
        description: format!("{CANARY} description"),
        website: format!("https://{CANARY}.example/"),
        avatar: format!("https://{CANARY}.example/avatar"),
        cover: format!("https://{CANARY}.example/cover"),
        external_id: format!("{CANARY}-external-{id}"),
        ..Default::default()
    }
}

/// Returns a new id. Ids rise, so that SQLite moves no row to another page: it leaves copies where a row was moved from.
pub fn id() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("{REQUEST_ID}-0000-4000-8000-{:012x}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// Deletes a user.
pub async fn delete(app: &Clients, id: i64) {
    app.users().delete_user(pb::DeleteUserRequest { id, request_id: self::id() }).await.expect("a deletion");
}

/// The ids of users in these tests.
pub const ANN: i64 = 71;
pub const BOB: i64 = 72;
const CY: i64 = 73;
const DEE: i64 = 74;

/// Calls of Ann's with texts that have canaries, and calls of others whose responses have her profile or these texts.
/// Each has a `request_id`, so that its response is stored. Returns the calls that others may repeat.
pub async fn life(app: &Clients) -> Vec<pb::AcceptConnectionRequestRequest> {
    let ann = canary(ANN);
    let create = pb::CreateUserRequest { user: Some(ann.clone()), request_id: id() };
    app.users().create_user(create).await.expect("a user");
    for (id, name) in [(BOB, "bob"), (CY, "cy"), (DEE, "dee")] {
        let user = pb::User { id, username: name.to_owned(), ..Default::default() };
        app.users()
            .create_user(pb::CreateUserRequest { user: Some(user), request_id: self::id() })
            .await
            .expect("a user");
    }
    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    for (user_id, path) in [(0, "username"), (ANN, "bio")] {
        let (user, update_mask) = (Some(pb::User { username: format!("{CANARY}-renamed"), ..ann.clone() }), mask(path));
        let update = pb::UpdateUserRequest { user, update_mask, user_id, request_id: id(), ..Default::default() };
        app.users().update_user(update).await.expect("an update");
    }
    let send = |from: i64, to: i64| {
        let message = format!("{CANARY} message {from}");
        pb::SendConnectionRequestRequest { from_user_id: from, to_user_id: to, message, request_id: id() }
    };
    let request = |response: tonic::Response<pb::SendConnectionRequestResponse>| {
        response.into_inner().connection_request.expect("a request").id
    };
    // Ann asks Bob, who accepts with a reply; Cy asks Ann, who asks Cy too; Dee asks Ann, who rejects, restores and
    // rejects again.
    let of_bob = request(app.requests().send_connection_request(send(ANN, BOB)).await.expect("a request"));
    let accept = pb::AcceptConnectionRequestRequest {
        id: of_bob,
        user_id: BOB,
        request_id: id(),
        reply: format!("{CANARY} reply"),
    };
    app.requests().accept_connection_request(accept.clone()).await.expect("a connection");
    app.requests().send_connection_request(send(CY, ANN)).await.expect("a request");
    app.requests().send_connection_request(send(ANN, CY)).await.expect("a connection");
    let of_dee = request(app.requests().send_connection_request(send(DEE, ANN)).await.expect("a request"));
    for _ in 0..2 {
        let reject = pb::RejectConnectionRequestRequest { id: of_dee, user_id: ANN, request_id: id() };
        app.requests().reject_connection_request(reject).await.expect("a rejection");
        let restore = pb::RestoreConnectionRequestRequest { id: of_dee, user_id: ANN, request_id: id() };
        app.requests().restore_connection_request(restore).await.expect("a request");
    }
    for (user_id, other_user_id) in [(DEE, ANN), (ANN, DEE)] {
        let block = pb::BlockUserRequest { user_id, other_user_id, request_id: id() };
        app.blocks().block_user(block).await.expect("a block");
    }
    vec![accept]
}

/// The names of the tables, and of the columns of each.
async fn columns(database: &Database) -> Vec<(String, String)> {
    let query = match database.engine {
        Engine::Sqlite => {
            "SELECT m.name || ' ' || p.name AS value FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS p \
             WHERE m.type = 'table'"
        }
        Engine::Postgres => {
            "SELECT table_name || ' ' || column_name AS value FROM information_schema.columns \
             WHERE table_schema = current_schema()"
        }
    };
    let pair = |value: Option<String>| {
        let value = value.expect("a name");
        let (table, column) = value.split_once(' ').expect("two names");
        (table.to_owned(), column.to_owned())
    };
    database.values(query).await.into_iter().map(pair).collect()
}

/// The columns of all tables that have a text, in hexadecimal so that bytes are searched too.
async fn with(database: &Database, text: &str) -> BTreeSet<String> {
    let wanted: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut found = BTreeSet::new();
    for (table, column) in columns(database).await {
        let value = match database.engine {
            Engine::Sqlite => format!("lower(hex(CAST(\"{column}\" AS BLOB)))"),
            Engine::Postgres => format!(
                "CASE WHEN pg_typeof(\"{column}\") = 'bytea'::regtype THEN substr(\"{column}\"::text, 3) \
                 ELSE encode(convert_to(\"{column}\"::text, 'UTF8'), 'hex') END"
            ),
        };
        let rows = format!("SELECT count(*) AS value FROM \"{table}\" WHERE {value} LIKE '%{wanted}%'");
        if database.number(&rows).await > 0 {
            found.insert(format!("{table}.{column}"));
        }
    }
    found
}

/// The names of the files of a SQLite database that have a text.
pub fn files_with(database: &Database, text: &str) -> Vec<String> {
    let names = ["", "-wal", "-shm"].map(|end| format!("{}{end}", database.path()));
    let has = |name: &String| {
        std::fs::read(name).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    names.into_iter().filter(has).collect()
}

/// Everything that a service returns about these users, as text.
pub async fn readable(app: &Clients, revision: i64) -> String {
    use pb::{ConnectionRequestDirection as Direction, ConnectionRequestState as State};
    let mut all = Vec::new();
    macro_rules! read {
        ($client:ident.$method:ident($request:expr)) => {
            all.push(format!("{:?}", app.$client().$method($request).await))
        };
    }
    for id in [ANN, BOB, CY, DEE] {
        read!(users.get_user(pb::GetUserRequest { key: Some(Key::Id(id)), ..Default::default() }));
        for direction in [Direction::Received, Direction::Sent] {
            for state in [State::Pending, State::Rejected] {
                let (direction, state) = (direction.into(), state.into());
                let list = pb::ListConnectionRequestsRequest { user_id: id, direction, state, ..Default::default() };
                read!(requests.list_connection_requests(list));
            }
        }
        match app.users().export_user(pb::ExportUserRequest { id, ..Default::default() }).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(Some(item)) = stream.message().await {
                    all.push(format!("{item:?}"));
                }
            }
            Err(status) => all.push(format!("{status:?}")),
        }
        read!(connections.list_connections(pb::ListConnectionsRequest { user_id: id, ..Default::default() }));
        read!(connections.get_connection_counts(pb::GetConnectionCountsRequest { user_id: id, ..Default::default() }));
        read!(blocks.list_blocked_users(pb::ListBlockedUsersRequest { user_id: id, ..Default::default() }));
        for other_user_id in [ANN, BOB, CY, DEE] {
            let status = pb::GetConnectionStatusRequest { user_id: id, other_user_id, ..Default::default() };
            read!(connections.get_connection_status(status));
            let mutual = pb::ListMutualConnectionsRequest { user_id: id, other_user_id, ..Default::default() };
            read!(connections.list_mutual_connections(mutual));
        }
    }
    for request in 1..=revision {
        read!(requests.get_connection_request(pb::GetConnectionRequestRequest { id: request, ..Default::default() }));
    }
    read!(users.batch_get_users(pb::BatchGetUsersRequest { ids: vec![ANN, BOB, CY, DEE], ..Default::default() }));
    read!(users.list_users(pb::ListUsersRequest::default()));
    read!(events.list_events(pb::ListEventsRequest { page_size: 1_000, ..Default::default() }));
    all.join("\n")
}

cases! {
    async fn a_deleted_user_is_in_no_table_and_in_no_response_of_any_server(app: App) {
        let another = app.another(|_| {}).await;
        let repeatable = life(&app).await;
        assert_eq!(with(&app.database, CANARY).await, [
            "connection_requests.message", "connection_requests.reply", "request_ids.response", "users.avatar", "users.bio",
            "users.cover", "users.description", "users.email", "users.external_id", "users.location", "users.real_name", "users.username",
            "users.username_key", "users.website",
        ].map(str::to_owned).into());
        let end = app.revision().await;
        for service in [&app, &another] {
            assert!(readable(service, end).await.contains(CANARY));
        }
        delete(&app, ANN).await;
        assert_eq!(with(&app.database, CANARY).await, BTreeSet::new());
        for service in [&app, &another] {
            let read = readable(service, end).await;
            assert!(!read.contains(CANARY), "{read}");
            for call in &repeatable {
                let again = service.requests().accept_connection_request(call.clone()).await.expect("a stored response");
                let request = again.into_inner().connection_request.expect("a request");
                assert_eq!((request.message.as_str(), request.reply.as_str()), ("", ""));
                assert_eq!(request.from_user, Some(pb::User { id: ANN, ..Default::default() }));
                assert_eq!(request.to_user.expect("a user").username, "bob");
            }
        }
    }

    async fn a_user_who_is_deleted_in_the_batch_of_their_calls_leaves_nothing(app: App) {
        // Concurrent calls form batches.
        let calls = (0..40_i64).map(|number| {
            let (users, user) = (app.users(), canary(1_000 + number / 2));
            async move {
                let mut users = users;
                if number % 2 == 0 {
                    let create = pb::CreateUserRequest { user: Some(user), request_id: id() };
                    _ = users.create_user(create).await;
                } else {
                    while users.delete_user(pb::DeleteUserRequest { id: user.id, request_id: id() }).await.is_err() {}
                }
            }
        });
        crate::rpc::at_once(calls).await;
        assert_eq!(with(&app.database, CANARY).await, BTreeSet::new());
    }
}

/// The bytes of deleted rows, which SQLite leaves on pages and in the log, and those of pages that become free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_user_is_not_in_the_bytes_of_the_file_or_its_log() {
    let app = App::with(Engine::Sqlite, |settings| settings.sweep_interval = Duration::from_millis(20)).await;
    life(&app).await;
    assert!(!files_with(&app.database, CANARY).is_empty());
    delete(&app, ANN).await;
    until("the log is cut", async || files_with(&app.database, CANARY).is_empty()).await;
}
