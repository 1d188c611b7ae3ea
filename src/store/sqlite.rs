//! The SQLite engine: one thread writes and a few threads read, each with its own connection.

mod access;
mod checkpoint;
mod commit;
mod file;
mod identity;
mod options;
mod read_only;
mod threads;

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use diesel::connection::{Connection as _, SimpleConnection};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::Text;
use tokio::sync::{oneshot, watch};

use self::access::check_usable;
pub(super) use self::access::check_writable;
use self::checkpoint::Checkpoint;
pub(super) use self::commit::SqliteBulk;
use self::commit::commit;
pub(super) use self::file::SqliteFile;
use self::identity::Identity;
pub(super) use self::options::refuse_faulty;
pub(super) use self::read_only::{for_reads, open_alone};
use self::threads::{Threads, Work};
use super::clock::DatabaseClock;
use super::engine::{Database, Engine, Reads, Rows, SharedQuery, StoredCounts};
use super::feed::{self, EventRow};
use super::pair::known_to;
use super::row::{BlockRow, CountsRow, FeedHead, FeedRow, MarkRow, RequestRow, UserRow, is_earlier};
use super::schema::Stamp;
use super::seen::LastSeen;
use super::session::Session;
use super::users::{Mark, Source, UserCache};
use super::writer::WriterState;
use super::{ConnectError, Options, Pairs, StoreError, query};
use crate::domain::Time;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::pair::Request;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice, Read, UserKeys};
use crate::domain::user::User;
use crate::domain::view::HiddenKinds;
use crate::metrics::database as metrics;
use crate::metrics::database::Pool;
use crate::traces::{self, Span};

/// A batch for the writer, with its span if it is traced, and the channel for its replies.
struct Write(Arc<Batch>, Option<Span>, oneshot::Sender<Result<Replies, StoreError>>);
type Replies = Vec<Result<Reply, Rejection>>;

/// How long a read waits for a thread before it is refused, as on PostgreSQL. Without a limit, reads would run one after
/// the other until their callers' deadlines, and none of those that wait would be in time.
const READ_WAIT: Duration = Duration::from_secs(1);

/// A read that a thread runs with its connection.
type Job = Box<dyn FnOnce(&mut SqliteConnection) + Send>;

pub(super) struct SqliteEngine {
    // Dropped in this order. The writer closes last, and may then checkpoint the whole log into the file.
    short: Threads<Job>,
    long: Threads<Job>,
    feed: Threads<Job>,
    /// `None` for a store that only reads.
    writer: Option<Threads<Write>>,
    identity: Identity,
    file: SqliteFile,
}

/// Opens a migrated file.
pub(super) fn store(file: &SqliteFile, options: &Options) -> Result<Database<SqliteEngine>, StoreError> {
    let file = &if options.read_only { for_reads(file)? } else { file.clone() };
    if file.is_unchanging() {
        tracing::warn!("the folder of the database cannot be written; no other process may change the file meanwhile");
    }
    let mut conn = open(file)?;
    options::warn_if_slower(&mut conn)?;
    let head: FeedRow = query::head().first(&mut conn)?;
    // While the connection is open, so that there is a log.
    let identity = Identity::of(file.path()).map_err(|error| StoreError::Unavailable(error.into()))?;
    let metrics = &options.metrics;
    let database = &metrics.database;
    measure(file, &mut conn, database)?;
    let users = Arc::new(UserCache::new(options.user_cache, &metrics.caches.users));
    let seen = Arc::<LastSeen>::default();
    let clock = Arc::new(DatabaseClock::of_file(options.clock.clone()));
    let (short, long) = options.short_and_long();
    let state = || WriterState::new(options.user_cache, Arc::clone(&users), Arc::clone(&seen), &metrics.caches.writer);
    let writer =
        (!options.read_only).then(|| writer(file, Arc::clone(&clock), state(), &identity, database)).transpose()?;
    let engine = SqliteEngine {
        writer,
        short: readers("kith-read", Pool::Short, file, short, database)?,
        long: readers("kith-read-long", Pool::Long, file, long, database)?,
        feed: readers("kith-read-feed", Pool::Feed, file, 1, database)?,
        identity,
        file: file.clone(),
    };
    drop(conn);
    let committed = watch::Sender::new(());
    let feed = Arc::clone(&metrics.feed);
    let token_key = head.token_key.clone().into_bytes();
    seen.note(&head.head());
    Ok(Database { engine, users, seen, clock, token_key, committed, feed, source: Source::Primary })
}

