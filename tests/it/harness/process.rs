//! The program as an operator runs it: a process with a command line, a log and signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use super::clients::Clients;
use super::database::{Database, Engine};

/// The maximum time for anything outside this process.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What the log says of a server that lets everybody in.
const ANONYMOUS: &str = "no authentication: everybody who reaches this address may do everything";

/// A running `kith`. It is killed when this is dropped.
pub struct Kith {
    child: Child,
    log: Log,
    /// Its address, as `HOST:PORT` or `unix:PATH`.
    pub address: String,
    channel: Channel,
}

/// How a `kith` ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// Its standard error.
    pub log: String,
    /// Its standard output.
    pub output: String,
}

pub(super) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// The warnings that everybody may do everything, which are not among the lines.
    anonymous: Arc<Mutex<Vec<String>>>,
    /// The number of lines. Closed at the end of the log.
    count: watch::Receiver<usize>,
    reader: Option<JoinHandle<()>>,
    /// Reads standard output, so that the program never waits for a reader.
    output: Option<JoinHandle<String>>,
}

/// The program with these arguments, and without settings from this process's environment.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kith"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    // The default port can be that of one server only.
    command.env("KITH_METRICS_LISTEN", "off").args(args);
    command
}

/// Whether a variable is a setting of Kith's, or one that OpenTelemetry's standard has for all programs.
fn is_setting(name: &str) -> bool {
    name.starts_with("KITH_") || name.starts_with("OTEL_")
}

/// Runs a `kith` to its end.
pub async fn run(args: &[&str]) -> Ended {
    run_command(command(args)).await
}

/// The same for a prepared command.
pub async fn run_command(mut command: Command) -> Ended {
    let (child, log) = spawn(&mut command);
    ended(child, log).await
}

impl Kith {
    /// Starts a server for a database, on a free port, and waits until it is ready.
    pub async fn serve(url: &str, args: &[&str]) -> Self {
        let database = format!("--database-url={url}");
        let all: Vec<&str> = ["--listen=127.0.0.1:0", &database].into_iter().chain(args.iter().copied()).collect();
        Self::start(command(&all)).await
    }

    /// Starts a prepared command and waits until it listens.
    pub async fn start(command: Command) -> Self {
        Self::try_start(command).await.unwrap_or_else(|ended| panic!("kith ended before it listened: {ended:#?}"))
    }

    /// The same. Returns how it ended if it did so before it listened.
    pub async fn try_start(mut command: Command) -> Result<Self, Ended> {
        let (child, mut log) = spawn(&mut command);
        match tokio::time::timeout(PATIENCE, log.after("listening on ")).await.expect("kith starts in time") {
            Some(rest) => {
                // In a log of JSON, the text of the line ends with a quotation mark.
                let address = rest.split('"').next().unwrap_or_default().to_owned();
                let channel = lazy(&address);
                Ok(Self { child, log, address, channel })
            }
            None => Err(ended(child, log).await),
        }
    }

    /// Starts a prepared command that may not serve for now. It listens at this address.
    pub fn start_early(mut command: Command, address: String) -> Self {
        let (child, log) = spawn(&mut command);
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        Self { child, log, address, channel }
    }

    /// Starts a prepared command whose standard error goes elsewhere. It listens at this address once it serves.
    pub fn start_unread(mut command: Command, address: String) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("kith runs");
        let channel = lazy(&address);
        Self { child, log: Log::none(), address, channel }
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn clients(&self) -> Clients {
        Clients(self.channel())
    }

