//! The RPCs. Each parses its request, asks the committer or the store, and replies; nothing else happens here.

pub mod block;
pub mod connection;
pub mod connection_request;
pub mod event;
mod import;
mod pager;
pub mod user;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::clock::Clock;
use crate::committer::Committer;
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Reply, Submission};
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::domain::query::Read;
use crate::error;
use crate::feed;
use crate::mapping::idempotency::idempotency;
use crate::mapping::mutation::{Mutation, MutationResponse};
use crate::store::{Listed, Store};

/// The longest that a read waits for its revision.
const REVISION_WAIT: Duration = Duration::from_secs(1);
/// How often such a read asks the database, although it told of nothing.
const ASKED_AGAIN: Duration = Duration::from_millis(50);

/// What every RPC works with.
#[derive(Clone)]
pub struct Core {
    /// Where everything is read.
    pub store: Arc<dyn Store>,
    /// The one way to write.
    pub committer: Committer,
    /// The rules' settings.
    pub policy: Arc<Policy>,
    /// The time.
    pub clock: Clock,
}

impl Core {
    /// Executes a command and responds. A repetition of a call gets the response of the first.
    async fn write<M: Mutation>(
        &self,
        request: &Request<M>,
        (command, request_id): (Command, Option<Uuid>),
    ) -> Result<Response<M::Response>, Status> {
        let idempotency = request_id.map(|id| idempotency(id, request.get_ref()));
        let submission = Submission { caller: caller(request)?, command, idempotency };
        respond(self.committer.submit(submission).await?)
    }

    /// Reads, and again if need be until the answer reflects `min_revision`: at most for a second, and not for longer
    /// than the caller waits. On one database the first answer does.
    async fn read<M, T, E, F>(
        &self,
        request: &Request<M>,
        min_revision: Sequence,
        read: impl Fn() -> F,
    ) -> Result<T, Status>
    where
        T: Revised,
        E: Into<Status>,
        F: Future<Output = Result<T, E>>,
    {
        let mut answer = read().await.map_err(Into::into)?;
        if answer.revision() >= min_revision {
            return Ok(answer);
        }
        let until = patience(request);
        let mut changes = self.store.changes();
        while answer.revision() < min_revision {
            // Not every change is told of, so the database is asked now and then too.
            let news = timeout(ASKED_AGAIN, changes.changed());
            if timeout_at(until, news).await.is_err() {
                return Err(error::revision_not_reached(answer.revision()));
            }
            answer = read().await.map_err(Into::into)?;
        }
        Ok(answer)
    }
}

/// An answer that says which revision it reflects.
trait Revised {
    fn revision(&self) -> Sequence;
}

impl<T> Revised for Read<T> {
    fn revision(&self) -> Sequence {
        self.revision
    }
}

impl<T> Revised for Listed<T> {
    fn revision(&self) -> Sequence {
        self.revision
    }
}

impl Revised for feed::Page {
    fn revision(&self) -> Sequence {
        self.revision
    }
}

/// When the caller's time runs out. Whoever takes the call notes it in the request.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// Who makes this call. The server notes it in each request; a request without one is refused.
fn caller<M>(request: &Request<M>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| error::internal("the call has no caller"))
}

/// How long a read may wait for its revision: so that the answer still reaches the caller.
fn patience<M>(request: &Request<M>) -> Instant {
    let now = Instant::now();
    let left = request.extensions().get::<Deadline>().map(|deadline| deadline.0.saturating_duration_since(now));
    now + left.map_or(REVISION_WAIT, |left| REVISION_WAIT.min(left * 3 / 4))
}

/// The one place where an outcome that is not the call's becomes an internal error.
fn respond<R: MutationResponse>(reply: Reply) -> Result<Response<R>, Status> {
    match reply {
        Reply::Fresh(executed) => {
            let response = R::of(&executed).map(Response::new);
            response.ok_or_else(|| error::internal("the command's outcome is that of another call"))
        }
        Reply::Stored(bytes) => R::decode(bytes.as_slice()).map(Response::new).map_err(error::internal),
    }
}
