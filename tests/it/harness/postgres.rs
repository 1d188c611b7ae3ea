//! Temporary PostgreSQL servers. One is started once for the test process, and ends with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs};

use tempfile::TempDir;

use super::daemon::free_port;

/// Names a server to use instead of a temporary one: `postgres://…` with the right to create databases.
const URL: &str = "KITH_TEST_POSTGRES_URL";

/// The location of a server.
pub struct Server {
    /// The URL up to the database's name, with a slash at its end.
    pub base: String,
    /// What follows the database's name.
    pub parameters: String,
    /// The certificate of a temporary server; `None` for the user's server.
    pub certificate: Option<PathBuf>,
}

impl Server {
    pub fn url(&self, database: &str) -> String {
        format!("{}{database}{}", self.base, self.parameters)
    }

    /// The same for another user than the superuser.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        self.url(database).replacen("postgres@", &format!("{user}@"), 1)
    }
}

/// The server that all tests of this process share.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| match env::var(URL) {
        Ok(url) => given(&url),
        Err(_) => start(),
    })
}

fn given(url: &str) -> Server {
    let (base, parameters) =
        url.split_once('?').map_or((url, String::new()), |(base, rest)| (base, format!("?{rest}")));
    let authority = base.find("://").expect("a URL") + 3;
    let base = base[authority..].find('/').map_or(base, |slash| &base[..authority + slash]);
    Server { base: format!("{base}/"), parameters, certificate: None }
}

fn start() -> Server {
    let own = Own::start();
    let server = Server {
        base: own.server.base.clone(),
        parameters: own.server.parameters.clone(),
        certificate: own.server.certificate.clone(),
    };
    // It runs as long as this process lives.
    std::mem::forget(own);
    server
}

/// A temporary server. It ends when this is dropped, or with this process.
pub struct Own {
    pub server: Server,
    /// Open as long as the server runs.
    _pipe: ChildStdin,
}

/// A directory for a server, and what it is run as.
struct Place {
    dir: TempDir,
    bin: PathBuf,
    user: Option<String>,
}

impl Own {
    /// A new server without databases.
    pub fn start() -> Self {
        let place = Place::new();
        let mut initdb = place.command("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]);
        run(initdb.arg(place.dir.path().join("data")));
        place.serve()
    }

    /// A hot standby of this server, with all its databases.
    pub fn standby(&self) -> Self {
        let place = Place::new();
        let mut backup = place.command("pg_basebackup");
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--pgdata"]);
        run(backup.arg(place.dir.path().join("data")).args(["--dbname", &self.server.url("postgres")]));
        place.serve()
    }

    /// Runs a script with psql in a database, as this user. Returns what psql printed if it failed.
    pub fn psql(&self, user: &str, database: &str, script: &str) -> Result<(), String> {
        let url = self.server.url_of(user, database);
        let psql = Command::new(binaries().join("psql"))
            .args(["--no-psqlrc", "--quiet", "--dbname", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut psql = psql.expect("psql runs");
        psql.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("a script");
        let output = psql.wait_with_output().expect("psql ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }
}

impl Place {
    fn new() -> Self {
        let temporary = TempDir::with_prefix("kith-test-postgres-").expect("a directory");
        let dir = temporary.path();
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(dir.join("server.crt"), signed.cert.pem()).expect("written");
        let key = dir.join("server.key");
        fs::write(&key, signed.signing_key.serialize_pem()).expect("written");
        run(Command::new("chmod").arg("600").arg(&key));
        let user = unprivileged();
        if let Some(user) = &user {
            run(Command::new("chown").arg("-R").arg(user).arg(dir));
        }
        Self { dir: temporary, bin: binaries(), user }
    }

    /// A program of PostgreSQL, which refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = match &self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", user, "--init-groups"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(self.dir.path());
        command
    }

    /// Starts a server on the data, on a free port, and waits until it is ready.
    fn serve(self) -> Own {
        let dir = self.dir.path();
        let port = free_port();
        let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
        let server = self.command("postgres");
        // The watchdog reads a pipe that only this process holds open. The server ends with this process, even after a
        // kill.
        let script = r#"dir=$1; shift; "$@" & pid=$!; read -r _; kill -INT $pid; wait $pid; rm -rf "$dir""#;
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", script, "sh"]).arg(dir).arg(server.get_program()).args(server.get_args());
        watchdog.arg("-D").arg(dir.join("data")).args(["-p", &port.to_string(), "-k"]).arg(dir);
        for setting in [
            "listen_addresses=localhost".to_owned(),
            "max_connections=400".to_owned(),
            // Only a power cut could lose data without fsync, not a kill of the server.
            "fsync=off".to_owned(),
            "shared_buffers=256MB".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ] {
            watchdog.args(["-c", &setting]);
        }
        let log = fs::File::create(dir.join("log")).expect("a log");
        #[expect(clippy::zombie_processes, reason = "it ends after this process, or without being waited for")]
        let child = watchdog
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("a watchdog");
        wait_until_ready(&dir.join("log"));
        // From now on the watchdog deletes it.
        _ = self.dir.keep();
        let base = format!("postgres://postgres@localhost:{port}/");
        let server = Server { base, parameters: String::new(), certificate: Some(certificate) };
        Own { server, _pipe: child.stdin.expect("a pipe") }
    }
}

/// The directory of PostgreSQL's programs.
pub fn binaries() -> PathBuf {
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let mut packaged: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    packaged.sort();
    let has_server = |directory: &&PathBuf| directory.join("postgres").exists() && directory.join("initdb").exists();
    let found = on_path.iter().chain(packaged.iter().rev()).find(has_server);
    // All programs are where the server is, and perhaps only links to some of them on the path.
    let server = found.and_then(|directory| fs::canonicalize(directory.join("postgres")).ok());
    server.and_then(|server| Some(server.parent()?.to_owned())).unwrap_or_else(|| {
        panic!(
            "these tests need PostgreSQL: install a server (on Debian: apt-get install postgresql), or let {URL} \
             name one (postgres://… with the right to create databases); tests of roles and standbys start servers of \
             their own in any case"
        )
    })
}

/// A command for a program that refuses to run as root.
pub(super) fn stepped_down(program: &Path) -> Command {
    match unprivileged() {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &user, "--regid", &user, "--init-groups"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The user to run the server as, if this process is root.
pub(super) fn unprivileged() -> Option<String> {
    let output = |args: &[&str]| Command::new("id").args(args).output().expect("id runs");
    let is_root = output(&["-u"]).stdout.trim_ascii() == b"0";
    let known = |user: &&str| output(&["-u", user]).status.success();
    is_root.then(|| ["postgres", "nobody"].into_iter().find(known).expect("an unprivileged user").to_owned())
}

pub(super) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for the line of its log that says it is ready.
pub(super) fn wait_until_ready(log: &Path) {
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(log).unwrap_or_default();
        if said.contains("ready to accept") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start:\n{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
