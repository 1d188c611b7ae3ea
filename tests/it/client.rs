//! The client in the binary: `kith call` and the everyday verbs, against a real server.

mod call;
mod retry;
mod support;
mod verbs;

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::harness::process::{Ended, Kith, command, run};
use crate::harness::{Database, Engine};

/// A server, and `kith` as its client.
struct Client {
    kith: Kith,
    // After the server: it ends first.
    database: Database,
}

impl Client {
    async fn start(engine: Engine, args: &[&str]) -> Self {
        let database = Database::migrated(engine).await;
        Self { kith: Kith::serve(&database.url, args).await, database }
    }

    /// Runs a client to its end.
    async fn run(&self, args: &[&str]) -> Ended {
        run(&[args, &["--server", &self.kith.address]].concat()).await
    }

    /// What it prints. It succeeds.
    async fn prints(&self, args: &[&str]) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.status.code(), Some(0), "{args:?}: {ended:#?}");
        ended.output
    }

    /// The same, with the times masked.
    async fn shows(&self, args: &[&str]) -> String {
        masked(&self.prints(args).await)
    }

    /// The object that it prints as JSON.
    async fn json(&self, args: &[&str]) -> Value {
        parsed(&self.prints(&[args, &["-o", "json"]].concat()).await)
    }

    /// It fails with this exit status, and says this on standard error.
    async fn fails(&self, args: &[&str], code: i32, words: &str) -> String {
        let ended = self.run(args).await;
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {ended:#?}");
        assert!(ended.log.contains(words) && ended.output.is_empty(), "no {words:?}: {args:?}: {ended:#?}");
        ended.log
    }

    /// Runs a client with this standard input. Returns the exit status, standard output and standard error.
    fn piped(&self, args: &[&str], input: &str) -> (Option<i32>, String, String) {
        let mut client = command(&[args, &["--server", &self.kith.address]].concat());
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut client = client.expect("kith runs");
        client.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads its input");
        let output = client.wait_with_output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Replaces the digits of times, as in `2026-11-30 04:06`.
fn masked(text: &str) -> String {
    let mut masked: Vec<char> = text.chars().collect();
    let is_time = |window: &[char]| {
        let expected = "0000-00-00 00:00".chars();
        window.iter().zip(expected).all(|(c, shape)| if shape == '0' { c.is_ascii_digit() } else { *c == shape })
    };
    let starts: Vec<usize> = (0..masked.len().saturating_sub(15)).filter(|at| is_time(&masked[*at..at + 16])).collect();
    for at in starts {
        let end = if masked.get(at + 16) == Some(&':') { at + 19 } else { at + 16 };
        masked[at..end].iter_mut().filter(|c| c.is_ascii_digit()).for_each(|c| *c = '0');
    }
    masked.into_iter().collect()
}
