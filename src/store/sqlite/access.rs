//! Why a database file cannot be written or read, in words: SQLite's own errors do not name the cause.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::store::{ConnectError, StoreError};

/// Tries to write the file, and to create another one beside it, as SQLite does for its log.
///
/// # Errors
///
/// The cause, if it fails.
pub(in crate::store) fn check_writable(path: &Path) -> Result<(), ConnectError> {
    reason(path).map_err(|reason| match path.is_file() {
        true => ConnectError::ReadOnly(reason),
        false => StoreError::Unavailable(reason.into()).into(),
    })
}

/// Tries to read the file.
///
/// # Errors
///
/// The cause, if it fails.
pub(super) fn check_readable(path: &Path) -> Result<(), StoreError> {
    let read = File::open(path).map(drop);
    read.map_err(|error| StoreError::Unavailable(cause("read", path, &error).into()))
}

fn reason(path: &Path) -> Result<(), String> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(format!("{} is a directory", path.display())),
    };
    if !directory.is_dir() {
        return Err(format!("there is no directory {}", directory.display()));
    }
    if path.exists() {
        OpenOptions::new().write(true).open(path).map_err(|error| cause("write", path, &error))?;
    }
    tempfile(directory).map_err(|error| cause("create files in", directory, &error))
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
