//! The import of users from a client stream.
//!
//! Rows are stored in chunks while the stream is read. An invalid row is refused without affecting the others.
//!
//! A row whose username another user has waits until the end of the stream. The rows that wait are then decided together,
//! so that users can exchange their names, however far apart their rows are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};
use uuid::Uuid;

use super::Core;
use crate::committer::{CommitError, Queued};
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Idempotency, IdempotencyKey, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::id::{Sequence, UserId};
use crate::domain::outcome::{Executed, ImportRefusal, ImportSummary, Imported, Outcome};
use crate::domain::user::Profile;
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
    let _permit = limits.permits.try_acquire().map_err(|_| error::overloaded(Cause::Imports))?;
    let mut rows = Rows { stream, max_silence: limits.max_silence };
    let Some(first) = rows.next().await? else {
        let revision = core.store.revision().await?;
        return Ok(Response::new(mapping::import_response(&ImportSummary::default(), revision)));
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
        revision: Sequence::default(),
        position: 0,
        waiting: HashMap::new(),
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
    revision: Sequence,
    position: i64,
    /// Rows whose usernames were taken, with their positions.
    waiting: HashMap<UserId, (i64, Profile)>,
}

impl Import<'_> {
    /// Stores a chunk of rows in order, and counts the result of each.
    async fn store(&mut self, chunk: Vec<pb::ImportUsersRequest>) -> Result<(), Status> {
        let mut in_progress = Vec::with_capacity(chunk.len());
        for row in chunk {
            let position = self.position;
            self.position += 1;
            match self.read(&row, position) {
                Ok((id, profile)) => {
                    let queued = self.enqueue(Command::ImportUser(id, Box::new(profile.clone())), None).await?;
                    in_progress.push((position, (id, profile), queued));
                }
                Err(invalid) => self.refuse(position, false, violations(invalid)),
            }
        }
        for (position, row, queued) in in_progress {
            let reply = queued.result().await;
            self.settle(position, row, reply)?;
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

    fn read(&self, row: &pb::ImportUsersRequest, position: i64) -> Result<(UserId, Profile), Invalid> {
        if position > 0 && !row.request_id.is_empty() {
            let mut fields = Fields::default();
            fields.violation("request_id", "must be in the first message only");
            fields.finish(())?;
        }
        mapping::import(row, &self.core.policy, self.core.store.now())
    }

    /// Counts a row that was stored, or lets it wait for its username.
    fn settle(
        &mut self,
        position: i64,
        (id, profile): (UserId, Profile),
        reply: Result<Reply, CommitError>,
    ) -> Result<(), Status> {
        // Of two rows about one user, the later one holds. An earlier one must not be stored after it.
        if let Some((earlier, _)) = self.waiting.remove(&id) {
            self.refuse_username(earlier);
        }
        if let Err(CommitError::Rejected(Rejection::UsernameTaken(_))) = reply {
            self.waiting.insert(id, (position, profile));
            return Ok(());
        }
        match executed(reply)? {
            Executed { revision, outcome: Outcome::UserImported(imported) } => self.count(imported, revision),
            _ => return Err(error::internal("an imported row has the outcome of another call")),
        }
        Ok(())
    }

    /// Decides the rows that wait for their usernames: each is stored or refused.
    async fn decide_waiting(&mut self) -> Result<(), Status> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut waiting: Vec<_> = self.waiting.drain().collect();
        waiting.sort_by_key(|(_, (position, _))| *position);
        let (positions, rows): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|(id, (position, profile))| (position, (id, profile))).unzip();
        let queued = self.enqueue(Command::ImportTogether(rows), None).await?;
        let Executed { revision, outcome: Outcome::UsersImported(imported) } = executed(queued.result().await)? else {
            return Err(error::internal("imported rows have the outcome of another call"));
        };
        for (position, imported) in positions.into_iter().zip(imported) {
            match imported {
                Some(imported) => self.count(imported, revision),
                None => self.refuse_username(position),
            }
        }
        Ok(())
    }

    fn count(&mut self, imported: Imported, revision: Sequence) {
        self.revision = self.revision.max(revision);
        match imported {
            Imported::Created => self.summary.created += 1,
            Imported::Updated => self.summary.updated += 1,
            Imported::Unchanged => self.summary.unchanged += 1,
        }
    }

    fn refuse_username(&mut self, position: i64) {
        let taken = ("user.username".to_owned(), "another user has this name".to_owned());
        self.refuse(position, true, vec![taken]);
    }

    /// Drops all but the first refusals.
    ///
    /// Invalid rows are refused before their chunk is committed, and those with a taken username later.
    fn limit_refusals(&mut self) {
        self.summary.refusals.sort_by_key(|refusal| refusal.position);
        self.summary.refusals.truncate(REFUSALS_MAX);
    }

    fn refuse(&mut self, position: i64, username_taken: bool, violations: Vec<(String, String)>) {
        self.summary.refused += 1;
        self.summary.refusals.push(ImportRefusal { position, username_taken, violations });
    }

    /// Returns the response. With a `request_id`, also stores it.
    async fn finish(mut self, key: Option<(Uuid, Fingerprint)>) -> Result<Response<pb::ImportUsersResponse>, Status> {
        let Some((id, fingerprint)) = key else {
            if self.revision == Sequence::default() {
                self.revision = self.core.store.revision().await?;
            }
            return Ok(Response::new(mapping::import_response(&self.summary, self.revision)));
        };
        let idempotency = fingerprint.idempotency::<pb::ImportUsersRequest>(id);
        let command = Command::FinishImport(std::mem::take(&mut self.summary));
        let reply = self.enqueue(command, Some(idempotency)).await?.result().await?;
        self.core.respond(None, reply).await
    }
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
