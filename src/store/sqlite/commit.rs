//! The commit on SQLite: one immediate transaction for each batch, on the write connection.
//!
//! Its statements read and write single rows and stay prepared.
//!
//! The write lock of the file has the role that the head of the feed has on PostgreSQL. It is taken before the first
//! read, so no other process commits between a batch's reads and its commit.

mod load;
mod save;

use std::sync::Arc;

use diesel::prelude::*;

use self::load::Loaded;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger;
use crate::store::StoreError;
use crate::store::clock::DatabaseClock;
use crate::store::feed::new_batch_id;
use crate::store::users::UserCache;
use crate::store::writer::WriterState;

type Replies = Vec<Result<Reply, Rejection>>;

/// The writer's cached state, the clock, and the user cache that it shares with reads.
pub(super) struct Writer {
    pub(super) state: WriterState,
    pub(super) clock: Arc<DatabaseClock>,
    pub(super) users: Arc<UserCache>,
}

impl Writer {
    pub(super) fn commit(&mut self, conn: &mut SqliteConnection, batch: &Batch) -> Result<Replies, StoreError> {
        let Self { state, clock, users } = self;
        let (batch_id, mut is_saved) = (new_batch_id(), false);
        let committed = conn.immediate_transaction(|conn| {
            let Loaded { before, snapshot } = load::load(conn, state, clock, users, batch)?;
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
        if is_saved {
            state.committed(&changes, batch_id);
            users.committed(&before.head, &changes);
        }
        Ok(replies)
    }
}
