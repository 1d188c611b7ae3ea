//! PostgreSQL servers that replicate: a primary and its hot standbys, which a test kills, freezes and promotes.
//!
//! Each starts as a copy of one prepared data directory, so that they share a system identifier. That takes less time than
//! `initdb` and `pg_basebackup`. They are not durable (`fsync=off`): only a power cut could lose data, not a kill.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use kith::progress::Progress;
use kith::store::{self, DatabaseUrl};
use tokio::sync::OnceCell;

use super::daemon::{directory, free_port, hand_over};
use super::database::{execute, postgres_values};
use super::overdue;
use super::postgres::{binaries, run, stepped_down};
use super::until;

/// The database that each node has, with Kith's tables.
const DATABASE: &str = "kith";

/// Settings of each node. A standby looks for its primary every 0.1 s, and can be rewound after it was one.
const SETTINGS: [&str; 9] = [
    "listen_addresses = '127.0.0.1'",
    "fsync = off",
    "wal_log_hints = on",
    "wal_keep_size = 128MB",
    "wal_retrieve_retry_interval = 100ms",
    "shared_buffers = 32MB",
    "max_connections = 100",
    // In the data directory, so that a kill leaves nothing outside of it.
    "dynamic_shared_memory_type = mmap",
    "autovacuum = off",
];

/// Starts a node and reads a pipe that only the test's process holds open. The word `end` stops it in good order, `kill`
/// kills it; the end of the pipe also deletes its directory.
///
/// A node that was killed leaves a segment of shared memory, which the file of its process names.
const WATCHDOG: &str = r#"dir=$1; shift; "$@" & pid=$!; read -r word
    children=$(grep -ls "^PPid:[[:space:]]$pid\$" /proc/[0-9]*/status | cut -d/ -f3)
    if [ "$word" = end ]; then kill -INT $pid; else kill -KILL $pid $children 2>/dev/null; fi; wait $pid
    segment=$(sed -n '7s/.* //p' "$dir/data/postmaster.pid" 2>/dev/null)
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
    [ -n "$word" ] || rm -rf "$dir""#;

/// One of the servers. It ends when this is dropped, and with this process.
pub struct Node {
    dir: PathBuf,
    pub port: u16,
    running: Option<Running>,
    /// How often it was started.
    starts: usize,
}

struct Running {
    watchdog: Child,
    /// The first process of PostgreSQL, the parent of all others.
    process: u32,
}

impl Node {
    /// A primary without standbys.
    pub async fn primary() -> Self {
        let mut node = Self::copy().await;
        node.start();
        node
    }

    /// A hot standby of this node. The node may have been promoted before.
    pub async fn standby(&self) -> Self {
        let mut node = Self::copy().await;
        node.configure(&self.source());
        node.start();
        node
    }

