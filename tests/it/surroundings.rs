//! What goes wrong around the program does not end its work.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{PipeReader, Read, pipe};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::Channel;

use crate::harness::clients::Clients;
use crate::harness::process::{command, run, run_command};
use crate::harness::{Database, Engine, until};

/// A program whose standard error is this file. It is killed when this is dropped.
struct Program {
    child: Child,
    clients: Clients,
}

impl Program {
    fn start(url: &str, log: impl Into<Stdio>, args: &[&str]) -> Self {
        // The log, which has the address otherwise, is not read.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let listen = format!("--listen=127.0.0.1:{port}");
        let all = [&[listen.as_str(), "--database-url", url], args].concat();
        let child = command(&all).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
        let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("an address").connect_lazy();
        Self { child, clients: Clients(channel) }
    }

    /// Waits until it serves, and makes writes, each of which logs at the level `debug`.
    async fn writes(&self, from: i64, number: i64) {
        until("it serves", async || self.clients.create(from).await.is_ok()).await;
        for id in from + 1..from + number {
            self.clients.create(id).await.expect("a user");
        }
    }

    fn signal(&self, name: &str) {
        let signalled = std::process::Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(signalled.expect("kill runs").success());
    }

    /// Ends it. It drains and exits with 0.
    fn end(self) {
        self.end_by("TERM");
    }

    fn end_by(mut self, signal: &str) {
        self.signal(signal);
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail if it has ended, which is fine.
        _ = self.child.kill();
        _ = self.child.wait();
    }
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
    let program = Program::start(&database.url, writer, &["--log-level=debug"]);
    program.writes(1, 20).await;
    program.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_ends_nothing() {
    let database = Database::migrated(Engine::Sqlite).await;
    let full: File = OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let program = Program::start(&database.url, full, &["--log-level=debug"]);
    program.writes(1, 20).await;
    program.end();
}

/// The pipe has room for 64 KiB, and more is logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nothing_up_and_says_how_much_was_dropped() {
    let database = Database::migrated(Engine::Sqlite).await;
    let (reader, writer) = pipe().expect("a pipe");
    let program = Program::start(&database.url, writer, &["--log-level=trace"]);
    // Each write logs some 100 lines of the transport.
    program.writes(1, 300).await;
    let reading = std::thread::spawn(|| rest_of(reader));
    program.writes(301, 2).await;
    program.end();
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
        let program = Program::start(&database.url, Stdio::null(), &[]);
        let from = 1 + 10 * i64::try_from(number).expect("few");
        program.writes(from, 1).await;
        program.signal("HUP");
        program.writes(from + 1, 1).await;
        program.end_by(signal);
    }
}
