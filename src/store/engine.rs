//! The common part of both engines: a store over any engine that returns rows with their mark.
//!
//! The user cache, the composition of pages from rows and users, and the notification of commits are here, once.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use diesel::SqliteConnection;
use diesel::query_dsl::methods::LoadQuery;
use diesel_async::AsyncPgConnection;
use diesel_async::methods::LoadQuery as AsyncLoadQuery;
use tokio::sync::watch;

use super::clock::DatabaseClock;
use super::export::Snapshot;
use super::row::{
    BlockRow, ConnectionRow, CooldownRow, CountsRow, EndedRow, EpochRow, FeedHead, IdempotentResponseRow, RequestRow,
    ResponseRow, UserRow, positioned,
};
use super::schema::Stamp;
use super::seen::{LastSeen, Seen};
use super::session::Session;
use super::users::{EVENTS_MAX, Mark, Source, UserCache};
use super::{CachedUser, ConnectError, Listed, Pairs, Store, StoreError, Users, query};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::epoch::{Epoch, History, Position};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::{Request, RequestState};
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Mutual, Range, Read, Record, RecordKind,
    RecordQuery, RequestFilter, RequestQuery, UserKey, UserKeys,
};
use crate::domain::user::User;
use crate::metrics::feed::Feed;

/// Rows, and the mark that was read before them.
pub(super) struct Rows<T> {
    pub(super) mark: Mark,
    pub(super) rows: Vec<T>,
}

impl<R> Rows<R> {
    fn convert<T>(self, row: impl FnMut(R) -> Result<T, StoreError>) -> Result<Rows<T>, StoreError> {
        let Self { mark, rows } = self;
        Ok(Rows { mark, rows: rows.into_iter().map(row).collect::<Result<_, _>>()? })
    }
}

/// How much a read reads, which decides on which connections it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// A few rows, found by an index.
    Few,
    /// Possibly many rows. Such a read runs to its end even if its caller is gone.
    Many,
}

/// A query that both engines run, whose rows are of the type `R`.
pub(super) trait SharedQuery<R>:
    LoadQuery<'static, SqliteConnection, R> + for<'a> AsyncLoadQuery<'static, &'a AsyncPgConnection, R> + Send + 'static
{
}

impl<Q, R> SharedQuery<R> for Q where
    Q: LoadQuery<'static, SqliteConnection, R>
        + for<'a> AsyncLoadQuery<'static, &'a AsyncPgConnection, R>
        + Send
        + 'static
{
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

    /// Returns the head of the feed. [`mark`](Self::mark) is cheaper.
    async fn head(&self) -> Result<FeedHead, StoreError>;

    /// Returns the users that the events after `after` and up to `until` changed or deleted.
    ///
    /// `None` if some of these events are no longer stored.
    async fn changed_users(&self, after: Sequence, until: Sequence) -> Result<Option<Vec<UserId>>, StoreError>;

    /// Those of the users that exist.
    async fn users_by_id(&self, ids: Vec<UserId>) -> Result<Vec<User>, StoreError>;

    /// Reads the mark, and then users by their keys.
    async fn users_by_key(&self, keys: UserKeys) -> Result<Rows<UserRow>, StoreError>;

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError>;

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<StoredCounts>, StoreError>;

    /// Reads the mark, and then the rows of a query.
    async fn rows<Q: SharedQuery<R>, R: Send + 'static>(&self, reads: Reads, query: Q) -> Result<Rows<R>, StoreError>;

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError>;

    /// Opens a connection of its own with a snapshot for reads.
    async fn session(&self) -> Result<Session, ConnectError>;

    async fn lost(&self) -> StoreError {
        std::future::pending().await
    }
}

