//! The gRPC services.
//!
//! Each RPC parses its request, calls the committer or the store, and maps the result to a response. It has no other
//! logic.

mod audited;
pub mod block;
pub mod connection;
pub mod connection_request;
pub mod event;
pub mod guard;
pub mod import;
mod pager;
pub mod user;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::committer::Committer;
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Reply, Submission};
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::domain::query::Read;
use crate::error;
use crate::feed;
use crate::mapping::idempotency::{Stored, idempotency};
use crate::mapping::mutation::{Mutation, MutationResponse};
use crate::store::{Listed, Store, Users};
use crate::telemetry::call::Call;

/// The maximum time that a read waits for its `min_revision`.
const REVISION_WAIT: Duration = Duration::from_secs(1);
/// The interval at which such a read is retried when no notification of a commit arrives.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The state that all services share.
#[derive(Clone)]
pub struct Core {
    /// Serves all reads, and the time.
    pub store: Arc<dyn Store>,
    /// Executes all writes.
    pub committer: Committer,
    /// The limits and lifetimes that the rules apply.
    pub policy: Arc<Policy>,
}

impl Core {
    /// Executes a command and returns its response.
    ///
    /// A call that repeats the `request_id` of an earlier one returns the stored response of that call.
    async fn write<M: Mutation>(
        &self,
        request: &Request<M>,
        (command, request_id): (Command, Option<Uuid>),
    ) -> Result<Response<M::Response>, Status> {
        let idempotency = request_id.map(|id| idempotency(id, request.get_ref()));
        let submission = Submission { caller: caller(request)?, command, idempotency };
        let reply = self.committer.submit(submission).await?;
        if let (Reply::Fresh(executed), Some(call)) = (&reply, request.extensions().get::<Arc<Call>>()) {
            call.changed(executed.revision.get());
        }
        self.respond(reply).await
    }

    /// Maps a reply to the call's response. An outcome of another kind of call is an internal error.
    ///
    /// If a user of a stored response was deleted, it has the others as they are now, and only the id of the deleted one.
    async fn respond<R: MutationResponse>(&self, reply: Reply) -> Result<Response<R>, Status> {
        let response = match reply {
            Reply::Fresh(executed) => {
                R::of(&executed).ok_or_else(|| error::internal("the command's outcome is that of another call"))?
            }
            Reply::Stored(bytes) => {
                let mut stored = Stored::<R>::decode(&bytes).map_err(error::internal)?;
                let ids = stored.without_profile().map_err(error::internal)?;
                let users = if ids.is_empty() { Users::new() } else { self.store.users(ids).await?.value };
                stored.with(&users).map_err(error::internal)?
            }
        };
        Ok(Response::new(response))
    }

    /// Runs a read and retries it until its revision reaches `min_revision`.
    ///
    /// Fails after [`REVISION_WAIT`], or earlier if the call's deadline is near. With a single database the first read
    /// reflects every revision that a client can know; with replicas it may not.
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
        let mut result = read().await.map_err(Into::into)?;
        if result.revision() >= min_revision {
            return Ok(result);
        }
        let until = retry_until(request);
        let mut changes = self.store.changes();
        while result.revision() < min_revision {
            // Notifications may be lost, so the read is also retried without one.
            let notified = timeout(RETRY_INTERVAL, changes.changed());
            if timeout_at(until, notified).await.is_err() {
                return Err(error::revision_not_reached(result.revision()));
            }
            result = read().await.map_err(Into::into)?;
        }
        Ok(result)
    }
}

/// A result of a read with the revision that it reflects.
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

/// The deadline of a call. The server stores it in the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// Whether a watch has to end because its connection is to be closed. The server stores it in the request's extensions.
#[derive(Clone, Debug)]
pub struct Leaving(pub watch::Receiver<bool>);

/// Returns the caller, which the server stores in the request's extensions. Without one the call fails.
fn caller<M>(request: &Request<M>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| error::internal("the call has no caller"))
}

/// Returns the time until which a read may be retried.
///
/// It leaves time to send the response before the deadline.
fn retry_until<M>(request: &Request<M>) -> Instant {
    let now = Instant::now();
    let left = request.extensions().get::<Deadline>().map(|deadline| deadline.0.saturating_duration_since(now));
    now + left.map_or(REVISION_WAIT, |left| REVISION_WAIT.min(left * 3 / 4))
}
