//! SQLite, embedded: one thread writes, a few read, each with a connection of its own.

mod checkpoint;
mod commit;
mod options;
mod reading;
mod threads;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use diesel::connection::{Connection as _, SimpleConnection};
use diesel::prelude::*;
use tokio::sync::{oneshot, watch};

use self::checkpoint::Checkpoint;
use self::commit::Writer;
use self::reading::{Reading, read_all};
use self::threads::{Threads, Work};
use super::feed::{self, EventRow};
use super::row::{BlockRow, ConnectionRow, CountsRow, FeedRow, ReplayRow, RequestRow, UserRow};
use super::schema::Stamp;
use super::users::KeptUsers;
use super::writer::WriterState;
use super::{
    Connection, Events, FeedSlice, Listed, Options, Read, Requests, Sharing, Slice, Store, StoreError, UserKey, Users,
    query,
};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::ledger::Snapshot;
use crate::domain::pair::{Block, Pair, Request, RequestState};
use crate::domain::user::User;

/// What the writer is given, with the way to answer.
struct Write(Arc<Batch>, oneshot::Sender<Result<Replies, StoreError>>);
type Replies = Vec<Result<Reply, Rejection>>;

pub(super) struct SqliteStore {
    // Dropped in this order: the writer, which may move the log into the file, is the last to close.
    fast: Threads<reading::Read>,
    slow: Threads<reading::Read>,
    writer: Threads<Write>,
    token_key: Vec<u8>,
    committed: watch::Sender<()>,
}

impl SqliteStore {
    /// Opens the file, which has been migrated.
    pub(super) fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        let mut conn = open(path)?;
        options::warn_if_slower(&mut conn)?;
        let head: FeedRow = query::head().first(&mut conn)?;
        drop(conn);
        let kept = Arc::new(KeptUsers::new(options.user_cache));
        let (fast, slow) = options.fast_and_slow();
        Ok(Self {
            writer: writer(path, Writer { state: WriterState::new(options.user_cache), users: Arc::clone(&kept) })?,
            fast: readers("kith-read", path, fast, options.reads_per_flight, &kept)?,
            slow: readers("kith-read-slow", path, slow, 1, &kept)?,
            token_key: head.token_key.into_bytes(),
            committed: watch::Sender::new(()),
        })
    }

    /// Runs the queries of a read in one snapshot.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Reading<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.fast.run(|reply| in_snapshot(job, reply)).await
    }

    /// The same for a read that may take long: nobody shall wait behind it.
    async fn read_long<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Reading<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.slow.run(|reply| in_snapshot(job, reply)).await
    }
}

fn in_snapshot<T: Send + 'static>(
    job: impl FnOnce(&mut Reading<'_>) -> Result<T, StoreError> + Send + 'static,
    reply: oneshot::Sender<Result<T, StoreError>>,
) -> reading::Read {
    Box::new(move |reading| {
        if !reply.is_closed() {
            let answer = reading.map_err(StoreError::again).and_then(job);
            // An error means that the caller went away meanwhile; there is nobody to tell.
            let _gone = reply.send(answer);
        }
    })
}

fn readers(
    name: &'static str,
    path: &Path,
    threads: usize,
    most: usize,
    kept: &Arc<KeptUsers>,
) -> Result<Threads<reading::Read>, StoreError> {
    let (path, kept) = (path.to_owned(), Arc::clone(kept));
    let open = move || {
        let mut reader = open(&path)?;
        reader.batch_execute("PRAGMA query_only = ON;")?;
        Ok(reader)
    };
    let serve = move |conn: &mut SqliteConnection, reads: &mut VecDeque<_>| read_all(conn, &kept, reads);
    Threads::start(&Work { name, threads, most, open, serve })
}

