//! What a store has seen of the head of the feed, for those who must not ask the database.

use std::sync::{Mutex, PoisonError};

use super::row::FeedHead;
use crate::domain::epoch::{Epoch, Position};
use crate::domain::id::Sequence;
use crate::domain::totals::Totals;

/// The newest revision that a store has seen, and the totals at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The revision.
    pub revision: Sequence,
    /// The totals of the database at this revision.
    pub totals: Totals,
}

/// The newest head that the writer and the reads of a store have seen.
#[derive(Debug, Default)]
pub(super) struct LastSeen(Mutex<(Epoch, Seen)>);

impl LastSeen {
    /// Notes a head that was read or committed, unless a newer one of the same feed is known.
    pub(super) fn note(&self, head: &FeedHead) {
        let FeedHead { epoch, lineage: _, head, batch_id: _ } = head;
        let (known_epoch, seen) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known_epoch != epoch {
            known_epoch.clone_from(epoch);
        } else if head.sequence < seen.revision {
            return;
        }
        *seen = Seen { revision: head.sequence, totals: head.totals };
    }

    /// Returns where the newest head is; without an epoch if none was seen.
    pub(super) fn position(&self) -> Position {
        let (epoch, seen) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Position { epoch: epoch.clone(), sequence: seen.revision }
    }

    pub(super) fn get(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::Head;

    #[test]
    fn the_newest_head_of_the_feed_is_remembered() {
        let seen = LastSeen::default();
        assert_eq!(seen.get(), Seen::default());
        for (epoch, sequence, users, expected) in [
            ("one", 7, 3, (7, 3)),
            // An older read that ends late.
            ("one", 6, 2, (7, 3)),
            // The totals were repaired.
            ("one", 7, 4, (7, 4)),
            ("one", 9, 5, (9, 5)),
            // A backup was restored.
            ("two", 2, 1, (2, 1)),
            ("two", 1, 0, (2, 1)),
        ] {
            let totals = Totals { users, ..Totals::default() };
            let head = Head { sequence: Sequence::new(sequence), totals, ..Head::default() };
            seen.note(&FeedHead { epoch: epoch.into(), lineage: None, head, batch_id: 0 });
            let Seen { revision, totals } = seen.get();
            assert_eq!((revision.get(), totals.users), expected, "{epoch} {sequence}");
        }
    }
}
