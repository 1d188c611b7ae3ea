//! The import of users and their relations from a client stream, answered by a stream of positions.
//!
//! Rows go through the committer's queue of rows in chunks: those that the client has sent when the chunk before is stored.
//! After each chunk the client learns the position up to which all rows are stored or refused, so it can resume there.
//!
//! The response is made as it is read: a client that reads no responses is read no further rows from.

mod chunk;
mod find;
mod trial;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use self::trial::Trial;
use crate::domain::caller::Caller;
use crate::domain::epoch::Position;
use crate::domain::import::Effect;
use crate::error;
use crate::mapping::import::{self as mapping, ImportOptions};
use crate::proto::server as pb;
use crate::service::import::Imports;
use crate::service::{Core, caller};
use crate::telemetry::call::{Call, Stream as OpenStream};
use crate::transfer::{Reason, Violation};

/// The maximum number of rows that are decided together. A message may have some more.
const CHUNK_ROWS: usize = 1_000;

/// The stream of responses.
pub(super) type Responses = Pin<Box<dyn Stream<Item = Result<pb::ImportRelationsResponse, Status>> + Send>>;

/// Begins an import.
///
/// # Errors
///
/// OVERLOADED before anything is read if too many imports run, and INVALID_ARGUMENT for the options.
pub(super) async fn run(
    core: &Core,
    limits: &Imports,
    request: Request<Streaming<pb::ImportRelationsRequest>>,
) -> Result<Response<Responses>, Status> {
    // Before the stream is read, which may be long.
    core.committer.check_writable()?;
    let permit = limits.begin()?;
    let caller = caller(&request)?;
    let call = request.extensions().get::<Arc<Call>>().cloned().map(OpenStream::new);
    let mut incoming = Incoming { stream: request.into_inner(), max_silence: limits.max_silence(), has_ended: false };
    let first = incoming.next().await?.unwrap_or_default();
    let options = mapping::options(&first)?;
    let import = Import {
        core: core.clone(),
        caller,
        trial: options.dry_run.then(Trial::default),
        options,
        incoming,
        rows: first.rows,
        position: 0,
        totals: Totals::default(),
        refusals: Vec::new(),
        reached: Position::default(),
        has_ended: false,
        call,
        _permit: permit,
    };
    let responses = stream::unfold(Some(import), async |import| {
        let mut import = import.filter(|import| !import.has_ended)?;
        let response = import.step().await;
        // The call was already logged as successful when the stream began.
        if let Err(status) = &response {
            import.call.iter().for_each(|call| call.failed(status));
            return Some((response, None));
        }
        Some((response, Some(import)))
    });
    Ok(Response::new(Box::pin(responses)))
}

/// The messages that a client sends.
struct Incoming {
    stream: Streaming<pb::ImportRelationsRequest>,
    max_silence: Duration,
    has_ended: bool,
}

impl Incoming {
    /// Waits for the next message. `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<pb::ImportRelationsRequest>, Status> {
        let next = timeout(self.max_silence, self.stream.message()).await;
        let message = next.unwrap_or_else(|_| Err(error::deadline_passed()))?;
        self.has_ended = message.is_none();
        Ok(message)
    }

    /// Waits for rows, and takes those that came with them.
    async fn rows(&mut self, rows: &mut Vec<pb::RelationRow>) -> Result<(), Status> {
        while rows.is_empty() && !self.has_ended {
            if let Some(message) = self.next().await? {
                rows.extend(mapping::rows(message)?);
            }
        }
        while rows.len() < CHUNK_ROWS && !self.has_ended {
            // A client may wait for the response to what it has sent.
            let Some(message) = self.stream.message().now_or_never() else { break };
            match message? {
                Some(message) => rows.extend(mapping::rows(message)?),
                None => self.has_ended = true,
            }
        }
        Ok(())
    }
}

/// What became of the rows so far.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    created: i64,
    unchanged: i64,
    replaced: i64,
    refused: i64,
}

/// A row that is refused, or stored with a warning.
struct Refused {
    position: i64,
    reason: Reason,
    violations: Vec<Violation>,
}

struct Import {
    core: Core,
    caller: Caller,
    options: ImportOptions,
    incoming: Incoming,
    /// Rows that were received and not decided yet.
    rows: Vec<pb::RelationRow>,
    /// The number of rows that are decided.
    position: i64,
    totals: Totals,
    /// Since the last response.
    refusals: Vec<Refused>,
    reached: Position,
    /// In a dry run, what it would have stored.
    trial: Option<Trial>,
    has_ended: bool,
    call: Option<OpenStream>,
    _permit: OwnedSemaphorePermit,
}

impl Import {
    /// Decides the next rows, and returns how far the import is.
    async fn step(&mut self) -> Result<pb::ImportRelationsResponse, Status> {
        let mut rows = std::mem::take(&mut self.rows);
        self.incoming.rows(&mut rows).await?;
        let goes_on = self.decide(rows).await?;
        self.has_ended = self.incoming.has_ended || !goes_on;
        if self.reached == Position::default() {
            self.reached = self.core.store.position().await?;
        }
        self.refusals.sort_by_key(|refused| refused.position);
        let Totals { created, unchanged, replaced, refused } = self.totals;
        let refusals = self.refusals.drain(..).map(message).collect();
        Ok(pb::ImportRelationsResponse {
            position: self.position,
            created,
            unchanged,
            replaced,
            refused,
            refusals,
            revision: self.reached.sequence.get(),
            epoch: self.reached.epoch.to_string(),
        })
    }

    /// Counts a row that is stored, or held already.
    fn count(&mut self, effect: Effect) {
        match effect {
            Effect::Created => self.totals.created += 1,
            Effect::Unchanged => self.totals.unchanged += 1,
            Effect::Replaced => self.totals.replaced += 1,
            // Refused with their reasons.
            Effect::Conflict | Effect::Blocked => {}
        }
    }

    fn refuse(&mut self, position: i64, reason: Reason, violations: Vec<Violation>) {
        self.totals.refused += i64::from(!reason.is_warning());
        self.refusals.push(Refused { position, reason, violations });
    }
}

fn message(refused: Refused) -> pb::RelationRefusal {
    let Refused { position, reason, violations } = refused;
    let violation = |Violation { field, rule }| pb::RowViolation { field, description: rule };
    pb::RelationRefusal {
        position,
        reason: pb::RefusalReason::from(reason).into(),
        violations: violations.into_iter().map(violation).collect(),
    }
}
