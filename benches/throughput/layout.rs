//! Who knows whom in the seeded database, as formulas: the seed writes it, and the calls know it without asking.
//!
//! Users stand on a circle, and no pair is made twice because each kind has distances of its own:
//! connections and old requests a multiple of 4, requests that wait to be answered 2 more than one, and new ones
//! an odd number.

/// Spreads what is counted over all users. A prime, so that it has no factor in common with what it is used on.
const STRIDE: i64 = 611_953;
/// A steep power law has a few users with thousands and none with some tens; this one has both.
const EXPONENT: f64 = 0.6;
/// The user with many connections, in a seed that has one.
pub const HUB: i64 = 1;
const HUB_EDGES: i64 = 35_000;

/// The size of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub users: i64,
    /// About how many requests and connections there are at the start, without those that wait to be answered.
    pub rows: i64,
    /// Whether user 1 has 30,000 connections and 5,000 pending requests.
    pub hub: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Connected,
    Pending,
    Rejected,
}

/// One row between two users.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    pub from: i64,
    pub to: i64,
    pub state: State,
}

impl Layout {
    /// `Err` says what is wrong with these sizes.
    pub fn new(users: i64, rows: i64, hub: bool) -> Result<Self, String> {
        let layout = Self { users, rows, hub };
        if users < 1_000 || users % 8 != 0 || users % STRIDE == 0 || users > 4_000_000 {
            return Err(format!("{users} users: it takes 1,000 to 4,000,000, and a multiple of 8"));
        }
        if rows < 10 * users || rows > 40 * users {
            return Err(format!("{rows} rows for {users} users: it takes 10 to 40 for each user"));
        }
        if hub && layout.distances() < HUB_EDGES {
            return Err(format!("{users} users are too few for one with {HUB_EDGES} of them"));
        }
        Ok(layout)
    }

    /// A number's user: each user once, in an order without order.
    pub fn user(&self, number: i64) -> i64 {
        1 + number % self.users * STRIDE % self.users
    }

    /// How many rows the user of this rank begins; rank 0 has most. Each user is at the other end of some more.
    pub fn edges_of(&self, rank: i64) -> i64 {
        if self.hub && self.user(rank) == HUB {
            return HUB_EDGES;
        }
        // The sum of (users / rank) ^ EXPONENT over all ranks is about users / (1 - EXPONENT).
        let least = self.rows as f64 * (1.0 - EXPONENT) / self.users as f64;
        let edges = least * (self.users as f64 / (rank + 1) as f64).powf(EXPONENT);
        (edges as i64).min(self.distances())
    }

    /// One of the rows that this user begins.
    pub fn edge(&self, user: i64, number: i64) -> Edge {
        let other = self.neighbour(user, 4 * (1 + (number * STRIDE + user) % self.distances()));
        let state = match number % 10 {
            _ if self.hub && user == HUB => {
                if number % 7 < 6 {
                    State::Connected
                } else {
                    State::Pending
                }
            }
            0..=5 => State::Connected,
            6..=8 => State::Pending,
            _ => State::Rejected,
        };
        // Pending ones are all received, so that the users with many rows have lists of both kinds.
        let received = state == State::Pending || number % 2 == 1;
        let (from, to) = if received { (other, user) } else { (user, other) };
        Edge { from, to, state }
    }

    /// How many of the first ranks have at least this many rows, so that each has 20 of the kind that is listed.
    pub fn ranks_with(&self, edges: i64) -> i64 {
        (0..self.users).take_while(|rank| self.edges_of(*rank) >= edges).count() as i64
    }

    /// The two of a request that is sent during the run: a new pair for each number.
    pub fn sent(&self, number: i64) -> (i64, i64) {
        let from = self.user(number);
        (from, self.neighbour(from, 1 + 2 * (number / self.users)))
    }

    /// The two of a request that waits to be answered: a new pair for each number, and within `users` numbers from
    /// a multiple of it on each user is once the sender and once the receiver.
    pub fn waiting(&self, number: i64) -> (i64, i64) {
        let from = self.user(number);
        (from, self.neighbour(from, 2 + 4 * (number / self.users)))
    }

    /// Whom a user blocks, where they block somebody: at the one odd distance that no request is sent over.
    pub fn blocked(&self, user: i64) -> Option<i64> {
        (user % 10 == 0).then(|| self.neighbour(user, self.users / 2 - 1))
    }

    /// How many requests can be sent before the pairs are all used.
    pub fn sends(&self) -> i64 {
        self.users * (self.users / 4 - 2)
    }

    fn neighbour(&self, user: i64, distance: i64) -> i64 {
        1 + (user - 1 + distance) % self.users
    }

    /// How many multiples of 4 are shorter than half of the circle.
    fn distances(&self) -> i64 {
        self.users / 8 - 1
    }
}
