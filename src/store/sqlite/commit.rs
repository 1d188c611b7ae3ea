//! The commit on SQLite: one immediate transaction on the write connection, with single-row statements that stay
//! prepared.
//!
//! The write lock of the file is what the head of the feed is on PostgreSQL: it is taken before the first read, so
//! nobody else commits between what a batch is decided from and its own commit.

mod load;
mod save;

use std::sync::Arc;

use diesel::prelude::*;

use self::load::Loaded;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger;
use crate::store::StoreError;
use crate::store::feed::new_batch_id;
use crate::store::users::UserCache;
use crate::store::writer::WriterState;

type Replies = Vec<Result<Reply, Rejection>>;

/// What the writer caches between batches, and the users that everybody reads.
pub(super) struct Writer {
    pub(super) state: WriterState,
    pub(super) users: Arc<UserCache>,
}

impl Writer {
    pub(super) fn commit(&mut self, conn: &mut SqliteConnection, batch: &Batch) -> Result<Replies, StoreError> {
        let Self { state, users } = self;
        let (batch_id, mut is_saved) = (new_batch_id(), false);
        let committed = conn.immediate_transaction(|conn| {
            let Loaded { before, snapshot } = load::load(conn, state, users, batch)?;
            let (replies, changes) = ledger::run(batch, snapshot);
            if !changes.is_empty(&before.head) {
                save::save(conn, &changes, batch_id)?;
                is_saved = true;
            }
            Ok::<_, StoreError>((replies, before, changes))
        });
        // A commit that fails may be in the log as a whole, and only the disk did not confirm it: it is undone now, but
        // comes back when the log is read after a crash.
        let unknown = |error: StoreError| if is_saved { StoreError::OutcomeUnknown(error.into()) } else { error };
        let (replies, before, changes) = committed.map_err(unknown)?;
        if is_saved {
            state.committed(&changes, batch_id);
            users.committed(&before.head, &changes);
        }
        Ok(replies)
    }
}
