//! The commit on SQLite: one immediate transaction for each batch, on the write connection.
//!
//! Its statements read and write single rows and stay prepared.
//!
//! The write lock of the file has the role that the head of the feed has on PostgreSQL. It is taken before the first
//! read, so no other process commits between a batch's reads and its commit.

mod load;
mod save;

use diesel::prelude::*;

use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger;
use crate::store::StoreError;
use crate::store::clock::DatabaseClock;
use crate::store::feed::new_batch_id;
use crate::store::writer::{Loaded, WriterState};

/// Commits one batch.
pub(super) fn commit(
    conn: &mut SqliteConnection,
    state: &mut WriterState,
    clock: &DatabaseClock,
    batch: &Batch,
) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
    let (batch_id, mut is_saved) = (new_batch_id(), false);
    let committed = conn.immediate_transaction(|conn| {
        let Loaded { before, snapshot } = load::load(conn, state, clock, batch)?;
        let (replies, changes) = ledger::run(batch, snapshot);
        if !changes.is_empty(&before.head) {
            save::save(conn, &changes, batch_id)?;
            is_saved = true;
        }
        Ok::<_, StoreError>((replies, before, changes))
    });
    // A failed commit may be complete in the log, with only the flush to disk having failed. It is rolled back now,
    // but recovery after a crash would apply it.
    let unknown = |error: StoreError| if is_saved { StoreError::OutcomeUnknown(error.into()) } else { error };
    let (replies, before, changes) = committed.map_err(unknown)?;
    state.committed(&before, &changes, batch_id);
    Ok(replies)
}
