//! Addresses whose connections were closed because they demanded too much. For a while they connect slowly.
//!
//! What a connection may demand is limited, and a client could make the next one as soon as it is closed. So the limits
//! alone would not bound what one address costs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Time between the beginnings of two connections of such an address.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time after the last such end of a connection for which its address is known.
const TERM: Duration = Duration::from_secs(60);
/// Maximum time that a connection waits for its beginning. gRPC clients give up after 20 s.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The addresses, with what is known of each.
#[derive(Debug, Default)]
pub(super) struct Offenders(HashMap<IpAddr, Offender>);

#[derive(Debug)]
struct Offender {
    /// When its last connection was closed because of it.
    last: Instant,
    /// When its next connection may begin.
    next: Instant,
}

impl Offenders {
    /// Notes that a connection of this address was closed because it demanded too much.
    pub(super) fn note(&mut self, address: IpAddr, now: Instant) {
        self.0.retain(|_, offender| offender.is_known(now));
        let next = now + INTERVAL;
        let offender = self.0.entry(address).or_insert(Offender { last: now, next });
        offender.last = now;
        offender.next = offender.next.max(next);
    }

    /// Returns when a new connection of this address may begin, which takes this turn. `None` if too many wait.
    pub(super) fn turn(&mut self, address: IpAddr, now: Instant) -> Option<Instant> {
        let Some(offender) = self.0.get_mut(&address).filter(|offender| offender.is_known(now)) else {
            return Some(now);
        };
        let turn = offender.next.max(now);
        if turn > now + WAIT_MAX {
            return None;
        }
        offender.next = turn + INTERVAL;
        Some(turn)
    }
}

impl Offender {
    fn is_known(&self, now: Instant) -> bool {
        now < self.last + TERM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_connects_every_five_seconds_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (hostile, honest) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut offenders = Offenders::default();
        assert_eq!(offenders.turn(hostile, at(0)), Some(at(0)));
        offenders.note(hostile, at(0));
        for (now, turn) in
            [(0, Some(5)), (1, Some(10)), (1, None), (4, None), (5, Some(15)), (40, Some(40)), (41, Some(45))]
        {
            assert_eq!(offenders.turn(hostile, at(now)), turn.map(at), "after {now} s");
            assert_eq!(offenders.turn(honest, at(now)), Some(at(now)), "others are not affected");
        }
        assert_eq!(offenders.turn(hostile, at(60)), Some(at(60)));
        assert_eq!(offenders.turn(hostile, at(60)), Some(at(60)), "it is as any other");
    }

    #[test]
    fn what_is_known_of_an_address_is_forgotten() {
        let start = Instant::now();
        let mut offenders = Offenders::default();
        for number in 0..100 {
            offenders.note([192, 0, 2, number].into(), start);
        }
        offenders.note([192, 0, 2, 100].into(), start + TERM);
        assert_eq!(offenders.0.len(), 1);
    }
}
