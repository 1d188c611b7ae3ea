//! `kith.v1.UserService`.

use tonic::{Request, Response, Status, Streaming};

use super::export::{self, Exports};
use super::import::{self, Imports};
use super::pager::Pager;
use super::{Core, batch, caller};
use crate::domain::query::UserKey;
use crate::error;
use crate::mapping::user as mapping;
use crate::proto::server as pb;
use crate::proto::server::user_service_server::UserService;

/// Implements [`UserService`].
#[derive(Clone)]
pub struct Users {
    /// The shared state.
    pub core: Core,
    /// The limits of imports.
    pub imports: Imports,
    /// The limits of exports.
    pub exports: Exports,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::CreateUserResponse>, Status> {
        self.core.write(&request, mapping::create(request.get_ref(), &self.core.policy, self.core.store.now())?).await
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::GetUserResponse>, Status> {
        let (key, view, min_revision) = mapping::key(request.get_ref(), &self.core.policy)?;
        let read = self.core.read(&request, min_revision, |store| store.user(key.clone())).await?;
        let user = read.value.ok_or_else(|| match key {
            UserKey::Id(id) => error::user_not_found(id),
            UserKey::ExternalId(id) => error::external_id_not_found(&id),
            UserKey::Name(name) => error::username_not_found(&name),
        })?;
        Ok(Response::new(pb::GetUserResponse {
            user: mapping::encoded(&user, view),
            revision: read.revision.get(),
            epoch: read.epoch.to_string(),
        }))
    }

    async fn batch_get_users(
        &self,
        request: Request<pb::BatchGetUsersRequest>,
    ) -> Result<Response<pb::BatchGetUsersResponse>, Status> {
        let (named, view, min_revision) = mapping::named(request.get_ref())?;
        let read = self.core.read(&request, min_revision, |store| Box::pin(batch::read(store, named.clone()))).await?;
        Ok(Response::new(batch::response(&named, &read, view)))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let key = self.core.store.token_key();
        let (view, page) = mapping::page(request.get_ref(), key)?;
        let mut pager = Pager::new(request.get_ref(), &page, key);
        let range = pager.range();
        let read = self.core.read(&request, page.expected(), |store| store.list_users(range)).await?;
        let users = pager.add(&read.value, |(_, position)| *position, |(user, _)| Some(mapping::encoded(user, view)));
        Ok(Response::new(pb::ListUsersResponse {
            users,
            next_page_token: pager.next_page_token(&read.position()),
            revision: read.revision.get(),
            epoch: read.epoch.to_string(),
        }))
    }

    async fn update_user(
        &self,
        request: Request<pb::UpdateUserRequest>,
    ) -> Result<Response<pb::UpdateUserResponse>, Status> {
        let command = mapping::update(request.get_ref(), &caller(&request)?, &self.core.policy, self.core.store.now())?;
        self.core.write(&request, command).await
    }

    async fn delete_user(
        &self,
        request: Request<pb::DeleteUserRequest>,
    ) -> Result<Response<pb::DeleteUserResponse>, Status> {
        self.core.write(&request, mapping::delete(request.get_ref())?).await
    }

    async fn import_users(
        &self,
        request: Request<Streaming<pb::ImportUsersRequest>>,
    ) -> Result<Response<pb::ImportUsersResponse>, Status> {
        // Before the stream is read, which may be long.
        self.core.committer.check_writable()?;
        import::run(&self.core, &self.imports, caller(&request)?, request.into_inner()).await
    }

    type ExportUserStream = export::Items;

    async fn export_user(
        &self,
        request: Request<pb::ExportUserRequest>,
    ) -> Result<Response<Self::ExportUserStream>, Status> {
        export::run(&self.core, &self.exports, request).await
    }
}
