//! `kith.v1.ImportService`.

mod export;

use std::pin::Pin;

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Core;
use super::export::Exports;
use crate::error;
use crate::proto::server as pb;
use crate::proto::server::import_service_server::ImportService;

/// Implements [`ImportService`].
#[derive(Clone)]
pub struct Relations {
    /// The shared state.
    pub core: Core,
    /// The limits of exports.
    pub exports: Exports,
}

#[tonic::async_trait]
impl ImportService for Relations {
    type ImportRelationsStream = Pin<Box<dyn Stream<Item = Result<pb::ImportRelationsResponse, Status>> + Send>>;

    async fn import_relations(
        &self,
        _request: Request<Streaming<pb::ImportRelationsRequest>>,
    ) -> Result<Response<Self::ImportRelationsStream>, Status> {
        Err(error::unimplemented())
    }

    type ExportRelationsStream = export::Exported;

    async fn export_relations(
        &self,
        request: Request<pb::ExportRelationsRequest>,
    ) -> Result<Response<Self::ExportRelationsStream>, Status> {
        export::run(&self.core, &self.exports, request).await
    }
}
