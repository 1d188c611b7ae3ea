//! Does an export have everything, in the format that `docs/moving-in/format.md` describes, by the command and by the RPC
//! alike? Is it a file only when it is complete?

mod round_trips;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::TimeDelta;
use kith::domain::text::UsernameRule;
use kith::mapping::relation;
use kith::proto::{server, v1 as pb};
use kith::transfer::{Header, JsonReader, JsonWriter, RowReader, Rules};
use prost::Message;
use tempfile::TempDir;

use crate::cases;
use crate::harness::process::{Ended, Kith, run};
use crate::harness::{App, Database};
use crate::on_each_engine;
use crate::rpc::full_user;

/// What [`community`] is, without the header.
const ROWS: &str = r#"{"type":"user","id":1,"external_id":"ext 1/ann Ä|","username":"ann","real_name":"Ann Example","email":"ann@example.com","email_isvalid":true,"date_joined":"2017-07-14T02:40:00.123456Z","bio":"First.\n\tSecond 👋","location":"Zürich","birthday":"2000-02-29","description":"Climber","gender":"GENDER_FEMALE","status":"USER_STATUS_APPROVED","website":"https://example.com/","avatar":"https://example.com/a.png","cover":"http://example.com/c.png","position":1}
{"type":"user","id":2,"username":"bob","date_joined":"2026-05-28T20:26:40Z","status":"USER_STATUS_APPROVED","position":2}
{"type":"user","id":3,"username":"cy","date_joined":"2026-05-28T20:26:40Z","status":"USER_STATUS_APPROVED","position":3}
{"type":"user","id":4,"username":"dee","date_joined":"2026-05-28T20:26:40Z","status":"USER_STATUS_APPROVED","position":4}
{"type":"user","id":5,"username":"eve","date_joined":"2026-05-28T20:26:40Z","status":"USER_STATUS_BLOCKED","position":5}
{"type":"connection","id":6,"from":1,"to":2,"created":"2026-05-28T20:26:41.500Z","viewed":"2026-05-28T20:26:43Z","connected":"2026-05-28T20:26:43Z","message":"Hi","reply":"Hello","position":7}
{"type":"request","id":8,"from":3,"to":1,"state":"CONNECTION_REQUEST_STATE_PENDING","created":"2026-05-28T20:26:44.500Z","viewed":"2026-05-28T20:26:46Z","position":8}
{"type":"request","id":10,"from":1,"to":4,"state":"CONNECTION_REQUEST_STATE_REJECTED","created":"2026-05-28T20:26:47.500Z","viewed":"2026-05-28T20:26:49Z","rejected":"2026-05-28T20:26:49Z","message":"Hi","position":12}
{"type":"request","id":13,"from":3,"to":2,"state":"CONNECTION_REQUEST_STATE_SILENCED","created":"2026-05-28T20:26:50.500Z","position":15}
{"type":"request","id":20,"from":4,"to":2,"state":"CONNECTION_REQUEST_STATE_SILENCED","created":"2026-05-28T20:26:58Z","position":20}
{"type":"request","from":4,"to":2,"state":"CONNECTION_REQUEST_STATE_WITHDRAWN","rejected":"2026-05-28T20:26:56.500Z"}
{"type":"block","user":2,"other":3,"created":"2026-05-28T20:26:52Z","position":14}
{"type":"block","user":3,"other":2,"created":"2026-05-28T20:26:53.500Z","position":16}
{"type":"footer","users":5,"connections":1,"requests":5,"blocks":2,"sha256":"DIGEST"}
"#;

/// Sends a request with a message, a second and a half later.
async fn send(app: &App, from_user_id: i64, to_user_id: i64) -> i64 {
    app.clock.advance(TimeDelta::milliseconds(1_500));
    let message = if from_user_id == 1 { "Hi".to_owned() } else { String::new() };
    let request = pb::SendConnectionRequestRequest { from_user_id, to_user_id, message, ..Default::default() };
    let response = app.requests().send_connection_request(request).await.expect("a request").into_inner();
    app.clock.advance(TimeDelta::milliseconds(1_500));
    response.connection_request.expect("a request").id
}

