//! Ids for users that are created without one.
//!
//! They come from a counter in the head of the feed, not from the largest id in use: a caller that names the largest
//! possible id would end them. Ids that callers named may lie after the counter, even millions in a row. So a batch
//! looks up a bounded number of candidates: a run of ids right after the counter, and further runs at distances that
//! double each time.

use std::collections::HashSet;
use std::iter::{once, successors};
use std::ops::RangeInclusive;

use crate::domain::command::Needs;
use crate::domain::id::{ID_MAX, UserId};

/// Returns runs of ids to look up before ids are assigned to `count` users. The last assigned id is `after`.
///
/// There are at most 54 runs of at most `count` ids each, in order. They do not overlap.
pub fn candidates(after: UserId, count: usize) -> Vec<RangeInclusive<i64>> {
    let Some(count) = i64::try_from(count).ok().filter(|count| *count > 0) else { return Vec::new() };
    let distances = once(0).chain(successors(Some(count), |distance| Some(distance * 2)));
    let starts = distances.map(|distance| after.get() + distance).take_while(|start| *start < ID_MAX);
    starts.map(|start| start + 1..=(start + count).min(ID_MAX)).collect()
}

/// Returns the candidates that no user has, in order, given those that are in use.
///
/// They suffice even if the batch itself creates users with some of these ids.
pub fn free_ids(after: UserId, needs: &Needs, in_use: &HashSet<i64>) -> Vec<UserId> {
    let candidates = candidates(after, needs.unassigned).into_iter().flatten();
    let free = candidates.filter(|id| !in_use.contains(id)).map(UserId::new);
    free.take(needs.unassigned + needs.users.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(after: i64, count: usize) -> Vec<(i64, i64)> {
        candidates(UserId::new(after), count).iter().map(|run| (*run.start(), *run.end())).collect()
    }

    #[test]
    fn candidates_begin_after_the_counter_and_reach_the_largest_id_in_few_runs() {
        assert_eq!(runs(7, 0), []);
        assert_eq!(runs(7, 1)[..5], [(8, 8), (9, 9), (10, 10), (12, 12), (16, 16)]);
        assert_eq!(runs(7, 3)[..4], [(8, 10), (11, 13), (14, 16), (20, 22)]);
        for (after, count) in [(0, 1), (0, 512), (1 << 40, 1), (ID_MAX - 1_000, 512)] {
            let runs = runs(after, count);
            assert!(runs.len() <= 54, "{}", runs.len());
            assert!(runs.iter().all(|(first, last)| first <= last && *last <= ID_MAX), "{runs:?}");
            assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{runs:?}");
        }
        assert_eq!(runs(ID_MAX - 1, 3), [(ID_MAX, ID_MAX)]);
        assert_eq!(runs(ID_MAX, 1), []);
    }

    #[test]
    fn ids_in_use_are_passed_over() {
        let free = |unassigned, in_use: &[i64]| {
            let needs = Needs { unassigned, ..Needs::default() };
            let free = free_ids(UserId::new(0), &needs, &in_use.iter().copied().collect());
            free.into_iter().map(UserId::get).collect::<Vec<_>>()
        };
        assert_eq!(free(3, &[]), [1, 2, 3]);
        assert_eq!(free(3, &[2, 4]), [1, 3, 5]);
        assert_eq!(free(1, &[1, 2, 3, 5, 9]), [17]);
    }

    #[test]
    fn there_is_a_further_id_for_each_user_that_the_batch_may_create_itself() {
        let needs = Needs { unassigned: 2, users: [1, 2, 3].map(UserId::new).into(), ..Needs::default() };
        assert_eq!(free_ids(UserId::new(0), &needs, &HashSet::new()).len(), 2 + 3);
    }
}
