//! `kith.v1.BlockService`.

use tonic::{Request, Response, Status};

use super::{Core, cut, slice};
use crate::domain::command::UserAction;
use crate::error;
use crate::mapping::connection as mapping;
use crate::proto::server as pb;
use crate::proto::server::block_service_server::BlockService;

/// Keeps the blocks.
#[derive(Clone)]
pub struct Blocks(pub Core);

#[tonic::async_trait]
impl BlockService for Blocks {
    async fn block_user(
        &self,
        request: Request<pb::BlockUserRequest>,
    ) -> Result<Response<pb::BlockUserResponse>, Status> {
        let asked = request.get_ref();
        let command = mapping::relate(UserAction::Block, asked.user_id, asked.other_user_id, &asked.request_id)?;
        self.0.write(&request, command).await
    }

    async fn unblock_user(
        &self,
        request: Request<pb::UnblockUserRequest>,
    ) -> Result<Response<pb::UnblockUserResponse>, Status> {
        let asked = request.get_ref();
        let command = mapping::relate(UserAction::Unblock, asked.user_id, asked.other_user_id, &asked.request_id)?;
        self.0.write(&request, command).await
    }

    async fn list_blocked_users(
        &self,
        request: Request<pb::ListBlockedUsersRequest>,
    ) -> Result<Response<pb::ListBlockedUsersResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, page) = mapping::blocked(request.get_ref(), key)?;
        let mut listed = self.0.read(&request, page.min_revision, || self.0.store.blocks(user, slice(&page))).await?;
        if !listed.users.contains_key(&user) {
            return Err(error::user_not_found(user));
        }
        let next_page_token = cut(&mut listed.rows, &page, request.get_ref(), key, |(_, block)| block.position);
        let blocks = listed.rows.iter().filter_map(|(other, block)| {
            let user = listed.users.get(other)?;
            Some(mapping::block(block, user))
        });
        Ok(Response::new(pb::ListBlockedUsersResponse {
            blocks: blocks.collect(),
            next_page_token,
            revision: listed.revision.get(),
        }))
    }
}
