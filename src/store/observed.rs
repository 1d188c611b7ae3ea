//! A store that measures another one.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{CachedUser, Listed, Pairs, Store, StoreError, Users};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::Request;
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Range, Read, RequestQuery, UserKey,
};

/// Logs the time and the outcome of each call of a store, at the level `debug`. Costs nothing at other levels.
pub struct Observed(pub Arc<dyn Store>);

/// Runs one call. Nothing is measured unless it is logged.
async fn observe<T>(
    method: &'static str,
    call: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return call.await;
    }
    let begun = Instant::now();
    let result = call.await;
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    let error = result.as_ref().err().map(|error| error as &dyn Error);
    tracing::debug!(method, micros, is_ok = error.is_none(), error, "store call");
    result
}

#[async_trait]
impl Store for Observed {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        observe("commit", self.0.commit(batch)).await
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        observe("revision", self.0.revision()).await
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError> {
        observe("user", self.0.user(key)).await
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        observe("users", self.0.users(ids)).await
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        observe("request", self.0.request(id)).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        observe("pairs", self.0.pairs(user, others)).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        observe("counts", self.0.counts(user, expired)).await
    }

    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError> {
        observe("list_users", self.0.list_users(range)).await
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError> {
        observe("list_requests", self.0.list_requests(query)).await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError> {
        observe("list_connections", self.0.list_connections(query)).await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        observe("count_mutual_connections", self.0.count_mutual_connections(user, other)).await
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError> {
        observe("list_blocks", self.0.list_blocks(query)).await
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        observe("idempotent_response", self.0.idempotent_response(key)).await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        observe("events", self.0.events(query)).await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.0.changes()
    }

    fn token_key(&self) -> &[u8] {
        self.0.token_key()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    use super::*;

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

    fn logged(level: tracing::Level, result: Result<(), StoreError>) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .finish();
        let is_ok = result.is_ok();
        let call = observe("users", async { result });
        let returned = tracing::subscriber::with_default(subscriber, || futures_util::FutureExt::now_or_never(call));
        assert_eq!(returned.expect("a call that does not wait").is_ok(), is_ok, "the result is passed on");
        let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("a text")
    }

    #[test]
    fn a_call_is_logged_with_its_method_time_and_outcome_at_the_debug_level() {
        let fine = logged(tracing::Level::DEBUG, Ok(()));
        assert!(fine.contains("method=\"users\"") && fine.contains("micros=") && fine.contains("is_ok=true"), "{fine}");
        let failed = logged(tracing::Level::DEBUG, Err(StoreError::Overloaded));
        assert!(failed.contains("is_ok=false") && failed.contains("too many reads wait"), "{failed}");
        assert_eq!(logged(tracing::Level::INFO, Ok(())), "");
    }
}
