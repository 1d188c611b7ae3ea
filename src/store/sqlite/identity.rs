//! Whether the open file is still the one at its path. SQLite would not notice another one.
//!
//! SQLite goes on with the file that it has opened, even if it was deleted. What is written to it then is lost
//! (SQLite manual, "How To Corrupt An SQLite Database File", 4.4).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::StoreError;

/// The interval between two looks at the file.
const INTERVAL: Duration = Duration::from_millis(500);

/// The database file and its log, as the file system identifies them.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    files: Vec<(PathBuf, Inode)>,
}

/// The numbers of a device and of a file on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode(u64, u64);

impl Identity {
    /// Looks at the files while they are open. The log stays as long as any connection is.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut files = vec![(path.to_owned(), inode(path)?)];
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        // There is none if the file is only read, and nobody has written to it.
        if let Ok(inode) = inode(&log) {
            files.push((log, inode));
        }
        Ok(Self { files })
    }

    /// Whether the files are still those that were opened.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] with words, if not.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (path, opened) in &self.files {
            let reason = match inode(path) {
                Ok(found) if found == *opened => continue,
                Ok(_) => "was replaced by another file",
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was deleted or moved",
                // Such as a directory that may no longer be read: the open file can still be used.
                Err(_) => continue,
            };
            let reason = format!("{} {reason} while the server used it", path.display());
            return Err(StoreError::Unavailable(reason.into()));
        }
        Ok(())
    }

    /// Completes when they no longer are.
    pub(super) async fn lost(&self) -> StoreError {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let files = self.clone();
            // A look can take long, as on a disk that fails. One that panics is one that says nothing.
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || files.check()).await {
                return error;
            }
        }
    }
}

fn inode(path: &Path) -> io::Result<Inode> {
    fs::metadata(path).map(|metadata| Inode(metadata.dev(), metadata.ino()))
}
