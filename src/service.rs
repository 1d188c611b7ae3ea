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

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
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
use crate::feed::{self, FeedError};
use crate::mapping::idempotency::{Stored, idempotency};
use crate::mapping::mutation::{Mutation, MutationResponse, reduce};
use crate::mapping::page::Expected;
use crate::store::{Listed, Replica, Replicas, Route, Store, StoreError, Users};
use crate::telemetry::call::Call;

/// The maximum time that a read waits for its `min_revision`.
const REVISION_WAIT: Duration = Duration::from_secs(1);
/// The interval at which such a read is retried when no notification of a commit arrives.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The state that all services share.
#[derive(Clone)]
pub struct Core {
    /// The time, and all reads that replicas do not serve.
    pub store: Arc<dyn Store>,
    /// Replicas of it, which serve reads that say what they must reflect.
    pub replicas: Replicas,
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

    /// Runs a read on a replica, or where [`Replicas::route`] says, so that it reflects what is expected.
    ///
    /// A read that a replica cannot serve runs on the primary, as by [`read_primary`](Self::read_primary).
    async fn read<M, T, E>(
        &self,
        request: &Request<M>,
        expected: impl Into<Expected>,
        read: impl for<'a> Fn(&'a dyn Store) -> BoxFuture<'a, Result<T, E>>,
    ) -> Result<T, Status>
    where
        T: Revised,
        E: ReadError,
    {
        let (user, until, expected) = (caller(request)?.user(), retry_until(request), expected.into());
        let store = match self.replicas.route(expected.sequence()) {
            Route::Primary => &*self.store,
            Route::Instead(store) => store,
            Route::Replica(replica) => {
                // A part of the time that there is: the primary may have to be waited for too.
                let limit = until.saturating_duration_since(Instant::now()) / 4;
                match read_replica(replica, user, (&expected, limit), &read).await {
                    Some(result) => return Ok(result),
                    None => self.replicas.instead().unwrap_or(&*self.store),
                }
            }
        };
        read_until(store, user, (&expected, until), &read).await
    }

    /// Runs a read that replicas do not serve.
    async fn read_primary<M, T, E>(
        &self,
        request: &Request<M>,
        expected: impl Into<Expected>,
        read: impl for<'a> Fn(&'a dyn Store) -> BoxFuture<'a, Result<T, E>>,
    ) -> Result<T, Status>
    where
        T: Revised,
        E: ReadError,
    {
        let (user, until) = (caller(request)?.user(), retry_until(request));
        read_until(&*self.store, user, (&expected.into(), until), &read).await
    }
}

/// Runs a read on a replica; `None` if it cannot serve it.
async fn read_replica<T, E>(
    replica: &Replica,
    user: Option<UserId>,
    (expected, limit): (&Expected, Duration),
    read: &impl for<'a> Fn(&'a dyn Store) -> BoxFuture<'a, Result<T, E>>,
) -> Option<T>
where
    T: Revised,
    E: ReadError,
{
    let outcome = replica.reach(expected.sequence(), limit).await?;
    let once = async {
        let result = read_once(replica.store(), user, read).await?;
        Ok::<_, E>((reflects(replica.store(), &result, expected).await, result))
    };
    match replica.run(once).await? {
        Ok((Ok(Reflects::All), result)) => {
            replica.served(outcome);
            Some(result.own)
        }
        Ok(_) => {
            replica.behind();
            None
        }
        Err(error) => {
            match error.of_store() {
                Some(error) => replica.failed(Some(error)),
                // Such as a cursor that it does not have yet.
                None => replica.behind(),
            }
            None
        }
    }
}

/// Runs a read and retries it until it reflects what is expected.
///
/// Fails after [`REVISION_WAIT`], or earlier if the call's deadline is near. With a single database the first read
/// reflects every revision that a client can know; on a standby it may not. Fails immediately if events that the client
/// knows of were lost.
///
/// For a user who calls, the revision is that of the newest event that they may see. So is what is compared with
/// `min_revision`: otherwise it would show where the feed ends.
async fn read_until<T, E>(
    store: &dyn Store,
    user: Option<UserId>,
    (expected, until): (&Expected, Instant),
    read: &impl for<'a> Fn(&'a dyn Store) -> BoxFuture<'a, Result<T, E>>,
) -> Result<T, Status>
where
    T: Revised,
    E: ReadError,
{
    let mut result = read_once(store, user, read).await.map_err(Into::into)?;
    let mut reflected = reflects(store, &result, expected).await?;
    if reflected == Reflects::All {
        return Ok(result.own);
    }
    let mut changes = store.changes();
    while reflected != Reflects::All {
        // Notifications may be lost, so the read is also retried without one.
        let notified = timeout(RETRY_INTERVAL, changes.changed());
        if timeout_at(until, notified).await.is_err() {
            return Err(match reflected {
                Reflects::OtherEpochs => error::wrong_epoch(result.own.epoch(), None),
                Reflects::Less | Reflects::All => error::revision_not_reached(result.own.revision()),
            });
        }
        result = read_once(store, user, read).await.map_err(Into::into)?;
        reflected = reflects(store, &result, expected).await?;
    }
    Ok(result.own)
}

/// Returns how much of what is expected a result of a store reflects.
///
/// Asks the database only if another epoch than that of the result is expected.
async fn reflects<T: Revised>(store: &dyn Store, result: &Once<T>, expected: &Expected) -> Result<Reflects, Status> {
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
        match store.history(newest).await?.judge(epoch, *sequence) {
            // A user does not learn where an epoch ended: beyond their own revision both have the same answer.
            Verdict::Good if reached < *sequence => return Err(error::wrong_epoch(newest, Some(own))),
            Verdict::Good => {}
            Verdict::Wrong { common } => return Err(error::wrong_epoch(newest, Some(common.min(own)))),
            // A replica may not have it yet.
            Verdict::Unknown => return Ok(Reflects::OtherEpochs),
        }
    }
    Ok(Reflects::All)
}

/// An error of a read.
trait ReadError: From<StoreError> + Into<Status> {
    /// The error of the database, if it is one.
    fn of_store(&self) -> Option<&StoreError>;
}

impl ReadError for StoreError {
    fn of_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl ReadError for FeedError {
    fn of_store(&self) -> Option<&StoreError> {
        if let Self::Store(error) = self { Some(error) } else { None }
    }
}

/// Runs a read. For a user who calls, replaces its revision by theirs.
async fn read_once<T, E>(
    store: &dyn Store,
    user: Option<UserId>,
    read: &impl for<'a> Fn(&'a dyn Store) -> BoxFuture<'a, Result<T, E>>,
) -> Result<Once<T>, E>
where
    T: Revised,
    E: ReadError,
{
    let Some(user) = user else {
        let own = read(store).await?;
        return Ok(Once { revision: own.revision(), own });
    };
    let (visible, mut result) =
        try_join!(async { store.newest_visible(user).await.map_err(E::from) }, async { read(store).await })?;
    let visible = visible.unwrap_or_default();
    // A commit came between the two, and the result may not reflect it.
    if result.revision() < visible {
        result = read(store).await?;
    }
    let revision = result.revision();
    // Smaller only if the store is a replica behind a name that stands for several.
    Ok(Once { revision, own: result.with_revision(visible.min(revision)) })
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

impl<R: Revised, T> Revised for (R, T) {
    fn revision(&self) -> Sequence {
        self.0.revision()
    }

    fn epoch(&self) -> &Epoch {
        self.0.epoch()
    }

    fn with_revision(self, revision: Sequence) -> Self {
        (self.0.with_revision(revision), self.1)
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
