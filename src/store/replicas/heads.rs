//! How far the primary's feed is, as this server knows it, and how far each replica has got.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::CHECK_INTERVAL;
use crate::domain::epoch::{Epoch, Position};
use crate::domain::id::Sequence;
use crate::store::StoreError;

/// The maximum number of heads that are remembered. Beyond it, neighbours become one.
const HEADS_MAX: usize = 1_024;

/// The newest heads of the primary, each with the time at which this server learned of it.
#[derive(Debug, Default)]
pub(in crate::store) struct Heads(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Empty until the first head is known.
    epoch: Epoch,
    /// Ascending. The last one is the newest.
    heads: VecDeque<(Sequence, Instant)>,
}

/// How far a replica is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lag {
    /// Events that the primary has and the replica lacks, as far as this server knows both.
    pub(super) revisions: i64,
    /// The time since this server learned of the first event that the replica lacks.
    pub(super) time: Duration,
}

impl Heads {
    /// Notes a head of the primary. The head of another epoch replaces all that is known.
    pub(super) fn note(&self, head: &Position, now: Instant) {
        let known = &mut *self.known();
        if known.epoch != head.epoch {
            known.epoch.clone_from(&head.epoch);
            known.heads.clear();
        }
        if known.heads.back().is_some_and(|(newest, _)| *newest >= head.sequence) {
            return;
        }
        known.heads.push_back((head.sequence, now));
        if known.heads.len() > HEADS_MAX {
            known.halve();
        }
    }

    /// Whether the primary's feed is of this epoch.
    fn is_of(&self, epoch: &Epoch) -> bool {
        self.known().epoch == *epoch
    }

    /// Returns how far a replica is behind that has reached `revision`.
    ///
    /// A replica is asked only now and then. A head does not count as missed before the replica was asked again.
    pub(super) fn lag(&self, revision: Sequence, now: Instant) -> Lag {
        let known = self.known();
        let newest = known.heads.back().map_or(revision, |(newest, _)| *newest);
        let missed = known.heads.get(known.heads.partition_point(|(head, _)| *head <= revision));
        let time =
            missed.map_or(Duration::ZERO, |(_, learned)| now.duration_since(*learned).saturating_sub(CHECK_INTERVAL));
        Lag { revisions: (newest.get() - revision.get()).max(0), time }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Replaces each two neighbours by the later head with the earlier time, so that no lag becomes shorter.
    fn halve(&mut self) {
        let mut heads: VecDeque<(Sequence, Instant)> = VecDeque::with_capacity(HEADS_MAX);
        for (index, (head, learned)) in self.heads.drain(..).enumerate() {
            match heads.back_mut().filter(|_| index % 2 == 1) {
                Some(before) => before.0 = head,
                None => heads.push_back((head, learned)),
            }
        }
        self.heads = heads;
    }
}

/// The newest head that a replica was seen to have.
#[derive(Debug)]
pub(in crate::store) struct ReplicaHead {
    primary: std::sync::Arc<Heads>,
    newest: Mutex<(Epoch, Sequence)>,
}

impl ReplicaHead {
    pub(super) fn new(primary: std::sync::Arc<Heads>) -> Self {
        Self { primary, newest: Mutex::default() }
    }

    /// Notes what a read of the replica saw.
    ///
    /// # Errors
    ///
    /// If it is of another epoch than the primary's feed. Nothing that was read with it may be used.
    pub(in crate::store) fn note(&self, epoch: &Epoch, revision: Sequence) -> Result<(), StoreError> {
        if !self.primary.is_of(epoch) {
            return Err(StoreError::Unavailable("the replica's feed is not that of the primary".into()));
        }
        let (known_epoch, newest) = &mut *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if known_epoch != epoch {
            known_epoch.clone_from(epoch);
            *newest = revision;
        }
        *newest = (*newest).max(revision);
        Ok(())
    }

    /// The newest revision that it was seen to have.
    pub(super) fn revision(&self) -> Sequence {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(epoch: &str, sequence: i64) -> Position {
        Position { epoch: epoch.into(), sequence: Sequence::new(sequence) }
    }

    fn lag(heads: &Heads, revision: i64, now: Instant) -> (i64, Duration) {
        let Lag { revisions, time } = heads.lag(Sequence::new(revision), now);
        (revisions, time)
    }

    #[test]
    fn a_replica_lags_since_the_first_event_that_it_lacks() {
        let (heads, begun) = (Heads::default(), Instant::now());
        let at = |seconds| begun + CHECK_INTERVAL + Duration::from_secs(seconds);
        let seconds = Duration::from_secs;
        assert_eq!(lag(&heads, 7, at(0)), (0, seconds(0)), "nothing is known of the primary");
        for (revision, second) in [(10, 0), (10, 1), (12, 5), (11, 6), (20, 9)] {
            heads.note(&head("a", revision), begun + seconds(second));
        }
        for (revision, expected) in
            [(21, (0, 0)), (20, (0, 0)), (19, (1, 1)), (12, (8, 1)), (11, (9, 5)), (9, (11, 10))]
        {
            assert_eq!(lag(&heads, revision, at(10)), (expected.0, seconds(expected.1)), "{revision}");
        }
        assert_eq!(lag(&heads, 12, begun + seconds(9)), (8, seconds(0)), "it was not asked since");
        heads.note(&head("b", 3), begun + seconds(12));
        assert_eq!(lag(&heads, 2, at(12)), (1, seconds(0)), "what was known of the other epoch is forgotten");
    }

    #[test]
    fn many_heads_take_little_room_and_make_no_lag_shorter() {
        let (heads, begun) = (Heads::default(), Instant::now());
        let learned = |revision: u32| begun + Duration::from_secs(1) * revision;
        for revision in 1..=10_000 {
            heads.note(&head("a", revision.into()), learned(revision));
        }
        assert!(heads.known().heads.len() <= HEADS_MAX);
        let now = learned(10_000);
        for revision in [0, 1, 5_000, 9_998, 9_999] {
            let exact = now.duration_since(learned(revision + 1)).saturating_sub(CHECK_INTERVAL);
            let found = heads.lag(Sequence::new(revision.into()), now);
            assert!(found.time >= exact && found.revisions == i64::from(10_000 - revision), "{revision}: {found:?}");
        }
    }

    #[test]
    fn a_replica_of_another_feed_is_refused() {
        let heads = std::sync::Arc::new(Heads::default());
        let replica = ReplicaHead::new(std::sync::Arc::clone(&heads));
        replica.note(&"a".into(), Sequence::new(5)).expect_err("the primary is not known");
        heads.note(&head("a", 9), Instant::now());
        for (epoch, revision, expected) in [("a", 5, 5), ("b", 8, 5), ("a", 4, 5), ("a", 7, 7)] {
            assert_eq!(replica.note(&epoch.into(), Sequence::new(revision)).is_ok(), epoch == "a");
            assert_eq!(replica.revision().get(), expected);
        }
        heads.note(&head("b", 3), Instant::now());
        replica.note(&"b".into(), Sequence::new(2)).expect("it follows the primary again");
        assert_eq!(replica.revision().get(), 2);
    }
}
