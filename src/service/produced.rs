//! Responses that are long streams with an end. A separate task makes the messages, and waits for the client to read them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{timeout, timeout_at};
use tonic::{Request, Response, Status};

use super::Deadline;
use crate::error;
use crate::telemetry::call::{Call, Stream as OpenStream};

/// The number of messages that wait for the client to read them.
const MESSAGES_MAX: usize = 16;

/// A stream of messages.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The client, as the task sees it.
pub(super) struct Client<T> {
    messages: mpsc::Sender<T>,
    max_silence: Duration,
}

impl<T> Client<T> {
    /// Hands a message to the client, and waits until there is room for it.
    ///
    /// # Errors
    ///
    /// If the client is gone, or reads nothing for too long.
    pub(super) async fn send(&self, message: T) -> Result<(), Status> {
        match timeout(self.max_silence, self.messages.send(message)).await {
            Ok(Ok(())) => Ok(()),
            // Nobody receives this error.
            Ok(Err(_gone)) => Err(error::caller_gone()),
            Err(_silence) => Err(error::answer_not_read()),
        }
    }
}

/// Runs the task that makes the messages of a response. The call ends if its client reads nothing for `max_silence`.
pub(super) fn respond<M, T, F>(
    request: &Request<M>,
    permit: OwnedSemaphorePermit,
    max_silence: Duration,
    task: impl FnOnce(Client<T>) -> F,
) -> Response<Messages<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (messages, receiver) = mpsc::channel(MESSAGES_MAX);
    let making = task(Client { messages, max_silence });
    let until = request.extensions().get::<Deadline>().copied();
    let call = request.extensions().get::<Arc<Call>>().cloned().map(OpenStream::new);
    let (ended, outcome) = oneshot::channel();
    tokio::spawn(async move {
        let result = match until {
            Some(Deadline(until)) => timeout_at(until, making).await.unwrap_or_else(|_| Err(error::deadline_passed())),
            None => making.await,
        };
        // The call was already logged as successful when the stream began.
        if let Err(status) = &result {
            call.iter().for_each(|call| call.failed(status));
        }
        // Its place is free before the client knows of the end.
        drop(permit);
        // Fails if the client is gone.
        _ = ended.send(result);
    });
    Response::new(Box::pin(stream::unfold(Some((receiver, outcome)), next)))
}

/// What the task has made, and how it ended.
type Reading<T> = (mpsc::Receiver<T>, oneshot::Receiver<Result<(), Status>>);

/// Returns the stream's next message, or the error that ended the task.
async fn next<T>(reading: Option<Reading<T>>) -> Option<(Result<T, Status>, Option<Reading<T>>)> {
    let (mut messages, outcome) = reading?;
    if let Some(message) = messages.recv().await {
        return Some((Ok(message), Some((messages, outcome))));
    }
    match outcome.await {
        Ok(Ok(())) => None,
        Ok(Err(status)) => Some((Err(status), None)),
        Err(_) => Some((Err(error::internal("the task of an export ended without a result")), None)),
    }
}