/// The store over an engine.
pub(super) struct Database<E> {
    pub(super) engine: E,
    /// Shared with the engine's writer, like the clock.
    pub(super) users: Arc<UserCache>,
    /// Shared with the engine's writer too.
    pub(super) seen: Arc<LastSeen>,
    pub(super) clock: Arc<DatabaseClock>,
    pub(super) token_key: Vec<u8>,
    pub(super) committed: watch::Sender<()>,
    pub(super) feed: Arc<Feed>,
    /// Which of the databases the engine reads.
    pub(super) source: Source,
}

impl<E> Database<E> {
    /// The same database over another engine, with the same caches.
    pub(super) fn beside<F>(&self, engine: F, source: Source) -> Database<F> {
        let Self { engine: _, users, seen, clock, token_key, committed, feed, source: _ } = self;
        Database {
            engine,
            users: Arc::clone(users),
            seen: Arc::clone(seen),
            clock: Arc::clone(clock),
            token_key: token_key.clone(),
            committed: committed.clone(),
            feed: Arc::clone(feed),
            source,
        }
    }
}

impl<E: Engine> Database<E> {
    /// Those of the users that exist, as of this mark or later.
    async fn users_at(&self, mark: &Mark, ids: BTreeSet<UserId>) -> Result<Users, StoreError> {
        if let Some((after, until)) = self.users.outdated(mark) {
            let few = until.get() - after.get() <= EVENTS_MAX;
            let changed = if few { self.engine.changed_users(after, until).await? } else { None };
            self.users.invalidate(mark, after, changed);
        }
        let (mut users, missing) = self.users.get(ids, mark, self.source);
        if !missing.is_empty() {
            let loaded = self.engine.users_by_id(missing).await?;
            let loaded: Vec<CachedUser> = loaded.into_iter().map(CachedUser::from).collect();
            self.users.insert(loaded.iter().cloned(), mark);
            users.extend(loaded.into_iter().map(|user| (user.id, user)));
        }
        Ok(users)
    }

    /// Returns the first row of a query.
    async fn first<R: Send + 'static>(
        &self,
        reads: Reads,
        query: impl SharedQuery<R>,
    ) -> Result<Option<R>, StoreError> {
        Ok(self.engine.rows(reads, query).await?.rows.into_iter().next())
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
        let users = self.users_at(&mark, ids).await?;
        Ok(Listed { revision: mark.revision, epoch: mark.epoch, rows, users })
    }
}

