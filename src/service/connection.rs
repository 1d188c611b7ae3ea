//! `kith.v1.ConnectionService`.

use tonic::{Request, Response, Status};

use super::Core;
use super::pager::Pager;
use crate::domain::Time;
use crate::domain::command::UserAction;
use crate::domain::epoch::Position;
use crate::domain::id::{PairKey, RequestId, UserId};
use crate::domain::pair::Pair;
use crate::domain::query::{Connection, ConnectionQuery, Mutual};
use crate::domain::view::{self, Status as Standing};
use crate::error;
use crate::mapping::connection as mapping;
use crate::mapping::user::encoded;
use crate::proto::server as pb;
use crate::proto::server::connection_service_server::ConnectionService;
use crate::store::{Listed, StoreError};

/// Implements [`ConnectionService`].
#[derive(Clone)]
pub struct Connections(pub Core);

#[tonic::async_trait]
impl ConnectionService for Connections {
    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<pb::ListConnectionsResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, sections, view, page) = mapping::list(request.get_ref(), key)?;
        let mut pager = Pager::new(request.get_ref(), &page, key);
        let (mut connections, mut expected, mut reached) = (Vec::new(), page.expected(), Position::default());
        while let Some(mutual) = sections.get(pager.section()) {
            let query = ConnectionQuery { user, mutual: *mutual, range: pager.range() };
            let listed = self.0.read(&request, expected.clone(), |store| store.list_connections(query)).await?;
            expect_users(&query, &listed)?;
            // The page reports the revision of the first section. Later sections reflect at least that revision.
            if !reached.epoch.is_named() {
                reached = listed.position();
                expected.seen = Some(reached.clone());
            }
            connections.extend(pager.add(
                &listed.rows,
                |row| row.position,
                |row| Some(mapping::connection(row, listed.users.get(&row.other)?, view)),
            ));
            if !pager.next_section() {
                break;
            }
        }
        Ok(Response::new(pb::ListConnectionsResponse {
            connections,
            next_page_token: pager.next_page_token(&reached),
            revision: reached.sequence.get(),
            epoch: reached.epoch.to_string(),
        }))
    }

    async fn remove_connection(
        &self,
        request: Request<pb::RemoveConnectionRequest>,
    ) -> Result<Response<pb::RemoveConnectionResponse>, Status> {
        let message = request.get_ref();
        let command =
            mapping::act_on_user(UserAction::Remove, message.user_id, message.other_user_id, &message.request_id)?;
        self.0.write(&request, command).await
    }

    async fn get_connection_status(
        &self,
        request: Request<pb::GetConnectionStatusRequest>,
    ) -> Result<Response<pb::GetConnectionStatusResponse>, Status> {
        let (user, other, min_revision) = mapping::status(request.get_ref())?;
        let read = self.0.read(&request, min_revision, |store| store.pairs(user, vec![other])).await?;
        let (status, id) = self.standing(user, other, |key| read.value.get(key), self.0.store.now());
        Ok(Response::new(pb::GetConnectionStatusResponse {
            status: pb::ConnectionStatus::from(status).into(),
            connection_request_id: id.map_or(0, RequestId::get),
            revision: read.revision.get(),
            epoch: read.epoch.to_string(),
        }))
    }

    async fn batch_get_connection_statuses(
        &self,
        request: Request<pb::BatchGetConnectionStatusesRequest>,
    ) -> Result<Response<pb::BatchGetConnectionStatusesResponse>, Status> {
        let (user, others, min_revision) = mapping::statuses(request.get_ref())?;
        let read = self.0.read(&request, min_revision, |store| store.pairs(user, others.clone())).await?;
        let now = self.0.store.now();
        let status = |other: UserId| {
            let (status, id) = self.standing(user, other, |key| read.value.get(key), now);
            pb::UserConnectionStatus {
                other_user_id: other.get(),
                status: pb::ConnectionStatus::from(status).into(),
                connection_request_id: id.map_or(0, RequestId::get),
            }
        };
        Ok(Response::new(pb::BatchGetConnectionStatusesResponse {
            statuses: others.into_iter().map(status).collect(),
            revision: read.revision.get(),
            epoch: read.epoch.to_string(),
        }))
    }

    async fn get_connection_counts(
        &self,
        request: Request<pb::GetConnectionCountsRequest>,
    ) -> Result<Response<pb::GetConnectionCountsResponse>, Status> {
        let (user, min_revision) = mapping::counts(request.get_ref())?;
        let expired = self.0.policy.expired_before(self.0.store.now());
        let read = self.0.read(&request, min_revision, |store| store.counts(user, expired)).await?;
        let counts = read.value.ok_or_else(|| error::user_not_found(user))?;
        Ok(Response::new(pb::GetConnectionCountsResponse {
            requests_sent: counts.requests_sent,
            requests_received: counts.requests_received,
            requests_unviewed: counts.requests_unviewed,
            connections: counts.connections,
            revision: read.revision.get(),
            epoch: read.epoch.to_string(),
            limits: Some(mapping::limits(&self.0.policy)),
        }))
    }

    async fn list_mutual_connections(
        &self,
        request: Request<pb::ListMutualConnectionsRequest>,
    ) -> Result<Response<pb::ListMutualConnectionsResponse>, Status> {
        let key = self.0.store.token_key();
        let (user, other, view, page) = mapping::mutual(request.get_ref(), key)?;
        let mut pager = Pager::new(request.get_ref(), &page, key);
        let query = ConnectionQuery { user, mutual: Mutual::With(other), range: pager.range() };
        let read = self.0.read(&request, page.expected(), |store| {
            Box::pin(async move {
                let listed = store.list_connections(query).await?;
                // Read second, so that it reflects at least the list's revision.
                let total = store.count_mutual_connections(user, other).await?;
                Ok::<_, StoreError>((listed, total))
            })
        });
        let (listed, total) = read.await?;
        expect_users(&query, &listed)?;
        let users =
            pager.add(&listed.rows, |row| row.position, |row| Some(encoded(listed.users.get(&row.other)?, view)));
        Ok(Response::new(pb::ListMutualConnectionsResponse {
            users,
            total,
            next_page_token: pager.next_page_token(&listed.position()),
            revision: listed.revision.get(),
            epoch: listed.epoch.to_string(),
        }))
    }
}

impl Connections {
    /// Returns the status of `other` from the user's point of view, and the id of their request.
    fn standing<'a>(
        &self,
        user: UserId,
        other: UserId,
        pair: impl Fn(&PairKey) -> Option<&'a Pair>,
        now: Time,
    ) -> (Standing, Option<RequestId>) {
        let Some(key) = PairKey::of(user, other) else { return (Standing::Itself, None) };
        match pair(&key) {
            Some(pair) => view::status(pair, user, &self.0.policy, now),
            None => (Standing::None, None),
        }
    }
}

/// Returns an error if the user or the viewer of a list does not exist.
fn expect_users(query: &ConnectionQuery, listed: &Listed<Connection>) -> Result<(), Status> {
    let expected = [Some(query.user), query.mutual.viewer()];
    let missing = expected.into_iter().flatten().find(|id| !listed.users.contains_key(id));
    missing.map_or(Ok(()), |id| Err(error::user_not_found(id)))
}
