//! `kith backup`: copies a SQLite database while servers use it.

use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use super::database::Database;
use super::{Failure, print, progress, start_log};
use crate::causes::with_causes;
use crate::config::{Backup, Sources};
use crate::progress::Progress;
use crate::store::{self, BackupError};
use crate::telemetry::Log;

/// The exit status after a signal, as shells report it for SIGINT.
const INTERRUPTED: i32 = 130;

pub(super) async fn run(args: Backup, sources: &Sources) -> Result<(), Failure> {
    let log = start_log(&args.common, false, sources)?;
    let database = Database::of(&args.common, sources)?;
    let Backup { destination, common } = &args;
    let (begun, progress) = (Instant::now(), Progress::default());
    let copying = store::backup(&database.url, destination, &progress);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let backup = tokio::select! {
        backup = progress::shown(&progress, &log, common.log_format, copying) => backup,
        _ = interrupt.recv() => interrupted(log),
        _ = terminate.recv() => interrupted(log),
    };
    let store::Backup { size, revision, epoch } = backup.map_err(|error| match &error {
        BackupError::Postgres | BackupError::Damaged(_) => database.failure(&error),
        BackupError::Database(error) => database.failure(error),
        BackupError::Exists(_) | BackupError::Destination(..) => with_causes(&error).into(),
    })?;
    let milliseconds = u64::try_from(begun.elapsed().as_millis())?;
    tracing::info!(database = %database.url, milliseconds, "copied the database");
    print(&format!("copied {size} bytes to {}; revision {revision}, epoch {epoch}\n", destination.display()))
}

/// Ends the process, and does not wait for the thread that copies. The unfinished copy has been deleted.
fn interrupted(log: Log) -> ! {
    tracing::warn!("interrupted; there is no copy");
    drop(log);
    std::process::exit(INTERRUPTED)
}
