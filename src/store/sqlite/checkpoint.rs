//! Moves the write-ahead log into the database's file, beside the commits.
//!
//! SQLite would do it within a commit, once the log has a thousand pages: every caller of that commit waits while they
//! are copied and written to disk. Here a thread of its own copies, and the writer begins the log anew when little is
//! left to copy. (SQLite manual, "Write-Ahead Logging", sections 2.1 and 3.)

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Integer;

use super::{BUSY_TIMEOUT, open};
use crate::store::StoreError;

/// How many pages of the log are worth copying: 8 MiB.
const PAGES: i32 = 2_048;
/// How few pages the writer copies itself, to begin the log anew.
const REST: i32 = 256;
/// How long the log may become while commits come too fast for that: 256 MiB. Then the writer copies what came while
/// the rest was copied, and its callers wait.
const LONGEST: i32 = 65_536;
/// After how many commits the log's length is asked for.
const COMMITS: u32 = 16;

/// The writer's part: sees when the log is long, has it copied, and begins it anew.
pub(super) struct Checkpoint {
    commits: u32,
    /// Whether the log is to begin anew once it is copied, however much is left then.
    restart: bool,
    /// Whether it was asked for that it be copied, and not seen yet that it is.
    asked_for: bool,
    // `None` only while it is dropped.
    asked: Option<SyncSender<()>>,
    /// Until when the writer keeps away: SQLite would have it wait in steps of up to 100 ms.
    copying: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long the log is, and how much of it is in the file.
#[derive(QueryableByName)]
struct Progress {
    #[diesel(sql_type = Integer)]
    log: i32,
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}

impl Checkpoint {
    /// Starts the thread that copies.
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let (asked, work) = sync_channel::<()>(1);
        let copying = Arc::new(AtomicBool::new(false));
        let (mut conn, under_way) = (open(path)?, Arc::clone(&copying));
        let thread = std::thread::Builder::new().name("kith-checkpoint".to_owned()).spawn(move || {
            for () in work {
                copy(&mut conn);
                under_way.store(false, Ordering::Release);
            }
        });
        let thread = thread.map_err(|error| StoreError::Internal(error.into()))?;
        Ok(Self { commits: 0, restart: false, asked_for: false, asked: Some(asked), copying, thread: Some(thread) })
    }

    /// After each commit, on the writer's connection.
    pub(super) fn committed(&mut self, conn: &mut SqliteConnection) {
        self.commits += 1;
        let copied = self.asked_for && !self.copying.load(Ordering::Acquire);
        if self.asked_for != copied || self.commits < COMMITS && !copied {
            return;
        }
        self.asked_for = false;
        self.commits = 0;
        let Some(Progress { log, checkpointed }) = checkpoint(conn, "NOOP") else { return };
        let left = log - checkpointed;
        if std::mem::take(&mut self.restart) || log >= PAGES && left <= REST {
            restart(conn);
        } else if left >= PAGES || log >= LONGEST {
            (self.restart, self.asked_for) = (log >= LONGEST, true);
            self.copying.store(true, Ordering::Release);
            self.asked.iter().for_each(|asked| _ = asked.try_send(()));
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.asked = None;
        // A panic was told where it was.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// Copies what there is, and what came meanwhile, until little is left or as much comes as is copied.
fn copy(conn: &mut SqliteConnection) {
    let mut before = i32::MAX;
    loop {
        checkpoint(conn, "PASSIVE");
        let Some(Progress { log, checkpointed }) = checkpoint(conn, "NOOP") else { return };
        let left = log - checkpointed;
        if left <= REST || left > before / 4 * 3 {
            return;
        }
        before = left;
    }
}

/// Has the log begin anew. Where a reader still needs the old one this does nothing, and is tried again: SQLite would wait
/// for that reader, who may be a backup, with all writers behind it.
fn restart(conn: &mut SqliteConnection) {
    let waits = |conn: &mut SqliteConnection, time: u32| {
        conn.batch_execute(&format!("PRAGMA busy_timeout = {time}")).inspect_err(|error| warn(error)).is_ok()
    };
    if waits(conn, 0) {
        checkpoint(conn, "RESTART");
        waits(conn, BUSY_TIMEOUT);
    }
}

/// Copies pages from the log into the file, in one of SQLite's modes; `NOOP` copies none.
#[expect(clippy::disallowed_methods, reason = "a pragma, asked now and then")]
fn checkpoint(conn: &mut SqliteConnection, mode: &str) -> Option<Progress> {
    let progress = diesel::sql_query(format!("PRAGMA wal_checkpoint({mode})")).get_result(conn);
    progress.inspect_err(|error| warn(error)).ok()
}

fn warn(error: &(dyn Error + 'static)) {
    tracing::warn!(error, "the log of SQLite could not be moved into its file; it grows until it can");
}
