//! Pairs: the request or connection between two users, and what each of them has done to the other.

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
    /// Sent or waiting while its receiver blocks its sender, or sent within a cooldown.
    ///
    /// Its sender sees it as pending. For its receiver it does not exist.
    Silenced,
    /// Rejected by its receiver. Its sender sees it as pending.
    Rejected,
    /// Accepted: the two users are connected.
    Connected,
}

impl RequestState {
    /// All states.
    pub const ALL: &[Self] = &[Self::Pending, Self::Silenced, Self::Rejected, Self::Connected];

    /// Returns the name of the state in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Silenced => "SILENCED",
            Self::Rejected => "REJECTED",
            Self::Connected => "CONNECTED",
        }
    }

    /// Returns whether the sender sees the request as pending.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Silenced | Self::Rejected)
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
    /// When it was rejected. Set only in the state rejected.
    pub rejected: Option<Time>,
    /// When it was accepted. Set only in the state connected.
    pub accepted: Option<Time>,
    /// The reply of the receiver. May be empty; set only in the state connected.
    pub reply: Message,
}

impl Request {
    /// Returns the key of the pair, or `None` if sender and receiver are the same.
    pub fn key(&self) -> Option<PairKey> {
        PairKey::of(self.from, self.to)
    }

    /// Returns whether the request exists for this user: for its sender, and for its receiver unless it is silenced.
    pub fn exists_for(&self, user: UserId) -> bool {
        user == self.from || user == self.to && self.state != RequestState::Silenced
    }

    /// Returns whether the receiver of a silenced request was told of it before it was silenced.
    ///
    /// If not, it is in the state in which it was created.
    pub fn was_told(&self) -> bool {
        self.position.get() != self.id.get()
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

/// What one user of a pair has done that still affects the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The user's block of the other.
    pub block: Option<Block>,
    /// When the other user last rejected a request of this user: the start of a cooldown.
    ///
    /// Whether it still runs depends on the policy. It ends early when the request is restored and when the two connect.
    pub cooldown: Option<Time>,
    /// The user's requests to the other that have ended, which count towards the limit of sends per pair.
    pub ended: Option<Ended>,
}

/// Requests of a user to another that ended in some way, within a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When the first of them was sent: the start of the time.
    pub since: Time,
    /// Their number.
    pub count: i64,
}

/// The relations of two users: at most one request or connection, and the two sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The two users.
    pub key: PairKey,
    /// The request or the connection.
    pub request: Option<Request>,
    /// The side of the user with the smaller id.
    pub low: Side,
    /// The side of the user with the larger id.
    pub high: Side,
}

impl Pair {
    /// Creates a pair without anything between the two users.
    pub const fn empty(key: PairKey) -> Self {
        let nothing = Side { block: None, cooldown: None, ended: None };
        Self { key, request: None, low: nothing, high: nothing }
    }

    /// Returns the side of `user`, who must be one of the two.
    pub fn side(&self, user: UserId) -> &Side {
        if user == self.key.low() { &self.low } else { &self.high }
    }

    /// Returns a mutable reference to the side of `user`, who must be one of the two.
    pub fn side_mut(&mut self, user: UserId) -> &mut Side {
        if user == self.key.low() { &mut self.low } else { &mut self.high }
    }

    /// Returns the sides of both users, each with the user.
    pub fn sides(&self) -> [(UserId, Side); 2] {
        [(self.key.low(), self.low), (self.key.high(), self.high)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn request(id: i64, position: i64) -> Request {
        Request {
            id: RequestId::new(id),
            from: BOB,
            to: ANN,
            state: RequestState::Silenced,
            position: Sequence::new(position),
            message: Message::default(),
            created: Time::UNIX_EPOCH,
            viewed: None,
            rejected: None,
            accepted: None,
            reply: Message::default(),
        }
    }

    #[test]
    fn states_have_names_in_the_database() {
        let names: Vec<_> = RequestState::ALL.iter().map(|state| state.name()).collect();
        assert_eq!(names, ["PENDING", "SILENCED", "REJECTED", "CONNECTED"]);
    }

    #[test]
    fn a_receiver_was_told_of_a_silenced_request_if_it_changed_since_its_creation() {
        assert!(!request(7, 7).was_told());
        assert!(request(7, 8).was_told());
    }

    #[test]
    fn each_user_of_a_pair_has_a_side() {
        let key = request(7, 7).key().expect("two users");
        assert_eq!(Some(key), PairKey::of(ANN, BOB));
        let side = |second: i64| Side { cooldown: Time::from_timestamp(second, 0), ..Side::default() };
        let mut pair = Pair::empty(key);
        *pair.side_mut(ANN) = side(1);
        *pair.side_mut(BOB) = side(2);
        assert_eq!((pair.side(ANN), pair.side(BOB)), (&side(1), &side(2)));
        assert_eq!((pair.low, pair.high), (side(1), side(2)));
        assert_eq!(pair.sides(), [(ANN, side(1)), (BOB, side(2))]);
    }
}