/// Users and relations in every state.
async fn community(app: &App) {
    let row = pb::ImportUsersRequest { user: Some(full_user(1, "ann")), request_id: String::new() };
    app.users().import_users(tokio_stream::iter([row])).await.expect("a user");
    for name in ["bob", "cy", "dee", "eve"] {
        app.user(name).await;
    }
    let [ann, bob, cy, dee] = [1, 2, 3, 4];
    let connected = send(app, ann, bob).await;
    let accept = pb::AcceptConnectionRequestRequest {
        id: connected,
        user_id: bob,
        reply: "Hello".to_owned(),
        ..Default::default()
    };
    app.requests().accept_connection_request(accept).await.expect("a connection");
    let viewed = send(app, cy, ann).await;
    app.mark_viewed(viewed, ann).await.expect("viewed");
    let rejected = send(app, ann, dee).await;
    app.reject(rejected, dee).await.expect("rejected");
    // Silenced by a block, before which its receiver knew of it.
    send(app, cy, bob).await;
    app.block(bob, cy).await;
    app.clock.advance(TimeDelta::milliseconds(1_500));
    app.block(cy, bob).await;
    // Rejected, withdrawn, and sent again, which silences it.
    let withdrawn = send(app, dee, bob).await;
    app.reject(withdrawn, bob).await.expect("rejected");
    app.cancel(withdrawn, dee).await.expect("withdrawn");
    send(app, dee, bob).await;
    app.moderate(5, "eve", pb::UserStatus::Blocked).await;
}

/// The lines of a file without its header, which is returned too.
fn parts(file: &str) -> (&str, &str) {
    file.split_once('\n').expect("a header")
}

/// The expected lines with the right digest.
fn expected() -> String {
    let rows: Vec<_> = ROWS.split_inclusive('\n').collect();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(rows[..rows.len() - 1].concat());
    ROWS.replace("DIGEST", &digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn url(database: &Database) -> String {
    format!("--database-url={}", database.url)
}

/// Runs `kith export`, and returns what it wrote to standard output.
async fn exported(database: &Database, args: &[&str]) -> String {
    let url = url(database);
    let ended = run(&[&["export", &url], args].concat()).await;
    assert!(ended.status.success(), "{ended:#?}");
    ended.output
}

/// The messages of the RPC as a file.
async fn streamed(app: &App) -> (Vec<pb::ExportRelationsResponse>, String) {
    let mut stream =
        app.imports().export_relations(pb::ExportRelationsRequest::default()).await.expect("a stream").into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.expect("a message") {
        messages.push(message);
    }
    let rules = Rules { usernames: UsernameRule::Ascii, now: app.clock.now() };
    let mut writer = JsonWriter::new(Vec::new(), Header::default()).expect("a writer");
    for row in messages.iter().flat_map(|message| &message.rows) {
        let row = server::RelationRow::decode(&*row.encode_to_vec()).expect("the same message");
        writer.row(&relation::row(&row, &rules).expect("a valid row")).expect("written");
    }
    (messages, String::from_utf8(writer.finish().expect("a footer").0).expect("text"))
}

cases! {
    async fn an_export_has_everything_in_every_state(app: App) {
        community(&app).await;
        let file = exported(&app.database, &[]).await;
        let (header, rows) = parts(&file);
        assert_eq!(rows, expected());
        let header: serde_json::Value = serde_json::from_str(header).expect("JSON");
        let epoch = app.database.values("SELECT epoch AS value FROM feed").await[0].clone();
        let revision = app.revision().await;
        assert_eq!(header["format"], "kith.export.v1");
        assert_eq!(header["source"], format!("kith {}", env!("CARGO_PKG_VERSION")));
        assert_eq!((header["epoch"].as_str(), header["revision"].as_i64()), (epoch.as_deref(), Some(revision)));
        assert!(header["created"].as_str().is_some_and(|time| time.ends_with('Z')), "{header}");
        // Another one is the same.
        assert_eq!(parts(&exported(&app.database, &["-"]).await).1, rows);
        // So is the one by the RPC.
        let (messages, file) = streamed(&app).await;
        assert_eq!(parts(&file).1, rows);
        assert!(messages.iter().all(|message| message.revision == revision));
        let header = messages[0].header.as_ref().expect("a header");
        assert_eq!((header.format.as_str(), Some(header.epoch.as_str())), ("kith.export.v1", epoch.as_deref()));
        assert_eq!(messages.iter().filter(|message| message.header.is_some()).count(), 1);
        let footers: Vec<_> = messages.iter().filter_map(|message| message.footer).collect();
        assert_eq!(footers, [pb::RelationFooter { users: 5, connections: 1, requests: 5, blocks: 2 }]);
        assert!(messages.last().is_some_and(|message| message.footer.is_some()));
        // And each type in CSV.
        for (kind, lines) in [("users", 6), ("connections", 2), ("requests", 6), ("blocks", 3)] {
            let csv = exported(&app.database, &["--csv", kind]).await;
            // The bio has two lines.
            assert_eq!(csv.lines().count(), lines + usize::from(kind == "users"), "{csv}");
        }
    }

    async fn an_empty_database_has_an_export_too(app: App) {
        let file = exported(&app.database, &[]).await;
        let empty = <sha2::Sha256 as sha2::Digest>::digest("").iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            parts(&file).1,
            format!("{{\"type\":\"footer\",\"users\":0,\"connections\":0,\"requests\":0,\"blocks\":0,\"sha256\":\"{empty}\"}}\n"),
        );
    }
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("a file").file_name().display().to_string()).collect()
}

