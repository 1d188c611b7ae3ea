//! How far a sweep for expired requests got.
//!
//! Ids rise in the order of creation, and so requests expire in the order of their ids. A sweep goes through them by id
//! and remembers how far it got, so no index on the time of creation is needed. The exception is a request whose time of
//! creation is later than that of one with a larger id, for example one dated in the future. It would stop the sweep
//! until it expires. It is marked as out of order instead: a small index finds those by time, and the sweep goes on.

use crate::domain::Time;
use crate::domain::id::RequestId;

/// How far the sweep got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SweepProgress {
    /// No open request up to this one is left that is in order.
    pub(super) until: RequestId,
    /// Requests to be marked as out of order.
    pub(super) out_of_order: Vec<RequestId>,
}

/// Goes through the requests that are still open after the expired ones were withdrawn: all up to `until`, each with
/// its time of creation.
pub(super) fn sweep_progress(mut open: Vec<(RequestId, Time)>, until: RequestId) -> SweepProgress {
    open.sort_unstable();
    let (mut first, mut out_of_order): (Option<(RequestId, Time)>, _) = (None, Vec::new());
    for (id, created) in open.into_iter().rev() {
        match first {
            Some((_, earliest)) if earliest < created => out_of_order.push(id),
            Some(_) | None => first = Some((id, created)),
        }
    }
    out_of_order.reverse();
    SweepProgress { until: first.map_or(until, |(id, _)| id.previous()), out_of_order }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_stops_before_the_first_request_in_order_and_passes_the_others() {
        let time = |second: i64| Time::from_timestamp(second, 0).expect("a time");
        for (open, until, out_of_order) in [
            (vec![], 100, vec![]),
            (vec![(7, 70)], 6, vec![]),
            (vec![(7, 70), (9, 90)], 6, vec![]),
            (vec![(7, 70), (9, 70)], 6, vec![]),
            // One dated in the future neither stops the sweep nor is it forgotten.
            (vec![(5, 9_000), (7, 70), (9, 90)], 6, vec![5]),
            (vec![(5, 9_000), (6, 8_000), (9, 90)], 8, vec![5, 6]),
            (vec![(7, 70), (8, 9_000), (9, 90)], 6, vec![8]),
            // One dated in the past makes those before it the exceptions.
            (vec![(7, 70), (9, 90), (10, 1)], 9, vec![7, 9]),
            // The last one of those loaded may be in the future as well; the next sweep shows it.
            (vec![(9, 9_000)], 8, vec![]),
        ] {
            let requests = open.iter().map(|(id, created)| (RequestId::new(*id), time(*created)));
            let expected = SweepProgress {
                until: RequestId::new(until),
                out_of_order: out_of_order.into_iter().map(RequestId::new).collect(),
            };
            assert_eq!(sweep_progress(requests.rev().collect(), RequestId::new(100)), expected, "{open:?}");
        }
    }
}
