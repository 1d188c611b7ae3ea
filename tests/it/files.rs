//! The file of a SQLite database: how a URL names it, and what becomes of a server that loses it or finds no room in it.

use std::fs;
use std::path::Path;

use kith::proto::v1 as pb;
use kith::server::SERVICES;
use tempfile::TempDir;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::disk::Disk;
use crate::harness::process::{Ended, Kith, command, run};
use crate::harness::{Database, Engine, until};

/// Runs a subcommand for the URL of a file with these parameters.
async fn run_with(subcommand: &str, file: &Path, parameters: &str) -> Ended {
    let url = format!("--database-url=sqlite://{}{parameters}", file.display());
    let listen: &[&str] = if subcommand == "serve" { &["--listen=127.0.0.1:0"] } else { &[] };
    run(&[&[subcommand, &url], listen].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_names_the_file_and_its_mode() {
    let folder = TempDir::with_prefix("kith-test-").expect("a folder");
    let missing = folder.path().join("missing.db");
    for (subcommand, parameters, words) in [
        ("serve", "?mode=rw", "there is no file"),
        ("serve", "?mode=ro", "mode=ro opens"),
        ("migrate", "?mode=rw", "there is no file"),
        ("check", "?mode=rw", "no such file"),
        ("serve", "?mode=rwcc", "it can be ro, rw or rwc"),
        ("serve", "?cache=shared", "unknown parameter \"cache\""),
    ] {
        let ended = run_with(subcommand, &missing, parameters).await;
        assert!(!ended.status.success() && ended.log.contains(words), "{subcommand} {parameters}: {ended:#?}");
    }
    let created = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(created, 0, "nothing was created");

    // A path with characters that a URL has in another meaning.
    let file = folder.path().join("my kith?#%.db");
    let encoded = folder.path().join("my%20kith%3F%23%25.db");
    let url = format!("sqlite://{}", encoded.display());
    Kith::serve(&url, &[]).await.clients().create(1).await.expect("a user");
    assert!(file.exists());
    for (subcommand, parameters) in [("migrate", "?mode=rw"), ("check", "?mode=ro"), ("check", "?")] {
        let ended = run_with(subcommand, &encoded, parameters).await;
        assert!(ended.status.success(), "{subcommand} {parameters}: {ended:#?}");
    }
    let ended = run_with("migrate", &encoded, "?mode=ro").await;
    assert!(ended.log.contains("only for reading"), "{ended:#?}");
}

/// Starts a server, does something to its files, and makes a write, which fails. Returns how the server ended.
async fn lost(database: &Database, lose: impl FnOnce(&Path)) -> Ended {
    let kith = Kith::serve(&database.url, &[]).await;
    kith.clients().create(1).await.expect("a user");
    lose(Path::new(database.path()));
    let refused = kith.clients().create(2).await.expect_err("a write to a file that is lost");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let ended = kith.wait().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_deleted_or_replaced_ends_the_server_in_words() {
    let database = Database::migrated(Engine::Sqlite).await;
    let ended = lost(&database, |file| fs::remove_file(file).expect("a file")).await;
    let words = format!("{} was deleted or moved while the server used it", database.path());
    assert!(ended.log.contains(&words), "{ended:#?}");

    let (database, other) = (Database::migrated(Engine::Sqlite).await, Database::migrated(Engine::Sqlite).await);
    let ended = lost(&database, |file| fs::rename(other.path(), file).expect("a file")).await;
    let words = format!("{} was replaced by another file", database.path());
    assert!(ended.log.contains(&words), "{ended:#?}");
}

/// What is in the log when it is deleted is in the file after the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_deleted_ends_the_server_and_loses_nothing() {
    let database = Database::migrated(Engine::Sqlite).await;
    let log = format!("{}-wal", database.path());
    let ended = lost(&database, |_| fs::remove_file(&log).expect("a log")).await;
    assert!(ended.log.contains(&format!("{log} was deleted or moved")), "{ended:#?}");
    assert_eq!(database.number("SELECT count(*) AS value FROM users").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_use_one_file() {
    let database = Database::migrated(Engine::Sqlite).await;
    let (one, other) = (Kith::serve(&database.url, &[]).await, Kith::serve(&database.url, &[]).await);
    for id in (1..20).step_by(2) {
        one.clients().create(id).await.expect("a user");
        other.clients().create(id + 1).await.expect("a user");
    }
    one.signal("TERM");
    assert!(one.wait().await.status.success());
    // The end of one server leaves the files to the other.
    other.clients().create(21).await.expect("a user");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_writes_fail_and_health_says_so_until_there_is_room() {
    let disk = Disk::new();
    let serve = command(&["serve", "--listen=127.0.0.1:0", "--database-url", &disk.url()]);
    let kith = Kith::start(disk.command(&serve, false)).await;
    let clients = kith.clients();
    clients.create(1).await.expect("a user");
    let health = async || {
        let check = HealthCheckRequest { service: SERVICES[0].to_owned() };
        HealthClient::new(kith.channel()).check(check).await.expect("a response").into_inner().status()
    };
    disk.fill(kith.pid());
    let mut last = 1;
    until("a write that fails", async || {
        last += 1;
        clients.create(last).await.is_err()
    })
    .await;
    let failed = last;
    until("the end of health", async || health().await == ServingStatus::NotServing).await;
    let users = clients.users().list_users(pb::ListUsersRequest::default()).await.expect("reads go on").into_inner();
    assert_eq!(i64::try_from(users.users.len()).expect("few"), (failed - 1).min(50));
    disk.free(kith.pid());
    until("health", async || health().await == ServingStatus::Serving).await;
    clients.create(failed).await.expect("a write");
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success() && ended.log.contains(disk.words()), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk_says_so() {
    let disk = Disk::new();
    let serve = command(&["serve", "--listen=127.0.0.1:0", "--database-url", &disk.url()]);
    let ended = Kith::try_start(disk.command(&serve, true)).await.err().expect("a refusal");
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    assert!(ended.log.contains(disk.words()), "{ended:#?}");
}
