//! The processes that are measured. Each ends with this one, even if this one is killed.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::Result;

/// Prints the id of its child, waits until its standard input is closed, ends the child, and cleans up.
const WATCHDOG: &str = r#"trap '' INT; signal=$1; log=$2; remove=$3; shift 3
"$@" >"$log" 2>&1 & echo $!; read -r _; kill -s "$signal" $!; wait $!; [ -z "$remove" ] || rm -rf "$remove""#;
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that runs in the background.
pub struct Process {
    watchdog: Child,
    pipe: Option<ChildStdin>,
    pub pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a command. `signal` ends it, and then `remove` is deleted.
    pub fn start(command: &Command, log: &Path, signal: &str, remove: Option<&Path>) -> Result<Self> {
        // The log of an earlier process must not be read as that of this one.
        _ = fs::remove_file(log);
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh", signal]).arg(log).arg(remove.unwrap_or_else(|| Path::new("")));
        watchdog.arg(command.get_program()).args(command.get_args());
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KITH_")) {
            watchdog.env_remove(name);
        }
        if let Some(directory) = command.get_current_dir() {
            watchdog.current_dir(directory);
        }
        // The shell would report that its child was killed.
        let mut watchdog = watchdog.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut pid = String::new();
        BufReader::new(watchdog.stdout.take().ok_or("no output")?).read_line(&mut pid)?;
        let pipe = watchdog.stdin.take();
        Ok(Self { watchdog, pipe, pid: pid.trim().parse()?, log: log.to_owned() })
    }

    /// Waits until the log has these words. Returns the rest of their line.
    pub fn logged(&self, words: &str) -> Result<String> {
        let begun = Instant::now();
        loop {
            let (ended, log) = (self.ended(), self.log());
            if let Some((_, rest)) = log.split_once(words)
                && let Some((line, _)) = rest.split_once('\n')
            {
                return Ok(line.trim().to_owned());
            }
            if ended || begun.elapsed() > PATIENCE {
                let when = if ended { "before its end".to_owned() } else { format!("within {PATIENCE:?}") };
                return Err(format!("not logged {when}: {words}\n{log}").into());
            }
            // A short interval: this measures how long a start takes.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the process has ended. It is not a child of this process, so it cannot be waited for.
    fn ended(&self) -> bool {
        fs::read_link(format!("/proc/{}/exe", self.pid)).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // Fails if the process has already ended.
        _ = self.watchdog.wait();
    }
}

/// A temporary PostgreSQL server, with its defaults for durability.
pub struct Postgres {
    pub process: Process,
    pub port: u16,
    /// Deleted when it ends.
    pub directory: PathBuf,
    /// The directory of its programs, such as pgbench.
    pub bin: PathBuf,
}

/// Settings that differ from PostgreSQL's defaults, as the report says. The log has the size that docs/operations.md
/// recommends: with the default, checkpoints would be forced all the time.
pub const SETTINGS: [&str; 3] = ["shared_buffers=1GB", "max_connections=400", "max_wal_size=8GB"];

impl Postgres {
    /// Starts a server in `directory`, which is deleted at its end.
    pub fn start(directory: &Path) -> Result<Self> {
        let (bin, data) = (binaries()?, directory.join("data"));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let user = unprivileged()?;
        if let Some(user) = &user {
            run(Command::new("chown").arg("-R").arg(user).arg(directory))?;
        }
        let stepped_down = |name: &str| match &user {
            // PostgreSQL refuses to run as root.
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups"]).arg(bin.join(name));
                command
            }
            None => Command::new(bin.join(name)),
        };
        run(stepped_down("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(directory))?;
        let mut server = stepped_down("postgres");
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-k"]).arg(directory).current_dir(directory);
        for setting in ["listen_addresses=localhost"].iter().chain(&SETTINGS) {
            server.args(["-c", setting]);
        }
        let process = Process::start(&server, &directory.join("postgres.log"), "INT", Some(directory))?;
        process.logged("ready to accept connections")?;
        Ok(Self { process, port, directory: directory.to_owned(), bin })
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost:{}/{database}", self.port)
    }
}

/// The Kith that was built with this program.
pub fn own_kith() -> Result<PathBuf> {
    let binary = env::current_exe()?.with_file_name("kith");
    if binary.exists() { Ok(binary) } else { Err(format!("{}: build kith first", binary.display()).into()) }
}

/// Creates the tables of a Kith.
pub fn migrate(binary: &Path, url: &str) -> Result<()> {
    run(Command::new(binary).args(["migrate", "--database-url", url])).map(|_| ())
}

/// Starts a Kith with its defaults, except for the limits of a user and these flags. Returns it with its address.
pub fn kith(binary: &Path, url: &str, log: &Path, flags: &[String]) -> Result<(Process, String)> {
    let mut kith = Command::new(binary);
    kith.args(["serve", "--listen=127.0.0.1:0", "--database-url", url]);
    kith.args(["--max-sends-per-hour=0", "--max-sent-requests=0", "--max-connections=0"]);
    kith.args(flags);
    let process = Process::start(&kith, log, "TERM", None)?;
    let address = process.logged("listening on ")?;
    Ok((process, address))
}

/// Runs a command to its end and returns its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(text)
}

/// The directory of the newest PostgreSQL that has all needed programs.
fn binaries() -> Result<PathBuf> {
    let mut packaged: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    packaged.sort();
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let complete =
        |directory: &&PathBuf| ["postgres", "initdb", "pgbench"].iter().all(|name| directory.join(name).exists());
    let found = packaged.iter().rev().chain(&on_path).find(complete);
    Ok(found.ok_or("no PostgreSQL server with pgbench: run scripts/install-test-tools, or install both")?.clone())
}

/// The user to run the server as, if this process is root.
fn unprivileged() -> Result<Option<String>> {
    if run(Command::new("id").arg("-u"))?.trim() != "0" {
        return Ok(None);
    }
    let known = |user: &&str| run(Command::new("id").args(["-u", user])).is_ok();
    let user = ["postgres", "nobody"].into_iter().find(known).ok_or("no unprivileged user")?;
    Ok(Some(user.to_owned()))
}
