//! How a file is opened by a server that only reads, which may not be able to write it, and by one that must be alone.

use diesel::connection::{Connection as _, SimpleConnection};
use diesel::prelude::*;

use super::access::{check_readable, check_usable};
use super::file::SqliteFile;
use super::{SESSION, open};
use crate::store::StoreError;

/// Returns how to open a file for reads only.
///
/// SQLite creates the log's index even to read. Where it cannot, as in a folder that is mounted read-only, and there is no
/// log, the file is complete, and is read as one that does not change.
///
/// A bulk load that was killed left a journal. Only a connection that may write can undo it.
///
/// # Errors
///
/// If the file does not exist or cannot be read, with the reason.
pub(in crate::store) fn for_reads(file: &SqliteFile) -> Result<SqliteFile, StoreError> {
    check_readable(file)?;
    let Err(error) = read_a_page(&file.read_only()) else { return Ok(file.read_only()) };
    let has = |suffix: &str| std::fs::metadata(format!("{file}-{suffix}")).is_ok_and(|beside| beside.len() > 0);
    if has("journal") {
        read_a_page(&SqliteFile::existing(file.path()))?;
        return Ok(file.read_only());
    }
    if has("wal") || read_a_page(&file.unchanging()).is_err() {
        return Err(error);
    }
    Ok(file.unchanging())
}

/// Reads from the file, which SQLite only opens with the first read.
fn read_a_page(file: &SqliteFile) -> Result<(), StoreError> {
    Ok(open(file)?.batch_execute("SELECT 1 FROM sqlite_schema LIMIT 1")?)
}

/// Opens a file that no other connection has open, and keeps others out until this one is closed.
///
/// Returns `None` if one has.
pub(in crate::store) fn open_alone(file: &SqliteFile) -> Result<Option<SqliteConnection>, StoreError> {
    check_usable(file)?;
    let conn = SqliteConnection::establish(&file.uri());
    let mut conn = conn.map_err(|error| StoreError::Unavailable(error.into()))?;
    // Set before anything is read: a connection that shares the log's index never takes the lock on the file. Waits a
    // little for a server that has just been stopped.
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
    use tempfile::TempDir;

    use super::*;

    fn file() -> (TempDir, SqliteFile) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kith.db").display().to_string().parse().unwrap();
        (directory, file)
    }

    #[test]
    fn a_reader_sees_what_a_writer_commits_and_cannot_write() {
        let (_directory, file) = file();
        for_reads(&file).unwrap_err();
        assert!(!file.path().exists());
        let mut writer = open(&file).unwrap();
        let for_reads = for_reads(&file).unwrap();
        assert!(for_reads.is_read_only() && !for_reads.is_unchanging());
        let mut reader = open(&for_reads).unwrap();
        writer.batch_execute("CREATE TABLE things (id integer)").unwrap();
        reader.batch_execute("SELECT * FROM things").unwrap();
        reader.batch_execute("INSERT INTO things VALUES (1)").unwrap_err();
    }

    #[test]
    fn a_reader_lets_a_journal_be_undone() {
        let (directory, file) = file();
        let mut writer = open(&file).unwrap();
        writer
            .batch_execute(
                "CREATE TABLE things (id integer); INSERT INTO things VALUES (1); PRAGMA journal_mode = DELETE",
            )
            .unwrap();
        // A small cache: the change is in the file before its end.
        let change = "PRAGMA cache_size = 2; PRAGMA synchronous = OFF; BEGIN; UPDATE things SET id = 2; \
                      CREATE TABLE large AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) \
                      SELECT i, hex(randomblob(100)) AS text FROM n;";
        writer.batch_execute(change).unwrap();
        let copy = directory.path().join("copy.db");
        for suffix in ["", "-journal"] {
            std::fs::copy(format!("{file}{suffix}"), format!("{}{suffix}", copy.display())).unwrap();
        }
        let copy: SqliteFile = copy.display().to_string().parse().unwrap();
        let mut reader = open(&for_reads(&copy).unwrap()).unwrap();
        reader.batch_execute("SELECT * FROM things").unwrap();
        let left = diesel::dsl::sql::<diesel::sql_types::BigInt>(
            "SELECT sum(id) + (SELECT count(*) FROM sqlite_schema WHERE name = 'large') FROM things",
        );
        assert_eq!(left.get_result::<i64>(&mut reader), Ok(1));
    }

    #[test]
    fn a_file_is_opened_alone_only_if_nobody_else_has_it_open() {
        let (_directory, file) = file();
        let mut other = open(&file).unwrap();
        other.batch_execute("CREATE TABLE things (id integer)").unwrap();
        assert!(open_alone(&file).unwrap().is_none());
        drop(other);
        let alone = open_alone(&file).unwrap();
        assert!(alone.is_some());
        assert!(open_alone(&file).unwrap().is_none());
        drop(alone);
        read_a_page(&file).unwrap();
    }
}
