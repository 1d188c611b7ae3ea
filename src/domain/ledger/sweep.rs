//! The progress of the sweep for expired requests.
//!
//! Ids rise in the order of creation, so requests expire in the order of their ids. The sweep proceeds by id and stores
//! its position, so it needs no index on the time of creation.
//!
//! A request can have a later time of creation than one with a larger id, for example if it is dated in the future. It
//! would stop the sweep until it expires. Therefore it is marked as out of order, and the sweep proceeds past it. A small
//! index finds the marked requests by time.

use crate::domain::Time;
use crate::domain::id::RequestId;

/// The result of a step of the sweep over the open requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SweepProgress {
    /// The position to store: all open requests up to this one are out of order.
    pub(super) until: RequestId,
    /// The requests to mark as out of order.
    pub(super) out_of_order: Vec<RequestId>,
}

/// Determines the new position of the sweep from the requests that are still open.
///
/// `open` has all of them up to `until`, each with its time of creation, without those that have just expired.
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
    fn the_sweep_stops_before_the_first_open_request_that_is_in_order() {
        let time = |second: i64| Time::from_timestamp(second, 0).expect("a time");
        for (open, until, out_of_order) in [
            (vec![], 100, vec![]),
            (vec![(7, 70)], 6, vec![]),
            (vec![(7, 70), (9, 90)], 6, vec![]),
            (vec![(7, 70), (9, 70)], 6, vec![]),
            // A request dated in the future does not stop the sweep: it is marked.
            (vec![(5, 9_000), (7, 70), (9, 90)], 6, vec![5]),
            (vec![(5, 9_000), (6, 8_000), (9, 90)], 8, vec![5, 6]),
            (vec![(7, 70), (8, 9_000), (9, 90)], 6, vec![8]),
            // A request dated in the past makes those before it out of order.
            (vec![(7, 70), (9, 90), (10, 1)], 9, vec![7, 9]),
            // The last request loaded may be dated in the future too. Only the next step can detect it.
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
