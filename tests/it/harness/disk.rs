//! A small disk that a test fills and frees while a program uses it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The size of the disk, in bytes, unless a test asks for another one.
const SIZE: usize = 4 << 20;

/// How the program is kept from writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    /// A file system in memory, which only the program sees.
    Tmpfs,
    /// A limit on the size of its files, where a program may not mount anything.
    Limit,
}

/// A directory for one program, with little room.
pub struct Disk {
    directory: TempDir,
    means: Means,
    size: usize,
}

impl Disk {
    pub fn new() -> Self {
        Self::of_size(SIZE)
    }

    /// A disk with room for this many bytes.
    pub fn of_size(size: usize) -> Self {
        let directory = TempDir::with_prefix("kith-test-").expect("a directory");
        let mut mount = Command::new("unshare");
        let tried = mount.args(["-rm", "mount", "-t", "tmpfs", "tmpfs"]).arg(directory.path()).output();
        let means = if tried.is_ok_and(|tried| tried.status.success()) { Means::Tmpfs } else { Means::Limit };
        Self { directory, means, size }
    }

    /// The URL of a database on the disk.
    pub fn url(&self) -> String {
        format!("sqlite://{}", self.directory.path().join("kith.db").display())
    }

    /// What SQLite calls it.
    pub fn words(&self) -> &'static str {
        match self.means {
            Means::Tmpfs => "database or disk is full",
            Means::Limit => "disk I/O error",
        }
    }

    /// The command that runs a program with the disk, which is empty, or full from the beginning.
    pub fn command(&self, program: &Command, full: bool) -> Command {
        let (directory, size) = (self.directory.path().display(), self.size);
        let (mut command, prepared) = match self.means {
            Means::Tmpfs => {
                let mut unshare = Command::new("unshare");
                unshare.args(["-rm", "sh", "-c"]);
                let fill = if full { format!("head -c {size} /dev/zero >{directory}/filler;") } else { String::new() };
                (unshare, format!("mount -t tmpfs -o size={size} tmpfs {directory}; {fill}"))
            }
            Means::Limit => {
                let mut shell = Command::new("sh");
                shell.arg("-c");
                let fill = if full { "ulimit -S -f 0;" } else { "" };
                // Without the signal, a write beyond the limit is an error like that of a full disk.
                (shell, format!("trap '' XFSZ; {fill}"))
            }
        };
        command.arg(format!("{prepared} exec \"$0\" \"$@\"")).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Fills the disk of a running program, also where it was filled before.
    pub fn fill(&self, pid: u32) {
        match self.means {
            Means::Tmpfs => {
                let mut filler = File::options().append(true).create(true).open(self.filler(pid)).expect("a file");
                // The last writes fail.
                while filler.write(&[0; 4_096]).is_ok_and(|written| written > 0) {}
            }
            Means::Limit => limit(pid, "0"),
        }
    }

    /// Makes room again.
    pub fn free(&self, pid: u32) {
        match self.means {
            Means::Tmpfs => fs::remove_file(self.filler(pid)).expect("a file"),
            Means::Limit => limit(pid, "unlimited"),
        }
    }

    /// A file of the disk, as seen from outside the program.
    fn filler(&self, pid: u32) -> PathBuf {
        let directory = self.directory.path().strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(pid.to_string()).join("root").join(directory).join("filler")
    }
}

/// Limits the size of the files that a process writes.
fn limit(pid: u32, size: &str) {
    let arguments = ["--pid", &pid.to_string(), &format!("--fsize={size}:unlimited")];
    let limited = Command::new("prlimit").args(arguments).status().expect("prlimit runs");
    assert!(limited.success(), "{limited}");
}
