//! How connections open the file: a server that only reads may have one that it cannot write.

use std::path::Path;

use diesel::connection::{Connection as _, SimpleConnection};
use diesel::prelude::*;

use super::access::check_readable;
use super::{BUSY_TIMEOUT, SESSION, open};
use crate::store::StoreError;

/// How connections open the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Access {
    /// For reads and writes.
    Write,
    /// For reads, while others may write. Uses the log and its index beside the file.
    Read,
    /// For reads of a file that nobody changes. Needs nothing beside it, and takes no locks.
    Unchanging,
}

impl Access {
    /// Finds out how a file can be opened for reads.
    ///
    /// SQLite creates the log's index even to read. Where it cannot, as in a folder that is mounted read-only, and there
    /// is no log, the file is complete, and is read as one that does not change.
    ///
    /// # Errors
    ///
    /// If the file does not exist or cannot be read, with the reason.
    pub(in crate::store) fn of_reader(path: &Path) -> Result<Self, StoreError> {
        check_readable(path)?;
        let Err(error) = Self::Read.open(path).and_then(|mut conn| read_a_page(&mut conn)) else {
            return Ok(Self::Read);
        };
        let log = format!("{}-wal", path.display());
        if std::fs::metadata(log).is_ok_and(|log| log.len() > 0) {
            return Err(error);
        }
        Self::Unchanging.open(path).and_then(|mut conn| read_a_page(&mut conn)).map_err(|_| error)?;
        Ok(Self::Unchanging)
    }

    /// Opens a connection with the settings of every connection.
    pub(in crate::store) fn open(self, path: &Path) -> Result<SqliteConnection, StoreError> {
        let parameter = match self {
            Self::Write => return open(path),
            Self::Read => "mode=ro",
            Self::Unchanging => "mode=ro&immutable=1",
        };
        let conn = SqliteConnection::establish(&uri(path, parameter));
        let mut conn = conn.map_err(|error| StoreError::Unavailable(error.into()))?;
        conn.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT}; {SESSION}"))?;
        Ok(conn)
    }
}

/// Reads from the file, which SQLite only opens with the first read.
fn read_a_page(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    Ok(conn.batch_execute("SELECT 1 FROM sqlite_schema LIMIT 1")?)
}

/// The file as a URI, in which some characters are escaped (SQLite manual, "Uniform Resource Identifiers").
fn uri(path: &Path, parameter: &str) -> String {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let authority = if path.starts_with('/') { "//" } else { "" };
    format!("file:{authority}{path}?{parameter}")
}

/// Opens a file that no other connection has open, and keeps others out until this one is closed.
///
/// Returns `None` if one has.
pub(in crate::store) fn open_alone(path: &Path) -> Result<Option<SqliteConnection>, StoreError> {
    let conn = SqliteConnection::establish(&path.to_string_lossy());
    let mut conn = conn.map_err(|error| StoreError::Unavailable(error.into()))?;
    // Set before anything is read: a connection that shares the log's index never takes the lock on the file.
    conn.batch_execute("PRAGMA busy_timeout = 2000; PRAGMA locking_mode = EXCLUSIVE;")?;
    match conn.batch_execute("BEGIN IMMEDIATE; COMMIT;") {
        Err(error) if error.to_string().contains("locked") => return Ok(None),
        taken => taken?,
    }
    conn.batch_execute(SESSION)?;
    Ok(Some(conn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_escaped_in_its_uri() {
        for (path, expected) in [
            ("kith.db", "file:kith.db?mode=ro"),
            ("/data/kith.db", "file:///data/kith.db?mode=ro"),
            ("/a?b#c%d.db", "file:///a%3fb%23c%25d.db?mode=ro"),
        ] {
            assert_eq!(uri(Path::new(path), "mode=ro"), expected);
        }
    }

    #[test]
    fn a_reader_sees_what_a_writer_commits_and_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a?b#c%d.db");
        assert!(Access::of_reader(&path).unwrap_err().to_string().contains("unavailable"), "there is no file");
        let mut writer = open(&path).unwrap();
        writer.batch_execute("CREATE TABLE things (id integer)").unwrap();
        assert_eq!(Access::of_reader(&path).unwrap(), Access::Read);
        let mut reader = Access::Read.open(&path).unwrap();
        reader.batch_execute("SELECT * FROM things").unwrap();
        reader.batch_execute("INSERT INTO things VALUES (1)").unwrap_err();
    }

    #[test]
    fn a_file_is_opened_alone_only_if_nobody_else_has_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kith.db");
        let mut other = open(&path).unwrap();
        other.batch_execute("CREATE TABLE things (id integer)").unwrap();
        assert!(open_alone(&path).unwrap().is_none());
        drop(other);
        let alone = open_alone(&path).unwrap();
        assert!(alone.is_some());
        assert!(open_alone(&path).unwrap().is_none());
        drop(alone);
        read_a_page(&mut open(&path).unwrap()).unwrap();
    }
}
