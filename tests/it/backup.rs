//! Is a database as it was after its backup is restored? A backup is made while a server writes, as `docs/operations.md`
//! says, and restored in the place of the original.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use kith::proto::v1::{self as pb, ErrorReason};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::clients::Clients;
use crate::harness::postgres::{binaries, server};
use crate::harness::process::{Ended, Kith, command, run, run_command};
use crate::harness::{Database, Engine, database, invariants, refused, until};
use crate::on_each_engine;
use crate::watchers::position;

/// Creates users who each send a request to user 1, until the server is gone. Notes the newest revision of a response.
async fn write(clients: Clients, writer: usize, newest: watch::Sender<i64>) {
    for number in 0.. {
        let user = pb::User { username: format!("user-{writer}-{number}"), ..Default::default() };
        let request = pb::CreateUserRequest { user: Some(user), ..Default::default() };
        let Ok(created) = clients.users().create_user(request).await else { return };
        let id = created.into_inner().user.expect("a user").id;
        let Ok(sent) = clients.try_send(id, 1).await else { return };
        let revision = sent.into_inner().revision;
        newest.send_if_modified(|newest| std::mem::replace(newest, revision.max(*newest)) < revision);
    }
}

/// Runs a program of PostgreSQL.
fn postgres(program: &str, args: &[&str]) {
    let output = Command::new(binaries().join(program)).args(args).output().expect("it runs");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn url(database: &Database) -> String {
    format!("--database-url={}", database.url)
}

/// Makes a backup of a live database.
async fn back_up(database: &Database, copy: &str) {
    match database.engine {
        Engine::Sqlite => {
            let ended = run(&["backup", copy, &url(database)]).await;
            assert!(ended.status.success(), "{ended:#?}");
        }
        Engine::Postgres => {
            let file = format!("--file={copy}");
            postgres("pg_dump", &["--format=custom", &file, &format!("--dbname={}", database.url)]);
        }
    }
}

/// Replaces the database, which no server uses, by the backup.
async fn restore(database: &Database, copy: &str) {
    match database.engine {
        Engine::Sqlite => {
            for log in ["-wal", "-shm"] {
                fs::remove_file(format!("{}{log}", database.path())).expect("a server that was killed leaves it");
            }
            fs::rename(copy, database.path()).expect("renamed");
        }
        Engine::Postgres => {
            let (name, maintenance) = (database.name(), format!("--maintenance-db={}", server().url("postgres")));
            postgres("dropdb", &["--force", &maintenance, name]);
            postgres("createdb", &[&maintenance, name]);
            postgres("pg_restore", &["--exit-on-error", &format!("--dbname={}", database.url), copy]);
            database.execute("ANALYZE").await;
        }
    }
    let ended = run(&["restore-epoch", &url(database)]).await;
    assert!(ended.status.success(), "{ended:#?}");
    let ended = run(&["check", &url(database)]).await;
    assert!(ended.status.success(), "{ended:#?}");
}

on_each_engine! {
    async fn a_backup_of_a_live_database_is_restored(engine: Engine) {
        let database = Database::migrated(engine).await;
        let directory = TempDir::with_prefix("kith-test-").expect("a directory");
        let copy = directory.path().join("kith.backup").display().to_string();
        let kith = Kith::serve(&database.url, &[]).await;
        let clients = kith.clients();
        assert_eq!(clients.user("ann").await, 1);
        let (newest, mut acknowledged) = watch::channel(0);
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            writers.spawn(write(kith.fresh_clients(), writer, newest.clone()));
        }
        acknowledged.wait_for(|revision| *revision > 50).await.expect("writes");
        let before = *acknowledged.borrow();
        back_up(&database, &copy).await;
        // What the backup cannot have.
        let after = *acknowledged.borrow();
        acknowledged.wait_for(|revision| *revision > after + 50).await.expect("writes");
        writers.shutdown().await;
        let (epoch, last) = position(&clients, None, "").await.expect("a position");
        let events = clients.list_events(pb::ListEventsRequest::default()).await;
        kith.crash().await;

        restore(&database, &copy).await;
        let revision = invariants::check(&database).await;
        assert!(before <= revision && revision < last, "{before} {revision} {last}");
        let kith = Kith::serve(&database.url, &[]).await;
        let clients = kith.clients();
        let restored = clients.list_events(pb::ListEventsRequest::default()).await;
        assert_eq!(restored[..], events[..usize::try_from(revision).expect("a length")]);
        // Consumers that have read what is lost learn that it is, also when the feed is as long again.
        for number in revision..last {
            clients.user(&format!("after-{number}")).await;
        }
        assert_eq!(position(&clients, None, "").await.expect("a position").1, last);
        refused(position(&clients, Some(last), &epoch).await, Code::FailedPrecondition, ErrorReason::WrongEpoch);
    }
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("a file").file_name().display().to_string()).collect();
    names.sort();
    names
}

