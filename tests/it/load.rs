//! Does `kith load` bring files into a running server, refuse what it must by name, change nothing the second time, and go
//! on when the server is killed?

use std::fmt::Write as _;
use std::fs;

use kith::proto::v1::ConnectionStatus;
use tempfile::TempDir;

use crate::harness::process::{Kith, command, run};
use crate::harness::{Database, Engine, invariants, until};
use crate::on_each_engine;

/// A folder with files to load.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::with_prefix("kith-test-").expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A file with these rows between a header and a footer.
    fn rows(&self, name: &str, rows: &str) -> String {
        let rows: String = rows.lines().map(|row| format!("{}\n", row.trim())).collect();
        let frame = "{\"type\":\"header\",\"format\":\"kith.export.v1\"}\n";
        self.text(name, &format!("{frame}{rows}{{\"type\":\"footer\"}}\n"))
    }

    fn text(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("a file");
        self.path(name)
    }
}

const ROWS: &str = r#"{"type":"connection","from":{"external_id":"a-1"},"to":2,"created":"2026-01-02T00:00:00Z"}
    {"type":"user","external_id":"a-1"}
    {"type":"user","id":2,"username":"bob"}
    {"type":"request","from":2,"to":{"username":"cy"},"state":"PENDING","created":"2026-01-03T00:00:00Z"}
    {"type":"user","username":"cy"}
    {"type":"request","from":{"username":"CY"},"to":{"external_id":"nobody"},"state":"PENDING"}
    {"type":"connection","from":2,"to":{"external_id":"a-1"},"connected":"2026-01-01T00:00:00Z"}
    {"type":"connection","from":2,"to":2}
    {"type":"friend"}"#;

