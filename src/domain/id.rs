//! Identifiers. Each kind has its own type, so that one cannot be used in place of another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            /// Wraps a number without checking it.
            pub const fn new(number: i64) -> Self {
                Self(number)
            }

            /// Returns the number.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// The largest id of a user or a connection request: 2^53 − 1, the largest integer that JavaScript represents exactly.
pub const ID_MAX: i64 = (1 << 53) - 1;

number! {
    /// A user's id, from 1 to [`ID_MAX`].
    UserId
}
number! {
    /// A connection request's id, from 1 to [`ID_MAX`]: the sequence of the event that created it.
    RequestId
}
number! {
    /// The position of an event in the feed: 1, 2, 3, … without gaps. 0 precedes the first event.
    ///
    /// Also used as a revision (the newest event that a response reflects) and as the position of a row in a list (the
    /// event that brought the row into its present state).
    Sequence
}

impl RequestId {
    /// Returns the preceding id.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0 - 1)
    }
}

impl Sequence {
    /// The largest value, which no event reaches.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns the following sequence.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the preceding sequence.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0 - 1)
    }
}

/// An unordered pair of different users: the key of their request, connection and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairKey {
    low: UserId,
    high: UserId,
}

impl PairKey {
    /// Creates the key of two users. Returns `None` if they are the same.
    pub fn of(one: UserId, other: UserId) -> Option<Self> {
        (one != other).then(|| Self { low: one.min(other), high: one.max(other) })
    }

    /// Returns the user with the smaller id.
    pub fn low(self) -> UserId {
        self.low
    }

    /// Returns the user with the larger id.
    pub fn high(self) -> UserId {
        self.high
    }

    /// Returns whether the user is one of the two.
    pub fn has(self, user: UserId) -> bool {
        user == self.low || user == self.high
    }

    /// Returns the other user of the pair. `user` must be one of the two.
    pub fn other_than(self, user: UserId) -> UserId {
        if user == self.low { self.high } else { self.low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_no_order_and_two_members() {
        let (one, two) = (UserId::new(1), UserId::new(2));
        assert_eq!(PairKey::of(one, two), PairKey::of(two, one));
        assert_eq!(PairKey::of(one, one), None);
        let pair = PairKey::of(two, one).expect("two users");
        assert_eq!((pair.low(), pair.high()), (one, two));
        assert_eq!((pair.other_than(one), pair.other_than(two)), (two, one));
    }

    #[test]
    fn only_its_two_users_are_members_of_a_pair() {
        let pair = PairKey::of(UserId::new(1), UserId::new(2)).expect("two users");
        for (user, is_member) in [(1, true), (2, true), (3, false)] {
            assert_eq!(pair.has(UserId::new(user)), is_member);
        }
    }

    #[test]
    fn sequences_have_neighbours() {
        assert_eq!((Sequence::new(7).next(), Sequence::new(7).previous()), (Sequence::new(8), Sequence::new(6)));
        assert_eq!(RequestId::new(7).previous(), RequestId::new(6));
    }
}