/// Records which SQLite it is, and lets the metrics read the length of its log.
fn measure(file: &SqliteFile, conn: &mut SqliteConnection, metrics: &metrics::Database) -> Result<(), StoreError> {
    let version: String = diesel::select(sql::<Text>("sqlite_version()")).get_result(conn)?;
    metrics.is("sqlite", &version);
    let mut log = file.path().as_os_str().to_owned();
    log.push("-wal");
    // A file that is not there has no bytes.
    metrics.wal_bytes.set(move || Some(fs::metadata(&log).map_or(0, |log| log.len())));
    Ok(())
}

/// Runs a read in one snapshot on one of the threads.
///
/// # Errors
///
/// [`StoreError::Overloaded`] if it would have to wait for longer than [`READ_WAIT`].
async fn read<T: Send + 'static>(
    threads: &Threads<Job>,
    read: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    read_since(Instant::now(), threads, read).await
}

/// The same for a read that was requested at this time.
async fn read_since<T: Send + 'static>(
    requested: Instant,
    threads: &Threads<Job>,
    read: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let job = |reply: oneshot::Sender<_>| -> Job {
        Box::new(move |conn| {
            if reply.is_closed() {
                return;
            }
            let late = requested.elapsed() > READ_WAIT;
            // An error means that the caller no longer waits.
            let _gone = reply.send(if late { Err(StoreError::Overloaded) } else { conn.transaction(read) });
        })
    };
    threads.run(job).await
}

fn mark(conn: &mut SqliteConnection) -> Result<Mark, StoreError> {
    let row: MarkRow = query::mark().first(conn)?;
    Ok(row.mark())
}

fn readers(
    name: &'static str,
    pool: Pool,
    file: &SqliteFile,
    threads: usize,
    metrics: &metrics::Database,
) -> Result<Threads<Job>, StoreError> {
    let file = file.clone();
    let open = move || {
        let mut reader = open(&file)?;
        reader.batch_execute(READER)?;
        Ok(reader)
    };
    let serve = |conn: &mut SqliteConnection, job: Job| job(conn);
    Threads::start(&Work { name, threads, open, serve, pool }, metrics)
}

fn writer(
    file: &SqliteFile,
    clock: Arc<DatabaseClock>,
    state: WriterState,
    identity: &Identity,
    metrics: &Arc<metrics::Database>,
) -> Result<Threads<Write>, StoreError> {
    // Only one thread uses it, so the lock is always free.
    let state = Arc::new(Mutex::new((state, Checkpoint::start(file, metrics)?)));
    let (file, identity) = (file.clone(), identity.clone());
    let open = move || {
        let mut writer = open(&file)?;
        writer.batch_execute(WRITER)?;
        Ok(writer)
    };
    let serve = move |conn: &mut SqliteConnection, Write(batch, span, reply): Write| {
        if reply.is_closed() {
            return;
        }
        let (state, checkpoint) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        // What is written to a deleted file would be lost.
        let _gone = reply.send(identity.check().and_then(|()| commit(conn, state, &clock, &batch, span.as_ref())));
        checkpoint.committed(conn, &batch);
    };
    Threads::start(&Work { name: "kith-write", threads: 1, open, serve, pool: Pool::Writer }, metrics)
}

