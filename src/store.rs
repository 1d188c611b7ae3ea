//! Where everything is kept: one contract, two engines.
//!
//! All changes go through [`Store::commit`]; everything else reads. Both engines pass the same suite,
//! `tests/it/conformance`. [`connect`] chooses the engine by the database's URL.

mod check;
mod connect;
mod engine;
mod epoch;
mod feed;
mod migration;
mod observed;
mod postgres;
mod query;
mod row;
mod schema;
mod session;
mod sqlite;
mod statement;
mod tls;
mod users;
mod writer;

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use tokio::sync::watch;

pub use self::check::{Checked, Repair, Report, check};
pub use self::connect::{DatabaseUrl, Options, connect, migrate};
pub use self::epoch::{Epochs, restore_epoch};
pub use self::observed::Observed;
pub use self::users::{CachedUser, Users};
use crate::domain::Time;
use crate::domain::command::{Batch, IdempotencyKey, IdempotentResponse, Reply};
use crate::domain::counts::Counts;
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::pair::{Pair, Request};
use crate::domain::query::{
    BlockQuery, Blocked, Connection, ConnectionQuery, EventQuery, FeedSlice, Range, Read, RequestQuery, UserKey,
};

/// The most rows that a sweep expires or deletes of each kind.
pub const DUE_AT_ONCE: i64 = 500;
/// How many open requests a sweep looks at to find out whether any has expired.
const LOOK_AHEAD: i64 = 16;
/// The most events that a sweep deletes. They are many, and cost little each: this much holds callers up for some
/// milliseconds.
const EVENTS_AT_ONCE: i64 = 2_000;
/// How many of a sender's oldest requests are looked at for one that is due.
const OLDEST_OF_A_SENDER: i64 = 4;

/// Reads and writes everything that is stored.
///
/// Every read returns a revision: everything committed up to it is reflected. Reads see committed changes only, and
/// never a part of a batch's changes to one pair. A read of several rows may also reflect changes after its revision.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Decides the batch's commands in order and stores their changes in one transaction.
    ///
    /// No other batch, of this or another server, is committed between reading what this one is decided from and its
    /// own commit: the head of the feed is locked first. Returns one reply for each command, in order. Replies are
    /// durable: they survive a kill of this process and of the database.
    ///
    /// How long it takes, and what it asks the database, never depends on what a command's caller must not know.
    ///
    /// On an error nothing was stored, except with [`StoreError::OutcomeUnknown`].
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError>;

    /// The newest revision. Fails when the database cannot be used; health follows it.
    async fn revision(&self) -> Result<Sequence, StoreError>;

    /// One user.
    async fn user(&self, key: UserKey) -> Result<Read<Option<CachedUser>>, StoreError>;

    /// Those of the users that exist.
    async fn users(&self, ids: Vec<UserId>) -> Result<Read<Users>, StoreError>;

    /// One request in any state, as stored, with its two users. No row if it does not exist.
    async fn request(&self, id: RequestId) -> Result<Listed<Request>, StoreError>;

    /// What is between a user and each of the others, as stored. Pairs with nothing between them are left out, and so
    /// are blocks against the user.
    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError>;

    /// A user's counts, without the requests that were created at `expired` or before; `None` for no such user.
    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<Option<Counts>>, StoreError>;

    /// All users, newest first, each with its position.
    async fn list_users(&self, range: Range) -> Result<Read<Vec<(CachedUser, Sequence)>>, StoreError>;

    /// Requests of a user, in the order that the filter says, with their users; and the user of the query.
    async fn list_requests(&self, query: RequestQuery) -> Result<Listed<Request>, StoreError>;

    /// Connections of a user, newest first, with the other users; and the user and the viewer of the query.
    async fn list_connections(&self, query: ConnectionQuery) -> Result<Listed<Connection>, StoreError>;

    /// How many users are connected to both.
    async fn count_mutual_connections(&self, user: UserId, other: UserId) -> Result<i64, StoreError>;

    /// The users whom a user blocks, newest first; and the user of the query.
    async fn list_blocks(&self, query: BlockQuery) -> Result<Listed<Blocked>, StoreError>;

    /// The response stored under a key, however old.
    async fn idempotent_response(&self, key: IdempotencyKey) -> Result<Option<IdempotentResponse>, StoreError>;

    /// Events, oldest first.
    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError>;

    /// Marked as changed whenever something may have been committed: immediately by this process, and by others as
    /// soon as the database notifies it. Notifications may be lost; callers that must not miss a commit also poll.
    fn changes(&self) -> watch::Receiver<()>;

    /// The secret with which page tokens are signed: the same for all servers on one database.
    fn token_key(&self) -> &[u8];
}

/// What is between users, by pair.
pub type Pairs = HashMap<PairKey, Pair>;

/// The rows of a list and their users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    /// Everything committed up to this revision is reflected.
    pub revision: Sequence,
    /// The rows, in their order.
    pub rows: Vec<T>,
    /// The users of the rows and of the query, as far as they exist.
    pub users: Users,
}

/// Why the database did not do what it was asked. The causes are for the log; no caller sees them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It refused a statement: a constraint, a conflict with another transaction. Another try may do.
    #[error("the database refused a statement")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// It cannot be reached, or cannot work now.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// It was lost during a commit, and it could not be learnt whether the commit took place; or its disk failed at the
    /// end of one.
    #[error("the outcome of a commit is unknown")]
    OutcomeUnknown(#[source] Box<dyn Error + Send + Sync>),
    /// There is more to do than can be held.
    #[error("too many reads wait for the database")]
    Overloaded,
    /// A row makes no sense.
    #[error("{column} holds {value:?}")]
    Corrupt {
        /// Where.
        column: &'static str,
        /// What.
        value: String,
    },
    /// A fault of ours.
    #[error("a statement is wrong")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl StoreError {
    fn corrupt(column: &'static str, value: &str) -> Self {
        Self::Corrupt { column, value: value.to_owned() }
    }

    /// The same for another caller whom it concerns, with its causes as one text.
    fn again(&self) -> Self {
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
            Self::Overloaded => Self::Overloaded,
            Self::Corrupt { column, value } => Self::corrupt(column, value),
            Self::Internal(_) => Self::Internal(cause()),
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums that may grow; the rest is a fault of ours")]
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

/// Why a database cannot be used.
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
    /// The tables are older, and may not be changed.
    #[error("the database lacks {0} migration(s); run `kith migrate` first, or leave --migrate on")]
    Older(usize),
    /// A migration failed.
    #[error("a migration failed")]
    Migration(#[source] Box<dyn Error + Send + Sync>),
    /// The database does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DieselError> for ConnectError {
    fn from(error: DieselError) -> Self {
        Self::Store(error.into())
    }
}
