//! Batches of look-ups: those that arrive at the same time share one statement over arrays.
//!
//! There is no timer. While batches are in progress, the next one forms; a single look-up is not delayed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::store::StoreError;

/// The capacity of the queue; more look-ups are refused.
const QUEUE: usize = 4_096;
/// How many batches are in progress at the same time.
const CONCURRENT: usize = 2;

type Queued<Q, A> = (Q, oneshot::Sender<Result<A, StoreError>>);
type Run<Q, A> = dyn Fn(Vec<Q>) -> BoxFuture<'static, Result<Vec<A>, StoreError>> + Send + Sync;

/// Batches look-ups of one kind.
pub(super) struct Batcher<Q, A> {
    queue: mpsc::Sender<Queued<Q, A>>,
    run: Arc<Run<Q, A>>,
    /// The maximum size of a batch.
    max: usize,
    /// End when this is dropped.
    _workers: JoinSet<()>,
}

impl<Q: Send + 'static, A: Send + 'static> Batcher<Q, A> {
    /// `run` receives at most `max` queries and returns their results in order. 1 turns batching off.
    pub(super) fn new(
        max: usize,
        run: impl Fn(Vec<Q>) -> BoxFuture<'static, Result<Vec<A>, StoreError>> + Send + Sync + 'static,
    ) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        let run: Arc<Run<Q, A>> = Arc::new(run);
        let queued = Arc::new(Mutex::new(queued));
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENT {
            workers.spawn(work(Arc::clone(&queued), Arc::clone(&run), max));
        }
        Self { queue, run, max, _workers: workers }
    }

    /// Runs one query as part of a batch.
    pub(super) async fn get(&self, query: Q) -> Result<A, StoreError> {
        let lost = || StoreError::Internal("a look-up returned no result".into());
        if self.max == 1 {
            return (self.run)(vec![query]).await?.pop().ok_or_else(lost);
        }
        let (sender, result) = oneshot::channel();
        self.queue.try_send((query, sender)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Closed(_) => lost(),
        })?;
        result.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// Runs one batch after the other.
async fn work<Q: Send + 'static, A: Send + 'static>(
    queued: Arc<Mutex<mpsc::Receiver<Queued<Q, A>>>>,
    run: Arc<Run<Q, A>>,
    max: usize,
) {
    let mut batch = Vec::with_capacity(max);
    loop {
        if queued.lock().await.recv_many(&mut batch, max).await == 0 {
            return;
        }
        // Callers that no longer wait are left out.
        let (queries, callers): (Vec<_>, Vec<_>) = batch.drain(..).filter(|(_, to)| !to.is_closed()).unzip();
        if queries.is_empty() {
            continue;
        }
        // In its own task, so that a panic fails only this batch.
        let results = tokio::spawn(run(queries)).await;
        match results.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into()))) {
            Ok(results) => callers.into_iter().zip(results).for_each(|(to, result)| _ = to.send(Ok(result))),
            Err(error) => callers.into_iter().for_each(|to| _ = to.send(Err(error.duplicate()))),
        }
    }
}
