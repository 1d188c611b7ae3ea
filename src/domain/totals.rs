//! Totals of a database: how many users, requests of each state and blocks it has.
//!
//! They are stored in the head of the feed, which every batch writes anyway, so nothing needs to count the tables. A
//! batch changes them by the difference of [`Totals::of`] for each pair that it changes, and by the users that it
//! creates and deletes.

use std::ops::{AddAssign, Sub};

use super::pair::{Pair, RequestState};

/// The totals of a database, or the difference between two of them.
///
/// A request that has expired counts until a sweep deletes it, or a command on its pair does. When a request expires is
/// a setting and a matter of the clock, so a stored number cannot follow it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Users.
    pub users: i64,
    /// Requests that are pending.
    pub pending: i64,
    /// Requests that are silenced.
    pub silenced: i64,
    /// Requests that are rejected.
    pub rejected: i64,
    /// Connections.
    pub connected: i64,
    /// Blocks. Two users who block each other have two.
    pub blocks: i64,
}

impl Totals {
    /// Returns what a pair contributes.
    pub fn of(pair: &Pair) -> Self {
        let mut totals = Self::default();
        if let Some(request) = &pair.request {
            *totals.requests_mut(request.state) = 1;
        }
        totals.blocks = pair.sides().iter().map(|(_, side)| i64::from(side.block.is_some())).sum();
        totals
    }

    /// Returns the number of requests in a state.
    pub fn requests(mut self, state: RequestState) -> i64 {
        *self.requests_mut(state)
    }

    fn requests_mut(&mut self, state: RequestState) -> &mut i64 {
        match state {
            RequestState::Pending => &mut self.pending,
            RequestState::Silenced => &mut self.silenced,
            RequestState::Rejected => &mut self.rejected,
            RequestState::Connected => &mut self.connected,
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        let Self { users, pending, silenced, rejected, connected, blocks } = other;
        self.users += users;
        self.pending += pending;
        self.silenced += silenced;
        self.rejected += rejected;
        self.connected += connected;
        self.blocks += blocks;
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            users: self.users - other.users,
            pending: self.pending - other.pending,
            silenced: self.silenced - other.silenced,
            rejected: self.rejected - other.rejected,
            connected: self.connected - other.connected,
            blocks: self.blocks - other.blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Time;
    use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
    use crate::domain::pair::{Block, Message, Request, Side};

    fn pair(state: Option<RequestState>) -> Pair {
        let (from, to) = (UserId::new(1), UserId::new(2));
        let request = |state| Request {
            id: RequestId::new(7),
            from,
            to,
            state,
            position: Sequence::new(7),
            message: Message::default(),
            created: Time::UNIX_EPOCH,
            viewed: None,
            rejected: None,
            accepted: None,
            reply: Message::default(),
        };
        Pair { request: state.map(request), ..Pair::empty(PairKey::of(from, to).expect("two users")) }
    }

    #[test]
    fn a_pair_counts_by_the_state_of_its_request() {
        let none = Totals::default();
        assert_eq!(Totals::of(&pair(None)), none);
        for (state, expected) in [
            (RequestState::Pending, Totals { pending: 1, ..none }),
            (RequestState::Silenced, Totals { silenced: 1, ..none }),
            (RequestState::Rejected, Totals { rejected: 1, ..none }),
            (RequestState::Connected, Totals { connected: 1, ..none }),
        ] {
            let totals = Totals::of(&pair(Some(state)));
            assert_eq!(totals, expected, "{state:?}");
            let found: Vec<_> = RequestState::ALL.iter().map(|other| totals.requests(*other)).collect();
            let only: Vec<_> = RequestState::ALL.iter().map(|other| i64::from(*other == state)).collect();
            assert_eq!(found, only, "{state:?}");
        }
    }

    #[test]
    fn each_side_of_a_pair_may_have_a_block() {
        let side =
            Side { block: Some(Block { created: Time::UNIX_EPOCH, position: Sequence::new(8) }), ..Side::default() };
        let nobody = Side { cooldown: Some(Time::UNIX_EPOCH), ..Side::default() };
        for (low, high, blocks) in [(nobody, nobody, 0), (side, nobody, 1), (nobody, side, 1), (side, side, 2)] {
            let pair = Pair { low, high, ..pair(Some(RequestState::Rejected)) };
            assert_eq!(Totals::of(&pair), Totals { rejected: 1, blocks, ..Totals::default() });
        }
    }

    #[test]
    fn totals_add_and_subtract_each_number() {
        let totals = |n: i64| Totals {
            users: n,
            pending: n * 2,
            silenced: n * 3,
            rejected: n * 5,
            connected: n * 7,
            blocks: n * 11,
        };
        assert_eq!(totals(7) - totals(3), totals(4));
        let mut sum = totals(7);
        sum += totals(3);
        assert_eq!(sum, totals(10));
    }
}
