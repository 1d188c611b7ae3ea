//! Cursors of the feed, and the errors of reading it.

use crate::domain::epoch::{Epoch, Verdict};
use crate::domain::id::Sequence;
use crate::domain::query::FeedSlice;
use crate::store::StoreError;

/// A position in the feed, as a client sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The event to start after; 0: start with the oldest stored event; `None`: start at the end.
    pub after: Option<Sequence>,
    /// The epoch that the client received with the event. If it is unnamed, the newest one is meant.
    pub epoch: Epoch,
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
    /// Events up to the cursor were lost after it was received, or it belongs to another feed.
    WrongEpoch {
        /// The newest epoch of this feed.
        epoch: Epoch,
        /// The last event up to which nothing was lost. `None` if that is not known.
        common: Option<Sequence>,
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
    /// Returns the event to start after, in the feed with these bounds. They must have been read with the epoch.
    pub(super) fn resolve(&self, bounds: &FeedSlice) -> Result<Sequence, FeedError> {
        match self.after {
            None => {
                check_epoch(Sequence::default(), &self.epoch, bounds)?;
                Ok(bounds.last)
            }
            Some(after) if after == Sequence::default() => {
                check_epoch(after, &self.epoch, bounds)?;
                Ok(bounds.oldest.previous())
            }
            Some(after) => {
                check_readable(after, &self.epoch, bounds)?;
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
        check_epoch(self.after.unwrap_or_default(), &self.epoch, bounds)
            .map_err(|error| error.within(newest_visible))?;
        // They may see nothing of what follows, up to the end.
        let end = bounds.last.max(newest_visible);
        match self.after {
            None => Ok((end, newest_visible)),
            Some(after) if after == Sequence::default() => Ok((bounds.oldest.previous(), after)),
            Some(after) if after > newest_visible && !sees_cursor && !(self.is_signed && after <= bounds.last) => {
                Err(beyond(newest_visible, &self.epoch, bounds))
            }
            Some(after) if after >= newest_visible => Ok((end.max(after), after)),
            Some(after) if after.next() < bounds.oldest => Err(FeedError::Expired { oldest: None }),
            Some(after) => Ok((after, after)),
        }
    }
}

impl FeedError {
    /// Hides from a user who calls what they must not know.
    pub(super) fn within(self, newest_visible: Sequence) -> Self {
        match self {
            Self::Expired { oldest: _ } => Self::Expired { oldest: None },
            Self::WrongEpoch { epoch, common } => {
                Self::WrongEpoch { epoch, common: common.map(|common| common.min(newest_visible)) }
            }
            other @ (Self::TooManyWatchers | Self::ShuttingDown | Self::Unresponsive | Self::Store(_)) => other,
        }
    }
}

/// Returns an error if events up to this one were lost after a client received them in this epoch.
fn check_epoch(after: Sequence, epoch: &Epoch, bounds: &FeedSlice) -> Result<(), FeedError> {
    let common = match bounds.judge(epoch, after) {
        Verdict::Good => return Ok(()),
        Verdict::Wrong { common } => Some(common),
        Verdict::Unknown => None,
    };
    Err(FeedError::WrongEpoch { epoch: bounds.epoch.clone(), common })
}

/// Returns an error unless all events after this one, of this epoch, can be read in the feed with these bounds.
pub(super) fn check_readable(after: Sequence, epoch: &Epoch, bounds: &FeedSlice) -> Result<(), FeedError> {
    check_epoch(after, epoch, bounds)?;
    if after > bounds.last {
        return Err(beyond(bounds.last, epoch, bounds));
    }
    if after.next() < bounds.oldest {
        return Err(FeedError::Expired { oldest: Some(bounds.oldest) });
    }
    Ok(())
}

/// The error of a cursor beyond the end of its epoch: from another database, or from this one before it lost the last commits.
///
/// Without an epoch, nothing says that it is a cursor of this feed.
fn beyond(end: Sequence, epoch: &Epoch, bounds: &FeedSlice) -> FeedError {
    FeedError::WrongEpoch { epoch: bounds.epoch.clone(), common: epoch.is_named().then_some(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::domain::epoch::{EpochStart, History};

    /// A feed whose epoch `here` follows the epoch `before`, which it lost from event 7 on.
    fn bounds(oldest: i64, last: i64) -> FeedSlice {
        let (oldest, last) = (Sequence::new(oldest), Sequence::new(last));
        let start = |epoch: &str, first| EpochStart { epoch: epoch.into(), first: Sequence::new(first) };
        let history = History::until(vec![start("before", 1), start("here", 7)], &"here".into());
        FeedSlice { epoch: "here".into(), history, last, oldest, events: Vec::new() }
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
        let at = |after, is_signed| Cursor { after: Some(Sequence::new(after)), epoch: Epoch::default(), is_signed };
        let start = Some((Sequence::new(9), Sequence::new(7)));
        assert_eq!(at(7, true).resolve_within(&bounds(1, 9), horizon(false)).ok(), start);
        assert_eq!(at(7, false).resolve_within(&bounds(1, 9), horizon(true)).ok(), start);
        assert_eq!(at(10, true).resolve_within(&bounds(1, 9), horizon(false)).ok(), None);
        // What was lost, and where they may go on: they never learn of a position that they do not see.
        for (epoch, after, newest_visible, expected) in [
            ("there", 5, 5, Some(None)),
            ("before", 5, 5, None),
            ("before", 6, 9, None),
            ("before", 8, 9, Some(Some(6))),
            ("before", 8, 5, Some(Some(5))),
            ("here", 8, 5, Some(Some(5))),
            ("", 8, 5, Some(None)),
        ] {
            let cursor = Cursor { epoch: epoch.into(), ..at(after, false) };
            let horizon = Horizon { newest_visible: Sequence::new(newest_visible), sees_cursor: false };
            let wrong = match cursor.resolve_within(&bounds(1, 9), horizon) {
                Ok(_) => None,
                Err(FeedError::WrongEpoch { epoch: _, common }) => Some(common.map(Sequence::get)),
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(wrong, expected, "{epoch} {after}, {newest_visible}");
        }
    }

    #[test]
    fn a_cursor_resolves_or_the_error_says_why_not() {
        let find = |after: Option<i64>, epoch: Option<&str>, bounds: &FeedSlice| {
            let epoch = epoch.unwrap_or_default().into();
            let cursor = Cursor { after: after.map(Sequence::new), epoch, is_signed: false };
            match cursor.resolve(bounds) {
                Ok(start) => start.get().to_string(),
                Err(FeedError::Expired { oldest: Some(oldest) }) => format!("expired before {oldest}"),
                Err(FeedError::WrongEpoch { epoch, common: None }) => format!("not in {epoch}"),
                Err(FeedError::WrongEpoch { epoch, common: Some(common) }) => format!("in {epoch} up to {common}"),
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
            // Lost, and no event was written since.
            (Some(10), Some("here"), &whole, "in here up to 9"),
            (None, Some("before"), &whole, "9"),
            (Some(0), Some("before"), &whole, "0"),
            (Some(6), Some("before"), &whole, "6"),
            (Some(7), Some("before"), &whole, "in here up to 6"),
            (Some(10), Some("before"), &whole, "in here up to 6"),
            (Some(2), Some("before"), &cut, "expired before 4"),
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
