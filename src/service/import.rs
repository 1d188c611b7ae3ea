//! The import of users from a client stream.
//!
//! Rows are stored in chunks while the stream is read. An invalid row is refused without affecting the others.
//!
//! A row whose username another user has waits until the end of the stream. The rows that wait are then decided together,
//! so that users can exchange their names, however far apart their rows are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};
use uuid::Uuid;

use super::Core;
use crate::committer::{CommitError, Queued};
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Idempotency, IdempotencyKey, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::epoch::Position;
use crate::domain::outcome::{Executed, ImportRefusal, ImportSummary, Imported, Outcome, RefusalReason};
use crate::domain::user::{Profile, User};
use crate::error;
use crate::mapping::idempotency::Fingerprint;
use crate::mapping::invalid::{Fields, Invalid};
use crate::mapping::user as mapping;
use crate::metrics::refusals::Cause;
use crate::proto::server as pb;

/// The maximum number of rows that one import has in the committer's queue of rows.
const CHUNK_SIZE: usize = 256;
/// The size of those rows in bytes, from which no further one is read. An import holds little more than that, and the rows
/// that wait for their usernames.
const CHUNK_BYTES: usize = 1024 * 1024;
/// The number of rows at which those that wait for their usernames are decided before the end of the stream.
///
/// They are decided in one command, and so in one batch. It has fewer than twice as many.
const WAITING_MAX: usize = 256;
/// The maximum number of refused rows that the response describes.
const REFUSALS_MAX: usize = 1_000;

/// The limits of imports.
#[derive(Clone, Debug)]
pub struct Imports {
    permits: Arc<Semaphore>,
    max_silence: Duration,
}

impl Imports {
    /// Takes one of the places for imports.
    ///
    /// # Errors
    ///
    /// OVERLOADED if too many imports run.
    pub(super) fn begin(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| error::overloaded(Cause::Imports))
    }

    /// Returns how long a client may take to send the next rows.
    pub(super) fn max_silence(&self) -> Duration {
        self.max_silence
    }

    /// Allows this many imports at the same time. Each must send the next row within `max_silence`.
    pub fn new(max: usize, max_silence: Duration) -> Self {
        Self { permits: Arc::new(Semaphore::new(max)), max_silence }
    }
}

/// The rows that a client sends.
struct Rows {
    stream: Streaming<pb::ImportUsersRequest>,
    max_silence: Duration,
}

impl Rows {
    /// Waits for the next row. `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<pb::ImportUsersRequest>, Status> {
        timeout(self.max_silence, self.stream.message()).await.unwrap_or_else(|_| Err(error::deadline_passed()))
    }

    /// Waits for the rows that follow this one, until a chunk is full or the stream ends.
    async fn chunk(&mut self, first: pb::ImportUsersRequest) -> Result<Vec<pb::ImportUsersRequest>, Status> {
        let mut bytes = first.encoded_len();
        let mut chunk = vec![first];
        while chunk.len() < CHUNK_SIZE && bytes < CHUNK_BYTES {
            let Some(row) = self.next().await? else { break };
            bytes += row.encoded_len();
            chunk.push(row);
        }
        Ok(chunk)
    }
}

/// Runs an import and returns its response.
///
/// # Errors
///
/// OVERLOADED before anything is read if too many imports run.
pub(super) async fn run(
    core: &Core,
    limits: &Imports,
    caller: Caller,
    stream: Streaming<pb::ImportUsersRequest>,
) -> Result<Response<pb::ImportUsersResponse>, Status> {
    let _permit = limits.begin()?;
    let mut rows = Rows { stream, max_silence: limits.max_silence };
    let Some(first) = rows.next().await? else {
        let position = core.store.position().await?;
        return Ok(Response::new(mapping::import_response(&ImportSummary::default(), &position)));
    };
    let request_id = request_id(&first)?;
    if let Some(id) = request_id
        && let Some(reply) = stored_response(core, IdempotencyKey::new(&caller, id), &first, &mut rows).await?
    {
        return core.respond(None, reply).await;
    }
    let mut import = Import {
        core,
        caller,
        summary: ImportSummary::default(),
        reached: Position::default(),
        position: 0,
        waiting: BTreeMap::new(),
    };
    let mut fingerprint = Fingerprint::default();
    let mut next = Some(first);
    while let Some(row) = next {
        let chunk = rows.chunk(row).await?;
        chunk.iter().for_each(|row| fingerprint.add(row));
        import.store(chunk).await?;
        next = rows.next().await?;
    }
    import.decide_waiting().await?;
    import.limit_refusals();
    import.finish(request_id.map(|id| (id, fingerprint))).await
}

