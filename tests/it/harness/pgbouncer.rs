//! PgBouncer between a service and the tests' PostgreSQL server.

use std::path::{Path, PathBuf};
use std::{env, fs};

use super::daemon::{Daemon, directory, free_port, hand_over};
use super::postgres::stepped_down;

pub struct PgBouncer {
    pub port: u16,
    _daemon: Daemon,
}

impl PgBouncer {
    /// Starts one for the server at this port of `localhost`, with further settings, a line each.
    pub fn start(server: u16, settings: &str) -> Self {
        let (dir, port) = (directory(), free_port());
        let (users, file) = (dir.join("users"), dir.join("pgbouncer.ini"));
        fs::write(&users, "\"postgres\" \"\"\n").expect("written");
        let text = format!(
            "[databases]\n* = host=localhost port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n{settings}\n",
            users.display()
        );
        fs::write(&file, text).expect("written");
        hand_over(&dir);
        let mut command = stepped_down(&binary());
        command.arg(&file);
        let daemon = Daemon::start(&command, &dir);
        daemon.says("process up");
        Self { port, _daemon: daemon }
    }

    /// The URL of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

fn binary() -> PathBuf {
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let directories = on_path.into_iter().chain([Path::new("/usr/sbin").to_owned()]);
    let found = directories.map(|directory| directory.join("pgbouncer")).find(|program| program.exists());
    found.expect("these tests need PgBouncer: run scripts/install-test-tools (on Debian: apt-get install pgbouncer)")
}
