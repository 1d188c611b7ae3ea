//! The import of users and their relations from files, into a database that no server uses.
//!
//! ```text
//! read     files → users, relations with the users found and dated       refused rows → the report
//! settle   all rows about a pair → one pair                              by domain::import
//! write    in the order of dates: into an empty database as it is numbered here (load);
//!          into any other as the ledger decides (apply)
//! commit   one transaction: all or nothing
//! ```
//!
//! Between the steps, rows are sorted in memory of a fixed size and in temporary files (`sorter`). A thread prepares
//! rows while the one before is written.

mod apply;
mod load;
mod pairs;
mod read;
mod record;
mod refused;
mod report;
mod send;
mod sorter;
mod source;
mod users;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use self::apply::{apply, commands};
use self::load::{Loading, load};
use self::pairs::{Target, settle_all};
use self::read::{Read, read};
use self::refused::Refusals;
pub use self::report::{Report, Tally};
pub use self::send::{Load, Outgoing};
pub use self::source::{Format, Source};
use self::users::{Assigned, Directory};
use crate::clock::Clock;
use crate::domain::Time;
use crate::domain::id::{Sequence, UserId};
use crate::domain::import::OnConflict;
pub use crate::domain::import::PendingSince;
use crate::domain::policy::Policy;
use crate::progress::{Progress, Step};
use crate::store::{Bulk, ConnectError, DatabaseUrl, StoreError};
use crate::transfer::{FileError, Kind, Rules};

/// The memory in which rows are sorted, in bytes.
const SORTED: usize = 64 << 20;
/// The chunks that wait to be written.
const CHUNKS: usize = 2;
/// The rows between two reports of the progress.
const REPORTED: u64 = 1_024;

/// What to do with two users who are in another state in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflicts {
    /// The database keeps its state, and the row is refused.
    #[default]
    Skip,
    /// The row replaces it. No block is removed.
    Replace,
    /// Nothing is imported.
    Fail,
}

/// Whether the events of an import are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// They are.
    Keep,
    /// They count as past their retention.
    Skip,
}

/// What is imported, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The files, in their order.
    pub sources: Vec<Source>,
    /// Whether everything is done but the commit.
    pub dry_run: bool,
    /// What to do with two users who are in another state in the database.
    pub conflicts: Conflicts,
    /// What to do with pending requests that would expire at once.
    pub pending_since: PendingSince,
    /// The date of relations without one. `None`: when the later of the two users joined.
    pub default_date: Option<Time>,
    /// Whether users who are named and not there are made.
    pub create_missing_users: bool,
    /// Whether events are stored. `None`: not into an empty database.
    pub events: Option<Events>,
    /// Where the refused rows are written to.
    pub refused: Option<PathBuf>,
    /// Whether ids of requests and positions are kept, which only an empty database can.
    pub keep_ids: bool,
    /// The rules of the server.
    pub policy: Policy,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read, or is damaged.
    #[error("{file}: {error}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        #[source]
        error: FileError,
    },
    /// The file of the refused rows cannot be written.
    #[error("--refused {file}")]
    Refused {
        /// The file.
        file: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A temporary file cannot be written or read.
    #[error("a temporary file; TMPDIR names the folder")]
    Temporary(#[source] io::Error),
    /// What was demanded needs an empty database.
    #[error(
        "{0} needs an empty database, and this one has users or events; leave it out, or import into a new database"
    )]
    NotEmpty(&'static str),
    /// Rows are in conflict with the database, and may not be.
    #[error("rows are in conflict with the database, and --on-conflict=fail")]
    Conflicts(Box<Report>),
    /// There are no free ids.
    #[error("all ids of users are taken")]
    NoIdLeft,
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] ConnectError),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Database(error.into())
    }
}

/// Imports files into a database that no server uses.
///
/// # Errors
///
/// Then nothing was imported, except with [`StoreError::OutcomeUnknown`]. Refused rows are not errors: the report has them.
pub async fn import(
    url: &DatabaseUrl,
    options: Options,
    clock: &Clock,
    progress: &Progress,
) -> Result<Report, ImportError> {
    let mut bulk = Bulk::begin(url, clock).await?;
    let is_empty = bulk.is_empty();
    let events = check(&options, is_empty)?;
    let (now, before) = (bulk.now(), bulk.head().sequence);
    let directory = known_users(&mut bulk).await?;
    let (options, reporting) = (Arc::new(options), progress.clone());
    let reading = Arc::clone(&options);
    let mut rows = blocking(move || read(&reading, now, directory, &reporting)).await?;
    let assigned = rows.directory.assign(bulk.head().last_assigned).ok_or(ImportError::NoIdLeft)?;
    let import = Import { options: Arc::clone(&options), now, events, progress };
    let (refusals, has_conflict) = if is_empty {
        (import.load(&mut bulk, rows, assigned).await?, false)
    } else {
        import.apply(&mut bulk, rows, assigned).await?
    };
    let rules = Rules { usernames: options.policy.usernames, now };
    let finishing = Arc::clone(&options);
    let mut report = blocking(move || refusals.finish(&finishing.sources, rules)).await?;
    report.dry_run = options.dry_run;
    let fails = has_conflict && options.conflicts == Conflicts::Fail;
    if fails || options.dry_run {
        report.revision = before;
        bulk.roll_back().await?;
    } else {
        report.revision = bulk.head().sequence;
        bulk.commit(progress).await?;
    }
    if fails {
        return Err(ImportError::Conflicts(Box::new(report)));
    }
    Ok(report)
}