/// How long a connection waits for a lock, in milliseconds.
const BUSY_TIMEOUT: u32 = 5_000;
/// The settings of every connection.
///
/// FULL: an acknowledged change survives a power failure. Automatic checkpoints are off, because [`Checkpoint`] makes
/// them. The page cache is 8 MiB: with SQLite's default of 2 MiB, most look-ups in a large database would read a page
/// from the operating system.
const SESSION: &str = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -8192; \
                       PRAGMA wal_autocheckpoint = 0;";
/// Additional settings of readers.
///
/// They map up to 2 GiB of the file into memory instead of copying its pages: a list of 20 took 1.4 to 2.3 times less CPU.
/// A read error of the disk is then a SIGBUS, which ends the process, instead of an error of one read.
const READER: &str = "PRAGMA query_only = ON; PRAGMA mmap_size = 2147418112;";
/// Additional settings of the writer.
///
/// The page cache is 16 MiB. A larger one would make commits slower, because SQLite scans it after each commit that
/// splits a page. The automatic checkpoint is a fallback for a log that [`Checkpoint`] could not copy for a long time.
/// What is deleted is overwritten with zeros, also on pages that become free: of a deleted user nothing remains in the file.
const WRITER: &str = "PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 131072; PRAGMA secure_delete = ON;";

/// Opens a connection with the settings of every connection.
///
/// # Errors
///
/// The cause in words, where SQLite's own error does not name it.
pub(super) fn open(file: &SqliteFile) -> Result<SqliteConnection, StoreError> {
    check_usable(file)?;
    let conn = SqliteConnection::establish(&file.uri());
    let mut conn = conn.map_err(|error| StoreError::Unavailable(error.into()))?;
    conn.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT}"))?;
    if !file.is_read_only() {
        use_wal(&mut conn)?;
    }
    conn.batch_execute(SESSION)?;
    Ok(conn)
}

