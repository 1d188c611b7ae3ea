//! A program on a terminal, as a person runs it. `script` of util-linux makes the terminal.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::process::PATIENCE;
use super::until;

/// A terminal of 80 columns and 24 rows. What runs on it is killed when this is dropped.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs a line of shell on a new terminal, without settings from this process's environment.
    pub fn run(line: &str) -> Self {
        let mut script = Command::new("script");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
            script.env_remove(name);
        }
        let line = format!("stty rows 24 cols 80; {line}");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        let child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("script, of util-linux (Debian's bsdutils), makes terminals: {error}"));
        let keys = child.stdin.take().expect("a pipe");
        let mut output = child.stdout.take().expect("a pipe");
        let shown = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&shown);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                shared.lock().expect("a lock").push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { child, keys, shown, reader: Some(reader) }
    }

    /// All that was written to the terminal so far, with its escape sequences.
    pub fn shown(&self) -> String {
        self.shown.lock().expect("a lock").clone()
    }

    /// Waits until it has shown these words after the first `from` bytes. Returns how many bytes there are then.
    pub async fn shows(&self, words: &str, from: usize) -> usize {
        until(&format!("{words:?} on the terminal"), async || self.shown()[from..].contains(words)).await;
        self.shown().len()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
        self.keys.flush().expect("a terminal");
    }

    /// Waits for the end. Returns the exit status of the line, and all that was shown.
    pub async fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.shown());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        self.reader.take().into_iter().for_each(|reader| reader.join().expect("an output"));
        (status, self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail if it has ended, which is fine. The terminal then hangs up, which ends what runs on it.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
