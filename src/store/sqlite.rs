//! The SQLite engine: one thread writes and a few threads read, each with its own connection.

mod checkpoint;
mod commit;
mod options;
mod threads;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use diesel::connection::{Connection as _, SimpleConnection};
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use tokio::sync::{oneshot, watch};

use self::checkpoint::Checkpoint;
use self::commit::Writer;
use self::threads::{Threads, Work};
use super::clock::DatabaseClock;
use super::engine::{Database, Engine, Rows, StoredCounts};
use super::feed::{self, EventRow};
use super::row::{
    BlockRow, ConnectionRow, CountsRow, FeedRow, IdempotentResponseRow, MarkRow, RequestRow, UserRow, positioned,
};
use super::schema::Stamp;
use super::users::{Mark, UserCache};
use super::writer::WriterState;
use super::{Options, Pairs, StoreError, query};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::ledger::Snapshot;
use crate::domain::pair::{Request, RequestState};
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, Consumer, EventFilter, EventQuery, FeedSlice, Mutual, Range,
    Read, RequestFilter, RequestQuery,
};
use crate::domain::user::User;

/// A batch for the writer, and the channel for its replies.
struct Write(Arc<Batch>, oneshot::Sender<Result<Replies, StoreError>>);
type Replies = Vec<Result<Reply, Rejection>>;

/// A read that a thread runs with its connection.
type Job = Box<dyn FnOnce(&mut SqliteConnection) + Send>;

pub(super) struct SqliteEngine {
    // Dropped in this order. The writer closes last, and may then checkpoint the whole log into the file.
    short: Threads<Job>,
    long: Threads<Job>,
    feed: Threads<Job>,
    writer: Threads<Write>,
}

/// Opens a migrated file.
pub(super) fn store(path: &Path, options: Options) -> Result<Database<SqliteEngine>, StoreError> {
    let mut conn = open(path)?;
    options::warn_if_slower(&mut conn)?;
    let head: FeedRow = query::head().first(&mut conn)?;
    drop(conn);
    let users = Arc::new(UserCache::new(options.user_cache));
    let clock = Arc::new(DatabaseClock::of_file(options.clock.clone()));
    let state = WriterState::new(options.user_cache);
    let (short, long) = options.short_and_long();
    let engine = SqliteEngine {
        writer: writer(path, Writer { state, clock: Arc::clone(&clock), users: Arc::clone(&users) })?,
        short: readers("kith-read", path, short)?,
        long: readers("kith-read-long", path, long)?,
        feed: readers("kith-read-feed", path, 1)?,
    };
    let committed = watch::Sender::new(());
    Ok(Database { engine, users, clock, token_key: head.token_key.into_bytes(), committed })
}

/// Runs a read in one snapshot on one of the threads.
async fn read<T: Send + 'static>(
    threads: &Threads<Job>,
    read: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let job = |reply: oneshot::Sender<_>| -> Job {
        Box::new(move |conn| {
            if !reply.is_closed() {
                // An error means that the caller no longer waits.
                let _gone = reply.send(conn.transaction(read));
            }
        })
    };
    threads.run(job).await
}

/// Reads the mark, and then rows in the same snapshot.
async fn rows<T: Send + 'static>(
    threads: &Threads<Job>,
    rows: impl FnOnce(&mut SqliteConnection) -> Result<Vec<T>, StoreError> + Send + 'static,
) -> Result<Rows<T>, StoreError> {
    read(threads, |conn| Ok(Rows { mark: mark(conn)?, rows: rows(conn)? })).await
}

fn mark(conn: &mut SqliteConnection) -> Result<Mark, StoreError> {
    let row: MarkRow = query::mark().first(conn)?;
    Ok(row.mark())
}

