//! What goes wrong around the program does not end its work.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{PipeReader, Read, pipe};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use crate::harness::daemon::free_port;
use crate::harness::process::{Kith, command, run, run_command};
use crate::harness::{Database, Engine, until};

/// Starts a program whose standard error is this file, in which nobody reads the address.
fn start(url: &str, log: impl Into<Stdio>, args: &[&str]) -> Kith {
    let address = format!("127.0.0.1:{}", free_port());
    let mut serve = command(&[&["--listen", &address, "--database-url", url], args].concat());
    serve.stderr(log);
    Kith::start_unread(serve, address)
}

/// Waits until it serves, and makes writes, each of which logs at the level `debug`.
async fn writes(kith: &Kith, from: i64, number: i64) {
    let clients = kith.clients();
    until("it serves", async || clients.create(from).await.is_ok()).await;
    for id in from + 1..from + number {
        clients.create(id).await.expect("a user");
    }
}

/// Ends it by a signal. It drains and exits with 0.
async fn end_by(kith: Kith, signal: &str) {
    kith.signal(signal);
    assert_eq!(kith.wait().await.status.code(), Some(0));
}

/// Reads what is in the pipe until its writers have ended.
fn rest_of(mut reader: PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_reader_went_away_ends_nothing() {
    let database = Database::migrated(Engine::Sqlite).await;
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let program = start(&database.url, writer, &["--log-level=debug"]);
    writes(&program, 1, 20).await;
    end_by(program, "TERM").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_ends_nothing() {
    let database = Database::migrated(Engine::Sqlite).await;
    let full: File = OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let program = start(&database.url, full, &["--log-level=debug"]);
    writes(&program, 1, 20).await;
    end_by(program, "TERM").await;
}

/// The pipe has room for 64 KiB, and more is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nothing_up_and_says_how_much_was_dropped() {
    let database = Database::migrated(Engine::Sqlite).await;
    let (reader, writer) = pipe().expect("a pipe");
    let program = start(&database.url, writer, &["--log-level=trace,h2=trace,hyper=trace,tonic=trace,tower=trace"]);
    // Each write logs some 30 lines of the transport.
    writes(&program, 1, 600).await;
    let reading = std::thread::spawn(|| rest_of(reader));
    writes(&program, 601, 2).await;
    end_by(program, "TERM").await;
    let log = reading.join().expect("a log");
    assert!(log.contains("lines of the log were dropped"), "{} bytes", log.len());
}

/// Runs `kith serve` as another user than root, who may do less. Returns what it says at its end.
async fn refused_as_nobody(database: &Path) -> String {
    let url = format!("sqlite://{}", database.display());
    let mut serve = command(&["--listen=127.0.0.1:0", "--database-url", &url]);
    if is_root() {
        serve.uid(NOBODY);
    }
    let ended = run_command(serve).await;
    assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
    ended.log
}

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("a process").uid() == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_write_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
    let (file, missing) = (folder.path().join("kith.db"), folder.path().join("missing/kith.db"));
    let user = if is_root() { NOBODY } else { fs::metadata("/proc/self").expect("a process").uid() };
    let log = refused_as_nobody(&missing).await;
    assert!(log.contains(&format!("there is no directory {}", folder.path().join("missing").display())), "{log}");
    // A folder that only others may write.
    set(folder.path(), 0o555);
    let log = refused_as_nobody(&file).await;
    let words =
        format!("the user with the id {user}, who runs Kith, may not create files in {}", folder.path().display());
    assert!(log.contains(&words), "{log}");
    // A file that nobody may write, with all its tables.
    set(folder.path(), 0o777);
    let url = format!("sqlite://{}", file.display());
    assert!(run(&["migrate", "--database-url", &url]).await.status.success());
    set(&file, 0o444);
    let log = refused_as_nobody(&file).await;
    let words = format!("the user with the id {user}, who runs Kith, may not write {}", file.display());
    assert!(log.contains(&words), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_does_not_end_it_and_other_signals_drain_it() {
    let database = Database::migrated(Engine::Sqlite).await;
    for (number, signal) in ["TERM", "INT", "QUIT", "USR1"].into_iter().enumerate() {
        let program = start(&database.url, Stdio::null(), &[]);
        let from = 1 + 10 * i64::try_from(number).expect("few");
        writes(&program, from, 1).await;
        program.signal("HUP");
        writes(&program, from + 1, 1).await;
        end_by(program, signal).await;
    }
}
