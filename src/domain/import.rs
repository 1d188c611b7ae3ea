//! The rules of imports: what rows of a file about two users come to, and what that does to what is stored.
//!
//! A row is first dated ([`Dating`]). All rows about one pair then settle into one pair ([`settle`]), by the rule that the
//! report of an import prints ([`RULE`]). Last, that pair is compared with the stored one ([`merge`]), or becomes steps in
//! the order of their dates ([`steps`]) if the database is empty.

mod dating;
mod merge;
mod settle;
mod steps;

pub use self::dating::{Dated, Dating, Expiry, GivenDates, Life, PendingSince};
pub use self::merge::{Effect, Merged, OnConflict, merge};
pub use self::settle::{Fact, Loss, Settled, settle};
pub use self::steps::{Action, Step, events, steps};
use super::Time;
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::pair::{Block, Request};

/// The rule by which several rows about one pair settle, in words.
pub const RULE: &str = "of several rows about two users: block > connection > pending > silenced > rejected; \
    the earliest connection, the latest request, the earliest block; two pending requests that cross connect the two, \
    dated by the later one";

/// What a row states of two users who exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A request in any state, or a connection. Its id and position are 0 if the row has none.
    Request(Request),
    /// A rejection of a request that is no longer there, which keeps the sender from reaching the receiver for a time.
    Cooldown {
        /// The sender of the request.
        from: UserId,
        /// Who rejected it.
        to: UserId,
        /// When.
        since: Time,
    },
    /// A block. Its position is 0 if the row has none.
    Block {
        /// Who blocks.
        user: UserId,
        /// Who is blocked.
        other: UserId,
        /// The block.
        block: Block,
    },
}

impl Relation {
    /// Returns the pair; `None` if both users are the same.
    pub fn key(&self) -> Option<PairKey> {
        match self {
            Self::Request(request) => request.key(),
            Self::Cooldown { from: one, to: other, since: _ } | Self::Block { user: one, other, block: _ } => {
                PairKey::of(*one, *other)
            }
        }
    }

    /// Sets its id and its position to 0: it gets new ones.
    pub fn forget_numbers(&mut self) {
        match self {
            Self::Request(request) => {
                (request.id, request.position) = (RequestId::default(), Sequence::default());
            }
            Self::Cooldown { from: _, to: _, since: _ } => {}
            Self::Block { user: _, other: _, block } => block.position = Sequence::default(),
        }
    }
}
