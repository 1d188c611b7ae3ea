//! Copies of a live SQLite database.
//!
//! `VACUUM INTO` reads one snapshot and writes it to a new file, page by page and without gaps. Writers commit meanwhile.
//! What it writes is not safe from a power cut until it is flushed, and a copy that was interrupted looks like a
//! database. So the copy has another name until it is complete, checked and flushed.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;
use tempfile::{NamedTempFile, TempPath};

use super::connect::{DatabaseUrl, Engine, blocking};
use super::session::ResultRow;
use super::sqlite::{self, SqliteFile};
use super::{ConnectError, StoreError};
use crate::domain::id::Sequence;
use crate::progress::{Progress, Step};

/// The phase of the progress in which the copy grows.
const COPYING: &str = "copying";
/// Interval between two looks at the size of an unfinished copy.
const LOOK: Duration = Duration::from_millis(100);

/// A copy that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its size in bytes.
    pub size: u64,
    /// The revision of the snapshot.
    pub revision: Sequence,
    /// The epoch of its feed.
    pub epoch: String,
}

/// An error of a copy. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database is not a file.
    #[error(
        "PostgreSQL makes its own backups: `pg_dump --format=custom --file=kith.dump --dbname=URL` copies a live \
         database, and pg_basebackup with the archived log restores it to any point in time"
    )]
    Postgres,
    /// There is a file with the name of the copy.
    #[error("{0} exists already")]
    Exists(PathBuf),
    /// The copy cannot be written.
    #[error("cannot write {0}")]
    Destination(PathBuf, #[source] io::Error),
    /// The copy is not a sound database, and so may be the original.
    #[error("the copy is damaged, and the database may be too: {0}")]
    Damaged(String),
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] ConnectError),
}

/// Copies a SQLite database, which may be in use, to a new file, and checks the structure of the copy.
///
/// The tables may belong to another version of this program. The copy has the permissions of the original. It is complete
/// and on disk when this returns. If the future is dropped, the unfinished copy is deleted. The progress counts the bytes
/// of the copy.
///
/// # Errors
///
/// [`BackupError`]: for PostgreSQL, if the destination exists or cannot be written, or if the database cannot be read.
pub async fn backup(url: &DatabaseUrl, destination: &Path, progress: &Progress) -> Result<Backup, BackupError> {
    let Engine::Sqlite(file) = url.0.clone() else { return Err(BackupError::Postgres) };
    let failed = |error| BackupError::Destination(destination.to_owned(), error);
    let destination = std::path::absolute(destination).map_err(failed)?;
    if fs::symlink_metadata(&destination).is_ok() {
        return Err(BackupError::Exists(destination));
    }
    let unfinished = unfinished(&destination).map_err(failed)?;
    let (copy, reporting) = (unfinished.to_path_buf(), progress.clone());
    let copying = blocking(move || Ok(copy_and_check(&file, &copy, &reporting)));
    let backup = watched(copying, &unfinished, progress).await??;
    match finish(unfinished, &destination) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(BackupError::Exists(destination)),
        Err(error) => Err(BackupError::Destination(destination, error)),
        Ok(()) => Ok(backup),
    }
}

/// Creates the file that becomes the copy: in the directory of the destination, so that it only needs another name then.
fn unfinished(destination: &Path) -> io::Result<TempPath> {
    Ok(NamedTempFile::with_prefix_in(".kith-backup-", directory(destination)?)?.into_temp_path())
}

/// Returns the directory of an absolute path.
fn directory(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::ErrorKind::IsADirectory.into())
}

