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
    /// Whether it is from a page token, which nobody else can make.
    pub is_signed: bool,
}

/// What a user who calls may know of the feed.
///
/// An error that depended on where the feed begins or ends would show them that somebody rejected or blocked them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Horizon {
    /// The newest event that they may see.
    pub(super) newest_visible: Sequence,
    /// Whether they may see the event of the cursor, which may be later only if a setting discloses now what it did not
    /// when the event happened.
    pub(super) sees_cursor: bool,
}

/// An error of listing or watching the feed.
#[derive(Debug)]
pub enum FeedError {
    /// Events after the cursor were deleted when their retention ended.
    Expired {
        /// The oldest stored event. `None` if the caller must not know it.
        oldest: Option<Sequence>,
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

    /// Returns the event to start after for a user who calls, and the cursor that they may know.
    pub(super) fn resolve_within(
        &self,
        bounds: &FeedSlice,
        horizon: Horizon,
    ) -> Result<(Sequence, Sequence), FeedError> {
        let Horizon { newest_visible, sees_cursor } = horizon;
        if self.epoch.as_ref().is_some_and(|epoch| *epoch != bounds.epoch) {
            return Err(FeedError::WrongEpoch { epoch: bounds.epoch.clone() });
        }
        // They may see nothing of what follows, up to the end.
        let end = bounds.last.max(newest_visible);
        match self.after {
            None => Ok((end, newest_visible)),
            Some(after) if after == Sequence::default() => Ok((bounds.oldest.previous(), after)),
            Some(after) if after > newest_visible && !sees_cursor && !(self.is_signed && after <= bounds.last) => {
                Err(FeedError::WrongEpoch { epoch: bounds.epoch.clone() })
            }
            Some(after) if after >= newest_visible => Ok((end.max(after), after)),
            Some(after) if after.next() < bounds.oldest => Err(FeedError::Expired { oldest: None }),
            Some(after) => Ok((after, after)),
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
        return Err(FeedError::Expired { oldest: Some(bounds.oldest) });
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
    fn a_users_cursor_depends_on_what_they_may_see_and_not_on_where_the_feed_ends() {
        let find = |after: Option<i64>, newest_visible: i64, (oldest, last): (i64, i64)| {
            let cursor = Cursor { after: after.map(Sequence::new), ..Cursor::default() };
            let horizon = Horizon { newest_visible: Sequence::new(newest_visible), sees_cursor: false };
            match cursor.resolve_within(&bounds(oldest, last), horizon) {
                Ok((start, visible)) => format!("{start}, seen {visible}"),
                Err(FeedError::Expired { oldest: None }) => "expired".to_owned(),
                Err(FeedError::WrongEpoch { .. }) => "not here".to_owned(),
                Err(other) => format!("{other:?}"),
            }
        };
        for (after, newest_visible, bounds, expected) in [
            (None, 5, (1, 9), "9, seen 5"),
            // The user saw an event after the bounds were read.
            (None, 11, (1, 9), "11, seen 11"),
            (Some(0), 5, (4, 9), "3, seen 0"),
            (Some(3), 5, (1, 9), "3, seen 3"),
            (Some(3), 5, (4, 9), "3, seen 3"),
            (Some(2), 5, (4, 9), "expired"),
            // There was nothing to see since.
            (Some(5), 5, (1, 9), "9, seen 5"),
            (Some(5), 5, (8, 9), "9, seen 5"),
            (Some(6), 5, (1, 9), "not here"),
            (Some(9), 5, (1, 9), "not here"),
            (Some(10), 5, (1, 9), "not here"),
            (Some(1), 0, (1, 9), "not here"),
        ] {
            assert_eq!(find(after, newest_visible, bounds), expected, "{after:?}, {newest_visible}, {bounds:?}");
        }
        // A cursor of which Kith knows that it is one, and one of another feed.
        let horizon = |sees_cursor| Horizon { newest_visible: Sequence::new(5), sees_cursor };
        let at = |after, is_signed| Cursor { after: Some(Sequence::new(after)), epoch: None, is_signed };
        let start = Some((Sequence::new(9), Sequence::new(7)));
        assert_eq!(at(7, true).resolve_within(&bounds(1, 9), horizon(false)).ok(), start);
        assert_eq!(at(7, false).resolve_within(&bounds(1, 9), horizon(true)).ok(), start);
        assert_eq!(at(10, true).resolve_within(&bounds(1, 9), horizon(false)).ok(), None);
        let elsewhere = Cursor { epoch: Some("there".to_owned()), ..at(5, false) };
        assert!(elsewhere.resolve_within(&bounds(1, 9), horizon(false)).is_err());
    }

    #[test]
    fn a_cursor_resolves_or_the_error_says_why_not() {
        let find = |after: Option<i64>, epoch: Option<&str>, bounds: &FeedSlice| {
            let cursor = Cursor { after: after.map(Sequence::new), epoch: epoch.map(str::to_owned), is_signed: false };
            match cursor.resolve(bounds) {
                Ok(start) => start.get().to_string(),
                Err(FeedError::Expired { oldest: Some(oldest) }) => format!("expired before {oldest}"),
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
