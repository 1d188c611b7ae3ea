//! A `kith` that prints lines until it ends, such as `kith watch`.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::process::{Ended, Log, PATIENCE};

/// A running command and its output. It is killed when this is dropped.
pub struct Printer {
    child: Child,
    lines: Log,
    log: Log,
    read: usize,
}

impl Printer {
    pub fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Log::of(child.stdout.take().expect("a pipe"));
        let log = Log::of(child.stderr.take().expect("a pipe"));
        Self { child, lines, log, read: 0 }
    }

    /// The next line, as JSON.
    pub async fn line(&mut self) -> serde_json::Value {
        let line = timeout(PATIENCE, self.lines.line(self.read)).await.expect("a line in time");
        let line = line.unwrap_or_else(|| panic!("no more lines: {}", self.log.text()));
        self.read += 1;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// The number in a field of the next line of output.
    pub async fn number(&mut self, field: &str) -> i64 {
        let line = self.line().await;
        line[field].as_i64().unwrap_or_else(|| panic!("no {field} in {line}"))
    }

    /// Waits until standard error has these words.
    pub async fn says(&mut self, words: &str) {
        let said = timeout(PATIENCE, self.log.after(words)).await.expect("words in time");
        assert!(said.is_some(), "no {words:?} in {}", self.log.text());
    }

    /// Waits for the end. Returns the unread lines and the exit status.
    pub async fn wait(mut self) -> (Vec<String>, Ended) {
        let status = wait(&mut self.child).await;
        let (log, _) = std::mem::replace(&mut self.log, Log::none()).whole();
        let (output, _) = std::mem::replace(&mut self.lines, Log::none()).whole();
        let rest = output.lines().skip(self.read).map(str::to_owned).collect();
        (rest, Ended { status, log, output })
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        // Both fail if it has ended, which is fine.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Waits for the end of a child.
async fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
