//! The gRPC services.
//!
//! Each RPC parses its request, calls the committer or the store, and maps the result to a response. It has no other
//! logic.

mod audited;
mod batch;
pub mod block;
pub mod connection;
pub mod connection_request;
pub mod event;
pub mod export;
pub mod guard;
pub mod import;
mod pager;
mod produced;
pub mod relations;
pub mod user;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio::try_join;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::committer::Committer;
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Reply, Submission};
use crate::domain::epoch::{Epoch, Position, Verdict};
use crate::domain::id::{Sequence, UserId};
use crate::domain::policy::Policy;
use crate::domain::query::Read;
use crate::error;
use crate::feed;
use crate::mapping::idempotency::{Stored, idempotency};
use crate::mapping::mutation::{Mutation, MutationResponse, reduce};
use crate::mapping::page::Expected;
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
        let caller = caller(request)?;
        let user = caller.user();
        let submission = Submission { caller, command, idempotency };
        let reply = self.committer.submit(submission).await?;
        if let (Reply::Fresh(executed), Some(call)) = (&reply, request.extensions().get::<Arc<Call>>()) {
            call.changed(executed.revision.get());
        }
        self.respond(user, reply).await
    }

    /// Maps a reply to the call's response. An outcome of another kind of call is an internal error.
    ///
    /// If a user of a stored response was deleted, it has the others as they are now, and only the id of the deleted one.
    /// A user who calls sees of all others the basic view.
    async fn respond<R: MutationResponse>(&self, caller: Option<UserId>, reply: Reply) -> Result<Response<R>, Status> {
        let mut response = match reply {
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
        if let Some(caller) = caller {
            reduce(&mut response, caller).map_err(error::internal)?;
        }
        Ok(Response::new(response))
    }

    /// Runs a read and retries it until it reflects what is expected.
    ///
    /// Fails after [`REVISION_WAIT`], or earlier if the call's deadline is near. With a single database the first read
    /// reflects every revision that a client can know; with replicas it may not. Fails immediately if events that the client
    /// knows of were lost.
    ///
    /// For a user who calls, the revision is that of the newest event that they may see. So is what is compared with
    /// `min_revision`: otherwise it would show where the feed ends.
    async fn read<M, T, E, F>(
        &self,
        request: &Request<M>,
        expected: impl Into<Expected>,
        read: impl Fn() -> F,
    ) -> Result<T, Status>
    where
        T: Revised,
        E: Into<Status>,
        F: Future<Output = Result<T, E>>,
    {
        let (user, expected) = (caller(request)?.user(), expected.into());
        let mut result = self.read_once(user, &read).await?;
        let mut reflects = self.reflects(&result, &expected).await?;
        if reflects == Reflects::All {
            return Ok(result.own);
        }
        let until = retry_until(request);
        let mut changes = self.store.changes();
        while reflects != Reflects::All {
            // Notifications may be lost, so the read is also retried without one.
            let notified = timeout(RETRY_INTERVAL, changes.changed());
            if timeout_at(until, notified).await.is_err() {
                return Err(match reflects {
                    Reflects::OtherEpochs => error::wrong_epoch(result.own.epoch(), None),
                    Reflects::Less | Reflects::All => error::revision_not_reached(result.own.revision()),
                });
            }
            result = self.read_once(user, &read).await?;
            reflects = self.reflects(&result, &expected).await?;
        }
        Ok(result.own)
    }

    /// Returns how much of what is expected a result reflects.
    ///
    /// Asks the database only if another epoch than that of the result is expected.
    async fn reflects<T: Revised>(&self, result: &Once<T>, expected: &Expected) -> Result<Reflects, Status> {
        let Expected { min_revision, seen } = expected;
        let (newest, own) = (result.own.epoch(), result.own.revision());
        for (Position { epoch, sequence }, reached) in
            [(min_revision, own)].into_iter().chain(seen.iter().map(|seen| (seen, result.revision)))
        {
            if !epoch.is_named() || epoch == newest {
                if reached < *sequence {
                    return Ok(Reflects::Less);
                }
                continue;
            }
            match self.store.history(newest).await?.judge(epoch, *sequence) {
                Verdict::Good => {}
                Verdict::Wrong { common } => return Err(error::wrong_epoch(newest, Some(common.min(own)))),
                // A replica may not have it yet.
                Verdict::Unknown => return Ok(Reflects::OtherEpochs),
            }
        }
        Ok(Reflects::All)
    }

    /// Runs a read. For a user who calls, replaces its revision by theirs.
    async fn read_once<T, E, F>(&self, user: Option<UserId>, read: &impl Fn() -> F) -> Result<Once<T>, Status>
    where
        T: Revised,
        E: Into<Status>,
        F: Future<Output = Result<T, E>>,
    {
        let Some(user) = user else {
            let own = read().await.map_err(Into::into)?;
            return Ok(Once { revision: own.revision(), own });
        };
        let (visible, mut result) =
            try_join!(async { self.store.newest_visible(user).await.map_err(Status::from) }, async {
                read().await.map_err(Into::into)
            },)?;
        let visible = visible.unwrap_or_default();
        // A commit came between the two, and the result may not reflect it.
        if result.revision() < visible {
            result = read().await.map_err(Into::into)?;
        }
        let revision = result.revision();
        // Smaller only on a replica that is behind another one.
        Ok(Once { revision, own: result.with_revision(visible.min(revision)) })
    }
}

/// The result of one read.
struct Once<T> {
    /// The revision that it reflects.
    revision: Sequence,
    /// The result. For a user who calls, with their revision.
    own: T,
}

/// How much of what is expected a read reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reflects {
    /// All of it.
    All,
    /// Less: the database has not reached the revision.
    Less,
    /// The database does not know the epoch.
    OtherEpochs,
}

/// A result of a read with the revision that it reflects.
trait Revised {
    fn revision(&self) -> Sequence;

    fn epoch(&self) -> &Epoch;

    /// Returns the result with an earlier revision, which it reflects too.
    fn with_revision(self, revision: Sequence) -> Self;
}

impl<T> Revised for Read<T> {
    fn revision(&self) -> Sequence {
        self.revision
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    fn with_revision(self, revision: Sequence) -> Self {
        Self { revision, ..self }
    }
}

impl<T> Revised for Listed<T> {
    fn revision(&self) -> Sequence {
        self.revision
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    fn with_revision(self, revision: Sequence) -> Self {
        Self { revision, ..self }
    }
}

impl Revised for feed::Page {
    fn revision(&self) -> Sequence {
        self.revision
    }

    fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The page may have later events than the revision. It reflects these too.
    fn with_revision(self, revision: Sequence) -> Self {
        let last = self.events.last().map_or(revision, |event| event.sequence);
        Self { revision: revision.max(last), ..self }
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
