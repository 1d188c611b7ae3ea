//! A PostgreSQL server of one test: with passwords, or started and stopped by it.

use std::fs;
use std::path::PathBuf;

use super::daemon::{Daemon, directory, free_port, hand_over};
use super::postgres::{binaries, run, stepped_down};

/// The password of the user `postgres`.
pub const PASSWORD: &str = "hunter2-canary: with \\ and ü";

/// A server that asks for the password, and has not been started yet.
pub struct OwnPostgres {
    dir: PathBuf,
    pub port: u16,
    daemon: Option<Daemon>,
}

impl OwnPostgres {
    pub fn prepare() -> Self {
        let dir = directory();
        let password = dir.join("password");
        fs::write(&password, PASSWORD).expect("written");
        hand_over(&dir);
        run(stepped_down(&binaries().join("initdb"))
            .args(["--auth=scram-sha-256", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(dir.join("data"))
            .current_dir(&dir));
        Self { dir, port: free_port(), daemon: None }
    }

    pub fn start(&mut self) {
        let mut server = stepped_down(&binaries().join("postgres"));
        server.arg("-D").arg(self.dir.join("data")).arg("-k").arg(&self.dir).args(["-p", &self.port.to_string()]);
        server.args(["-c", "listen_addresses=localhost", "-c", "fsync=off"]);
        let daemon = Daemon::start(&server, &self.dir);
        daemon.says("ready to accept connections");
        self.daemon = Some(daemon);
    }

    pub fn stop(&mut self) {
        self.daemon.take().into_iter().for_each(Daemon::stop);
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.stop();
        _ = fs::remove_dir_all(&self.dir);
    }
}