fn request_id(first: &pb::ImportUsersRequest) -> Result<Option<Uuid>, Invalid> {
    let mut fields = Fields::default();
    let id = fields.request_id(&first.request_id);
    fields.finish(id)
}

/// Returns the stored response of an earlier import with the same `request_id`, if there is one.
///
/// Reads the rest of the stream to compare its fingerprint, and stores none of it.
async fn stored_response(
    core: &Core,
    key: IdempotencyKey,
    first: &pb::ImportUsersRequest,
    rows: &mut Rows,
) -> Result<Option<Reply>, Status> {
    let id = key.id;
    let stored = core.store.idempotent_response(key).await?;
    let Some(stored) = stored.filter(|stored| stored.is_current(core.store.now())) else { return Ok(None) };
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(first);
    while let Some(row) = rows.next().await? {
        fingerprint.add(&row);
    }
    if fingerprint.finish() != stored.fingerprint {
        return Err(Rejection::RequestIdReused(id).into());
    }
    Ok(Some(Reply::Stored(stored.encoded.response)))
}

struct Import<'a> {
    core: &'a Core,
    caller: Caller,
    summary: ImportSummary,
    reached: Position,
    position: i64,
    /// Rows whose usernames were taken, by their positions.
    waiting: BTreeMap<i64, Profile>,
}