/// Switches the file to a write-ahead log, which it stays with.
///
/// While another process does the same on a new file, SQLite fails at once instead of waiting for the lock.
fn use_wal(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let until = Instant::now() + Duration::from_millis(BUSY_TIMEOUT.into());
    loop {
        match conn.batch_execute("PRAGMA journal_mode = WAL") {
            Err(DieselError::DatabaseError(_, info)) if info.message().contains("locked") && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            switched => return Ok(switched?),
        }
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Replies, StoreError> {
        let writer = self.writer.as_ref().ok_or_else(StoreError::read_only)?;
        let span = traces::current();
        writer.run(|reply| Write(batch, span, reply)).await
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        read(&self.short, mark).await
    }

    async fn head(&self) -> Result<FeedHead, StoreError> {
        read(&self.short, |conn| Ok(query::head().first::<FeedRow>(conn)?.head())).await
    }

    async fn changed_users(&self, after: Sequence, until: Sequence) -> Result<Option<Vec<UserId>>, StoreError> {
        read(&self.short, move |conn| {
            let oldest: Option<i64> = feed::oldest().first(conn).optional()?;
            if oldest.is_none_or(|oldest| oldest > after.get() + 1) {
                return Ok(None);
            }
            let ids: Vec<i64> = feed::users_changed(after.get(), until.get()).load(conn)?;
            Ok(feed::changed(ids))
        })
        .await
    }

    async fn users_by_id(&self, ids: Vec<UserId>) -> Result<Vec<User>, StoreError> {
        read(&self.short, |conn| {
            let mut users = Vec::with_capacity(ids.len());
            for id in ids {
                let row: Option<UserRow> = query::user(id.get()).first(conn).optional()?;
                users.extend(row.map(User::try_from).transpose()?);
            }
            Ok(users)
        })
        .await
    }

    async fn users_by_key(&self, keys: UserKeys) -> Result<Rows<UserRow>, StoreError> {
        let UserKeys { external_ids, names } = keys;
        read(&self.short, |conn| {
            let (mark, mut rows) = (mark(conn)?, Vec::<UserRow>::new());
            for id in external_ids {
                rows.extend(query::user_by_external_id(id.as_str().to_owned()).first(conn).optional()?);
            }
            for name in names {
                rows.extend(query::user_by_name(name).first(conn).optional()?);
            }
            Ok(Rows { mark, rows })
        })
        .await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        read(&self.short, move |conn| {
            let mark = mark(conn)?;
            let mut pairs = Pairs::new();
            for other in others {
                let Some(key) = PairKey::of(user, other) else { continue };
                let request: Option<RequestRow> =
                    query::request_of_pair(key.low().get(), key.high().get()).first(conn).optional()?;
                let request = request.map(Request::try_from).transpose()?;
                let block: Option<BlockRow> = query::block(user.get(), other.get()).first(conn).optional()?;
                pairs.extend(known_to(user, other, request, block.map(|row| row.block())));
            }
            Ok(mark.read(pairs))
        })
        .await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<StoredCounts>, StoreError> {
        read(&self.short, move |conn| {
            let mark = mark(conn)?;
            let row: Option<CountsRow> = query::counts(user.get()).first(conn).optional()?;
            let oldest: Option<Stamp> = match expired {
                Some(_) => query::oldest_open().get_result(conn)?,
                None => None,
            };
            let something_expired = oldest.zip(expired).is_some_and(|(oldest, expired)| oldest.0 <= expired);
            let value = StoredCounts { counts: row.map(|row| row.counts()), something_expired };
            Ok(mark.read(value))
        })
        .await
    }

    async fn rows<Q: SharedQuery<R>, R: Send + 'static>(&self, reads: Reads, query: Q) -> Result<Rows<R>, StoreError> {
        let threads = match reads {
            Reads::Few => &self.short,
            Reads::Many => &self.long,
        };
        read(threads, |conn| Ok(Rows { mark: mark(conn)?, rows: query.load(conn)? })).await
    }

    async fn session(&self) -> Result<Session, ConnectError> {
        Session::read_file(self.file.clone()).await
    }

    async fn lost(&self) -> StoreError {
        self.identity.lost().await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        let EventQuery { filter, after, limit, consumer, epoch } = query;
        let threads = match consumer {
            Consumer::Watchers => &self.feed,
            Consumer::Call => &self.long,
        };
        read(threads, move |conn| {
            let head: FeedRow = query::head().first(conn)?;
            let oldest = feed::oldest().first(conn).optional()?;
            let within = (after.get(), head.last_sequence, oldest);
            let rows = match filter {
                EventFilter::All => feed::all_after(after.get(), limit).load(conn)?,
                EventFilter::Of(user, hidden) => events_of(conn, (user, hidden.as_ref()), within, limit)?,
            };
            let history = if is_earlier(&epoch, &head) { query::history().load(conn)? } else { Vec::new() };
            feed::slice(head, history, rows, oldest)
        })
        .await
    }
}

/// Reads the first events of a user after `after` and up to `until`; with hidden kinds, those that the user sees.
fn events_of(
    conn: &mut SqliteConnection,
    (user, hidden): (UserId, Option<&HiddenKinds>),
    (after, until, oldest): (i64, i64, Option<i64>),
    limit: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let mut rows: Vec<EventRow> = Vec::new();
    for stretches in feed::stretches(after, until, oldest) {
        let missing = limit - rows.len() as i64;
        if missing == 0 {
            break;
        }
        rows.extend(feed::of_user_in(stretches, (user.get(), hidden), after, missing).load(conn)?);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_that_waited_for_too_long_is_refused_without_being_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kith.db").display().to_string().parse().unwrap();
        let threads = readers("kith-read", Pool::Short, &file, 1, &metrics::Database::default()).unwrap();
        assert_eq!(read(&threads, |_| Ok(1)).await.unwrap(), 1);
        let requested = Instant::now().checked_sub(READ_WAIT * 2).unwrap();
        let late = read_since(requested, &threads, |_| -> Result<i32, _> { panic!("it is not run") }).await;
        assert!(matches!(late, Err(StoreError::Overloaded)), "{late:?}");
    }
}
