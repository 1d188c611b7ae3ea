//! Changes of a database that no server uses, in one transaction: all of an import, or nothing.
//!
//! The rows are written by the statements of the commit (`save` of each engine), so a bulk load knows no columns of its own.
//! Into an empty database they are written without the secondary indexes, which are made afterwards: sorting a column once
//! costs less than finding the place of each value.

use std::sync::{Arc, Mutex, PoisonError};

use super::connect::{DatabaseUrl, Engine, blocking, refuse_other_tables};
use super::postgres::PostgresBulk;
use super::row::FeedHead;
use super::session::Session;
use super::sqlite::SqliteBulk;
use super::{ConnectError, StoreError, sqlite};
use crate::clock::Clock;
use crate::domain::Time;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::epoch::Epoch;
use crate::domain::id::{Sequence, UserId};
use crate::domain::ledger::{Changes, Head};
use crate::progress::{Progress, Step};

/// What of the stored users identifies them in rows, and dates relations without dates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownUser {
    /// The id.
    pub id: UserId,
    /// The [key](crate::domain::text::Username::key) of the username.
    pub username_key: Option<String>,
    /// The id in the system that owns the profiles.
    pub external_id: Option<String>,
    /// When the user joined.
    pub date_joined: Time,
}

/// What a bulk load begins with.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    /// The locked head.
    pub(super) before: FeedHead,
    /// The time of the database's clock.
    pub(super) now: Time,
}

/// A transaction in which a database is changed that no server uses. Dropping it rolls back.
pub struct Bulk {
    engine: BulkEngine,
    head: Head,
    epoch: Epoch,
    now: Time,
}

enum BulkEngine {
    // Shared with the thread that waits for it.
    Sqlite(Arc<Mutex<SqliteBulk>>),
    Postgres {
        bulk: Box<PostgresBulk>,
        /// Keeps servers out as long as it is open.
        _alone: Session,
    },
}

impl Bulk {
    /// Locks a database that no server uses.
    ///
    /// # Errors
    ///
    /// [`ConnectError::InUse`] if one does. Otherwise when the database cannot be used, or its tables belong to another
    /// version.
    pub async fn begin(url: &DatabaseUrl, clock: &Clock) -> Result<Self, ConnectError> {
        refuse_other_tables(url).await?;
        let clock = clock.clone();
        let (engine, begun) = match url.0.clone() {
            Engine::Sqlite(file) => {
                let in_use = format!("another process has the file open; `fuser {file}` shows which");
                let begun = blocking(move || {
                    let alone = sqlite::open_alone(&file)?;
                    alone.map(|conn| SqliteBulk::begin(conn, clock)).transpose().map_err(ConnectError::from)
                });
                let (bulk, begun) = begun.await?.ok_or(ConnectError::InUse(in_use))?;
                (BulkEngine::Sqlite(Arc::new(Mutex::new(bulk))), begun)
            }
            Engine::Postgres { config } => {
                let alone = Session::without_servers(url).await?;
                let (bulk, begun) = PostgresBulk::begin(&config, clock).await?;
                (BulkEngine::Postgres { bulk: Box::new(bulk), _alone: alone }, begun)
            }
        };
        let Begun { before: FeedHead { epoch, lineage: _, head, batch_id: _ }, now } = begun;
        Ok(Self { engine, head, epoch, now })
    }

    /// Returns the head of the feed as it is in the transaction.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the epoch of the feed.
    pub fn epoch(&self) -> &str {
        self.epoch.as_str()
    }

    /// Returns the time of the database's clock at the beginning.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Whether nothing was ever stored in the database.
    pub fn is_empty(&self) -> bool {
        self.head.sequence == Sequence::default()
    }

    /// Prepares an empty database for many rows: drops its secondary indexes until the commit.
    ///
    /// On PostgreSQL only the owner of the tables can. Others write the rows with the indexes, which takes longer.
    pub async fn load_empty(&mut self) -> Result<(), StoreError> {
        match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, SqliteBulk::load_empty).await,
            BulkEngine::Postgres { bulk, _alone } => bulk.load_empty().await,
        }
    }

    /// Returns users in the order of their ids, the first of them after `after`; none at the end.
    pub async fn known_users(&mut self, after: UserId) -> Result<Vec<KnownUser>, StoreError> {
        match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, move |bulk| bulk.known_users(after)).await,
            BulkEngine::Postgres { bulk, _alone } => bulk.known_users(after).await,
        }
    }

    /// Returns the users with more connections than `limit`. Reads all counts.
    pub async fn full_users(&mut self, limit: i64) -> Result<Vec<UserId>, StoreError> {
        let ids = match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, move |bulk| bulk.full_users(limit)).await?,
            BulkEngine::Postgres { bulk, _alone } => bulk.full_users(limit).await?,
        };
        Ok(ids.into_iter().map(UserId::new).collect())
    }

    /// Stores changes that were not decided by the ledger. Their head is the new one.
    pub async fn save(&mut self, changes: Changes) -> Result<(), StoreError> {
        self.head = changes.head;
        match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, move |bulk| bulk.save(&changes)).await,
            BulkEngine::Postgres { bulk, _alone } => bulk.save(&changes).await,
        }
    }

    /// Decides a batch and stores its changes.
    pub async fn run(&mut self, batch: Batch) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        let (replies, head) = match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, move |bulk| bulk.run(&batch)).await?,
            BulkEngine::Postgres { bulk, _alone } => bulk.run(&batch).await?,
        };
        self.head = head;
        Ok(replies)
    }

    /// Makes the dropped indexes again and commits.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutcomeUnknown`] if the connection is lost during the commit.
    pub async fn commit(mut self, progress: &Progress) -> Result<(), StoreError> {
        let progress = progress.clone();
        match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, move |bulk| bulk.commit(&progress)).await,
            BulkEngine::Postgres { bulk, _alone } => bulk.commit(&progress).await,
        }
    }

    /// Ends the transaction without a change.
    pub async fn roll_back(mut self) -> Result<(), StoreError> {
        match &mut self.engine {
            BulkEngine::Sqlite(bulk) => locked(bulk, SqliteBulk::roll_back).await,
            BulkEngine::Postgres { bulk, _alone } => bulk.roll_back().await,
        }
    }
}

/// Runs a job of SQLite on a thread that may wait.
async fn locked<T: Send + 'static>(
    bulk: &Arc<Mutex<SqliteBulk>>,
    job: impl FnOnce(&mut SqliteBulk) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let bulk = Arc::clone(bulk);
    let done = tokio::task::spawn_blocking(move || job(&mut bulk.lock().unwrap_or_else(PoisonError::into_inner)));
    done.await.unwrap_or_else(|error| Err(StoreError::Internal(error.into())))
}

/// Reports that one index after the other is made.
pub(super) fn report_indexes(progress: &Progress, done: usize, total: usize, name: &str) {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let (done, total) = (count(done), Some(count(total)));
    progress.report(Step {
        phase: "indexing",
        unit: "indexes",
        done,
        current: 1,
        total,
        doing: name.to_owned().into(),
    });
}