/// Reports how large the unfinished copy is, of which SQLite says nothing.
async fn watched<T>(copying: impl Future<Output = T>, copy: &Path, progress: &Progress) -> T {
    let mut copying = pin!(copying);
    loop {
        tokio::select! {
            copied = &mut copying => return copied,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(file) = fs::metadata(copy) else { continue };
        progress.update(|step| {
            if step.phase == COPYING {
                step.done = file.len();
            }
        });
    }
}

/// Copies the database into an empty file, checks it, and flushes it.
fn copy_and_check(file: &SqliteFile, copy: &Path, progress: &Progress) -> Result<Backup, BackupError> {
    let failed = |error| BackupError::Destination(copy.to_owned(), error);
    copy_snapshot(file, copy, progress)?;
    progress.report(Step { phase: "checking", ..Step::default() });
    let Head { revision, epoch } = check(copy)?;
    let permissions = fs::metadata(file.path()).map_err(failed)?.permissions();
    let written = File::open(copy).map_err(failed)?;
    written.set_permissions(permissions).map_err(failed)?;
    written.sync_all().map_err(failed)?;
    let size = written.metadata().map_err(failed)?.len();
    Ok(Backup { size, revision, epoch })
}

fn copy_snapshot(file: &SqliteFile, copy: &Path, progress: &Progress) -> Result<(), ConnectError> {
    let mut conn = sqlite::open(&sqlite::for_reads(file)?)?;
    let total = Some(size(&mut conn)?);
    progress.report(Step { phase: COPYING, unit: "bytes", done: 0, current: 0, total, doing: "".into() });
    let copy = copy.to_str().ok_or_else(|| StoreError::Unavailable("the path of the copy is not UTF-8".into()))?;
    // The path is absolute, so SQLite does not take it for a URI.
    conn.batch_execute(&format!("VACUUM INTO '{}'", copy.replace('\'', "''"))).map_err(StoreError::from)?;
    Ok(())
}

/// Returns how many bytes a copy has.
#[expect(clippy::disallowed_methods, reason = "asked once each, of tables that may be of another version")]
fn size(conn: &mut SqliteConnection) -> Result<u64, StoreError> {
    let size = "SELECT (page_count - freelist_count) * page_size AS total, 0 AS number, '' AS said \
        FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    let ResultRow { total, number: _, said: _ } = diesel::sql_query(size).get_result(conn)?;
    u64::try_from(total).map_err(|error| StoreError::Internal(error.into()))
}

/// The head of the copied feed.
struct Head {
    revision: Sequence,
    epoch: String,
}

/// Checks the structure of a copy, and reads its head.
#[expect(clippy::disallowed_methods, reason = "asked once each, of tables that may be of another version")]
fn check(copy: &Path) -> Result<Head, BackupError> {
    // Not opened as a database of a server: a copy may be on a network file system. Nor read-only: SQLite 3.53 would not
    // check constraints then.
    let conn = SqliteConnection::establish(&SqliteFile::existing(copy).uri());
    let mut conn = conn.map_err(|error| ConnectError::from(StoreError::Unavailable(error.into())))?;
    let found: Result<Vec<Problem>, _> =
        diesel::sql_query("SELECT quick_check AS said FROM pragma_quick_check").load(&mut conn);
    let found = found.map_err(|error| BackupError::Damaged(error.to_string()))?;
    match found.first() {
        Some(first) if first.said == "ok" => {}
        first => return Err(BackupError::Damaged(first.map_or_else(String::new, |first| first.said.clone()))),
    }
    let head = "SELECT last_sequence AS number, epoch AS said, id AS total FROM feed";
    let head: Result<ResultRow, _> = diesel::sql_query(head).get_result(&mut conn);
    let ResultRow { number, said: epoch, total: _ } = head.map_err(ConnectError::from)?;
    Ok(Head { revision: Sequence::new(number), epoch })
}

/// Something that SQLite found to be damaged, or `ok`.
#[derive(QueryableByName)]
struct Problem {
    #[diesel(sql_type = Text)]
    said: String,
}

/// Gives the copy its name, unless there is a file of that name, and flushes the directory.
fn finish(unfinished: TempPath, destination: &Path) -> io::Result<()> {
    unfinished.persist_noclobber(destination).map_err(|refused| refused.error)?;
    File::open(directory(destination)?)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_size_of_the_copy_is_reported_while_it_grows() {
        let (copy, progress) = (NamedTempFile::new().expect("a file"), Progress::default());
        let step = |phase, done| Step { phase, unit: "bytes", done, total: Some(20), ..Step::default() };
        progress.report(step(COPYING, 0));
        let copying = async {
            for size in [10, 20] {
                copy.as_file().set_len(size).expect("a size");
                while progress.last() != step(COPYING, size) {
                    tokio::time::sleep(LOOK).await;
                }
            }
            progress.report(step("checking", 0));
            tokio::time::sleep(3 * LOOK).await;
            progress.last()
        };
        assert_eq!(watched(copying, copy.path(), &progress).await, step("checking", 0), "the check has its own");
    }
}
