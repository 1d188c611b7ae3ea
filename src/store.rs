//! Storage: the [`Store`] trait and its two engines, SQLite and PostgreSQL.
//!
//! [`Store::commit`] makes all changes; the other methods read. Both engines pass the same test suite,
//! `tests/it/conformance`. [`connect`] chooses the engine by the scheme of the database URL.

mod backup;
mod bulk;
mod check;
mod clock;
mod columns;
mod connect;
mod engine;
mod epoch;
mod export;
mod feed;
mod forget;
mod migration;
mod observed;
mod pair;
mod postgres;
mod query;
mod replicas;
mod row;
mod schema;
mod seen;
mod session;
mod sqlite;
mod statement;
mod users;
mod writer;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use async_trait::async_trait;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use tokio::sync::watch;

pub use self::backup::{Backup, BackupError, backup};
pub use self::bulk::{Bulk, KnownUser};
pub use self::check::{Checked, Repair, Report, check};
pub use self::connect::{
    DatabaseUrl, Options, connect, connect_with_replicas, migrate, migrations, try_migrations, wait_for,
};
pub use self::epoch::{Epochs, Servers, restore_epoch};
pub use self::export::{Snapshot, snapshot};
pub use self::migration::Migrations;
pub use self::observed::Observed;
pub use self::postgres::roles_script;
pub use self::replicas::{Replica, ReplicaOptions, Replicas, Route};
pub use self::seen::Seen;
pub use self::users::{CachedUser, Users};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::epoch::{Epoch, History, Position};
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::pair::{Pair, Request};
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Range, Read, Record, RecordQuery,
    RequestQuery, UserKey, UserKeys,
};

/// The maximum number of rows of each kind that one sweep expires or deletes.
pub const SWEEP_LIMIT: i64 = 500;
/// The number of open requests that a sweep reads to find out whether any has expired.
const LOOK_AHEAD: i64 = 16;
/// The maximum number of events that one sweep deletes.
///
/// Events are many and cheap to delete: this many delay the next batch by a few milliseconds.
const SWEEP_EVENTS_LIMIT: i64 = 2_000;
/// The maximum number of events from which one sweep erases a deleted user.
const SWEEP_FORGET_LIMIT: i64 = 500;
/// The maximum number of events that one sweep searches for a deletion.
const SWEEP_FORGET_SEARCH: i64 = 10_000;
/// The number of users that a bulk load reads at once.
const KNOWN_USERS: i64 = 10_000;
/// The number of oldest open requests that are checked for expired ones when a sender is at the limit.
const OLDEST_SENT_LIMIT: i64 = 4;

