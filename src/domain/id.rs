//! Numbers that name things. Each kind has its own type, so that none is taken for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            /// The number as given; the caller knows that it is one of these.
            pub const fn new(number: i64) -> Self {
                Self(number)
            }

            /// The number itself.
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

number! {
    /// A user's id, 1 or more.
    UserId
}
number! {
    /// A connection request's id: the sequence of the event that created it.
    RequestId
}
number! {
    /// An event's place in the feed: 1, 2, 3, … without gaps. 0 is "before the first".
    ///
    /// It also names a revision (the newest event that an answer reflects) and a row's position in a list (the
    /// event that brought the row into its present state).
    Sequence
}

impl RequestId {
    /// The id before.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0 - 1)
    }
}

impl Sequence {
    /// After every event that will ever be.
    pub const MAX: Self = Self(i64::MAX);

    /// The sequence that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The sequence before.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0 - 1)
    }
}

/// Two different users without an order: the key of everything that is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairKey {
    low: UserId,
    high: UserId,
}

impl PairKey {
    /// The pair of two users; `None` when they are the same.
    pub fn of(one: UserId, other: UserId) -> Option<Self> {
        (one != other).then(|| Self { low: one.min(other), high: one.max(other) })
    }

    /// The user with the smaller id.
    pub fn low(self) -> UserId {
        self.low
    }

    /// The user with the larger id.
    pub fn high(self) -> UserId {
        self.high
    }

    /// Whether the user is one of the two.
    pub fn has(self, user: UserId) -> bool {
        user == self.low || user == self.high
    }

    /// The one who is not `user`.
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
}
