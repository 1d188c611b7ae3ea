//! A store that fails when a test says so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kith::domain::Time;
use kith::domain::command::{Batch, Command, IdempotencyKey, IdempotentResponse, Reply};
use kith::domain::counts::Counts;
use kith::domain::decide::Rejection;
use kith::domain::id::{RequestId, Sequence, UserId};
use kith::domain::pair::Request;
use kith::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Range, Read, Record, RecordQuery,
    RequestQuery, UserKey, UserKeys,
};
use kith::store::{self, CachedUser, Listed, Pairs, Seen, Snapshot, Store, StoreError, Users};
use tokio::sync::watch;

use super::app::{App, TestClock, options};
use super::database::{Database, Engine};

/// The error text of a broken database. No caller may ever see any of it.
pub const CAUSE: &str = "canary: SELECT secret FROM /var/lib/kith at postgres://kith:hunter2@db (diesel)";

/// The outcome of a read or a commit.
#[derive(Clone, Copy)]
pub enum Fault {
    None,
    /// Waits until another fault is set.
    Blocks,
    Fails(fn() -> StoreError),
    Panics,
    /// Fails a batch that contains the send with this message.
    Poison(&'static str, fn() -> StoreError),
}

/// A store that wraps a real one.
pub struct Faulty {
    inner: Arc<dyn Store>,
    reads: watch::Sender<Fault>,
    commits: watch::Sender<Fault>,
    /// The sizes of the attempted batches, without sweeps.
    batches: Mutex<Vec<usize>>,
    begun: watch::Sender<usize>,
    sweeps_begun: watch::Sender<usize>,
    swept: watch::Sender<bool>,
    event_reads: AtomicUsize,
    probes: AtomicUsize,
}

impl Faulty {
    /// A service over such a store. Its first sweep is done, so that only the test's commands are committed.
    pub async fn app(engine: Engine, change: impl FnOnce(&mut kith::server::Settings)) -> (App, Arc<Self>) {
        let database = Database::migrated(engine).await;
        let clock = TestClock::new();
        let inner = store::connect(&database.url(), clock.options(options())).await.expect("a store");
        let store = Arc::new(Self {
            inner,
            reads: watch::channel(Fault::None).0,
            commits: watch::channel(Fault::None).0,
            batches: Mutex::default(),
            begun: watch::channel(0).0,
            sweeps_begun: watch::channel(0).0,
            swept: watch::channel(false).0,
            event_reads: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
        });
        let app = App::over(database, Arc::<Self>::clone(&store), clock, change).await;
        store.swept.subscribe().wait_for(|swept| *swept).await.expect("a sweep");
        (app, store)
    }

    pub fn reads(&self, fault: Fault) {
        self.reads.send_replace(fault);
    }

    pub fn commits(&self, fault: Fault) {
        self.commits.send_replace(fault);
    }

    /// The sizes of the batches since the previous call.
    pub fn take_batches(&self) -> Vec<usize> {
        std::mem::take(&mut self.batches.lock().expect("a lock"))
    }

    /// Waits until this many batches have been attempted since the start.
    pub async fn begun(&self, batches: usize) {
        self.begun.subscribe().wait_for(|begun| *begun >= batches).await.expect("a batch");
    }

    /// Waits until this many sweeps have begun since the start.
    pub async fn sweeps_begun(&self, sweeps: usize) {
        self.sweeps_begun.subscribe().wait_for(|begun| *begun >= sweeps).await.expect("a sweep");
    }

    /// The number of batches attempted since the start.
    pub fn begun_so_far(&self) -> usize {
        *self.begun.borrow()
    }

    /// The number of batches with a probe of health, since the start.
    pub fn probes(&self) -> usize {
        self.probes.load(Ordering::Relaxed)
    }

    /// The number of reads of events since the start.
    pub fn event_reads(&self) -> usize {
        self.event_reads.load(Ordering::Relaxed)
    }

    async fn reading(&self) -> Result<&dyn Store, StoreError> {
        let mut reads = self.reads.subscribe();
        let fault = *reads.wait_for(|fault| !matches!(fault, Fault::Blocks)).await.expect("a sender");
        match fault {
            Fault::Fails(error) => Err(error()),
            Fault::Panics => panic!("this is a test"),
            Fault::None | Fault::Blocks | Fault::Poison(..) => Ok(&*self.inner),
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        if batch.submissions.iter().any(|submission| matches!(submission.command, Command::Sweep)) {
            self.sweeps_begun.send_modify(|begun| *begun += 1);
            let mut commits = self.commits.subscribe();
            commits.wait_for(|fault| !matches!(fault, Fault::Blocks)).await.expect("a sender");
            let swept = self.inner.commit(batch).await;
            self.swept.send_replace(true);
            return swept;
        }
        // Health probes at moments of its own.
        if batch.submissions.iter().any(|submission| matches!(submission.command, Command::Probe)) {
            self.probes.fetch_add(1, Ordering::Relaxed);
        } else {
            self.batches.lock().expect("a lock").push(batch.submissions.len());
            self.begun.send_modify(|begun| *begun += 1);
        }
        let mut commits = self.commits.subscribe();
        let fault = *commits.wait_for(|fault| !matches!(fault, Fault::Blocks)).await.expect("a sender");
        let has = |words: &str| {
            batch.submissions.iter().any(
                |submission| matches!(&submission.command, Command::Send { message, .. } if message.as_str() == words),
            )
        };
        match fault {
            Fault::Fails(error) => Err(error()),
            Fault::Panics => panic!("this is a test"),
            Fault::Poison(words, error) if has(words) => Err(error()),
            Fault::None | Fault::Blocks | Fault::Poison(..) => self.inner.commit(batch).await,
        }
    }

    fn now(&self) -> Time {
        self.inner.now()
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        self.reading().await?.revision().await
    }

    fn seen(&self) -> Seen {
        self.inner.seen()
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError> {
        self.reading().await?.user(key).await
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        self.reading().await?.users(ids).await
    }

    async fn users_by_key(&self, keys: UserKeys) -> Result<Read<Vec<CachedUser>>, StoreError> {
        self.reading().await?.users_by_key(keys).await
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        self.reading().await?.request(id).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        self.reading().await?.pairs(user, others).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        self.reading().await?.counts(user, expired).await
    }

    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError> {
        self.reading().await?.list_users(range).await
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError> {
        self.reading().await?.list_requests(query).await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError> {
        self.reading().await?.list_connections(query).await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        self.reading().await?.count_mutual_connections(user, other).await
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError> {
        self.reading().await?.list_blocks(query).await
    }

    async fn list_records(&self, query: RecordQuery) -> Result<Read<Vec<Record>>, StoreError> {
        self.reading().await?.list_records(query).await
    }

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        self.reading().await?.user_position(user).await
    }

    async fn newest_visible(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        self.reading().await?.newest_visible(user).await
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        self.reading().await?.idempotent_response(key).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.reading().await?.snapshot().await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        self.event_reads.fetch_add(1, Ordering::Relaxed);
        self.reading().await?.events(query).await
    }

    async fn lost(&self) -> StoreError {
        self.inner.lost().await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.inner.changes()
    }

    fn token_key(&self) -> &[u8] {
        self.inner.token_key()
    }
}
