//! The import of users: a stream of rows, stored as they come, each good or refused by itself.

use tonic::{Response, Status, Streaming};
use uuid::Uuid;

use super::{Core, respond};
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

/// How many rows of one import are under way at once: half of the largest batch. The committer sees to it that imports
/// leave room for callers.
const UNDER_WAY: usize = 256;
/// How many refused rows are named.
const REFUSALS_NAMED: usize = 1_000;

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
        return respond(reply);
    }
    let mut import =
        Import { core, caller, summary: ImportSummary::default(), revision: Sequence::default(), position: 0 };
    let mut fingerprint = Fingerprint::default();
    let mut next = Some(first);
    while let Some(row) = next {
        let mut chunk = vec![row];
        while chunk.len() < UNDER_WAY {
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

/// The response that this import got before, if it did. The whole stream is read, and nothing of it stored.
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
    Ok(Some(Reply::Stored(stored.response)))
}

struct Import<'a> {
    core: &'a Core,
    caller: Caller,
    summary: ImportSummary,
    revision: Sequence,
    position: i64,
}

impl Import<'_> {
    /// Stores some rows, in their order, and counts what came of each.
    async fn store(&mut self, chunk: Vec<pb::ImportUsersRequest>) -> Result<(), Status> {
        let mut under_way = Vec::with_capacity(chunk.len());
        for row in chunk {
            let position = self.position;
            self.position += 1;
            match self.read(&row, position) {
                Ok(command) => {
                    let submission = Submission { caller: self.caller.clone(), command, idempotency: None };
                    under_way.push((position, self.core.committer.enqueue(submission).await?));
                }
                Err(invalid) => self.refuse(position, false, violations(invalid)),
            }
        }
        for (position, queued) in under_way {
            let reply = queued.result().await;
            self.count(position, reply)?;
        }
        // Within a chunk, rows that break rules are found before those that meet another's name.
        self.summary.refusals.sort_by_key(|refusal| refusal.position);
        self.summary.refusals.truncate(REFUSALS_NAMED);
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
            // A row has no request id of its own, and so no stored response.
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

    /// Answers, and keeps the answer if there is a key for it.
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
        respond(queued.result().await?)
    }
}

fn violations(invalid: Invalid) -> Vec<(String, String)> {
    invalid.violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}
