//! `kith.v1.BlockService`.

use tonic::{Request, Response, Status};

use super::Core;
use super::pager::Pager;
use crate::domain::command::UserAction;
use crate::domain::query::BlockQuery;
use crate::error;
use crate::mapping::connection as mapping;
use crate::proto::server as pb;
use crate::proto::server::block_service_server::BlockService;

/// Implements [`BlockService`].
#[derive(Clone)]
pub struct Blocks(pub Core);

#[tonic::async_trait]
impl BlockService for Blocks {
    async fn block_user(
        &self,
        request: Request<pb::BlockUserRequest>,
    ) -> Result<Response<pb::BlockUserResponse>, Status> {
        let message = request.get_ref();
        let command =
            mapping::act_on_user(UserAction::Block, message.user_id, message.other_user_id, &message.request_id)?;
        self.0.write(&request, command).await
    }

    async fn unblock_user(
        &self,
        request: Request<pb::UnblockUserRequest>,
    ) -> Result<Response<pb::UnblockUserResponse>, Status> {
        let message = request.get_ref();
        let command =
            mapping::act_on_user(UserAction::Unblock, message.user_id, message.other_user_id, &message.request_id)?;
        self.0.write(&request, command).await
    }

    async fn list_blocked_users(
        &self,
        request: Request<pb::ListBlockedUsersRequest>,
    ) -> Result<Response<pb::ListBlockedUsersResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, view, page) = mapping::blocked(request.get_ref(), key)?;
        let mut pager = Pager::new(request.get_ref(), &page, key);
        let query = BlockQuery { user, range: pager.range() };
        let listed = self.0.read(&request, page.expected(), |store| store.list_blocks(query)).await?;
        if !listed.users.contains_key(&user) {
            return Err(error::user_not_found(user));
        }
        let blocks = pager.add(
            &listed.rows,
            |row| row.block.position,
            |row| Some(mapping::blocked_user(row, listed.users.get(&row.other)?, view)),
        );
        Ok(Response::new(pb::ListBlockedUsersResponse {
            blocks,
            next_page_token: pager.next_page_token(&listed.position()),
            revision: listed.revision.get(),
            epoch: listed.epoch.to_string(),
        }))
    }
}
