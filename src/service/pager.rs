//! Pages of lists: the rows to read, the end of the page, and the token of the next one.

use prost::Message;

use crate::domain::epoch::Position;
use crate::domain::id::Sequence;
use crate::domain::query::Range;
use crate::mapping::page::{self, Cursor, Page, Paged};

/// The maximum size of the rows of a response: 3.5 MiB.
///
/// By default gRPC clients refuse messages of more than 4 MiB, and a response has a few fields besides its rows.
const MAX_BYTES: usize = 7 << 19;
/// The maximum size of a row's tag and length, in bytes.
const FRAME: usize = 6;

/// The number of bytes that are left in a response.
pub(super) struct Room {
    bytes: usize,
    is_empty: bool,
}

impl Room {
    /// The room of an empty response.
    pub(super) fn new() -> Self {
        Self { bytes: MAX_BYTES, is_empty: true }
    }

    /// Returns whether one more row fits, and reserves its bytes if so. The first row always fits.
    pub(super) fn fits(&mut self, row: &impl Message) -> bool {
        let size = row.encoded_len() + FRAME;
        let fits = self.is_empty || size <= self.bytes;
        if fits {
            self.bytes = self.bytes.saturating_sub(size);
            self.is_empty = false;
        }
        fits
    }
}

/// Fills one page.
///
/// The page ends after the requested number of rows, or before the response becomes too large.
pub(super) struct Pager<'a, R> {
    request: &'a R,
    key: &'a [u8],
    rows: usize,
    room: Room,
    /// The position of the last row on the page.
    cursor: Cursor,
    /// Whether the list has rows after it.
    has_more: bool,
}

impl<'a, R: Paged> Pager<'a, R> {
    /// Creates an empty page of the list of `request`. The key signs its token.
    pub(super) fn new(request: &'a R, page: &Page, key: &'a [u8]) -> Self {
        let Page { size, cursor, min_revision: _, seen: _ } = page;
        let (size, cursor) = (*size, *cursor);
        Self { request, key, rows: size, room: Room::new(), cursor, has_more: false }
    }

    /// The index of the section to read next.
    pub(super) fn section(&self) -> usize {
        self.cursor.section.into()
    }

    /// The rows to read: one more than the page has room for, which shows whether there is a next page.
    pub(super) fn range(&self) -> Range {
        let limit = i64::try_from(self.rows).unwrap_or(i64::MAX).saturating_add(1);
        Range { before: self.cursor.last, limit }
    }

    /// Adds rows that were read. Returns the messages of those that are on the page.
    ///
    /// `message` returns `None` for a row that the caller may not see. It is skipped.
    pub(super) fn add<T, M: Message>(
        &mut self,
        rows: &[T],
        position: impl Fn(&T) -> Sequence,
        message: impl Fn(&T) -> Option<M>,
    ) -> Vec<M> {
        let mut messages = Vec::with_capacity(rows.len().min(self.rows));
        for row in rows {
            let message = message(row);
            if self.rows == 0 || message.as_ref().is_some_and(|message| !self.room.fits(message)) {
                self.has_more = true;
                break;
            }
            messages.extend(message);
            self.rows -= 1;
            self.cursor.last = Some(position(row));
        }
        messages
    }

    /// Moves to the next section, unless the page is full. Returns whether it moved.
    pub(super) fn next_section(&mut self) -> bool {
        if !self.has_more {
            self.cursor = Cursor { section: self.cursor.section.saturating_add(1), last: None };
        }
        !self.has_more
    }

    /// The token of the next page; empty at the end of the list. The rows of this one reflect `reached`.
    pub(super) fn next_page_token(&self, reached: &Position) -> String {
        if self.has_more { page::token(self.request, self.cursor, reached, self.key) } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::id::Sequence;
    use crate::proto::server as pb;

    fn page(size: usize) -> Page {
        Page { size, cursor: Cursor::default(), min_revision: Position::default(), seen: None }
    }

    /// The sizes of the rows on the page, and whether there is another one.
    fn fill(size: usize, rows: &[usize]) -> (Vec<usize>, bool) {
        let request = pb::ListUsersRequest::default();
        let mut pager = Pager::new(&request, &page(size), b"key");
        assert_eq!(pager.range(), Range { before: None, limit: size as i64 + 1 });
        let messages = pager.add(rows, |_| Sequence::new(7), |bytes| Some(Bytes::from(vec![0; *bytes])));
        (messages.iter().map(Bytes::len).collect(), !pager.next_page_token(&Position::default()).is_empty())
    }

    #[test]
    fn a_page_ends_after_its_rows_or_before_it_is_too_large() {
        assert_eq!(fill(2, &[1, 2]), (vec![1, 2], false));
        assert_eq!(fill(2, &[1, 2, 3]), (vec![1, 2], true));
        const HALF: usize = MAX_BYTES / 2;
        assert_eq!(fill(9, &[HALF, HALF - 100]), (vec![HALF, HALF - 100], false));
        assert_eq!(fill(9, &[HALF, HALF]), (vec![HALF], true), "with their frames they are too large");
        assert_eq!(fill(9, &[1, MAX_BYTES, 2]), (vec![1], true), "a small row never overtakes a large one");
        assert_eq!(fill(9, &[MAX_BYTES + 1, 1]), (vec![MAX_BYTES + 1], true), "a page is never empty");
    }

    #[test]
    fn a_row_that_may_not_be_seen_is_passed_over() {
        let request = pb::ListUsersRequest::default();
        let mut pager = Pager::new(&request, &page(2), b"key");
        let messages = pager.add(&[3, 2, 1], |row| Sequence::new(*row), |row| (*row != 3).then(Bytes::new));
        assert_eq!((messages.len(), pager.cursor.last), (1, Some(Sequence::new(2))));
        assert!(!pager.next_page_token(&Position::default()).is_empty());
    }

    #[test]
    fn a_page_goes_on_with_the_next_section_until_it_is_full() {
        let request = pb::ListConnectionsRequest::default();
        let mut pager = Pager::new(&request, &page(1), b"key");
        pager.add(&[5], |row| Sequence::new(*row), |_| Some(Bytes::new()));
        assert!(pager.next_section());
        assert_eq!((pager.section(), pager.range()), (1, Range { before: None, limit: 1 }));
        pager.add(&[9], |row| Sequence::new(*row), |_| Some(Bytes::new()));
        assert!(!pager.next_section());
        assert_eq!(pager.cursor, Cursor { section: 1, last: None }, "the next page begins with it");
    }
}
