//! The import of users from a client stream.
//!
//! Rows are stored in chunks while the stream is read. An invalid row is refused without affecting the others.

use tonic::{Response, Status, Streaming};
use uuid::Uuid;

use super::Core;
use crate::committer::CommitError;
use crate::domain::caller::Caller;
use crate::domain::command::{Command, IdempotencyKey, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::id::Sequence;
use crate::domain::outcome::{Executed, ImportRefusal, ImportSummary, Imported, Outcome};
use crate::error;
use crate::mapping::idempotency::Fingerprint;
use crate::mapping::invalid::{Fields, Invalid};
use crate::mapping::user as mapping;
use crate::proto::server as pb;

/// The maximum number of rows that one import has in the commit queue: half of the largest batch.
///
/// The committer limits how much of a batch imports may take, so that other calls are not delayed.
const CHUNK_SIZE: usize = 256;
/// The maximum number of refused rows that the response describes.
const REFUSALS_MAX: usize = 1_000;

/// Runs an import and returns its response.
pub(super) async fn run(
    core: &Core,
    caller: Caller,
    mut rows: Streaming<pb::ImportUsersRequest>,
) -> Result<Response<pb::ImportUsersResponse>, Status> {
    let Some(first) = rows.message().await? else {
        let revision = core.store.revision().await?;
        return Ok(Response::new(mapping::import_response(&ImportSummary::default(), revision)));
    };
    let request_id = request_id(&first)?;
    if let Some(id) = request_id
        && let Some(reply) = stored_response(core, IdempotencyKey::new(&caller, id), &first, &mut rows).await?
    {
        return core.respond(reply).await;
    }
    let mut import =
        Import { core, caller, summary: ImportSummary::default(), revision: Sequence::default(), position: 0 };
    let mut fingerprint = Fingerprint::default();
    let mut next = Some(first);
    while let Some(row) = next {
        let mut chunk = vec![row];
        while chunk.len() < CHUNK_SIZE {
            match rows.message().await? {
                Some(row) => chunk.push(row),
                None => break,
            }
        }
        chunk.iter().for_each(|row| fingerprint.add(row));
        import.store(chunk).await?;
        next = rows.message().await?;
    }
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
    rows: &mut Streaming<pb::ImportUsersRequest>,
) -> Result<Option<Reply>, Status> {
    let id = key.id;
    let stored = core.store.idempotent_response(key).await?;
    let Some(stored) = stored.filter(|stored| stored.is_current(core.clock.now())) else { return Ok(None) };
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(first);
    while let Some(row) = rows.message().await? {
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
}

impl Import<'_> {
    /// Stores a chunk of rows in order, and counts the result of each.
    async fn store(&mut self, chunk: Vec<pb::ImportUsersRequest>) -> Result<(), Status> {
        let mut in_progress = Vec::with_capacity(chunk.len());
        for row in chunk {
            let position = self.position;
            self.position += 1;
            match self.read(&row, position) {
                Ok(command) => {
                    let submission = Submission { caller: self.caller.clone(), command, idempotency: None };
                    in_progress.push((position, self.core.committer.enqueue(submission).await?));
                }
                Err(invalid) => self.refuse(position, false, violations(invalid)),
            }
        }
        for (position, queued) in in_progress {
            let reply = queued.result().await;
            self.count(position, reply)?;
        }
        // Invalid rows of a chunk are refused before it is committed, and taken usernames afterwards.
        self.summary.refusals.sort_by_key(|refusal| refusal.position);
        self.summary.refusals.truncate(REFUSALS_MAX);
        Ok(())
    }

    fn read(&self, row: &pb::ImportUsersRequest, position: i64) -> Result<Command, Invalid> {
        if position > 0 && !row.request_id.is_empty() {
            let mut fields = Fields::default();
            fields.violation("request_id", "must be in the first message only");
            fields.finish(())?;
        }
        mapping::import(row, self.core.clock.now())
    }

    fn count(&mut self, position: i64, reply: Result<Reply, CommitError>) -> Result<(), Status> {
        match reply {
            Ok(Reply::Fresh(executed)) => {
                let Executed { revision, outcome: Outcome::UserImported(imported) } = *executed else {
                    return Err(error::internal("an imported row has the outcome of another call"));
                };
                self.revision = self.revision.max(revision);
                match imported {
                    Imported::Created => self.summary.created += 1,
                    Imported::Updated => self.summary.updated += 1,
                    Imported::Unchanged => self.summary.unchanged += 1,
                }
                Ok(())
            }
            // Rows are submitted without a `request_id`, so there is no stored response for one.
            Ok(Reply::Stored(_)) => Err(error::internal("an imported row has a stored response")),
            Err(CommitError::Rejected(Rejection::UsernameTaken(_))) => {
                let taken = ("user.username".to_owned(), "another user has this name".to_owned());
                self.refuse(position, true, vec![taken]);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
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
        let idempotency = Some(fingerprint.idempotency::<pb::ImportUsersRequest>(id));
        let command = Command::FinishImport(self.summary);
        let queued = self.core.committer.enqueue(Submission { caller: self.caller, command, idempotency }).await?;
        self.core.respond(queued.result().await?).await
    }
}

fn violations(invalid: Invalid) -> Vec<(String, String)> {
    invalid.violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}
