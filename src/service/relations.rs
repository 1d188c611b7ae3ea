//! `kith.v1.ImportService`.

mod export;
mod import;

use tonic::{Request, Response, Status, Streaming};

use super::Core;
use super::export::Exports;
use super::import::Imports;
use crate::proto::server as pb;
use crate::proto::server::import_service_server::ImportService;

/// Implements [`ImportService`].
#[derive(Clone)]
pub struct Relations {
    /// The shared state.
    pub core: Core,
    /// The limits of imports.
    pub imports: Imports,
    /// The limits of exports.
    pub exports: Exports,
}

#[tonic::async_trait]
impl ImportService for Relations {
    type ImportRelationsStream = import::Responses;

    async fn import_relations(
        &self,
        request: Request<Streaming<pb::ImportRelationsRequest>>,
    ) -> Result<Response<Self::ImportRelationsStream>, Status> {
        import::run(&self.core, &self.imports, request).await
    }

    type ExportRelationsStream = export::Exported;

    async fn export_relations(
        &self,
        request: Request<pb::ExportRelationsRequest>,
    ) -> Result<Response<Self::ExportRelationsStream>, Status> {
        export::run(&self.core, &self.exports, request).await
    }
}