    async fn copy() -> Self {
        overdue::watch();
        let prepared = prepared().await;
        let dir = directory();
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(prepared.join("data")).arg(&dir));
        Self { dir, port: free_port(), running: None, starts: 0 }
    }

    /// The URL of the database on this node alone.
    pub fn url(&self) -> String {
        urls(&[self], "")
    }

    /// Starts a node that was stopped or killed.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs");
        self.starts += 1;
        let log = self.dir.join(format!("log.{}", self.starts));
        let file = File::create(&log).expect("a log");
        let server = stepped_down(&binaries().join("postgres"));
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(&self.dir).arg(server.get_program()).args(server.get_args());
        watchdog.arg("-D").arg(self.data()).arg("-k").arg(&self.dir).args(["-p", &self.port.to_string()]);
        watchdog.current_dir(&self.dir).stdin(Stdio::piped()).stdout(file.try_clone().expect("a log")).stderr(file);
        let watchdog = watchdog.spawn().expect("a watchdog");
        says(&log, "ready to accept");
        let file = fs::read_to_string(self.data().join("postmaster.pid")).expect("its process");
        let process = file.lines().next().and_then(|line| line.parse().ok()).expect("a number");
        self.running = Some(Running { watchdog, process });
    }

    /// Kills all of its processes, as when its machine dies. Whoever is connected learns of it.
    pub fn kill(&mut self) {
        self.freeze();
        self.signal("KILL");
        self.end("kill");
    }

    /// Stops it in good order: a standby that streams receives everything.
    pub fn stop(&mut self) {
        self.end("end");
    }

    fn end(&mut self, how: &str) {
        let Running { mut watchdog, process: _ } = self.running.take().expect("it runs");
        writeln!(watchdog.stdin.take().expect("a pipe"), "{how}").expect("a watchdog");
        watchdog.wait().expect("a child");
    }

    /// Stops all of its processes where they are. The kernel goes on to accept connections for it.
    pub fn freeze(&self) {
        // The parent first, so that it has no new children.
        let process = self.running.as_ref().expect("it runs").process;
        send("STOP", &[process]);
        self.signal("STOP");
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let process = self.running.as_ref().expect("it runs").process;
        let children = children(process);
        send(name, &[&[process][..], &children].concat());
    }

    /// Makes a standby the primary, with a timeline of its own, of what it has received. Returns when it takes writes.
    pub async fn promote(&self) {
        assert_eq!(self.value("pg_promote(true, 60)").await, "true", "it was not promoted");
    }

    /// Makes a node that was killed or stopped a standby of this primary, and takes back what only it had.
    pub async fn rejoin(&self, old: &mut Node) {
        assert!(old.running.is_none(), "it runs");
        // The new timeline has to be in the file that is compared.
        execute(&self.url(), "CHECKPOINT").await;
        run(stepped_down(&binaries().join("pg_rewind"))
            .args(["--no-sync", "--source-server", &format!("{} dbname=postgres", self.source()), "--target-pgdata"])
            .arg(old.data())
            .current_dir(&old.dir));
        old.configure(&self.source());
        old.start();
    }

    /// Lets commits on this primary wait for a standby, or no longer. A standby must stream.
    pub async fn synchronous(&self, on: bool) {
        let names = if on { "*" } else { "" };
        execute(&self.url(), &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'")).await;
        execute(&self.url(), "SELECT pg_reload_conf()").await;
        let standbys = "(SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync')";
        until("the new mode", async || self.value(standbys).await == if on { "1" } else { "0" }).await;
    }

    /// Cuts a standby off from its primary. It serves reads, and what is committed now is lost if it is promoted.
    pub async fn stop_streaming(&self) {
        self.stream("").await;
        until("the end of the stream", async || !self.is_streaming().await).await;
    }

    /// Makes a standby follow this primary, from where it stopped.
    pub async fn stream_to(&self, standby: &Node) {
        standby.stream(&self.source()).await;
        until("a stream", async || standby.is_streaming().await).await;
    }

    async fn stream(&self, source: &str) {
        execute(&self.url(), &format!("ALTER SYSTEM SET primary_conninfo = '{source}'")).await;
        execute(&self.url(), "SELECT pg_reload_conf()").await;
    }

    async fn is_streaming(&self) -> bool {
        self.value("(SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming')").await == "1"
    }

    /// Holds back what a standby receives, so that its answers are old. A promotion ends that.
    pub async fn pause_replay(&self) {
        execute(&self.url(), "SELECT pg_wal_replay_pause()").await;
        until("the pause", async || self.value("pg_get_wal_replay_pause_state()").await == "paused").await;
    }

    pub async fn resume_replay(&self) {
        execute(&self.url(), "SELECT pg_wal_replay_resume()").await;
    }

    /// Waits until a standby shows everything that is committed on this primary.
    pub async fn wait_for(&self, standby: &Node) {
        let written = self.value("pg_current_wal_flush_lsn()").await;
        let reached = format!("coalesce(pg_last_wal_replay_lsn() >= '{written}', false)");
        until("the standby", async || standby.value(&reached).await == "true").await;
    }

    /// The timeline that a primary writes.
    pub async fn timeline(&self) -> i64 {
        let timeline = self.value("left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)").await;
        i64::from_str_radix(&timeline, 16).expect("a number")
    }

    pub async fn is_standby(&self) -> bool {
        self.value("pg_is_in_recovery()").await == "true"
    }

    /// The value of an expression, as text.
    pub async fn value(&self, expression: &str) -> String {
        let values = postgres_values(&self.url(), &format!("SELECT ({expression})::text AS value")).await;
        values.into_iter().next().flatten().unwrap_or_default()
    }

    /// The CPU time that all of its processes have used.
    pub fn cpu(&self) -> Duration {
        let process = self.running.as_ref().expect("it runs").process;
        let ticks = |process: &u32, fields: std::ops::RangeInclusive<usize>| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // The name before them is in parentheses, and may have spaces.
            let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
            let fields = rest.split_whitespace().enumerate().filter(|(index, _)| fields.contains(index));
            fields.filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum::<u64>()
        };
        // Of the first process also the times of children that have ended. A tick is 10 ms on Linux.
        let ticks = ticks(&process, 11..=14) + children(process).iter().map(|child| ticks(child, 11..=12)).sum::<u64>();
        Duration::from_millis(10 * ticks)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// How a standby reaches this node.
    fn source(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    /// Makes its data those of a standby when it starts.
    fn configure(&self, source: &str) {
        fs::write(self.data().join("postgresql.auto.conf"), format!("primary_conninfo = '{source}'\n"))
            .expect("written");
        fs::write(self.data().join("standby.signal"), "").expect("written");
        hand_over(&self.data());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
        _ = fs::remove_dir_all(&self.dir);
    }
}

/// The URL of the database on several nodes, with parameters such as `&connect_timeout=2`.
pub fn urls(nodes: &[&Node], parameters: &str) -> String {
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    format!("postgres://postgres@{}/{DATABASE}?sslmode=disable{parameters}", hosts.join(","))
}

/// A directory with the data of a server that was stopped in good order and has Kith's tables. Made once for the process,
/// and deleted with it.
async fn prepared() -> &'static Path {
    static PREPARED: OnceCell<(PathBuf, ChildStdin)> = OnceCell::const_new();
    let prepare = async || {
        let mut node = Node { dir: directory(), port: free_port(), running: None, starts: 0 };
        run(stepped_down(&binaries().join("initdb"))
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .args(["--wal-segsize=1", "-D"])
            .arg(node.data())
            .current_dir(&node.dir));
        let mut file = File::options().append(true).open(node.data().join("postgresql.conf")).expect("settings");
        writeln!(file, "{}", SETTINGS.join("\n")).expect("written");
        node.start();
        execute(&node.url().replace(&format!("/{DATABASE}?"), "/postgres?"), "CREATE DATABASE kith").await;
        let url: DatabaseUrl = node.url().parse().expect("a URL");
        store::migrate(&url, &Progress::default()).await.expect("a migration");
        node.stop();
        let kept = tempfile::Builder::new().prefix("kith-test-prepared-").tempdir().expect("a directory").keep();
        fs::rename(node.data(), kept.join("data")).expect("moved");
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", "read -r _; rm -rf \"$1\"", "sh"]).arg(&kept).stdin(Stdio::piped());
        #[expect(clippy::zombie_processes, reason = "it ends after this process")]
        let child = watchdog.spawn().expect("a watchdog");
        (kept, child.stdin.expect("a pipe"))
    };
    &PREPARED.get_or_init(prepare).await.0
}

/// Waits for these words in a log.
fn says(log: &Path, words: &str) {
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.contains(words) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no {words:?} in\n{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes whose parent this is.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|id| id.trim() == parent.to_string()))
    };
    numbers.filter(is_child).collect()
}

/// Sends a signal to processes, some of which may have ended.
fn send(name: &str, processes: &[u32]) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name]).args(processes.iter().map(ToString::to_string));
    kill.stderr(Stdio::null()).status().expect("kill runs");
}