/// Storage of users, requests, connections, blocks and events.
///
/// Most reads return a revision: the result reflects all events up to it. Reads see committed changes only, and never
/// a part of a batch's changes to one pair. A read of several rows may also reflect changes after its revision.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Decides the batch's commands in order and stores their changes in one transaction.
    ///
    /// The head of the feed is locked first, so no other batch of any server is committed between this batch's reads
    /// and its commit. Returns one reply for each command, in order. Changes are durable when this returns: they
    /// survive a crash of this process and of the database.
    ///
    /// The time and the statements that a command takes never depend on facts that its caller must not learn.
    ///
    /// # Errors
    ///
    /// On an error nothing was stored, except with [`StoreError::OutcomeUnknown`].
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError>;

    /// Returns the current time of the database's clock.
    ///
    /// On PostgreSQL it is estimated from the clock's last reading.
    fn now(&self) -> Time;

    /// Returns the newest revision, with its epoch. The health check uses it to see whether the database works.
    async fn position(&self) -> Result<Position, StoreError>;

    /// Returns the epochs of the feed up to this one.
    async fn history(&self, until: &Epoch) -> Result<History, StoreError>;

    /// Returns the newest revision that this store has seen, and the totals at it. Does not ask the database.
    ///
    /// It sees the commits of this process immediately, those of others when one of its own follows, or when
    /// [`position`](Self::position) is called. The health check does that every two seconds.
    fn seen(&self) -> Seen;

    /// Returns one user; `None` if the user does not exist.
    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError>;

    /// Returns the users with these ids. Those that do not exist are left out.
    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError>;

    /// Returns the users with these keys, each once, in any order. Those that do not exist are left out.
    async fn users_by_key(&self, keys: UserKeys) -> Result<Read<Vec<CachedUser>>, StoreError>;

    /// Returns the sequence of the event that created a user; `None` if the user does not exist.
    async fn user_position(&self, user: UserId) -> Result<Option<Sequence>, StoreError>;

    /// Returns the sequence of the newest event that a user may see; `None` if the user does not exist.
    ///
    /// What is visible depends on the settings at the time of the event. It is no older than the newest event that is
    /// visible whatever the settings are.
    async fn newest_visible(&self, user: UserId) -> Result<Option<Sequence>, StoreError>;

    /// Returns one request in any state, as stored, with its two users. No row if it does not exist.
    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError>;

    /// Returns the pairs of a user with each of the others, as stored.
    ///
    /// Pairs without a request or a block are left out, and so are blocks against the user.
    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError>;

    /// Returns a user's counts without the requests that were created at `expired` or before.
    ///
    /// Returns `None` if the user does not exist.
    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError>;

    /// Lists all users with their positions, newest first.
    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError>;

    /// Lists requests of a user, in the order that the filter defines. Includes the user of the query.
    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError>;

    /// Lists connections of a user, newest first. Includes the user and the viewer of the query.
    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError>;

    /// Counts the users that are connected to both.
    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError>;

    /// Lists the users that a user blocks, newest first. Includes the user of the query.
    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError>;

    /// Lists what is stored about a user and is in none of the lists, in the order of its keys.
    async fn list_records(&self, query: RecordQuery) -> Result<Read<Vec<Record>>, StoreError>;

    /// Returns the response stored under a key, even if its retention has ended.
    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError>;

    /// Opens a snapshot of all rows, on a connection of its own.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Returns a slice of the feed, oldest event first.
    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError>;

    /// Returns a receiver that is marked as changed after each commit.
    ///
    /// Commits of this process mark it immediately, those of other servers when the database notifies this one.
    /// Notifications may be lost; callers that must not miss a commit also poll.
    fn changes(&self) -> watch::Receiver<()>;

    /// Completes when the database is no longer the one that was opened, with the reason.
    ///
    /// On SQLite that is seen within a second. From then on, commits fail.
    async fn lost(&self) -> StoreError;

    /// The key that signs page tokens. All servers of one database have the same one.
    fn token_key(&self) -> &[u8];
}

/// Pairs by key.
pub type Pairs = HashMap<PairKey, Pair>;

/// The rows of a list and their users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// All events up to this revision are reflected.
    pub revision: Sequence,
    /// The epoch that the revision belongs to.
    pub epoch: Epoch,
    /// The rows, in the order of the list.
    pub rows: Vec<T>,
    /// The users of the rows and of the query. Those that do not exist are left out.
    pub users: Users,
}

impl<T> Listed<T> {
    /// Returns the revision with its epoch.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch.clone(), sequence: self.revision }
    }
}

