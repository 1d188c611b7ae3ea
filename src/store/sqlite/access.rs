//! Why a database file cannot be used, in words: SQLite's own errors do not name the cause.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::SqliteFile;
use crate::store::StoreError;

/// File systems over a network. SQLite's write-ahead log needs memory that all processes share, and locks that work.
const NETWORK: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs"];

/// Whether the file can be opened as its mode says.
///
/// # Errors
///
/// The cause, if it cannot.
pub(super) fn check_usable(file: &SqliteFile) -> Result<(), StoreError> {
    let reason = || {
        let directory = directory(file.path())?;
        if !file.may_be_created() && !file.path().exists() {
            return Err(format!("there is no file {file}, and only mode=rwc creates it"));
        }
        // Where the system does not tell its mounts, SQLite finds out.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let directory = directory.canonicalize().map_err(|error| cause("read", directory, &error))?;
        match file_system(&mounts, &directory).filter(|kind| NETWORK.contains(kind)) {
            Some(kind) => Err(format!(
                "{file} is on a network file system ({kind}), where SQLite's locks and shared memory do not work; \
                 use a local disk, or PostgreSQL"
            )),
            None => Ok(()),
        }
    };
    reason().map_err(unavailable)
}

/// Tries to write the file, and to create another one beside it, as SQLite does for its log.
///
/// # Errors
///
/// The cause, if it fails.
pub(in crate::store) fn check_writable(file: &SqliteFile) -> Result<(), StoreError> {
    reason(file).map_err(unavailable)
}

fn unavailable(reason: String) -> StoreError {
    StoreError::Unavailable(reason.into())
}

fn reason(file: &SqliteFile) -> Result<(), String> {
    if file.is_read_only() {
        return Err(format!("mode=ro opens {file} only for reading"));
    }
    let path = file.path();
    let directory = directory(path)?;
    if path.exists() {
        OpenOptions::new().write(true).open(path).map_err(|error| cause("write", path, &error))?;
    }
    tempfile(directory).map_err(|error| cause("create files in", directory, &error))
}

/// The directory of a file, if it exists.
fn directory(path: &Path) -> Result<&Path, String> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(format!("{} is a directory", path.display())),
    };
    if directory.is_dir() { Ok(directory) } else { Err(format!("there is no directory {}", directory.display())) }
}

/// The type of the file system that a directory is on, by the contents of `/proc/self/mountinfo` (proc(5)).
fn file_system<'a>(mounts: &'a str, directory: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let point = PathBuf::from(unescaped(mount.split(' ').nth(4)?));
        Some((point, source.split(' ').next()?))
    });
    // Of several mounts at one place, the last one is seen.
    let over = mounts.filter(|(point, _)| directory.starts_with(point));
    over.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind)
}

/// Replaces the octal escapes of spaces and other characters.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

/// Creates a file in the directory and deletes it.
fn tempfile(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".kith-{}", uuid::Uuid::new_v4()));
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    fs::remove_file(path)
}

fn cause(attempt: &str, path: &Path, error: &io::Error) -> String {
    let path = path.display();
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; all others have good words of their own")]
    match error.kind() {
        io::ErrorKind::PermissionDenied => match user_id() {
            Some(user) => format!("the user with the id {user}, who runs Kith, may not {attempt} {path}"),
            None => format!("the user who runs Kith may not {attempt} {path}"),
        },
        io::ErrorKind::ReadOnlyFilesystem => format!("{path} is on a file system that is mounted read-only"),
        _ => format!("cannot {attempt} {path}: {error}"),
    }
}

/// The id of the user who runs this process, where the system tells it.
fn user_id() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|process| process.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_directory_is_that_of_the_nearest_mount() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      30 22 0:40 / /data rw - tmpfs tmpfs rw\n\
                      31 22 0:41 / /data rw shared:7 master:2 - nfs4 server:/export rw,vers=4.2\n\
                      32 31 0:42 / /data/local\\040disk rw - xfs /dev/vdb rw\n\
                      a line that is none";
        for (directory, kind) in [
            ("/", "ext4"),
            ("/database", "ext4"),
            ("/data", "nfs4"),
            ("/data/kith", "nfs4"),
            ("/data/local disk/kith", "xfs"),
        ] {
            assert_eq!(file_system(mounts, Path::new(directory)), Some(kind), "{directory}");
        }
        assert_eq!(file_system("", Path::new("/")), None);
    }
}
