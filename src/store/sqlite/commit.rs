//! The commit on SQLite: one immediate transaction for each batch, on the write connection.
//!
//! Its statements read and write single rows and stay prepared.
//!
//! The write lock of the file has the role that the head of the feed has on PostgreSQL. It is taken before the first
//! read, so no other process commits between a batch's reads and its commit.

mod bulk;
mod load;
mod save;

use diesel::prelude::*;

pub(in crate::store) use self::bulk::SqliteBulk;

use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::ledger;
use crate::store::StoreError;
use crate::store::clock::DatabaseClock;
use crate::store::feed::new_batch_id;
use crate::store::writer::{Loaded, WriterState};
use crate::traces::{Span, Statements};

/// Commits one batch. Loading and saving it are children of its span, if it is traced.
pub(super) fn commit(
    conn: &mut SqliteConnection,
    state: &mut WriterState,
    clock: &DatabaseClock,
    batch: &Batch,
    span: Option<&Span>,
) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
    let (batch_id, mut is_saved) = (new_batch_id(), false);
    let mut group = start(span, "load");
    let committed = conn.immediate_transaction(|conn| {
        let loaded = load::load(conn, state, clock, batch);
        end(&mut group, &loaded);
        let Loaded { before, snapshot } = loaded?;
        let (replies, changes) = ledger::run(batch, snapshot);
        group = start(span, "save");
        if !changes.is_empty(&before.head) {
            save::save(conn, &changes, batch_id)?;
            is_saved = true;
        }
        Ok::<_, StoreError>((replies, before, changes))
    });
    end(&mut group, &committed);
    // A failed commit may be complete in the log, with only the flush to disk having failed. It is rolled back now,
    // but recovery after a crash would apply it.
    let unknown = |error: StoreError| if is_saved { StoreError::OutcomeUnknown(error.into()) } else { error };
    let (replies, before, changes) = committed.map_err(unknown)?;
    state.committed(&before, &changes, batch_id);
    Ok(replies)
}

fn start(span: Option<&Span>, operation: &'static str) -> Option<Statements> {
    span.and_then(|span| span.statements(operation))
}

fn end<T>(group: &mut Option<Statements>, result: &Result<T, StoreError>) {
    if let Some(group) = group.take() {
        group.ended(result);
    }
}
