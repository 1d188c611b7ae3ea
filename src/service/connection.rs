//! `kith.v1.ConnectionService`.

use tonic::{Request, Response, Status};

use super::{Core, cut, slice};
use crate::domain::command::UserAction;
use crate::domain::id::{PairKey, RequestId, UserId};
use crate::domain::pair::Pair;
use crate::domain::view::{self, Status as Standing};
use crate::error;
use crate::mapping::connection as mapping;
use crate::mapping::page::{self, Cursor, Page};
use crate::proto::server as pb;
use crate::proto::server::connection_service_server::ConnectionService;
use crate::store::{Listed, Sharing};

/// Keeps the connections.
#[derive(Clone)]
pub struct Connections(pub Core);

#[tonic::async_trait]
impl ConnectionService for Connections {
    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<pb::ListConnectionsResponse>, Status> {
        let (user, sections, page) = mapping::list(request.get_ref(), self.0.store.token_key())?;
        let (mut connections, mut next, mut revision) = (Vec::new(), None, None);
        let first = usize::from(page.cursor.section);
        for (section, sharing) in sections.iter().enumerate().skip(first) {
            // A later section fills what the page has left, from its own start.
            let last = page.cursor.last.filter(|_| section == first);
            let section = u8::try_from(section).unwrap_or(u8::MAX);
            let rest = Page { size: page.size - connections.len(), cursor: Cursor { section, last }, ..page };
            let listed = self.section(&request, user, *sharing, &rest).await?;
            revision.get_or_insert(listed.revision);
            let more = listed.rows.len() > rest.size;
            let kept = &listed.rows[..listed.rows.len().min(rest.size)];
            let last = kept.last().map_or(rest.cursor, |row| Cursor { section, last: Some(row.position) });
            connections.extend(kept.iter().filter_map(|row| {
                let other = listed.users.get(&row.other)?;
                Some(mapping::connection(row, other))
            }));
            if more {
                next = Some(last);
                break;
            }
        }
        Ok(Response::new(pb::ListConnectionsResponse {
            connections,
            next_page_token: next
                .map_or_else(String::new, |next| page::token(request.get_ref(), next, self.0.store.token_key())),
            revision: revision.unwrap_or_default().get(),
        }))
    }

    async fn remove_connection(
        &self,
        request: Request<pb::RemoveConnectionRequest>,
    ) -> Result<Response<pb::RemoveConnectionResponse>, Status> {
        let asked = request.get_ref();
        let command = mapping::relate(UserAction::Remove, asked.user_id, asked.other_user_id, &asked.request_id)?;
        self.0.write(&request, command).await
    }

    async fn get_connection_status(
        &self,
        request: Request<pb::GetConnectionStatusRequest>,
    ) -> Result<Response<pb::GetConnectionStatusResponse>, Status> {
        let (user, other, min_revision) = mapping::status(request.get_ref())?;
        let read = self.0.read(&request, min_revision, || self.0.store.pairs(user, vec![other])).await?;
        let (status, id) = self.standing(user, other, |key| read.value.get(key));
        Ok(Response::new(pb::GetConnectionStatusResponse {
            status: pb::ConnectionStatus::from(status).into(),
            connection_request_id: id.map_or(0, RequestId::get),
            revision: read.revision.get(),
        }))
    }

    async fn batch_get_connection_statuses(
        &self,
        request: Request<pb::BatchGetConnectionStatusesRequest>,
    ) -> Result<Response<pb::BatchGetConnectionStatusesResponse>, Status> {
        let (user, others, min_revision) = mapping::statuses(request.get_ref())?;
        let read = self.0.read(&request, min_revision, || self.0.store.pairs(user, others.clone())).await?;
        let status = |other: UserId| {
            let (status, id) = self.standing(user, other, |key| read.value.get(key));
            pb::UserConnectionStatus {
                other_user_id: other.get(),
                status: pb::ConnectionStatus::from(status).into(),
                connection_request_id: id.map_or(0, RequestId::get),
            }
        };
        Ok(Response::new(pb::BatchGetConnectionStatusesResponse {
            statuses: others.into_iter().map(status).collect(),
            revision: read.revision.get(),
        }))
    }

    async fn get_connection_counts(
        &self,
        request: Request<pb::GetConnectionCountsRequest>,
    ) -> Result<Response<pb::GetConnectionCountsResponse>, Status> {
        let (user, min_revision) = mapping::counts(request.get_ref())?;
        let expired = self.0.policy.expired_before(self.0.clock.now());
        let read = self.0.read(&request, min_revision, || self.0.store.counts(user, expired)).await?;
        let counts = read.value.ok_or_else(|| error::user_not_found(user))?;
        Ok(Response::new(pb::GetConnectionCountsResponse {
            requests_sent: counts.requests_sent,
            requests_received: counts.requests_received,
            requests_unviewed: counts.requests_unviewed,
            connections: counts.connections,
            revision: read.revision.get(),
        }))
    }

    async fn list_mutual_connections(
        &self,
        request: Request<pb::ListMutualConnectionsRequest>,
    ) -> Result<Response<pb::ListMutualConnectionsResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, other, page) = mapping::mutual(request.get_ref(), key)?;
        let listed = self.section(&request, user, Sharing::With(other), &page).await?;
        // Asked second, so that it reflects at least the list's revision.
        let total = self.0.store.shared_connections(user, other).await?;
        let Listed { revision, mut rows, users } = listed;
        let next_page_token = cut(&mut rows, &page, request.get_ref(), key, |row| row.position);
        let shared = rows.iter().filter_map(|row| users.get(&row.other));
        Ok(Response::new(pb::ListMutualConnectionsResponse {
            users: crate::mapping::user::users(shared),
            total,
            next_page_token,
            revision: revision.get(),
        }))
    }
}

impl Connections {
    /// One section of a list of connections, of users who exist.
    async fn section<M>(
        &self,
        request: &Request<M>,
        user: UserId,
        sharing: Sharing,
        page: &Page,
    ) -> Result<Listed<crate::store::Connection>, Status> {
        let read = || self.0.store.connections(user, sharing, slice(page));
        let listed = self.0.read(request, page.min_revision, read).await?;
        let missing = [Some(user), sharing.viewer()].into_iter().flatten().find(|id| !listed.users.contains_key(id));
        missing.map_or(Ok(listed), |id| Err(error::user_not_found(id)))
    }

    fn standing<'a>(
        &self,
        user: UserId,
        other: UserId,
        pair: impl Fn(&PairKey) -> Option<&'a Pair>,
    ) -> (Standing, Option<RequestId>) {
        let Some(key) = PairKey::of(user, other) else { return (Standing::Itself, None) };
        match pair(&key) {
            Some(pair) => view::status(pair, user, &self.0.policy, self.0.clock.now()),
            None => (Standing::None, None),
        }
    }
}
