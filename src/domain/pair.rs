//! What is between two users: at most one live request or connection, and a block each way.

use super::Time;
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::text::Prose;

/// What a sender writes to a receiver.
pub type Message = Prose<500>;

/// Where a request stands in the database. A sender sees less: see [`view`](super::view).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// Waits for its receiver.
    Pending,
    /// Rejected by its receiver; its sender sees it pending.
    Rejected,
    /// Rejected, then cancelled by its sender or expired: seen by nobody, kept only to hold the cooldown.
    Withdrawn,
    /// Accepted: the two are connected.
    Connected,
}

impl RequestState {
    /// Every state.
    pub const ALL: &[Self] = &[Self::Pending, Self::Rejected, Self::Withdrawn, Self::Connected];

    /// The name under which it is stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Rejected => "REJECTED",
            Self::Withdrawn => "WITHDRAWN",
            Self::Connected => "CONNECTED",
        }
    }

    /// Whether its sender sees it waiting.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Rejected)
    }
}

/// A connection request, or the connection that it became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The sequence of the event that created it.
    pub id: RequestId,
    /// Who asked.
    pub from: UserId,
    /// Who was asked.
    pub to: UserId,
    /// Where it stands.
    pub state: RequestState,
    /// The sequence of the event that brought it into this state: the order of the receiver's lists and of
    /// connections.
    pub position: Sequence,
    /// What the sender wrote.
    pub message: Message,
    /// When it was sent.
    pub created: Time,
    /// When the receiver first viewed it.
    pub viewed: Option<Time>,
    /// When it was rejected; set in the states rejected and withdrawn only.
    pub rejected: Option<Time>,
    /// When it was accepted; set in the state connected only.
    pub accepted: Option<Time>,
}

impl Request {
    /// The pair it is between.
    pub fn key(&self) -> Option<PairKey> {
        PairKey::of(self.from, self.to)
    }
}

/// A block of one user against the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Since when.
    pub created: Time,
    /// The sequence of the event that made it.
    pub position: Sequence,
}

/// All that is between two users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Which two.
    pub key: PairKey,
    /// The one request or connection.
    pub request: Option<Request>,
    /// The block of the user with the smaller id.
    pub low_block: Option<Block>,
    /// The block of the user with the larger id.
    pub high_block: Option<Block>,
}

impl Pair {
    /// A pair with nothing between the two.
    pub const fn empty(key: PairKey) -> Self {
        Self { key, request: None, low_block: None, high_block: None }
    }

    /// The block by this one of the two.
    pub fn block_by(&self, user: UserId) -> Option<&Block> {
        if user == self.key.low() { self.low_block.as_ref() } else { self.high_block.as_ref() }
    }

    /// Where the block by this one of the two is kept.
    pub fn block_by_mut(&mut self, user: UserId) -> &mut Option<Block> {
        if user == self.key.low() { &mut self.low_block } else { &mut self.high_block }
    }
}