on_each_engine! {
    async fn a_file_is_there_when_it_is_complete_and_nothing_is_overwritten(engine: Engine) {
        let database = Database::migrated(engine).await;
        // While a server uses it.
        let kith = Kith::serve(&database.url, &[]).await;
        kith.clients().user("ann").await;
        let directory = TempDir::with_prefix("kith-test-").expect("a directory");
        let name = directory.path().join("all.ndjson").display().to_string();
        let export = async |name: &str| run(&["export", name, &url(&database)]).await;
        let ended = export(&name).await;
        assert!(ended.status.success(), "{ended:#?}");
        let epoch = database.values("SELECT epoch AS value FROM feed").await[0].clone().expect("an epoch");
        assert_eq!(ended.output, format!("exported 1 rows; revision 1, epoch {epoch}; {name}\n"));
        assert_eq!(fs::metadata(&name).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(names(directory.path()), ["all.ndjson"]);
        let file = fs::read(&name).expect("a file");
        let rules = Rules { usernames: UsernameRule::Ascii, now: chrono::DateTime::from_timestamp(2_000_000_000, 0).expect("a time") };
        let mut reader = JsonReader::new(&file[..], rules);
        let mut rows = 0;
        while let Some(row) = reader.next_row().expect("a complete file") {
            row.row.expect("a valid row");
            rows += 1;
        }
        assert_eq!(rows, 3);
        let refuses = |ended: Ended, words: &str| {
            assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
            assert!(ended.output.is_empty() && ended.log.contains(words) && !ended.log.contains("panicked"), "{ended:#?}");
        };
        refuses(export(&name).await, "all.ndjson exists already; name another file");
        assert_eq!(fs::read(&name).expect("a file"), file);
        refuses(export(&directory.path().join("none/all.ndjson").display().to_string()).await, "cannot write");
        let ended = run(&["export", "--csv=events", &url(&database)]).await;
        assert_eq!(ended.status.code(), Some(2), "{ended:#?}");
        // A database that is not there leaves nothing.
        let other = directory.path().join("other").display().to_string();
        let none = format!("--database-url=sqlite://{}", directory.path().join("none.db").display());
        refuses(run(&["export", &other, &none]).await, "no such file");
        assert_eq!(names(directory.path()), ["all.ndjson"]);
    }
}