/// An error of the database. The causes are for the log; clients never receive them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement violated a constraint or conflicted with another transaction. A retry may succeed.
    #[error("the database refused a statement")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// The database cannot be reached, or cannot execute statements at present.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// It is known that no primary of the database can be reached, for this reason. A retry within a second is no use.
    #[error("the database is unavailable: {0}")]
    Away(Arc<str>),
    /// The connection or the disk failed during a commit. The batch may or may not be stored.
    #[error("the outcome of a commit is unknown")]
    OutcomeUnknown(#[source] Box<dyn Error + Send + Sync>),
    /// A queue of the store is full.
    #[error("too many reads wait for the database")]
    Overloaded,
    /// A stored value is invalid.
    ///
    /// The value itself is not part of the error, which the log has: it may be anything, also data of a user.
    #[error("{column} is invalid: {detail}")]
    Corrupt {
        /// The table and column.
        column: &'static str,
        /// Which row it is, or what is wrong.
        detail: String,
    },
    /// A bug in this program.
    #[error("internal error of the store")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl StoreError {
    /// The error of a commit by a store that was opened for reads only.
    fn read_only() -> Self {
        Self::Unavailable("the database was opened for reads only".into())
    }

    fn corrupt(column: &'static str, detail: impl Display) -> Self {
        Self::Corrupt { column, detail: detail.to_string() }
    }

    /// Returns a copy for another caller of the same batch. The causes become one text.
    fn duplicate(&self) -> Self {
        let cause = || {
            let mut text = self.to_string();
            let mut source = self.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text.into()
        };
        match self {
            Self::Refused(_) => Self::Refused(cause()),
            Self::Unavailable(_) => Self::Unavailable(cause()),
            Self::OutcomeUnknown(_) => Self::OutcomeUnknown(cause()),
            Self::Away(reason) => Self::Away(Arc::clone(reason)),
            Self::Overloaded => Self::Overloaded,
            Self::Corrupt { column, detail } => Self::corrupt(column, detail),
            Self::Internal(_) => Self::Internal(cause()),
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "foreign enums that may grow; any other is a bug in this program"
        )]
        match &error {
            DieselError::DatabaseError(kind, _) => match kind {
                DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::CheckViolation
                | DatabaseErrorKind::ExclusionViolation
                | DatabaseErrorKind::SerializationFailure => Self::Refused(error.into()),
                // Among the unnamed kinds are deadlocks, time-outs, a full disk, a locked file and a shutdown.
                _ => Self::Unavailable(error.into()),
            },
            _ => Self::Internal(error.into()),
        }
    }
}

/// An error of opening or migrating a database.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The tables were made by a newer version of this program.
    #[error("the database is newer than this program: it has migration {0}, which this version does not know")]
    Newer(String),
    /// The tables were made before the first release.
    #[error(
        "the database was made by a version before 0.1.0, which no release can read; create a new database, and import \
         the users into it"
    )]
    Unreleased,
    /// The tables are older, and migrations are turned off.
    #[error("the database lacks {0} migration(s); run `kith migrate` first, or leave --migrate on")]
    Older(usize),
    /// A pooler gives the transactions of a session to several connections.
    #[error(
        "the database is behind a pooler that shares connections between sessions, in which Kith cannot work; use \
         session pooling (PgBouncer: pool_mode=session), or connect to PostgreSQL itself"
    )]
    SharedSessions,
    /// A second connection waits for the first one's end.
    #[error(
        "a second connection to the database had no answer within {0:?}: a pool in between is too small (PgBouncer: \
         pool_size); a server needs as many connections as --read-connections says, and three more"
    )]
    NoSecondSession(std::time::Duration),
    /// SQLite is not the bundled one, and has an error that can corrupt the file.
    #[error(
        "this program was built with SQLite {0}, which can corrupt a database; build it without \
         LIBSQLITE3_SYS_USE_PKG_CONFIG, or with SQLite 3.51.3 or newer"
    )]
    FaultySqlite(String),
    /// The database or the file cannot be written, with the reason.
    #[error("the database cannot be written: {0}; `kith serve --read-only` serves reads from it")]
    ReadOnly(String),
    /// Servers use the database, and none may.
    #[error("{0}; stop all servers first, or use --force if you know that none is running")]
    InUse(String),
    /// A migration failed.
    #[error("a migration failed")]
    Migration(#[source] Box<dyn Error + Send + Sync>),
    /// The database returned an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DieselError> for ConnectError {
    fn from(error: DieselError) -> Self {
        Self::Store(error.into())
    }
}
