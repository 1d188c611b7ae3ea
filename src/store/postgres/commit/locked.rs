//! The commit in a transaction that locks the head before it loads: while another server commits too, and for what takes
//! several statements to save.

use diesel::pg::Pg;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::join;
use tokio::sync::MutexGuard;

use super::load::{self, How};
use super::save::Saves;
use super::{Decided, Failure, LOCKED, Line, NotSaved, Replies, UnderWay, Writer};
use crate::domain::command::{Batch, Needs};
use crate::domain::ledger;
use crate::store::StoreError;
use crate::store::feed::new_batch_id;
use crate::store::statement::Statement;

/// Begins a transaction in which the head is locked before anything else is read. At READ COMMITTED each statement that
/// follows the lock sees what the batch before committed.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
pub(super) const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

impl Writer {
    /// Commits a batch in a transaction that locks the head before it loads.
    pub(super) async fn with_lock(
        &self,
        mut line: MutexGuard<'_, Line>,
        needs: &Needs,
        batch: &Batch,
    ) -> Result<Replies, Failure> {
        let _settled = self.settled.lock().await;
        line.saving = None;
        line.to_lock = line.to_lock.saturating_sub(1);
        let wire = self.wire(&mut line).await?;
        // Until it has ended: a future that is dropped half-way drops the connection with its transaction.
        let mut under_way = UnderWay(Some(&wire.lost));
        let decided = self.decide(&wire.conn, needs, batch, &mut line.to_lock).await;
        let decided = match decided {
            Ok(decided) if !decided.changes.is_empty() => decided,
            // Nothing to make durable. What cannot be rolled back is dropped, and the database rolls it back.
            ended => {
                if order(&wire.conn, ROLLBACK).await.is_ok() {
                    under_way.0 = None;
                }
                return ended.map(|decided| decided.replies).map_err(Failure::Before);
            }
        };
        let batch_id = new_batch_id();
        let outcome = save_and_commit(&wire.conn, Saves::new(&decided.before, &decided.changes, batch_id)).await;
        if outcome.is_ok() {
            under_way.0 = None;
        }
        let replies = self.kept.conclude(outcome, decided, batch_id)?;
        replies.ok_or_else(|| Failure::Before(StoreError::Internal("the head was not locked".into())))
    }

    async fn decide(
        &self,
        conn: &AsyncPgConnection,
        needs: &Needs,
        batch: &Batch,
        to_lock: &mut u32,
    ) -> Result<Decided, StoreError> {
        let loaded = load::begin(conn, &self.kept, How::Locked, needs, batch).await?;
        if self.kept.counts.check(&loaded.head) {
            *to_lock = LOCKED;
        }
        let before = loaded.head.clone();
        let snapshot = load::finish(conn, &self.kept, How::Locked, needs, batch, loaded).await?;
        let (replies, changes) = ledger::run(batch, snapshot);
        Ok(Decided { before, replies, changes })
    }
}

impl NotSaved {
    /// Nothing was stored, for sure: the transaction was rolled back.
    fn undone(self) -> Self {
        match self {
            Self::Lost(error) => Self::Refused(error),
            Self::Stale | Self::Refused(_) => self,
        }
    }
}

/// Saves, and ends the transaction.
async fn save_and_commit(conn: &AsyncPgConnection, saves: Saves<'_>) -> Result<(), NotSaved> {
    if saves.is_one() {
        // The commit goes out with what it commits. If that is refused it is a rollback, and says nothing.
        let (saved, committed) = join!(biased; saves.save(conn), order(conn, COMMIT));
        return match (saved, committed) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(error), Ok(())) => Err(error.undone()),
            (Ok(()), Err(error @ StoreError::Refused(_))) => Err(NotSaved::Refused(error)),
            (_, Err(error)) => Err(NotSaved::Lost(error)),
        };
    }
    // Of several none may be missing: a commit that went out with them would also commit without one that could not be
    // sent.
    if let Err(error) = saves.save(conn).await {
        order(conn, ROLLBACK).await.map_err(NotSaved::Lost)?;
        return Err(error.undone());
    }
    order(conn, COMMIT).await.map_err(NotSaved::Lost)
}

/// Begins or ends the transaction. Not by `batch_execute`, which would overtake what is not prepared yet: all that is
/// [kept prepared](Statement) waits for its turn at the cache of prepared statements, in the order in which it was
/// first polled.
pub(super) async fn order(mut conn: &AsyncPgConnection, text: &'static str) -> Result<(), StoreError> {
    Statement::<Pg>::new(text).execute(&mut conn).await?;
    Ok(())
}
