//! SQLite, embedded: one thread writes, a few read, each with a connection of its own.
//!
//! Threads of our own instead of Diesel's async wrapper: a whole transaction is one hop, and a caller who goes away
//! leaves nothing behind.

mod commit;

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use diesel::connection::{Connection as _, SimpleConnection};
use diesel::prelude::*;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::feed::{self, EventRow};
use super::row::{BlockRow, ConnectionRow, CountsRow, FeedRow, ReplayRow, RequestRow, UserRow};
use super::schema::Stamp;
use super::{
    Connection, Events, FeedSlice, Listed, Read, Requests, Sharing, Slice, Store, StoreError, UserKey, Users, query,
};
use crate::domain::Time;
use crate::domain::command::{Batch, Replay, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::ledger::Snapshot;
use crate::domain::pair::{Block, Pair, Request, RequestState};
use crate::domain::user::User;

/// How many reads may wait for a thread before more are refused.
const READS_WAITING: usize = 4_096;

pub(super) struct SqliteStore {
    // Dropped in this order: the writer, which may move the log into the file, is the last to close.
    readers: Threads,
    writer: Threads,
    token_key: Vec<u8>,
    committed: watch::Sender<()>,
}

impl SqliteStore {
    /// Opens the file, which has been migrated.
    pub(super) fn open(path: &Path, readers: usize) -> Result<Self, StoreError> {
        let head: FeedRow = query::head().first(&mut open(path)?)?;
        let (to_write, to_read) = (path.to_owned(), path.to_owned());
        let open_to_read = move || {
            let mut reader = open(&to_read)?;
            reader.batch_execute("PRAGMA query_only = ON;")?;
            Ok(reader)
        };
        Ok(Self {
            writer: Threads::start("kith-write", 1, move || open(&to_write))?,
            readers: Threads::start("kith-read", readers, open_to_read)?,
            token_key: head.token_key.into_bytes(),
            committed: watch::Sender::new(()),
        })
    }

    /// Runs the queries of one read in one snapshot.
    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.run(|conn| conn.transaction(job)).await
    }
}

