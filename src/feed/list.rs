//! Pages of the feed.

use super::place::{Lost, Place, still_there};
use super::{Feed, SLICE, unbroken};
use crate::domain::event::Event;
use crate::domain::id::Sequence;
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice};
use crate::domain::selection::Selection;
use crate::store::StoreError;

/// How many events one page looks at, at most.
const LOOKED_AT: usize = 10_000;

/// A page of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, in order.
    pub events: Vec<Event>,
    /// After which event to go on; `None` when everything up to the revision was looked at.
    pub next: Option<Sequence>,
    /// The newest event.
    pub revision: Sequence,
    /// The feed's epoch.
    pub epoch: String,
}

impl Feed {
    /// At most `size` of the selected events after a place.
    pub async fn list(&self, selection: &Selection, place: &Place, size: usize) -> Result<Page, Lost> {
        let which = selection.subject().map_or(EventFilter::All, EventFilter::Of);
        let limit = if selection.is_everything() { SLICE.min(size + 1) } else { SLICE };
        let mut cursor = place.after.unwrap_or_default();
        let mut slice = self.slice(which, cursor, limit).await?;
        place.find(&slice)?;
        if cursor == Sequence::default() {
            // From the oldest that is kept: what was deleted before it is not a gap.
            cursor = slice.events.first().map_or(cursor, |oldest| oldest.event.sequence.previous());
        }
        let mut page = Page { events: Vec::new(), next: None, revision: slice.last, epoch: slice.epoch.clone() };
        let mut looked_at = 0;
        loop {
            if which == EventFilter::All {
                unbroken(&slice, cursor)?;
            }
            let count = slice.events.len();
            looked_at += count;
            page.revision = slice.last;
            for recorded in slice.events {
                cursor = recorded.event.sequence;
                let Some(event) = selection.told(&recorded.event, &self.policy) else { continue };
                if page.events.len() == size {
                    // There is one more: the page ends before it.
                    page.next = page.events.last().map(|last| last.sequence);
                    return Ok(page);
                }
                page.events.push(event);
            }
            page.revision = page.revision.max(cursor);
            if count < limit {
                return Ok(page);
            }
            if looked_at >= LOOKED_AT {
                page.next = Some(cursor);
                return Ok(page);
            }
            slice = self.slice(which, cursor, limit).await?;
            still_there(cursor, &page.epoch, &slice)?;
        }
    }

    async fn slice(&self, which: EventFilter, after: Sequence, limit: usize) -> Result<FeedSlice, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.store.events(EventQuery { filter: which, after, limit, consumer: Consumer::Call }).await
    }
}