fn readers(name: &'static str, path: &Path, threads: usize) -> Result<Threads<Job>, StoreError> {
    let path = path.to_owned();
    let open = move || {
        let mut reader = open(&path)?;
        reader.batch_execute(READER)?;
        Ok(reader)
    };
    Threads::start(&Work { name, threads, open, serve: |conn: &mut SqliteConnection, job: Job| job(conn) })
}

fn writer(path: &Path, writer: Writer) -> Result<Threads<Write>, StoreError> {
    // Only one thread uses it, so the lock is always free.
    let state = Arc::new(Mutex::new((writer, Checkpoint::start(path)?)));
    let path = path.to_owned();
    let open = move || {
        let mut writer = open(&path)?;
        writer.batch_execute(WRITER)?;
        Ok(writer)
    };
    let serve = move |conn: &mut SqliteConnection, Write(batch, reply): Write| {
        if reply.is_closed() {
            return;
        }
        let (writer, checkpoint) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let _gone = reply.send(writer.commit(conn, &batch));
        checkpoint.committed(conn);
    };
    Threads::start(&Work { name: "kith-write", threads: 1, open, serve })
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
const WRITER: &str = "PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 131072;";

/// Opens a connection with the settings of every connection.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
    // The path comes from a URL, so it is valid UTF-8.
    let name = path.to_string_lossy();
    let mut conn = SqliteConnection::establish(&name).map_err(|error| StoreError::Unavailable(error.into()))?;
    conn.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT}"))?;
    use_wal(&mut conn)?;
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
        self.writer.run(|reply| Write(batch, reply)).await
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        read(&self.short, mark).await
    }

    async fn changed_users(&self, after: Sequence, until: Sequence) -> Result<Option<Vec<UserId>>, StoreError> {
        read(&self.short, move |conn| {
            let oldest: Option<i64> = feed::oldest().first(conn).optional()?;
            if oldest.is_none_or(|oldest| oldest > after.get() + 1) {
                return Ok(None);
            }
            let ids: Vec<i64> = feed::users_changed(after.get(), until.get()).load(conn)?;
            Ok(Some(ids.into_iter().map(UserId::new).collect()))
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

    async fn user_by_name(&self, key: String) -> Result<Rows<User>, StoreError> {
        rows(&self.short, |conn| {
            let rows: Vec<UserRow> = query::user_by_name(key).load(conn)?;
            rows.into_iter().map(User::try_from).collect()
        })
        .await
    }

    async fn request(&self, id: RequestId) -> Result<Rows<Request>, StoreError> {
        rows(&self.short, move |conn| {
            let rows: Vec<RequestRow> = query::request(id.get()).load(conn)?;
            rows.into_iter().map(Request::try_from).collect()
        })
        .await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        read(&self.short, move |conn| {
            let revision = mark(conn)?.revision;
            let mut snapshot = Snapshot::default();
            for other in others {
                let Some(key) = PairKey::of(user, other) else { continue };
                let request: Option<RequestRow> =
                    query::request_of_pair(key.low().get(), key.high().get()).first(conn).optional()?;
                if let Some(request) = request {
                    snapshot.add_request(request.try_into()?);
                }
                let block: Option<BlockRow> = query::block(user.get(), other.get()).first(conn).optional()?;
                if let Some(block) = block {
                    snapshot.add_block(user, other, block.block());
                }
            }
            Ok(Read { revision, value: snapshot.pairs })
        })
        .await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<StoredCounts>, StoreError> {
        read(&self.short, move |conn| {
            let revision = mark(conn)?.revision;
            let row: Option<CountsRow> = query::counts(user.get()).first(conn).optional()?;
            let oldest: Option<Stamp> = match expired {
                Some(_) => query::oldest_open().get_result(conn)?,
                None => None,
            };
            let something_expired = oldest.zip(expired).is_some_and(|(oldest, expired)| oldest.0 <= expired);
            let value = StoredCounts { counts: row.map(|row| row.counts()), something_expired };
            Ok(Read { revision, value })
        })
        .await
    }

    async fn counts_without_expired(&self, user: UserId, expired: Time) -> Result<Option<Counts>, StoreError> {
        read(&self.long, move |conn| {
            let load = query::counts_without_expired_requests(user.get(), Stamp(expired));
            let row: Option<CountsRow> = load.get_result(conn).optional()?;
            Ok(row.map(|row| row.counts()))
        })
        .await
    }

    async fn list_users(&self, Range { before, limit }: Range) -> Result<Rows<(User, Sequence)>, StoreError> {
        rows(&self.long, move |conn| positioned(query::users_page(query::first(before), limit).load(conn)?)).await
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Rows<Request>, StoreError> {
        let RequestQuery { user, filter, created_after, range: Range { before, limit } } = query;
        let (id, after, before) = (user.get(), Stamp(created_after), query::first(before));
        rows(&self.short, move |conn| {
            let pending = RequestState::Pending.name();
            let rows: Vec<RequestRow> = match filter {
                RequestFilter::Received(state) => {
                    query::requests_received(id, state.name(), after, before, limit).load(conn)?
                }
                RequestFilter::Unviewed => query::requests_unviewed(id, pending, after, before, limit).load(conn)?,
                RequestFilter::Sent => query::requests_sent(id, after, before, limit).load(conn)?,
                RequestFilter::SentAnd { rejected } => {
                    query::requests_sent_and(id, rejected, after, before, limit).load(conn)?
                }
            };
            rows.into_iter().map(Request::try_from).collect()
        })
        .await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Rows<Connection>, StoreError> {
        let ConnectionQuery { user, mutual, range: Range { before, limit } } = query;
        // With a viewer the query may read all connections of the user.
        let threads = if mutual == Mutual::Any { &self.short } else { &self.long };
        rows(threads, move |conn| {
            let load = query::connections_page(user.get(), mutual, query::first(before), limit);
            let rows: Vec<ConnectionRow> = load.load(conn)?;
            Ok(rows.into_iter().map(Connection::from).collect())
        })
        .await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        read(&self.long, move |conn| Ok(query::connections_shared_total(user.get(), other.get()).first(conn)?)).await
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Rows<Blocked>, StoreError> {
        let BlockQuery { user, range: Range { before, limit } } = query;
        rows(&self.short, move |conn| {
            let rows: Vec<BlockRow> = query::blocks_page(user.get(), query::first(before), limit).load(conn)?;
            Ok(rows.iter().map(BlockRow::blocked).collect())
        })
        .await
    }

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        let find = move |conn: &mut SqliteConnection| {
            let position: Option<i64> = query::user_position(user.get()).first(conn).optional()?;
            Ok(position.map(Sequence::new))
        };
        read(&self.short, find).await
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        read(&self.short, move |conn| {
            let IdempotencyKey { caller, id } = key;
            let row: Option<IdempotentResponseRow> =
                query::idempotent_response(caller, id.to_string()).first(conn).optional()?;
            row.map(IdempotentResponse::try_from).transpose()
        })
        .await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        let EventQuery { filter, after, limit, consumer } = query;
        let threads = match consumer {
            Consumer::Watchers => &self.feed,
            Consumer::Call => &self.long,
        };
        read(threads, move |conn| {
            let head: FeedRow = query::head().first(conn)?;
            let oldest = feed::oldest().first(conn).optional()?;
            let mut rows: Vec<EventRow> = Vec::new();
            match filter {
                EventFilter::All => rows = feed::all_after(after.get(), limit).load(conn)?,
                EventFilter::Of(user) => {
                    for stretches in feed::stretches(after.get(), head.last_sequence, oldest) {
                        let missing = limit - rows.len() as i64;
                        if missing == 0 {
                            break;
                        }
                        rows.extend(feed::of_user_in(stretches, user.get(), after.get(), missing).load(conn)?);
                    }
                }
            }
            feed::slice(head, rows, oldest)
        })
        .await
    }
}