/// Opens a connection with the settings that every connection has.
pub(super) fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
    // SQLite takes bytes; a path that is not UTF-8 is not one that a URL could name.
    let name = path.to_string_lossy();
    let mut conn = SqliteConnection::establish(&name).map_err(|error| StoreError::Unavailable(error.into()))?;
    // FULL: an acknowledged change survives a power cut. The waiting is done on threads of our own.
    conn.batch_execute(
        "PRAGMA busy_timeout = 5000;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;",
    )?;
    Ok(conn)
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let replies = self.writer.run(move |conn| commit::commit(conn, &batch)).await;
        self.committed.send_replace(());
        replies
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        self.read(revision).await
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<Arc<User>>>, StoreError> {
        self.read(move |conn| {
            let row: Option<UserRow> = match key {
                UserKey::Id(id) => query::user(id.get()).first(conn).optional()?,
                UserKey::Name(name) => query::user_by_name(name).first(conn).optional()?,
            };
            let value = row.map(User::try_from).transpose()?.map(Arc::new);
            Ok(Read { revision: revision(conn)?, value })
        })
        .await
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        self.read(move |conn| Ok(Read { revision: revision(conn)?, value: users(conn, ids.into_iter().collect())? }))
            .await
    }

    async fn users_page(&self, slice: Slice) -> Result<Read<Vec<(Arc<User>, Sequence)>>, StoreError> {
        self.read(move |conn| {
            let rows: Vec<UserRow> = query::users_page(slice.before(), slice.limit).load(conn)?;
            Ok(Read { revision: revision(conn)?, value: super::row::positioned(rows)? })
        })
        .await
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        self.read(move |conn| {
            let row: Option<RequestRow> = query::request(id.get()).first(conn).optional()?;
            requests(conn, row.into_iter().collect(), None)
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
        self.read(move |conn| {
            let (id, after, before, limit) = (user.get(), Stamp(after), slice.before(), slice.limit);
            let pending = RequestState::Pending.name();
            let rows = match which {
                Requests::Received(state) => {
                    query::requests_received(id, state.name(), after, before, limit).load(conn)?
                }
                Requests::Unviewed => query::requests_unviewed(id, pending, after, before, limit).load(conn)?,
                Requests::Sent => query::requests_sent(id, after, before, limit).load(conn)?,
                Requests::SentIn(state) => {
                    query::requests_sent_in(id, state.name(), after, before, limit).load(conn)?
                }
            };
            requests(conn, rows, Some(user))
        })
        .await
    }

    async fn connections(
        &self,
        user: UserId,
        sharing: Sharing,
        slice: Slice,
    ) -> Result<Listed<Connection>, StoreError> {
        self.read(move |conn| {
            let (id, before, limit) = (user.get(), slice.before(), slice.limit);
            let rows: Vec<ConnectionRow> = query::connections_page(id, sharing, before, limit).load(conn)?;
            let rows: Vec<_> = rows.into_iter().map(Connection::from).collect();
            let mut named: BTreeSet<_> = rows.iter().map(|row| row.other).collect();
            named.extend(sharing.viewer().into_iter().chain([user]));
            Ok(Listed { revision: revision(conn)?, users: users(conn, named)?, rows })
        })
        .await
    }

    async fn shared_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        self.read(move |conn| Ok(query::connections_shared_total(user.get(), other.get()).first(conn)?)).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<HashMap<PairKey, Pair>>, StoreError> {
        self.read(move |conn| {
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
            Ok(Read { revision: revision(conn)?, value: snapshot.pairs })
        })
        .await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        self.read(move |conn| {
            let row: Option<CountsRow> = query::counts(user.get()).first(conn).optional()?;
            let mut value = row.map(|row| row.counts());
            if let Some(expired) = expired {
                let oldest: Option<Stamp> = query::oldest_open().first(conn).optional()?;
                // Something is due and not swept yet; perhaps it is this user's.
                if oldest.is_some_and(|oldest| oldest.0 <= expired) {
                    let row: Option<CountsRow> =
                        query::counts_without_due(user.get(), Stamp(expired)).get_result(conn).optional()?;
                    value = row.map(|row| row.counts());
                }
            }
            Ok(Read { revision: revision(conn)?, value })
        })
        .await
    }

    async fn blocks(&self, user: UserId, slice: Slice) -> Result<Listed<(UserId, Block)>, StoreError> {
        self.read(move |conn| {
            let rows: Vec<BlockRow> = query::blocks_page(user.get(), slice.before(), slice.limit).load(conn)?;
            let rows: Vec<_> = rows.iter().map(|row| (UserId::new(row.other_user_id), row.block())).collect();
            let named = rows.iter().map(|(other, _)| *other).chain([user]).collect();
            Ok(Listed { revision: revision(conn)?, users: users(conn, named)?, rows })
        })
        .await
    }

    async fn replay(&self, id: Uuid) -> Result<Option<Replay>, StoreError> {
        self.read(move |conn| {
            let row: Option<ReplayRow> = query::replay(id.to_string()).first(conn).optional()?;
            row.map(Replay::try_from).transpose()
        })
        .await
    }

    async fn events(&self, which: Events, after: Sequence, limit: i64) -> Result<FeedSlice, StoreError> {
        self.read(move |conn| {
            let head: FeedRow = query::head().first(conn)?;
            let rows: Vec<EventRow> = match which {
                Events::All => feed::all_after(after.get(), limit).load(conn)?,
                Events::Of(user) => feed::of_user_after(user.get(), after.get(), limit).load(conn)?,
            };
            FeedSlice::new(head, rows, feed::oldest().first(conn).optional()?)
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

fn revision(conn: &mut SqliteConnection) -> Result<Sequence, StoreError> {
    Ok(Sequence::new(query::revision().first(conn)?))
}

fn users(conn: &mut SqliteConnection, ids: BTreeSet<UserId>) -> Result<Users, StoreError> {
    let mut users = Users::with_capacity(ids.len());
    for id in ids {
        let row: Option<UserRow> = query::user(id.get()).first(conn).optional()?;
        if let Some(row) = row {
            users.insert(id, Arc::new(row.try_into()?));
        }
    }
    Ok(users)
}

fn requests(
    conn: &mut SqliteConnection,
    rows: Vec<RequestRow>,
    asked: Option<UserId>,
) -> Result<Listed<Request>, StoreError> {
    let rows = rows.into_iter().map(Request::try_from).collect::<Result<Vec<_>, _>>()?;
    let named = rows.iter().flat_map(|row| [row.from, row.to]).chain(asked).collect();
    Ok(Listed { revision: revision(conn)?, users: users(conn, named)?, rows })
}

type Job = Box<dyn FnOnce(&mut SqliteConnection) + Send>;

/// Threads that each own a connection and take jobs from one queue.
struct Threads {
    // `None` only while it is dropped.
    queue: Option<SyncSender<Job>>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(
        name: &str,
        count: usize,
        open: impl Fn() -> Result<SqliteConnection, StoreError> + Clone + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (queue, jobs) = sync_channel(READS_WAITING);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut running = Vec::with_capacity(count);
        for _ in 0..count {
            let (jobs, conn, open) = (Arc::clone(&jobs), open()?, open.clone());
            let work = move || work(&jobs, conn, open);
            let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            running.push(started.map_err(|error| StoreError::Internal(error.into()))?);
        }
        Ok(Self { queue: Some(queue), running })
    }

    /// Runs a job on one of the threads. A caller who goes away before it starts cancels it; one who goes away
    /// later does not disturb it.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = move |conn: &mut SqliteConnection| {
            if !reply.is_closed() {
                // An error means that the caller went away meanwhile; there is nobody to tell.
                let _gone = reply.send(job(conn));
            }
        };
        let gone = || StoreError::Internal("no thread serves the database".into());
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.try_send(Box::new(job)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Disconnected(_) => gone(),
        })?;
        answer.await.map_err(|_| StoreError::Internal("a thread that serves the database has ended".into()))?
    }
}

impl Drop for Threads {
    /// Waits until the connections are closed: the last one moves the log into the database's file and deletes it, so
    /// that after an orderly end one file holds everything.
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.running.drain(..) {
            // A panic was the end of a job, and is told where it was.
            let _ended = thread.join();
        }
    }
}

/// Serves jobs until the store is dropped.
fn work(
    jobs: &Mutex<Receiver<Job>>,
    mut conn: SqliteConnection,
    open: impl Fn() -> Result<SqliteConnection, StoreError>,
) {
    loop {
        // One idle thread waits for the next job, the others wait for it to have got one.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A job that panics takes its caller's answer with it, but not the thread. Its connection may be left within
        // a transaction, so it gets a new one.
        if catch_unwind(AssertUnwindSafe(|| job(&mut conn))).is_err() {
            match open() {
                Ok(fresh) => conn = fresh,
                Err(error) => tracing::error!(error = &error as &dyn Error, "the database cannot be opened again"),
            }
        }
    }
}