/// Converts the user that a query by a key found.
fn found(read: Rows<UserRow>) -> Result<Read<Option<CachedUser>>, StoreError> {
    let Rows { mark, rows } = read.convert(User::try_from)?;
    Ok(mark.read(rows.into_iter().next().map(CachedUser::from)))
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

    async fn position(&self) -> Result<Position, StoreError> {
        let head = self.engine.head().await?;
        self.seen.note(&head);
        let mark = head.mark();
        self.feed.read(mark.revision.get());
        // Health asks every two seconds, so that an idle server too drops users whom another server deleted.
        self.users_at(&mark, BTreeSet::new()).await?;
        Ok(Position { epoch: mark.epoch, sequence: mark.revision })
    }

    async fn history(&self, until: &Epoch) -> Result<History, StoreError> {
        let Rows { mark: _, rows } = self.engine.rows(Reads::Few, query::history()).await?;
        Ok(History::until(rows.into_iter().map(EpochRow::start).collect(), until))
    }

    fn seen(&self) -> Seen {
        self.seen.get()
    }

    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError> {
        match key {
            UserKey::Id(id) => {
                let Read { revision, epoch, mut value } = self.users(vec![id]).await?;
                Ok(Read { revision, epoch, value: value.remove(&id) })
            }
            UserKey::ExternalId(id) => {
                let query = query::user_by_external_id(id.as_str().to_owned());
                found(self.engine.rows(Reads::Few, query).await?)
            }
            UserKey::Name(key) => found(self.engine.rows(Reads::Few, query::user_by_name(key)).await?),
        }
    }

    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError> {
        let mark = self.engine.mark().await?;
        let value = self.users_at(&mark, ids.into_iter().collect()).await?;
        Ok(mark.read(value))
    }

    async fn users_by_key(&self, keys: UserKeys) -> Result<Read<Vec<CachedUser>>, StoreError> {
        let Rows { mark, mut rows } = self.engine.users_by_key(keys).await?;
        rows.sort_unstable_by_key(|row| row.id);
        rows.dedup_by_key(|row| row.id);
        let users = rows.into_iter().map(|row| User::try_from(row).map(CachedUser::from)).collect::<Result<_, _>>()?;
        Ok(mark.read(users))
    }

    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError> {
        let read: Rows<RequestRow> = self.engine.rows(Reads::Few, query::request(id.get())).await?;
        self.with_users(read.convert(Request::try_from)?, [], |request| [request.from, request.to]).await
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        self.engine.pairs(user, others).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError> {
        let Read { revision, epoch, value: StoredCounts { counts, something_expired } } =
            self.engine.counts(user, expired).await?;
        let value = match expired.filter(|_| something_expired && counts.is_some()) {
            Some(expired) => {
                let exact = query::counts_without_expired_requests(user.get(), Stamp(expired));
                self.first(Reads::Many, exact).await?.map(|row: CountsRow| row.counts())
            }
            None => counts,
        };
        Ok(Read { revision, epoch, value })
    }

    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError> {
        let Range { before, limit } = range;
        let page = query::users_page(query::first(before), limit);
        let Rows { mark, rows } = self.engine.rows(Reads::Many, page).await?.convert(positioned)?;
        let value = rows.into_iter().map(|(user, position)| (user.into(), position)).collect();
        Ok(mark.read(value))
    }

    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError> {
        let RequestQuery { user, filter, created_after, range: Range { before, limit } } = query;
        let (id, after, before) = (user.get(), Stamp(created_after), query::first(before));
        let (engine, pending) = (&self.engine, RequestState::Pending.name());
        let read: Rows<RequestRow> = match filter {
            RequestFilter::Received(state) => {
                engine.rows(Reads::Few, query::requests_received(id, state.name(), after, before, limit)).await?
            }
            RequestFilter::Unviewed => {
                engine.rows(Reads::Few, query::requests_unviewed(id, pending, after, before, limit)).await?
            }
            RequestFilter::Sent => engine.rows(Reads::Few, query::requests_sent(id, after, before, limit)).await?,
            RequestFilter::SentConnected => {
                engine.rows(Reads::Few, query::requests_sent_connected(id, before, limit)).await?
            }
            RequestFilter::SentAnd { rejected } => {
                engine.rows(Reads::Few, query::requests_sent_and(id, rejected, after, before, limit)).await?
            }
        };
        self.with_users(read.convert(Request::try_from)?, [user], |request| [request.from, request.to]).await
    }

    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError> {
        let ConnectionQuery { user, mutual, range: Range { before, limit } } = query;
        // With a viewer the query may read all connections of the user.
        let reads = if mutual == Mutual::Any { Reads::Few } else { Reads::Many };
        let page = query::connections_page(user.get(), mutual, query::first(before), limit);
        let read = self.engine.rows(reads, page).await?.convert(|row: ConnectionRow| Ok(Connection::from(row)))?;
        let of_query = mutual.viewer().into_iter().chain([user]);
        self.with_users(read, of_query, |connection| [connection.other]).await
    }

    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError> {
        let total = self.first(Reads::Many, query::connections_shared_total(user.get(), other.get())).await?;
        Ok(total.unwrap_or_default())
    }

    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError> {
        let BlockQuery { user, range: Range { before, limit } } = query;
        let page = query::blocks_page(user.get(), query::first(before), limit);
        let read = self.engine.rows(Reads::Few, page).await?.convert(|row: BlockRow| Ok(row.blocked()))?;
        self.with_users(read, [user], |blocked| [blocked.other]).await
    }

    async fn list_records(&self, query: RecordQuery) -> Result<Read<Vec<Record>>, StoreError> {
        let RecordQuery { user, kind, after, limit } = query;
        let id = user.get();
        let after_user = after.as_ref().and_then(|last| last.other_than(user)).map_or(0, UserId::get);
        macro_rules! read {
            ($row:ty: $query:expr) => {
                self.engine.rows(Reads::Few, $query).await?.convert(|row: $row| Ok(Record::from(row)))?
            };
        }
        let Rows { mark, rows } = match kind {
            RecordKind::Sends => read!(CountsRow: query::counts(id)),
            RecordKind::BlocksOf => read!(BlockRow: query::blocks_of(id, after_user, limit)),
            RecordKind::CooldownsFrom => read!(CooldownRow: query::cooldowns_from(id, after_user, limit)),
            RecordKind::CooldownsTo => read!(CooldownRow: query::cooldowns_to(id, after_user, limit)),
            RecordKind::EndedFrom => read!(EndedRow: query::ended_from(id, after_user, limit)),
            RecordKind::EndedTo => read!(EndedRow: query::ended_to(id, after_user, limit)),
            RecordKind::Responses => {
                let (caller, response) = after.and_then(Record::response_key).unwrap_or_default();
                read!(ResponseRow: query::responses_of(id, caller, response, limit))
            }
        };
        Ok(mark.read(rows))
    }

    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        Ok(self.first(Reads::Few, query::user_position(user.get())).await?.map(Sequence::new))
    }

    async fn newest_visible(&self, user: UserId) -> Result<Option<Sequence>, StoreError> {
        let found: Option<(i64, i64)> = self.first(Reads::Few, query::newest_visible(user.get())).await?;
        Ok(found.map(|(alone, with_another)| Sequence::new(alone.max(with_another))))
    }

    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError> {
        let IdempotencyKey { caller, id } = key;
        let stored = self.first(Reads::Few, query::idempotent_response(caller, id.to_string())).await?;
        stored.map(IdempotentResponseRow::try_into).transpose()
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        self.engine.events(query).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let failed =
            |error| if let ConnectError::Store(error) = error { error } else { StoreError::Unavailable(error.into()) };
        let session = self.engine.session().await.map_err(failed)?;
        Snapshot::of(session).await
    }

    async fn lost(&self) -> StoreError {
        self.engine.lost().await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.committed.subscribe()
    }

    fn token_key(&self) -> &[u8] {
        &self.token_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::caller::Caller;
    use crate::domain::command::{Command, Submission};
    use crate::domain::policy::Policy;
    use crate::domain::user::Profile;
    use crate::store::sqlite::{SqliteEngine, SqliteFile, store};
    use crate::store::{DatabaseUrl, Options, migrate};

    async fn commit(store: &Database<SqliteEngine>, command: Command) {
        let submissions = vec![Submission { caller: Caller::Operator, command, idempotency: None }];
        let batch = Batch { submissions, policy: Arc::new(Policy::default()) };
        store.commit(Arc::new(batch)).await.expect("a commit")[0].as_ref().expect("a reply");
    }

    #[tokio::test]
    async fn a_server_drops_a_user_whom_another_server_deleted_without_being_asked_for_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kith.db").display().to_string();
        let url: DatabaseUrl = format!("sqlite://{path}").parse().expect("a URL");
        migrate(&url, &Default::default()).await.expect("a migration");
        let file: SqliteFile = path.parse().expect("a file");
        let [one, other] = [(); 2].map(|()| store(&file, &Options::default()).expect("a store"));
        let ann = UserId::new(7);
        let username = "ann".parse().expect("a name");
        commit(&one, Command::CreateUser(Box::new(Profile { id: Some(ann), username, ..Profile::default() }))).await;
        other.users(vec![ann]).await.expect("a user");
        assert!(other.users.holds(ann));
        commit(&one, Command::DeleteUser(ann)).await;
        assert!(!one.users.holds(ann) && other.users.holds(ann));
        other.position().await.expect("a revision");
        assert!(!other.users.holds(ann));
    }
}
