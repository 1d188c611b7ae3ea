//! Pairs: the request or connection between two users, and their blocks of each other.

use super::Time;
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::text::Prose;

/// The message of a request, from its sender to its receiver.
pub type Message = Prose<500>;

/// The state of a request in the database. Viewers may see another: see [`view`](super::view).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestState {
    /// Sent, and neither accepted nor rejected.
    Pending,
    /// Rejected by its receiver, by a block or from the start. Its sender sees it as pending.
    Rejected,
    /// Rejected, then cancelled or expired. Invisible, and stored only until its cooldown ends.
    Withdrawn,
    /// Accepted: the two users are connected.
    Connected,
}

impl RequestState {
    /// All states.
    pub const ALL: &[Self] = &[Self::Pending, Self::Rejected, Self::Withdrawn, Self::Connected];

    /// Returns the name of the state in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Rejected => "REJECTED",
            Self::Withdrawn => "WITHDRAWN",
            Self::Connected => "CONNECTED",
        }
    }

    /// Returns whether the sender sees the request as pending.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Rejected)
    }
}

/// A connection request, or the connection that it became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The sequence of the event that created it.
    pub id: RequestId,
    /// The sender.
    pub from: UserId,
    /// The receiver.
    pub to: UserId,
    /// The state.
    pub state: RequestState,
    /// The sequence of the event that brought it into this state.
    ///
    /// Lists of received requests and of connections are ordered by it.
    pub position: Sequence,
    /// The message of the sender. May be empty.
    pub message: Message,
    /// When it was sent.
    pub created: Time,
    /// When the receiver first viewed it.
    pub viewed: Option<Time>,
    /// When it was rejected. Set only in the states rejected and withdrawn.
    pub rejected: Option<Time>,
    /// When it was accepted. Set only in the state connected.
    pub accepted: Option<Time>,
}

impl Request {
    /// Returns the key of the pair, or `None` if sender and receiver are the same.
    pub fn key(&self) -> Option<PairKey> {
        PairKey::of(self.from, self.to)
    }
}

/// A block of one user of a pair by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// When the block was made.
    pub created: Time,
    /// The sequence of the event that created it. Lists of blocks are ordered by it.
    pub position: Sequence,
}

/// The relations of two users. At most one request or connection, and a block by each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The two users.
    pub key: PairKey,
    /// The request or the connection.
    pub request: Option<Request>,
    /// The block by the user with the smaller id.
    pub low_block: Option<Block>,
    /// The block by the user with the larger id.
    pub high_block: Option<Block>,
}

impl Pair {
    /// Creates a pair without a request, a connection or a block.
    pub const fn empty(key: PairKey) -> Self {
        Self { key, request: None, low_block: None, high_block: None }
    }

    /// Returns the block by `user`, who must be one of the two.
    pub fn block_by(&self, user: UserId) -> Option<&Block> {
        if user == self.key.low() { self.low_block.as_ref() } else { self.high_block.as_ref() }
    }

    /// Returns a mutable reference to the block by `user`, who must be one of the two.
    pub fn block_by_mut(&mut self, user: UserId) -> &mut Option<Block> {
        if user == self.key.low() { &mut self.low_block } else { &mut self.high_block }
    }
}
