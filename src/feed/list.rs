//! Pages of the feed.

use super::cursor::{Cursor, FeedError, check_readable};
use super::{EVENTS_PER_READ, Feed, check_no_gap, since_viewer};
use crate::domain::caller::Caller;
use crate::domain::epoch::Epoch;
use crate::domain::event::Event;
use crate::domain::id::Sequence;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice};
use crate::domain::selection::Selection;
use crate::store::{Store, StoreError};

/// The maximum number of events that are examined for one page.
const EXAMINED_MAX: usize = 10_000;

/// A page of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, in order.
    pub events: Vec<Event>,
    /// The event after which the next page starts; `None` if everything up to the revision was examined.
    pub next: Option<Sequence>,
    /// The sequence of the newest event.
    pub revision: Sequence,
    /// The epoch of the feed.
    pub epoch: Epoch,
}

impl Feed {
    /// Returns at most `size` of the selected events after a cursor, as this store has them.
    ///
    /// A page may have fewer events although more follow, because the number of examined events is limited too.
    pub async fn list(
        &self,
        store: &dyn Store,
        caller: &Caller,
        selection: &Selection,
        cursor: &Cursor,
        size: usize,
    ) -> Result<Page, FeedError> {
        let which = selection.filter(&self.policy);
        let limit = if selection.is_everything() { EVENTS_PER_READ.min(size + 1) } else { EVENTS_PER_READ };
        let mut after = cursor.after.unwrap_or_default();
        let mut slice = slice_of(store, which, (after, &cursor.epoch), limit).await?;
        match self.horizon(store, caller, cursor, Consumer::Call).await? {
            Some(horizon) => _ = cursor.resolve_within(&slice, horizon)?,
            None => _ = cursor.resolve(&slice)?,
        }
        let start = since_viewer(store, selection, after, slice.last).await?;
        if start > after {
            after = start;
            slice = slice_of(store, which, (after, &slice.epoch), limit).await?;
        } else if after == Sequence::default() {
            // Starts at the oldest stored event. Deleted events before it are not a gap.
            after = slice.events.first().map_or(after, |oldest| oldest.event.sequence.previous());
        }
        let mut page = Page { events: Vec::new(), next: None, revision: slice.last, epoch: slice.epoch.clone() };
        let mut examined = 0;
        loop {
            if which == EventFilter::All {
                check_no_gap(&slice, after)?;
            }
            let count = slice.events.len();
            examined += count;
            page.revision = slice.last;
            for recorded in slice.events {
                after = recorded.event.sequence;
                let Some(event) = selection.select(&recorded.event, &self.policy) else { continue };
                if page.events.len() == size {
                    // The page is full, and there is at least one more event.
                    page.next = page.events.last().map(|last| last.sequence);
                    return Ok(page);
                }
                page.events.push(event);
            }
            page.revision = page.revision.max(after);
            if count < limit {
                return Ok(page);
            }
            if examined >= EXAMINED_MAX {
                page.next = Some(after);
                return Ok(page);
            }
            slice = slice_of(store, which, (after, &page.epoch), limit).await?;
            check_readable(after, &page.epoch, &slice)?;
            page.epoch.clone_from(&slice.epoch);
        }
    }
}

async fn slice_of(
    store: &dyn Store,
    which: EventFilter,
    (after, epoch): (Sequence, &Epoch),
    limit: usize,
) -> Result<FeedSlice, StoreError> {
    let (limit, consumer) = (i64::try_from(limit).unwrap_or(i64::MAX), Consumer::Call);
    store.events(EventQuery { filter: which, after, limit, consumer, epoch: epoch.clone() }).await
}
