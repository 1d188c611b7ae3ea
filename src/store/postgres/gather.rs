//! Look-ups that come at the same time share a flight: one statement over arrays answers all that wait.
//!
//! There is no timer. While one flight is under way the next gathers; who comes alone flies alone.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::store::StoreError;

/// How many look-ups of a kind may wait before more are refused.
const WAITING_MAX: usize = 4_096;
/// How many flights of a kind are under way at the same time.
const FLIGHTS: usize = 2;

type Asked<Q, A> = (Q, oneshot::Sender<Result<A, StoreError>>);
type Answering<Q, A> = dyn Fn(Vec<Q>) -> BoxFuture<'static, Result<Vec<A>, StoreError>> + Send + Sync;

/// Look-ups of one kind.
pub(super) struct Gather<Q, A> {
    waiting: mpsc::Sender<Asked<Q, A>>,
    answering: Arc<Answering<Q, A>>,
    /// The most in one flight.
    most: usize,
    /// End when this is dropped.
    _flights: JoinSet<()>,
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// `answering` answers at most `most` questions, in their order; with 1, each has a flight of its own.
    pub(super) fn new(
        most: usize,
        answering: impl Fn(Vec<Q>) -> BoxFuture<'static, Result<Vec<A>, StoreError>> + Send + Sync + 'static,
    ) -> Self {
        let (waiting, asked) = mpsc::channel(WAITING_MAX);
        let answering: Arc<Answering<Q, A>> = Arc::new(answering);
        let asked = Arc::new(Mutex::new(asked));
        let mut flights = JoinSet::new();
        for _ in 0..FLIGHTS {
            flights.spawn(fly(Arc::clone(&asked), Arc::clone(&answering), most));
        }
        Self { waiting, answering, most, _flights: flights }
    }

    /// The answer to one question.
    pub(super) async fn ask(&self, question: Q) -> Result<A, StoreError> {
        let lost = || StoreError::Internal("a look-up was not answered".into());
        if self.most == 1 {
            return (self.answering)(vec![question]).await?.pop().ok_or_else(lost);
        }
        let (sender, answer) = oneshot::channel();
        self.waiting.try_send((question, sender)).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Overloaded,
            TrySendError::Closed(_) => lost(),
        })?;
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

async fn fly<Q: Send + 'static, A: Send + 'static>(
    asked: Arc<Mutex<mpsc::Receiver<Asked<Q, A>>>>,
    answering: Arc<Answering<Q, A>>,
    most: usize,
) {
    let mut gathered = Vec::with_capacity(most);
    loop {
        if asked.lock().await.recv_many(&mut gathered, most).await == 0 {
            return;
        }
        // Whoever went away is not served.
        let (questions, answers): (Vec<_>, Vec<_>) = gathered.drain(..).filter(|(_, to)| !to.is_closed()).unzip();
        if questions.is_empty() {
            continue;
        }
        // In a task of its own: a panic takes its flight with it, and not all that come after.
        let found = tokio::spawn(answering(questions)).await;
        match found.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into()))) {
            Ok(found) => answers.into_iter().zip(found).for_each(|(to, answer)| _ = to.send(Ok(answer))),
            Err(error) => answers.into_iter().for_each(|to| _ = to.send(Err(error.again()))),
        }
    }
}
