//! Cursors of the feed, and the errors of reading it.

use crate::domain::id::Sequence;
use crate::domain::query::FeedSlice;
use crate::store::StoreError;

/// A position in the feed, as a client sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The event to start after; 0: start with the oldest stored event; `None`: start at the end.
    pub after: Option<Sequence>,
    /// The epoch that the client received with the event. `None` is not checked.
    pub epoch: Option<String>,
}

/// An error of listing or watching the feed.
#[derive(Debug)]
pub enum FeedError {
    /// Events after the cursor were deleted when their retention ended.
    Expired {
        /// The oldest stored event.
        oldest: Sequence,
    },
    /// The cursor belongs to another feed, or to this one before a restore.
    WrongEpoch {
        /// This feed's epoch.
        epoch: String,
    },
    /// The server's limit of concurrent watchers is reached.
    TooManyWatchers,
    /// The server is shutting down.
    ShuttingDown,
    /// The database has not responded for some time.
    Unresponsive,
    /// The feed could not be read.
    Store(StoreError),
}

impl From<StoreError> for FeedError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Cursor {
    /// Returns the event to start after, in the feed with these bounds.
    pub(super) fn resolve(&self, bounds: &FeedSlice) -> Result<Sequence, FeedError> {
        if self.epoch.as_ref().is_some_and(|epoch| *epoch != bounds.epoch) {
            return Err(FeedError::WrongEpoch { epoch: bounds.epoch.clone() });
        }
        match self.after {
            None => Ok(bounds.last),
            Some(after) if after == Sequence::default() => Ok(bounds.oldest.previous()),
            Some(after) => {
                check_readable(after, &bounds.epoch, bounds)?;
                Ok(after)
            }
        }
    }
}

/// Returns an error unless all events after this one can be read in the feed with these bounds.
pub(super) fn check_readable(after: Sequence, epoch: &str, bounds: &FeedSlice) -> Result<(), FeedError> {
    // A cursor beyond the end comes from another database, or from this one before it was restored from a backup.
    if bounds.epoch != epoch || after > bounds.last {
        return Err(FeedError::WrongEpoch { epoch: bounds.epoch.clone() });
    }
    if after.next() < bounds.oldest {
        return Err(FeedError::Expired { oldest: bounds.oldest });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(oldest: i64, last: i64) -> FeedSlice {
        let (oldest, last) = (Sequence::new(oldest), Sequence::new(last));
        FeedSlice { epoch: "here".to_owned(), last, oldest, events: Vec::new() }
    }

    #[test]
    fn a_cursor_resolves_or_the_error_says_why_not() {
        let find = |after: Option<i64>, epoch: Option<&str>, bounds: &FeedSlice| {
            let cursor = Cursor { after: after.map(Sequence::new), epoch: epoch.map(str::to_owned) };
            match cursor.resolve(bounds) {
                Ok(start) => start.get().to_string(),
                Err(FeedError::Expired { oldest }) => format!("expired before {oldest}"),
                Err(FeedError::WrongEpoch { epoch }) => format!("not in {epoch}"),
                Err(other) => format!("{other:?}"),
            }
        };
        let (empty, whole, cut, all_gone) = (bounds(1, 0), bounds(1, 9), bounds(4, 9), bounds(10, 9));
        for (after, epoch, bounds, expected) in [
            (None, None, &empty, "0"),
            (Some(0), None, &empty, "0"),
            (Some(1), None, &empty, "not in here"),
            (None, None, &whole, "9"),
            (None, Some("here"), &whole, "9"),
            (None, Some("there"), &whole, "not in here"),
            (Some(0), Some("there"), &whole, "not in here"),
            (Some(9), None, &whole, "9"),
            (Some(10), None, &whole, "not in here"),
            (Some(0), None, &cut, "3"),
            (Some(3), None, &cut, "3"),
            (Some(2), None, &cut, "expired before 4"),
            (Some(2), Some("there"), &cut, "not in here"),
            (Some(0), None, &all_gone, "9"),
            (Some(9), None, &all_gone, "9"),
            (Some(8), None, &all_gone, "expired before 10"),
        ] {
            assert_eq!(find(after, epoch, bounds), expected, "{after:?} {epoch:?} in {bounds:?}");
        }
    }
}