/// Asserts that there is no backup and nothing else, and why.
#[track_caller]
fn refuses(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.output.is_empty() && !ended.log.contains("panicked"), "{ended:#?}");
    for word in words {
        assert!(ended.log.contains(word), "no {word:?} in {ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_complete_and_reported_and_has_the_permissions_of_the_original() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    for name in ["ann", "bob"] {
        kith.clients().user(name).await;
    }
    kith.clients().send(1, 2).await;
    fs::set_permissions(database.path(), fs::Permissions::from_mode(0o640)).expect("set");
    // Tables of another version too: a backup is made before an upgrade, and perhaps after one that went wrong.
    database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')").await;
    let directory = TempDir::with_prefix("kith-test-").expect("a directory");
    // A name that SQL and URIs would take for something else.
    let name = "file:it's?mode=ro#%41 \u{e4}.db";
    let copy = directory.path().join(name);
    let mut backup = command(&["backup", name, &url(&database)]);
    backup.current_dir(directory.path());
    let ended = run_command(backup).await;
    assert!(ended.status.success(), "{ended:#?}");
    assert_eq!(names(directory.path()), [name]);
    let metadata = fs::metadata(&copy).expect("a copy");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    let epoch = database.values("SELECT epoch AS value FROM feed").await[0].clone().expect("an epoch");
    assert_eq!(ended.output, format!("copied {} bytes to {name}; revision 3, epoch {epoch}\n", metadata.len()));
    let path = directory.path().join("kith.db");
    fs::rename(&copy, &path).expect("renamed");
    let copy = Database::at(&format!("sqlite://{}", path.display()), Engine::Sqlite);
    copy.execute("DELETE FROM __diesel_schema_migrations WHERE version = '99990101000000'").await;
    assert_eq!(invariants::check(&copy).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_overwritten_and_nothing_is_left() {
    let database = Database::migrated(Engine::Sqlite).await;
    let directory = TempDir::with_prefix("kith-test-").expect("a directory");
    let to = |name: &str| directory.path().join(name).display().to_string();
    fs::write(to("kept"), "kept").expect("written");
    std::os::unix::fs::symlink("nowhere", to("link")).expect("a link");
    let kept = names(directory.path());
    for name in ["kept", "link", "."] {
        refuses(&run(&["backup", &to(name), &url(&database)]).await, &["exists already"]);
    }
    refuses(&run(&["backup", &to("none/copy"), &url(&database)]).await, &["cannot write ", "none/copy: No such file"]);
    let missing = format!("--database-url=sqlite://{}", to("missing.db"));
    refuses(&run(&["backup", &to("copy"), &missing]).await, &["--database-url sqlite://", "No such file"]);
    let other = format!("--database-url=sqlite://{}", to("kept"));
    refuses(&run(&["backup", &to("copy"), &other]).await, &["--database-url sqlite://", "not a database"]);
    // Which the copy has too, since pages are copied as they are.
    database
        .execute(
            "PRAGMA ignore_check_constraints = ON; INSERT INTO users VALUES \
             (1, 1, 'ann', 'ann', '', '', 7, 0, '', '', '', '', 'MALE', 'APPROVED', '', '', '', 1, NULL)",
        )
        .await;
    refuses(&run(&["backup", &to("copy"), &url(&database)]).await, &["the copy is damaged", "users"]);
    // PostgreSQL is not even asked.
    let postgres = "--database-url=postgres://kith:s3cret@127.0.0.1:1/kith";
    let ended = run(&["backup", &to("copy"), postgres]).await;
    refuses(&ended, &["--database-url postgres://127.0.0.1:1/kith", "pg_dump --format=custom", "pg_basebackup"]);
    assert_eq!((names(directory.path()), fs::read_to_string(to("kept")).expect("a file")), (kept, "kept".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_interrupted_leaves_nothing() {
    let database = Database::migrated(Engine::Sqlite).await;
    let directory = TempDir::with_prefix("kith-test-").expect("a directory");
    let copy = directory.path().join("copy").display().to_string();
    // Lets the backup wait, before it has begun to read.
    database.execute("PRAGMA journal_mode = DELETE").await;
    let mut other = database::sqlite(database.path());
    diesel::connection::SimpleConnection::batch_execute(&mut other, "BEGIN EXCLUSIVE").expect("a lock");
    let mut backup = command(&["backup", &copy, &url(&database)]);
    let mut backup = backup.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    until("it begins", async || names(directory.path()).len() == 1).await;
    let pid = backup.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().expect("kill runs").success());
    let status = tokio::task::spawn_blocking(move || backup.wait()).await.expect("no panic").expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert_eq!(names(directory.path()), [""; 0]);
}
