//! The common part of both engines: a store over any engine that returns rows with their mark.
//!
//! The user cache, the composition of pages from rows and users, and the notification of commits are here, once.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::clock::DatabaseClock;
use super::users::{EVENTS_MAX, Mark, UserCache};
use super::{CachedUser, Listed, Pairs, Store, StoreError, Users};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::Request;
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Range, Read, RequestQuery, UserKey,
};
use crate::domain::user::User;

/// Rows, and the mark that was read before them.
pub(super) struct Rows<T> {
    pub(super) mark: Mark,
    pub(super) rows: Vec<T>,
}

/// A user's counts as stored, and whether they may include expired requests.
///
/// They may if any open request has expired that was not swept yet.
pub(super) struct StoredCounts {
    pub(super) counts: Option<Counts>,
    pub(super) something_expired: bool,
}

/// A database. Its methods promise what those of [`Store`] with the same name do.
#[async_trait]
pub(super) trait Engine: Send + Sync + 'static {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError>;

    async fn mark(&self) -> Result<Mark, StoreError>;

    /// Returns the users that the events after `after` and up to `until` changed or deleted.
    ///
    /// `None` if some of these events are no longer stored.
    async fn changed_users(&self, after: Sequence, until: Sequence) -> Result<Option<Vec<UserId>>, StoreError>;

    /// Those of the users that exist.
    async fn users_by_id(&self, ids: Vec<UserId>) -> Result<Vec<User>, StoreError>;

    async fn user_by_name(&self, key: String) -> Result<Rows<User>, StoreError>;

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError>;

    async fn request(&self, id: RequestId) -> Result<Rows<Request>, StoreError>;

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError>;

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<StoredCounts>, StoreError>;

    /// Returns a user's counts without the requests that were created at `expired` or before.
    ///
    /// Reads all of the user's open requests.
    async fn counts_without_expired(&self, user: UserId, expired: Time) -> Result<Option<Counts>, StoreError>;

    async fn list_users(&self, range: Range) -> Result<Rows<(User, Sequence)>, StoreError>;

    async fn list_requests(&self, query: RequestQuery) -> Result<Rows<Request>, StoreError>;

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Rows<Connection>, StoreError>;

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError>;

    async fn list_blocks(&self, query: BlockQuery) -> Result<Rows<Blocked>, StoreError>;

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError>;

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError>;
}

/// The store over an engine.
pub(super) struct Database<E> {
    pub(super) engine: E,
    /// Shared with the engine's writer, like the clock.
    pub(super) users: Arc<UserCache>,
    pub(super) clock: Arc<DatabaseClock>,
    pub(super) token_key: Vec<u8>,
    pub(super) committed: watch::Sender<()>,
}

impl<E: Engine> Database<E> {
    /// Those of the users that exist, as of this mark or later.
    async fn users_at(&self, mark: &Mark, ids: BTreeSet<UserId>) -> Result<Users, StoreError> {
        if let Some((after, until)) = self.users.outdated(mark) {
            let few = until.get() - after.get() <= EVENTS_MAX;
            let changed = if few { self.engine.changed_users(after, until).await? } else { None };
            self.users.invalidate(mark, after, changed);
        }
        let (mut users, missing) = self.users.get(ids, mark);
        if !missing.is_empty() {
            let loaded = self.engine.users_by_id(missing).await?;
            let loaded: Vec<CachedUser> = loaded.into_iter().map(CachedUser::from).collect();
            self.users.insert(loaded.iter().cloned(), mark);
            users.extend(loaded.into_iter().map(|user| (user.id, user)));
        }
        Ok(users)
    }

    /// Adds the users of the rows and of the query.
    ///
    /// A user that was deleted after the row was read is missing.
    async fn with_users<T: Sync, const N: usize>(
        &self,
        read: Rows<T>,
        of_query: impl IntoIterator<Item = UserId>,
        of_row: impl Fn(&T) -> [UserId; N],
    ) -> Result<Listed<T>, StoreError> {
        let Rows { mark, rows } = read;
        let ids = rows.iter().flat_map(of_row).chain(of_query).collect();
        Ok(Listed { revision: mark.revision, users: self.users_at(&mark, ids).await?, rows })
    }
}

#[async_trait]
impl<E: Engine> Store for Database<E> {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let replies = self.engine.commit(batch).await;
        self.committed.send_replace(());
        replies
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    async fn revision(&self) -> Result<Sequence, StoreError> {
        Ok(self.engine.mark().await?.revision)
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError> {
        match key {
            UserKey::Id(id) => {
                let Read { revision, mut value } = self.users(vec![id]).await?;
                Ok(Read { revision, value: value.remove(&id) })
            }
            UserKey::Name(key) => {
                let Rows { mark, rows } = self.engine.user_by_name(key).await?;
                Ok(Read { revision: mark.revision, value: rows.into_iter().next().map(CachedUser::from) })
            }
        }
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        let mark = self.engine.mark().await?;
        let value = self.users_at(&mark, ids.into_iter().collect()).await?;
        Ok(Read { revision: mark.revision, value })
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        let read = self.engine.request(id).await?;
        self.with_users(read, [], |request| [request.from, request.to]).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        self.engine.pairs(user, others).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        let Read { revision, value: StoredCounts { counts, something_expired } } =
            self.engine.counts(user, expired).await?;
        let value = match expired.filter(|_| something_expired && counts.is_some()) {
            Some(expired) => self.engine.counts_without_expired(user, expired).await?,
            None => counts,
        };
        Ok(Read { revision, value })
    }

    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError> {
        let Rows { mark, rows } = self.engine.list_users(range).await?;
        let value = rows.into_iter().map(|(user, position)| (user.into(), position)).collect();
        Ok(Read { revision: mark.revision, value })
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError> {
        let read = self.engine.list_requests(query).await?;
        self.with_users(read, [query.user], |request| [request.from, request.to]).await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError> {
        let read = self.engine.list_connections(query).await?;
        let of_query = query.mutual.viewer().into_iter().chain([query.user]);
        self.with_users(read, of_query, |connection| [connection.other]).await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        self.engine.count_mutual_connections(user, other).await
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError> {
        let read = self.engine.list_blocks(query).await?;
        self.with_users(read, [query.user], |blocked| [blocked.other]).await
    }

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        self.engine.user_position(user).await
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        self.engine.idempotent_response(key).await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        self.engine.events(query).await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.committed.subscribe()
    }

    fn token_key(&self) -> &[u8] {
        &self.token_key
    }
}