on_each_engine! {
    async fn files_are_loaded_once_and_what_is_refused_can_be_mended(engine: Engine) {
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let kith = Kith::serve(&database.url, &[]).await;
        let server = format!("--server={}", kith.address);
        let all = files.rows("all.ndjson", ROWS);
        let blocks = files.text("blocks.csv", "user,other_external_id,created\n2,a-2,2026-01-01T00:00:00Z\n");
        let users = files.text("users.csv", "external_id,username\na-2,\n");
        let csv = [format!("--csv=blocks={blocks}"), format!("--csv=users={users}")];
        let load = async |more: &[&str]| {
            run(&[&["load", &all, &csv[0], &csv[1], &server], more].concat()).await
        };
        let dry = load(&["--dry-run"]).await;
        assert_eq!(dry.status.code(), Some(3), "{dry:#?}");
        assert!(dry.output.contains("dry run; nothing was stored; revision 0"), "{dry:#?}");
        let refused = format!("--refused={}", files.path("refused.ndjson"));
        let loaded = load(&[&refused]).await;
        assert_eq!(loaded.status.code(), Some(3), "{loaded:#?}");
        let summary = "rows 10: created 7, unchanged 0, replaced 0, refused 3\n";
        assert!(loaded.output.starts_with(summary) && dry.output.starts_with(summary), "{loaded:#?} {dry:#?}");
        for reason in [
            format!("refused: 1 UNKNOWN_TYPE: {all} line 10\n"),
            format!("refused: 1 SELF_REQUEST: {all} line 9\n"),
            format!("refused: 1 USER_NOT_FOUND: {all} line 7\n"),
            format!("refused: 1 DUPLICATE_PAIR: {all} line "),
            "loaded with refusals; revision ".to_owned(),
        ] {
            assert!(loaded.output.contains(&reason), "no {reason:?} in {loaded:#?}");
        }
        let clients = kith.clients();
        // Ids are given in the order of the files: the user without one in the first, then cy, then the one of the CSV file.
        assert_eq!(clients.status(1, 2).await, ConnectionStatus::Connected);
        assert_eq!(clients.status(2, 3).await, ConnectionStatus::RequestSent);
        assert_eq!(clients.status(2, 4).await, ConnectionStatus::Blocked);
        let again = load(&[]).await;
        assert!(again.output.starts_with("rows 10: created 0, unchanged 7, replaced 0, refused 3\n"), "{again:#?}");
        // The refused rows, mended.
        let mended = fs::read_to_string(files.path("refused.ndjson")).expect("a file");
        let rows: Vec<_> = mended.lines().filter(|row| row.contains("nobody")).collect();
        let mended = files.rows("mended.ndjson", &rows.join("\n").replace("nobody", "a-1"));
        let loaded = run(&["load", &mended, &server]).await;
        assert!(loaded.status.success() && loaded.output.ends_with("loaded; revision 14\n"), "{loaded:#?}");
        kith.signal("TERM");
        kith.wait().await;
        invariants::check(&database).await;
    }

    async fn a_load_goes_on_when_the_server_is_killed(engine: Engine) {
        const ROWS: i64 = 4_000;
        let (database, files) = (Database::migrated(engine).await, Files::new());
        let kith = Kith::serve(&database.url, &[]).await;
        let mut rows = String::new();
        (1..=ROWS).for_each(|id| _ = writeln!(rows, "{{\"type\":\"user\",\"id\":{id},\"username\":\"user-{id}\"}}"));
        let all = files.rows("users.ndjson", rows.trim());
        let address = kith.address.clone();
        let loading = tokio::spawn({
            let server = format!("--server={address}");
            async move { run(&["load", &all, &server]).await }
        });
        until("it begins", async || database.number("SELECT last_sequence AS value FROM feed").await > 0).await;
        kith.crash().await;
        let before = database.number("SELECT last_sequence AS value FROM feed").await;
        assert!(before < ROWS, "it was over before the kill");
        let listen = format!("--listen={address}");
        let again = Kith::start(command(&[&listen, &format!("--database-url={}", database.url)])).await;
        let ended = loading.await.expect("no panic");
        assert!(ended.status.success(), "{ended:#?}");
        assert!(ended.log.contains("load interrupted"), "{ended:#?}");
        assert_eq!(database.number("SELECT count(*) AS value FROM users").await, ROWS);
        assert_eq!(database.number("SELECT last_sequence AS value FROM feed").await, ROWS, "no row changed anything twice");
        drop(again);
        invariants::check(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_ends_a_load_before_its_row_if_it_shall() {
    let (database, files) = (Database::migrated(Engine::Sqlite).await, Files::new());
    let kith = Kith::serve(&database.url, &[]).await;
    for id in 1..=3 {
        kith.clients().create(id).await.expect("a user");
    }
    kith.clients().block(1, 2).await;
    kith.clients().send(2, 3).await;
    let rows = r#"{"type":"request","from":1,"to":3,"created":"2026-01-01T00:00:00Z"}
        {"type":"connection","from":3,"to":2,"created":"2026-01-02T00:00:00Z"}
        {"type":"block","user":3,"other":1,"created":"2026-01-03T00:00:00Z"}"#;
    let all = files.rows("all.ndjson", rows);
    let server = format!("--server={}", kith.address);
    let ended = run(&["load", &all, &server, "--on-conflict=fail"]).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.output.contains("created 1, unchanged 0, replaced 0, refused 1\n"), "{ended:#?}");
    assert!(ended.log.contains("--on-conflict=fail") && ended.output.contains("CONFLICTING_STATE"), "{ended:#?}");
    assert_eq!(kith.clients().status(3, 1).await, ConnectionStatus::RequestReceived);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_loaded_is_refused_in_words() {
    let files = Files::new();
    let cut = files.text("cut.ndjson", "{\"type\":\"header\",\"format\":\"kith.export.v1\"}\n");
    let good = files.rows("good.ndjson", "{\"type\":\"user\",\"id\":1,\"username\":\"ann\"}");
    let nowhere = "--server=127.0.0.1:1";
    for (args, words) in [
        (vec!["load", &cut, nowhere], vec!["cut.ndjson", "cut off", "nothing was sent"]),
        (vec!["load", "none.ndjson", nowhere], vec!["none.ndjson", "No such file"]),
        (vec!["load", &good, nowhere], vec!["--server 127.0.0.1:1", "cannot connect"]),
    ] {
        let ended = run(&args).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        for word in words {
            assert!(ended.log.contains(word), "no {word:?} in {ended:#?}");
        }
    }
}
