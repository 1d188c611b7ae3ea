//! The export of all users and relations: the rows of one snapshot, many in a message.

use prost::Message;
use tonic::{Request, Response, Status};

use crate::domain::Time;
use crate::domain::epoch::Epoch;
use crate::domain::id::Sequence;
use crate::error;
use crate::mapping::relation as mapping;
use crate::metrics::refusals::Cause;
use crate::proto::server as pb;
use crate::service::export::Exports;
use crate::service::produced::{Client, Messages, respond};
use crate::service::{Core, Revised};
use crate::store::Snapshot;

/// The size of a message in bytes, from which on no further row is added to it.
const MESSAGE_BYTES: usize = 64 * 1024;

/// The stream of an export.
pub(super) type Exported = Messages<pb::ExportRelationsResponse>;

impl Revised for Snapshot {
    fn revision(&self) -> Sequence {
        Self::revision(self)
    }

    fn epoch(&self) -> &Epoch {
        Self::epoch(self)
    }

    /// Only operators export, whose revisions are those of the service.
    fn with_revision(self, _revision: Sequence) -> Self {
        self
    }
}

/// Begins an export.
///
/// # Errors
///
/// OVERLOADED before anything is read if too many exports run.
pub(super) async fn run(
    core: &Core,
    limits: &Exports,
    request: Request<pb::ExportRelationsRequest>,
) -> Result<Response<Exported>, Status> {
    let min_revision = mapping::export(request.get_ref())?;
    let permit = limits.permit().ok_or_else(|| error::overloaded(Cause::Exports))?;
    let snapshot = core.read_primary(&request, min_revision, |store| store.snapshot()).await?;
    let now = core.store.now();
    Ok(respond(&request, permit, limits.max_silence(), |client| send(snapshot, now, client)))
}

/// Sends the header, all rows, and the footer with their numbers.
async fn send(mut snapshot: Snapshot, now: Time, client: Client<pb::ExportRelationsResponse>) -> Result<(), Status> {
    let (revision, epoch) = (snapshot.revision().get(), snapshot.epoch().to_string());
    let empty = pb::ExportRelationsResponse { revision, epoch, ..Default::default() };
    let header = Some(mapping::header(snapshot.header(now)));
    client.send(pb::ExportRelationsResponse { header, ..empty.clone() }).await?;
    let (mut footer, mut message, mut bytes) = (pb::RelationFooter::default(), empty.clone(), 0);
    loop {
        let rows = snapshot.rows().await?;
        if rows.is_empty() {
            break;
        }
        for row in rows.into_iter().filter_map(mapping::message) {
            mapping::count(&mut footer, &row);
            bytes += row.encoded_len();
            message.rows.push(row);
            if bytes >= MESSAGE_BYTES {
                client.send(std::mem::replace(&mut message, empty.clone())).await?;
                bytes = 0;
            }
        }
    }
    client.send(pb::ExportRelationsResponse { footer: Some(footer), ..message }).await
}
