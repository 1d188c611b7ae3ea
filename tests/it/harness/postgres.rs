//! A temporary PostgreSQL server, started once for the test process. It ends with the process.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs};

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
    let bin = binaries();
    let dir = tempfile::Builder::new().prefix("kith-test-postgres-").tempdir().expect("a directory").keep();
    let (data, certificate) = (dir.join("data"), dir.join("server.crt"));
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(&certificate, signed.cert.pem()).expect("written");
    let key = dir.join("server.key");
    fs::write(&key, signed.signing_key.serialize_pem()).expect("written");
    run(Command::new("chmod").arg("600").arg(&key));
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();

    let user = unprivileged();
    if let Some(user) = &user {
        run(Command::new("chown").arg("-R").arg(user).arg(&dir));
    }
    run(stepped_down(&bin.join("initdb"))
        .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
        .arg(&data)
        .current_dir(&dir));

    let server = stepped_down(&bin.join("postgres"));
    // The watchdog reads a pipe that only this process holds open. The server ends with this process, even after a kill.
    let script = r#"dir=$1; shift; "$@" & pid=$!; read -r _; kill -INT $pid; wait $pid; rm -rf "$dir""#;
    let mut watchdog = Command::new("sh");
    watchdog.args(["-c", script, "sh"]).arg(&dir).arg(server.get_program()).args(server.get_args());
    watchdog.arg("-D").arg(&data).args(["-p", &port.to_string(), "-k"]).arg(&dir);
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
    #[expect(clippy::zombie_processes, reason = "it ends after this process, which is what it is for")]
    let child = watchdog
        .current_dir(&dir)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("a watchdog");
    // The pipe stays open as long as this process lives.
    let mut pipe = child.stdin.expect("a pipe");
    pipe.flush().expect("an open pipe");
    std::mem::forget(pipe);

    wait_until_ready(&dir.join("log"));
    Server {
        base: format!("postgres://postgres@localhost:{port}/"),
        parameters: String::new(),
        certificate: Some(certificate),
    }
}

pub(super) fn binaries() -> PathBuf {
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let mut packaged: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    packaged.sort();
    let has_server = |directory: &&PathBuf| directory.join("postgres").exists() && directory.join("initdb").exists();
    on_path.iter().chain(packaged.iter().rev()).find(has_server).cloned().unwrap_or_else(|| {
        panic!(
            "these tests need PostgreSQL: install a server (on Debian: apt-get install postgresql), or let {URL} \
             name one (postgres://… with the right to create databases)"
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
        if said.contains("ready to accept connections") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start:\n{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
