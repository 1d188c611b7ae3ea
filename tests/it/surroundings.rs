//! What goes wrong around the program does not end its work.

use std::fs::{File, OpenOptions};
use std::io::{PipeReader, Read, pipe};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::Channel;

use crate::harness::clients::Clients;
use crate::harness::process::command;
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

    /// Ends it. It drains and exits with 0.
    fn end(mut self) {
        let signalled = std::process::Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(signalled.expect("kill runs").success());
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