impl Import<'_> {
    /// Stores a chunk of rows in order, and counts the result of each.
    async fn store(&mut self, chunk: Vec<pb::ImportUsersRequest>) -> Result<(), Status> {
        let mut in_progress = Vec::with_capacity(chunk.len());
        for row in chunk {
            let position = self.position;
            self.position += 1;
            match self.read(&row, position) {
                Ok(profile) => {
                    let queued = self.enqueue(Command::ImportUser(Box::new(profile.clone())), None).await?;
                    in_progress.push((position, profile, queued));
                }
                Err(invalid) => self.refuse(position, RefusalReason::InvalidFields, violations(invalid)),
            }
        }
        for (position, profile, queued) in in_progress {
            let reply = queued.result().await;
            self.settle(position, profile, reply)?;
        }
        // Only now is it known which rows of the chunk are the last ones about their users.
        if self.waiting.len() >= WAITING_MAX {
            self.decide_waiting().await?;
        }
        self.limit_refusals();
        Ok(())
    }

    async fn enqueue(&self, command: Command, idempotency: Option<Idempotency>) -> Result<Queued, CommitError> {
        let submission = Submission { caller: self.caller.clone(), command, idempotency };
        self.core.committer.enqueue(submission).await
    }

    fn read(&self, row: &pb::ImportUsersRequest, position: i64) -> Result<Profile, Invalid> {
        if position > 0 && !row.request_id.is_empty() {
            let mut fields = Fields::default();
            fields.violation("request_id", "must be in the first message only");
            fields.finish(())?;
        }
        mapping::import(row, &self.core.policy, self.core.store.now())
    }

    /// Counts a row that was stored, refuses it, or lets it wait for its username.
    fn settle(&mut self, position: i64, profile: Profile, reply: Result<Reply, CommitError>) -> Result<(), Status> {
        let stored = match reply {
            Err(CommitError::Rejected(rejection)) => {
                self.supersede(|waiting| is_same(waiting, &profile));
                if !matches!(rejection, Rejection::UsernameTaken(_)) {
                    return self.reject(position, rejection);
                }
                self.waiting.insert(position, profile);
                return Ok(());
            }
            reply => executed(reply)?,
        };
        let at = stored.position();
        let Outcome::UserImported(user, imported) = stored.outcome else {
            return Err(error::internal("an imported row has the outcome of another call"));
        };
        self.supersede(|waiting| is_about(waiting, &user));
        self.count(imported, at);
        Ok(())
    }

    /// Refuses the rows that wait and are about the user of a later row.
    ///
    /// Of several rows about one user, the last one holds. An earlier one must not be stored after it.
    fn supersede(&mut self, is_earlier: impl Fn(&Profile) -> bool) {
        let earlier: Vec<_> = self.waiting.extract_if(.., |_, waiting| is_earlier(waiting)).collect();
        for (position, profile) in earlier {
            let rejection = Rejection::UsernameTaken(profile.username.as_str().to_owned());
            // Such a rejection is always the refusal of a row.
            _ = self.reject(position, rejection);
        }
    }

    /// Decides the rows that wait for their usernames: each is stored or refused.
    async fn decide_waiting(&mut self) -> Result<(), Status> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (positions, rows): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        let queued = self.enqueue(Command::ImportTogether(rows), None).await?;
        let executed = executed(queued.result().await)?;
        let position = executed.position();
        let Outcome::UsersImported(imported) = executed.outcome else {
            return Err(error::internal("imported rows have the outcome of another call"));
        };
        for (row, imported) in positions.into_iter().zip(imported) {
            match imported {
                Ok(imported) => self.count(imported, position.clone()),
                Err(rejection) => self.reject(row, rejection)?,
            }
        }
        Ok(())
    }

    fn count(&mut self, imported: Imported, at: Position) {
        self.reached.advance(at);
        match imported {
            Imported::Created => self.summary.created += 1,
            Imported::Updated => self.summary.updated += 1,
            Imported::Unchanged => self.summary.unchanged += 1,
        }
    }

    /// Refuses a row that was rejected.
    fn reject(&mut self, position: i64, rejection: Rejection) -> Result<(), Status> {
        let Some((reason, field, description)) = mapping::refusal(&rejection) else { return Err(rejection.into()) };
        self.refuse(position, reason, vec![(field.to_owned(), description)]);
        Ok(())
    }

    /// Drops all but the first refusals.
    ///
    /// Invalid rows are refused before their chunk is committed, and those with a taken username later.
    fn limit_refusals(&mut self) {
        self.summary.refusals.sort_by_key(|refusal| refusal.position);
        self.summary.refusals.truncate(REFUSALS_MAX);
    }

    fn refuse(&mut self, position: i64, reason: RefusalReason, violations: Vec<(String, String)>) {
        self.summary.refused += 1;
        self.summary.refusals.push(ImportRefusal { position, reason, violations });
    }

    /// Returns the response. With a `request_id`, also stores it.
    async fn finish(mut self, key: Option<(Uuid, Fingerprint)>) -> Result<Response<pb::ImportUsersResponse>, Status> {
        let Some((id, fingerprint)) = key else {
            if self.reached == Position::default() {
                self.reached = self.core.store.position().await?;
            }
            return Ok(Response::new(mapping::import_response(&self.summary, &self.reached)));
        };
        let idempotency = fingerprint.idempotency::<pb::ImportUsersRequest>(id);
        let command = Command::FinishImport(std::mem::take(&mut self.summary));
        let reply = self.enqueue(command, Some(idempotency)).await?.result().await?;
        self.core.respond(None, reply).await
    }
}

/// Whether two rows are about the same user, as far as they say.
fn is_same(one: &Profile, other: &Profile) -> bool {
    let by_id = one.id.is_some() && one.id == other.id;
    by_id || one.external_id.is_some() && one.external_id == other.external_id
}

/// Whether a row is about this user.
fn is_about(row: &Profile, user: &User) -> bool {
    row.id == Some(user.id) || row.external_id.is_some() && row.external_id == user.external_id
}

/// Returns the result of a command that was submitted without a `request_id`.
fn executed(reply: Result<Reply, CommitError>) -> Result<Executed, Status> {
    match reply? {
        Reply::Fresh(executed) => Ok(*executed),
        Reply::Stored(_) => Err(error::internal("an imported row has a stored response")),
    }
}

fn violations(invalid: Invalid) -> Vec<(String, String)> {
    invalid.violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}
