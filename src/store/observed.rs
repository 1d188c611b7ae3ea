//! A store that measures another one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{CachedUser, Listed, Pairs, Seen, Snapshot, Store, StoreError, Users};
use crate::causes::Causes;
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::epoch::{Epoch, History, Position};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::Request;
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Range, Read, Record, RecordQuery,
    RequestQuery, UserKey, UserKeys,
};
use crate::traces::statements;

/// Measures and counts the calls of a store, and logs each at the level `debug`. A read of a traced call has a span. Costs
/// nothing otherwise.
pub struct Observed {
    store: Arc<dyn Store>,
    /// The number of calls and of failed calls, by method.
    counts: Mutex<BTreeMap<&'static str, (u64, u64)>>,
}

impl Observed {
    /// Observes a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, counts: Mutex::default() }
    }

    /// Runs one read, in a span if its call is traced.
    async fn observe<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        statements(method, self.log(method, call)).await
    }

    /// Runs one call. Nothing is measured unless it is logged.
    async fn log<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return call.await;
        }
        let begun = Instant::now();
        let result = call.await;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let error = result.as_ref().err().map(|error| tracing::field::display(Causes(error)));
        let (calls, failures) = self.count(method, error.is_some());
        tracing::debug!(method, micros, calls, failures, error, "store call");
        result
    }

    /// Counts a call. Returns how many there were of this method, and how many of them failed.
    fn count(&self, method: &'static str, failed: bool) -> (u64, u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (calls, failures) = counts.entry(method).or_default();
        *calls += 1;
        *failures += u64::from(failed);
        (*calls, *failures)
    }
}

#[async_trait]
impl Store for Observed {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        // The engines have a span for each of its groups of statements.
        self.log("commit", self.store.commit(batch)).await
    }

    fn now(&self) -> Time {
        self.store.now()
    }

    async fn position(&self) -> Result<Position, StoreError> {
        self.observe("position", self.store.position()).await
    }

    async fn history(&self, until: &Epoch) -> Result<History, StoreError> {
        self.observe("history", self.store.history(until)).await
    }

    fn seen(&self) -> Seen {
        self.store.seen()
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError> {
        self.observe("user", self.store.user(key)).await
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        self.observe("users", self.store.users(ids)).await
    }

    async fn users_by_key(&self, keys: UserKeys) -> Result<Read<Vec<CachedUser>>, StoreError> {
        self.observe("users_by_key", self.store.users_by_key(keys)).await
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        self.observe("request", self.store.request(id)).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        self.observe("pairs", self.store.pairs(user, others)).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        self.observe("counts", self.store.counts(user, expired)).await
    }

    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError> {
        self.observe("list_users", self.store.list_users(range)).await
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError> {
        self.observe("list_requests", self.store.list_requests(query)).await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError> {
        self.observe("list_connections", self.store.list_connections(query)).await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        self.observe("count_mutual_connections", self.store.count_mutual_connections(user, other)).await
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError> {
        self.observe("list_blocks", self.store.list_blocks(query)).await
    }

    async fn list_records(&self, query: RecordQuery) -> Result<Read<Vec<Record>>, StoreError> {
        self.observe("list_records", self.store.list_records(query)).await
    }

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        self.observe("user_position", self.store.user_position(user)).await
    }

    async fn newest_visible(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        self.observe("newest_visible", self.store.newest_visible(user)).await
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        self.observe("idempotent_response", self.store.idempotent_response(key)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.observe("snapshot", self.store.snapshot()).await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        self.observe("events", self.store.events(query)).await
    }

    async fn lost(&self) -> StoreError {
        self.store.lost().await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.store.changes()
    }

    fn token_key(&self) -> &[u8] {
        self.store.token_key()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::FutureExt;
    use tracing::Level;

    use super::*;
    use crate::store::{DatabaseUrl, Options, connect};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Observes two calls that return at once, the second of which fails. Returns the lines of the log.
    async fn logged(level: Level) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", directory.path().join("kith.db").display());
        let url: DatabaseUrl = url.parse().expect("a URL");
        let observed = Observed::new(connect(&url, Options::default()).await.expect("a store"));
        let log = Log::default();
        let shared = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level)
            .with_writer(move || shared.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let fine = observed.observe("users", async { Ok(7) }).now_or_never();
            assert!(matches!(fine, Some(Ok(7))), "the result is passed on");
            let failed = observed.observe("users", async { Err::<(), _>(StoreError::Overloaded) }).now_or_never();
            assert!(matches!(failed, Some(Err(StoreError::Overloaded))), "the error is passed on");
        });
        let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("a text").lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_call_is_logged_with_its_method_time_and_counts_at_the_debug_level() {
        let lines = logged(Level::DEBUG).await;
        assert_eq!(lines.len(), 2, "{lines:?}");
        for part in ["method=\"users\"", "micros=", "calls=1", "failures=0"] {
            assert!(lines[0].contains(part), "no {part} in {}", lines[0]);
        }
        for part in ["calls=2", "failures=1", "too many reads wait"] {
            assert!(lines[1].contains(part), "no {part} in {}", lines[1]);
        }
        assert!(logged(Level::INFO).await.is_empty());
    }
}
