//! Places in the feed, and how one is lost.

use crate::domain::id::Sequence;
use crate::domain::query::FeedSlice;
use crate::store::StoreError;

/// Where a caller wants to begin, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// After this event; 0: at the oldest that is kept; `None`: at the end.
    pub after: Option<Sequence>,
    /// The epoch that came with it, if the caller kept it.
    pub epoch: Option<String>,
}

/// Why the feed is not told, or not any longer.
#[derive(Debug)]
pub enum Lost {
    /// What follows the place is kept no longer.
    Expired {
        /// The oldest event that is kept.
        oldest: Sequence,
    },
    /// The place is not one of this feed.
    WrongEpoch {
        /// This feed's epoch.
        epoch: String,
    },
    /// As many watch as may.
    TooMany,
    /// The server ends.
    ShuttingDown,
    /// The database has not answered for some time.
    Silent,
    /// The feed could not be read.
    Store(StoreError),
}

impl From<StoreError> for Lost {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Place {
    /// The event after which to begin, in the feed that has these bounds.
    pub(super) fn find(&self, bounds: &FeedSlice) -> Result<Sequence, Lost> {
        if self.epoch.as_ref().is_some_and(|epoch| *epoch != bounds.epoch) {
            return Err(Lost::WrongEpoch { epoch: bounds.epoch.clone() });
        }
        match self.after {
            None => Ok(bounds.last),
            Some(after) if after == Sequence::default() => Ok(bounds.oldest.previous()),
            Some(after) => {
                still_there(after, &bounds.epoch, bounds)?;
                Ok(after)
            }
        }
    }
}

/// Whether all events after this one can be read in the feed that has these bounds.
pub(super) fn still_there(after: Sequence, epoch: &str, bounds: &FeedSlice) -> Result<(), Lost> {
    // A place beyond the end was reached in a past that a restore has undone, or in another database.
    if bounds.epoch != epoch || after > bounds.last {
        return Err(Lost::WrongEpoch { epoch: bounds.epoch.clone() });
    }
    if after.next() < bounds.oldest {
        return Err(Lost::Expired { oldest: bounds.oldest });
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
    fn a_place_is_found_or_the_caller_is_told_what_became_of_it() {
        let find = |after: Option<i64>, epoch: Option<&str>, bounds: &FeedSlice| {
            let place = Place { after: after.map(Sequence::new), epoch: epoch.map(str::to_owned) };
            match place.find(bounds) {
                Ok(start) => start.get().to_string(),
                Err(Lost::Expired { oldest }) => format!("expired before {oldest}"),
                Err(Lost::WrongEpoch { epoch }) => format!("not in {epoch}"),
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
