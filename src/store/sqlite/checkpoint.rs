//! Checkpoints: copies the write-ahead log into the database file, concurrently with commits.
//!
//! SQLite itself would do it within a commit, once the log has a thousand pages: every caller of that commit would wait
//! while they are copied and written to disk. Here a separate thread copies, and the writer restarts the log when little
//! is left to copy. (SQLite manual, "Write-Ahead Logging", sections 2.1 and 3.)
//!
//! The log has earlier versions of changed pages, also of those with a user who was deleted since. So after the deletion
//! of a user, the next sweep has the log copied and then cut to nothing, however short it is.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::Instant;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Integer;

use super::{BUSY_TIMEOUT, SqliteFile, open};
use crate::domain::command::{Batch, Command};
use crate::metrics::database::Database;
use crate::rarely::Rarely;
use crate::store::StoreError;

/// Pages in the log from which copying starts: 8 MiB.
const PAGES: i32 = 2_048;
/// Pages that the writer copies itself at most, to restart the log.
const REST: i32 = 256;
/// Pages in the log from which the writer copies the rest itself, while its callers wait: 256 MiB. The log gets there if
/// commits come faster than they are copied.
const LONGEST: i32 = 65_536;
/// Commits between two look-ups of the log's length.
const COMMITS: u32 = 16;

/// The writer's side: notices when the log is long, has it copied, and restarts it.
pub(super) struct Checkpoint {
    commits: u32,
    /// Whether to restart the log after the copy, however much is left.
    restart: bool,
    /// Whether a user was deleted since the log was last cut, or may have been: at the start, by a server that was killed.
    erase: bool,
    /// Whether a copy was requested and its end was not seen yet.
    requested: bool,
    // `None` only while it is dropped.
    request: Option<SyncSender<()>>,
    /// Set during a copy. The writer does not touch the log then: SQLite would make it wait in steps of up to 100 ms.
    copying: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The length of the log, and how much of it was copied into the file, in pages.
#[derive(QueryableByName)]
struct Progress {
    /// 1 if a reader, or another writer, was in the way.
    #[diesel(sql_type = Integer)]
    busy: i32,
    #[diesel(sql_type = Integer)]
    log: i32,
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}

impl Checkpoint {
    /// Starts the copying thread.
    pub(super) fn start(file: &SqliteFile, metrics: &Arc<Database>) -> Result<Self, StoreError> {
        let (request, work) = sync_channel::<()>(1);
        let copying = Arc::new(AtomicBool::new(false));
        let (mut conn, running) = (open(file)?, Arc::clone(&copying));
        let seconds = metrics.checkpoint_seconds.clone();
        let thread = std::thread::Builder::new().name("kith-checkpoint".to_owned()).spawn(move || {
            for () in work {
                // Without an end of this copy, the writer would never request another one.
                let started = Instant::now();
                let _panic = catch_unwind(AssertUnwindSafe(|| copy(&mut conn)));
                seconds.observe(started.elapsed().as_secs_f64());
                running.store(false, Ordering::Release);
            }
        });
        let thread = thread.map_err(|error| StoreError::Internal(error.into()))?;
        let request = Some(request);
        Ok(Self { commits: 0, restart: false, erase: true, requested: false, request, copying, thread: Some(thread) })
    }

    /// Called after each commit, on the writer's connection.
    pub(super) fn committed(&mut self, conn: &mut SqliteConnection, batch: &Batch) {
        let has = |wanted: fn(&Command) -> bool| batch.submissions.iter().any(|one| wanted(&one.command));
        self.erase |= has(|command| matches!(command, Command::DeleteUser(_)));
        let erase = self.erase && has(|command| matches!(command, Command::Sweep));
        self.commits += 1;
        let copied = self.requested && !self.copying.load(Ordering::Acquire);
        if self.requested != copied || self.commits < COMMITS && !copied && !erase {
            return;
        }
        self.requested = false;
        self.commits = 0;
        let Some(Progress { busy: _, log, checkpointed }) = checkpoint(conn, "NOOP") else { return };
        let left = log - checkpointed;
        if std::mem::take(&mut self.restart) || log >= PAGES && left <= REST {
            self.erase &= !restart(conn, self.erase);
        } else if left >= PAGES || log >= LONGEST || erase {
            (self.restart, self.requested) = (log >= LONGEST || erase, true);
            self.copying.store(true, Ordering::Release);
            self.request.iter().for_each(|request| _ = request.try_send(()));
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.request = None;
        // A panic was already reported where it happened.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// Copies the log, and what is added during the copy, until little is left or it no longer gets shorter.
fn copy(conn: &mut SqliteConnection) {
    let mut before = i32::MAX;
    loop {
        checkpoint(conn, "PASSIVE");
        let Some(Progress { busy: _, log, checkpointed }) = checkpoint(conn, "NOOP") else { return };
        let left = log - checkpointed;
        if left <= REST || left > before / 4 * 3 {
            return;
        }
        before = left;
    }
}

/// Restarts the log, and if it is to be erased, cuts it to nothing. Returns whether it did.
///
/// Does nothing while a reader still needs the old one, and is tried again later: SQLite would wait for that reader, such
/// as a backup, and all writers with it. A log that is not erased keeps its length, so that commits need not grow it.
fn restart(conn: &mut SqliteConnection, erase: bool) -> bool {
    let waits = |conn: &mut SqliteConnection, time: u32| {
        conn.batch_execute(&format!("PRAGMA busy_timeout = {time}")).inspect_err(|error| warn(error)).is_ok()
    };
    if !waits(conn, 0) {
        return false;
    }
    let progress = checkpoint(conn, if erase { "TRUNCATE" } else { "RESTART" });
    waits(conn, BUSY_TIMEOUT);
    progress.is_some_and(|progress| progress.busy == 0)
}

/// Copies pages from the log into the file, in one of SQLite's modes; `NOOP` copies none.
#[expect(clippy::disallowed_methods, reason = "a pragma, rarely run")]
fn checkpoint(conn: &mut SqliteConnection, mode: &str) -> Option<Progress> {
    let progress = diesel::sql_query(format!("PRAGMA wal_checkpoint({mode})")).get_result(conn);
    progress.inspect_err(|error| warn(error)).ok()
}

fn warn(error: &(dyn Error + 'static)) {
    // On a full disk each commit tries again.
    static RARELY: LazyLock<Rarely> = LazyLock::new(Rarely::default);
    if let Some(more) = RARELY.due() {
        tracing::warn!(error, more, "the checkpoint of SQLite's log failed; the log grows until one succeeds");
    }
}
