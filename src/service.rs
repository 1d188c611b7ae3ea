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

use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::clock::Clock;
use crate::committer::Committer;
use crate::domain::command::{Command, Outcome, Reply, Submission};
use crate::domain::id::Sequence;
use crate::domain::policy::Policy;
use crate::domain::query::Read;
use crate::error;
use crate::feed;
use crate::mapping::replay::{Mutation, replay_key};
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
    /// Carries out a command and replies; the same reply again when its request id was used before.
    async fn write<M, R>(
        &self,
        message: &M,
        (command, request_id): (Command, Option<Uuid>),
    ) -> Result<Response<R>, Status>
    where
        M: Mutation,
        R: Message + Default + for<'a> From<&'a Outcome>,
    {
        let replay = request_id.map(|id| replay_key::<M, R>(id, message));
        let reply = self.committer.submit(Submission { command, replay }).await?;
        answer(reply)
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

/// How long a read may wait for its revision: so that the answer still reaches the caller.
fn patience<M>(request: &Request<M>) -> Instant {
    let now = Instant::now();
    let left = request.extensions().get::<Deadline>().map(|deadline| deadline.0.saturating_duration_since(now));
    now + left.map_or(REVISION_WAIT, |left| REVISION_WAIT.min(left * 3 / 4))
}

fn answer<R: Message + Default + for<'a> From<&'a Outcome>>(reply: Reply) -> Result<Response<R>, Status> {
    match reply {
        Reply::Fresh(outcome) => Ok(Response::new(R::from(&outcome))),
        Reply::Replayed(bytes) => R::decode(bytes.as_slice()).map(Response::new).map_err(|cause| {
            tracing::error!(error = &cause as &dyn std::error::Error, "a kept answer cannot be read");
            error::internal()
        }),
    }
}