    /// Clients with a separate connection.
    pub fn fresh_clients(&self) -> Clients {
        Clients(lazy(&self.address))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The address of its metrics, which the log has.
    pub fn metrics_address(&self) -> String {
        let log = self.log();
        let (_, rest) = log.split_once("metrics are at http://").unwrap_or_else(|| panic!("no metrics in {log}"));
        rest.split('/').next().expect("an address").to_owned()
    }

    /// The warnings so far that everybody may do everything. The log of this type is without them.
    pub fn warnings_of_anonymity(&self) -> usize {
        self.log.anonymous.lock().expect("a lock").len()
    }

    /// Sends a signal, such as `TERM` or `KILL`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// Waits for its end.
    pub async fn wait(mut self) -> Ended {
        let log = std::mem::replace(&mut self.log, Log::none());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "kith does not end:\n{}", log.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let (log, output) = log.whole();
        Ended { status, log, output }
    }

    /// Kills it, as in a crash.
    pub async fn crash(self) -> Ended {
        self.signal("KILL");
        self.wait().await
    }
}

impl Drop for Kith {
    fn drop(&mut self) {
        // Both fail if it has ended, which is fine.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A channel to this address that connects when it is used.
fn lazy(address: &str) -> Channel {
    let url = if address.starts_with("unix:") { address.to_owned() } else { format!("http://{address}") };
    Endpoint::from_shared(url).expect("an address").connect_lazy()
}

async fn ended(child: Child, log: Log) -> Ended {
    let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
    Kith { child, log, address: String::new(), channel }.wait().await
}

fn spawn(command: &mut Command) -> (Child, Log) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let log = Log::of(child.stderr.take().expect("a pipe"));
    let mut stdout = child.stdout.take().expect("a pipe");
    let output = std::thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).expect("text");
        output
    });
    (child, Log { output: Some(output), ..log })
}

impl Log {
    /// All lines that are written to a pipe.
    pub(super) fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, count) = watch::channel(0);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let anonymous = Arc::new(Mutex::new(Vec::new()));
        let (shared, warnings) = (Arc::clone(&lines), Arc::clone(&anonymous));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let line = line.unwrap_or_else(|error| format!("(not text: {error})"));
                // Most tests have a server that lets everybody in.
                let lines = if line.contains(ANONYMOUS) { &warnings } else { &shared };
                lines.lock().expect("a lock").push(line);
                sender.send_replace(shared.lock().expect("a lock").len());
            }
        });
        Self { lines, anonymous, count, reader: Some(reader), output: None }
    }

    pub(super) fn none() -> Self {
        Self {
            lines: Arc::default(),
            anonymous: Arc::default(),
            count: watch::channel(0).1,
            reader: None,
            output: None,
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.lock().expect("a lock").join("\n")
    }

    /// Waits for a line with these words and returns the rest of it; `None` if the log ends without one.
    pub(super) async fn after(&mut self, words: &str) -> Option<String> {
        let mut seen = 0;
        loop {
            {
                let lines = self.lines.lock().expect("a lock");
                if let Some((_, rest)) = lines[seen..].iter().find_map(|line| line.split_once(words)) {
                    // In JSON, a quote ends the message.
                    return Some(rest.split('"').next().unwrap_or_default().trim().to_owned());
                }
                seen = lines.len();
            }
            self.count.changed().await.ok()?;
        }
    }

    /// Waits for the line with this number, from 0; `None` if the log ends before.
    pub(super) async fn line(&mut self, number: usize) -> Option<String> {
        // An error means that the log has ended, perhaps with this line.
        _ = self.count.wait_for(|count| *count > number).await;
        self.lines.lock().expect("a lock").get(number).cloned()
    }

    /// The complete log and output, after their writer has ended.
    pub(super) fn whole(mut self) -> (String, String) {
        self.reader.take().into_iter().for_each(|reader| reader.join().expect("a log"));
        let output = self.output.take().map(|output| output.join().expect("an output")).unwrap_or_default();
        (self.text(), output)
    }
}

/// The number of servers that an engine supports for one database: three on PostgreSQL, one on SQLite.
pub struct Cluster {
    // Before the database: the servers end first.
    pub servers: Vec<Kith>,
    pub database: Database,
}

impl Cluster {
    pub async fn start(engine: Engine, args: &[&str]) -> Self {
        let database = Database::migrated(engine).await;
        let mut servers = Vec::new();
        for _ in 0..if engine == Engine::Postgres { 3 } else { 1 } {
            servers.push(Kith::serve(&database.url, args).await);
        }
        Self { servers, database }
    }

    /// The clients of one of the servers, chosen by number.
    pub fn clients(&self, number: usize) -> Clients {
        self.servers[number % self.servers.len()].clients()
    }
}