/// Checks the options against the database. Returns whether events are stored.
fn check(options: &Options, is_empty: bool) -> Result<bool, ImportError> {
    match (options.events, is_empty) {
        (Some(Events::Skip), false) => Err(ImportError::NotEmpty("--events=skip")),
        (_, false) if options.keep_ids => Err(ImportError::NotEmpty("--keep-ids")),
        (Some(Events::Keep), true) | (_, false) => Ok(true),
        (Some(Events::Skip) | None, true) => Ok(false),
    }
}

async fn known_users(bulk: &mut Bulk) -> Result<Directory, ImportError> {
    let (mut directory, mut after) = (Directory::new(), UserId::default());
    loop {
        let users = bulk.known_users(after).await?;
        let Some(last) = users.last() else { return Ok(directory) };
        after = last.id;
        users.iter().for_each(|user| directory.add_known(user));
    }
}

struct Import<'a> {
    options: Arc<Options>,
    now: Time,
    events: bool,
    progress: &'a Progress,
}

impl Import<'_> {
    /// Loads an empty database. A thread settles and numbers rows, while those before are written.
    async fn load(&self, bulk: &mut Bulk, rows: Read, assigned: Assigned) -> Result<Refusals, ImportError> {
        let Options { keep_ids, dry_run, .. } = *self.options;
        let Read { directory, users, relations, mut refusals, revision } = rows;
        if !dry_run {
            bulk.load_empty().await?;
        }
        let (head, policy) = (*bulk.head(), self.options.policy.clone());
        let (now, events, progress) = (self.now, self.events, self.progress.clone());
        let (sender, mut receiver) = mpsc::channel(CHUNKS);
        let preparing = blocking(move || {
            let target = Target::Steps { events, keep_ids };
            let pairs = settle_all(relations, &assigned, target, &mut refusals, &progress);
            let pairs = pairs.map_err(ImportError::Temporary)?;
            let after = if keep_ids { revision.max(Sequence::new(pairs.largest)) } else { head.sequence };
            refusals.report.of(Kind::User).created = users.len();
            let loading = Loading { policy, now, head, events, after };
            let full = load(loading, &directory, &assigned, (users, pairs), sender, &progress);
            full.map_err(ImportError::Temporary)?.into_iter().for_each(|user| refusals.report.warn_full(user));
            Ok(refusals)
        });
        // It drops the receiver when it fails, which ends the thread.
        let writing = async move {
            while let Some(changes) = receiver.recv().await {
                if !dry_run {
                    bulk.save(changes).await?;
                }
            }
            Ok::<_, ImportError>(())
        };
        let (prepared, written) = tokio::join!(preparing, writing);
        written?;
        prepared
    }

    /// Lets the ledger decide. Also returns whether rows met another state of the database.
    async fn apply(&self, bulk: &mut Bulk, rows: Read, assigned: Assigned) -> Result<(Refusals, bool), ImportError> {
        let Read { directory: _, users, relations, mut refusals, revision: _ } = rows;
        let progress = self.progress.clone();
        let settling = blocking(move || {
            let pairs = settle_all(relations, &assigned, Target::Pairs, &mut refusals, &progress);
            Ok((pairs.map_err(ImportError::Temporary)?, refusals, assigned))
        });
        let (pairs, mut refusals, assigned) = settling.await?;
        let on_conflict = match self.options.conflicts {
            Conflicts::Skip | Conflicts::Fail => OnConflict::Skip,
            Conflicts::Replace => OnConflict::Replace,
        };
        let progress = self.progress.clone();
        let (sender, mut receiver) = mpsc::channel(CHUNKS);
        let preparing = blocking(move || {
            let sent = commands((users, pairs), &assigned, on_conflict, &sender, &progress);
            sent.map_err(ImportError::Temporary)
        });
        let policy = Arc::new(self.options.policy.clone());
        let written_to = &mut *bulk;
        let writing = async move {
            let mut has_conflict = false;
            while let Some(work) = receiver.recv().await {
                has_conflict |= apply(written_to, &policy, work, &mut refusals).await?;
            }
            Ok::<_, ImportError>((refusals, has_conflict))
        };
        let (prepared, written) = tokio::join!(preparing, writing);
        let (mut refusals, has_conflict) = written?;
        prepared?;
        if let Some(limit) = self.options.policy.max_connections {
            bulk.full_users(limit).await?.into_iter().for_each(|user| refusals.report.warn_full(user));
        }
        Ok((refusals, has_conflict))
    }
}

/// Reports how many rows of a step are done, now and then.
fn rows_done(progress: &Progress, phase: &'static str, done: u64, total: u64) {
    if done.is_multiple_of(REPORTED) || done == total {
        progress.report(Step { phase, unit: "rows", done, current: 0, total: Some(total), doing: "".into() });
    }
}

/// Runs a job on a thread that may wait.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    let done = tokio::task::spawn_blocking(job).await;
    done.unwrap_or_else(|error| Err(StoreError::Internal(error.into()).into()))
}
