//! A program of the system in the background, in a directory of its own.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::postgres::{run, unprivileged};

/// It ends when this is dropped, and with this process, even after a kill of that.
pub struct Daemon {
    watchdog: Child,
    dir: PathBuf,
}

/// Reads a pipe that only the test's process holds open. The directory goes with the program, unless it is only stopped.
const WATCHDOG: &str = r#"dir=$1; shift; "$@" & pid=$!; read -r word; kill -INT $pid; wait $pid
                          [ "$word" = stop ] || rm -rf "$dir""#;

impl Daemon {
    /// Starts the command, which logs to the file `log` in this directory.
    pub fn start(command: &Command, dir: &Path) -> Self {
        let log = File::options().append(true).create(true).open(dir.join("log")).expect("a log");
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(dir).arg(command.get_program()).args(command.get_args());
        watchdog.current_dir(dir).stdin(Stdio::piped()).stdout(log.try_clone().expect("a log")).stderr(log);
        Self { watchdog: watchdog.spawn().expect("a watchdog"), dir: dir.to_owned() }
    }

    /// Waits until the log has these words.
    pub fn says(&self, words: &str) {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            if log.contains(words) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no {words:?} in\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, and leaves its directory.
    pub fn stop(mut self) {
        self.watchdog.stdin.take().expect("a pipe").write_all(b"stop\n").expect("a watchdog");
        self.watchdog.wait().expect("a child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        _ = self.watchdog.wait();
    }
}

/// A directory that belongs to the user who runs the daemons.
pub fn directory() -> PathBuf {
    let dir = tempfile::Builder::new().prefix("kith-test-daemon-").tempdir().expect("a directory").keep();
    hand_over(&dir);
    dir
}

/// Gives everything in a directory to the user who runs the daemons.
pub fn hand_over(dir: &Path) {
    if let Some(user) = unprivileged() {
        run(Command::new("chown").arg("-R").arg(user).arg(dir));
    }
}

/// A port that is free, and that nobody else takes before it is used.
///
/// The kernel gives the ports above 32,767 to connections of all tests, so it is a lower one, and each is given out once.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(101)));
    let ports = (0..COUNT).map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT);
    let mut ports = ports.map(|port| u16::try_from(port).expect("a port"));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}