fn writer(path: &Path, writer: Writer) -> Result<Threads<Write>, StoreError> {
    // Of the one thread: the lock is never waited for.
    let state = Arc::new(Mutex::new((writer, Checkpoint::start(path)?)));
    let path = path.to_owned();
    let open = move || {
        let mut writer = open(&path)?;
        writer.batch_execute(WRITER)?;
        Ok(writer)
    };
    let serve = move |conn: &mut SqliteConnection, writes: &mut VecDeque<Write>| {
        let Some(Write(batch, reply)) = writes.pop_front() else { return };
        if reply.is_closed() {
            return;
        }
        let (writer, checkpoint) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        let _gone = reply.send(writer.commit(conn, &batch));
        checkpoint.committed(conn);
    };
    Threads::start(&Work { name: "kith-write", threads: 1, most: 1, open, serve })
}

/// How long a connection waits for a lock, in milliseconds.
const BUSY_TIMEOUT: u32 = 5_000;
/// What every connection has. FULL: an acknowledged change survives a power cut. The waiting is done on threads of our
/// own. A cache of 8 MiB: with SQLite's 2 MiB most look-ups in a large database would ask the system for a page.
const SESSION: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                       PRAGMA foreign_keys = ON; PRAGMA cache_size = -8192; PRAGMA wal_autocheckpoint = 0;";
/// What the writer has beyond that: a cache of 16 MiB, and no more, since SQLite goes through all of it after a commit
/// that split a page. It moves the log by itself only if [`Checkpoint`] could not for long.
const WRITER: &str = "PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 131072;";

/// Opens a connection with the settings that every connection has.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
    // SQLite takes bytes; a path that is not UTF-8 is not one that a URL could name.
    let name = path.to_string_lossy();
    let mut conn = SqliteConnection::establish(&name).map_err(|error| StoreError::Unavailable(error.into()))?;
    conn.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT}; {SESSION}"))?;
    Ok(conn)
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let replies = self.writer.run(|reply| Write(batch, reply)).await;
        self.committed.send_replace(());
        replies
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        self.read(|reading| Ok(reading.mark.revision)).await
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<Arc<User>>>, StoreError> {
        self.read(move |reading| {
            let value = match key {
                UserKey::Id(id) => reading.users([id].into())?.remove(&id),
                UserKey::Name(name) => {
                    let row: Option<UserRow> = query::user_by_name(name).first(reading.conn).optional()?;
                    row.map(User::try_from).transpose()?.map(Arc::new)
                }
            };
            Ok(Read { revision: reading.mark.revision, value })
        })
        .await
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        self.read(move |reading| {
            let value = reading.users(ids.into_iter().collect())?;
            Ok(Read { revision: reading.mark.revision, value })
        })
        .await
    }

    async fn users_page(&self, slice: Slice) -> Result<Read<Vec<(Arc<User>, Sequence)>>, StoreError> {
        self.read_long(move |reading| {
            let rows: Vec<UserRow> = query::users_page(slice.before(), slice.limit).load(reading.conn)?;
            Ok(Read { revision: reading.mark.revision, value: super::row::positioned(rows)? })
        })
        .await
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        self.read(move |reading| {
            let row: Option<RequestRow> = query::request(id.get()).first(reading.conn).optional()?;
            reading.requests(row.into_iter().collect(), None)
        })
        .await
    }

    async fn requests(
        &self,
        user: UserId,
        which: Requests,
        after: Time,
        slice: Slice,
    ) -> Result<Listed<Request>, StoreError> {
        self.read(move |reading| {
            let (id, after, before, limit) = (user.get(), Stamp(after), slice.before(), slice.limit);
            let pending = RequestState::Pending.name();
            let rows = match which {
                Requests::Received(state) => {
                    query::requests_received(id, state.name(), after, before, limit).load(reading.conn)?
                }
                Requests::Unviewed => query::requests_unviewed(id, pending, after, before, limit).load(reading.conn)?,
                Requests::Sent => query::requests_sent(id, after, before, limit).load(reading.conn)?,
                Requests::SentIn(state) => {
                    query::requests_sent_in(id, state.name(), after, before, limit).load(reading.conn)?
                }
            };
            reading.requests(rows, Some(user))
        })
        .await
    }

    async fn connections(
        &self,
        user: UserId,
        sharing: Sharing,
        slice: Slice,
    ) -> Result<Listed<Connection>, StoreError> {
        let job = move |reading: &mut Reading<'_>| {
            let (id, before, limit) = (user.get(), slice.before(), slice.limit);
            let rows: Vec<ConnectionRow> = query::connections_page(id, sharing, before, limit).load(reading.conn)?;
            let rows: Vec<_> = rows.into_iter().map(Connection::from).collect();
            let mut named: BTreeSet<_> = rows.iter().map(|row| row.other).collect();
            named.extend(sharing.viewer().into_iter().chain([user]));
            Ok(Listed { revision: reading.mark.revision, users: reading.users(named)?, rows })
        };
        // With a viewer it is as long as the user's list.
        if sharing == Sharing::Any { self.read(job).await } else { self.read_long(job).await }
    }

    async fn shared_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        self.read_long(move |reading| Ok(query::connections_shared_total(user.get(), other.get()).first(reading.conn)?))
            .await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<HashMap<PairKey, Pair>>, StoreError> {
        self.read(move |reading| {
            let mut snapshot = Snapshot::default();
            for other in others {
                let Some(key) = PairKey::of(user, other) else { continue };
                let request: Option<RequestRow> =
                    query::request_of_pair(key.low().get(), key.high().get()).first(reading.conn).optional()?;
                if let Some(request) = request {
                    snapshot.add_request(request.try_into()?);
                }
                let block: Option<BlockRow> = query::block(user.get(), other.get()).first(reading.conn).optional()?;
                if let Some(block) = block {
                    snapshot.add_block(user, other, block.block());
                }
            }
            Ok(Read { revision: reading.mark.revision, value: snapshot.pairs })
        })
        .await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        self.read(move |reading| {
            let row: Option<CountsRow> = query::counts(user.get()).first(reading.conn).optional()?;
            let mut value = row.map(|row| row.counts());
            if let Some(expired) = expired {
                let oldest: Option<Stamp> = query::oldest_open().get_result(reading.conn)?;
                // Something is due and not swept yet; perhaps it is this user's.
                if oldest.is_some_and(|oldest| oldest.0 <= expired) {
                    let row: Option<CountsRow> =
                        query::counts_without_due(user.get(), Stamp(expired)).get_result(reading.conn).optional()?;
                    value = row.map(|row| row.counts());
                }
            }
            Ok(Read { revision: reading.mark.revision, value })
        })
        .await
    }

    async fn blocks(&self, user: UserId, slice: Slice) -> Result<Listed<(UserId, Block)>, StoreError> {
        self.read(move |reading| {
            let rows: Vec<BlockRow> = query::blocks_page(user.get(), slice.before(), slice.limit).load(reading.conn)?;
            let rows: Vec<_> = rows.iter().map(|row| (UserId::new(row.other_user_id), row.block())).collect();
            let named = rows.iter().map(|(other, _)| *other).chain([user]).collect();
            Ok(Listed { revision: reading.mark.revision, users: reading.users(named)?, rows })
        })
        .await
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        self.read(move |reading| {
            let row: Option<ReplayRow> =
                query::replay(key.caller, key.id.to_string()).first(reading.conn).optional()?;
            row.map(IdempotentResponse::try_from).transpose()
        })
        .await
    }

    async fn events(&self, which: Events, after: Sequence, limit: i64) -> Result<FeedSlice, StoreError> {
        self.read_long(move |reading| {
            let head: FeedRow = query::head().first(reading.conn)?;
            let oldest = feed::oldest().first(reading.conn).optional()?;
            let mut rows: Vec<EventRow> = Vec::new();
            match which {
                Events::All => rows = feed::all_after(after.get(), limit).load(reading.conn)?,
                Events::Of(user) => {
                    for stretches in feed::stretches(after.get(), head.last_sequence, oldest) {
                        let missing = limit - rows.len() as i64;
                        if missing == 0 {
                            break;
                        }
                        rows.extend(feed::of_user_in(stretches, user.get(), after.get(), missing).load(reading.conn)?);
                    }
                }
            }
            FeedSlice::new(head, rows, oldest)
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.committed.subscribe()
    }

    fn token_key(&self) -> &[u8] {
        &self.token_key
    }
}
