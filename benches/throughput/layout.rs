//! The relations in the seeded database, as formulas: the seed stores them, and calls compute them without a query.
//!
//! Users are on a circle. No pair occurs twice, because each kind of row has its own distances:
//! connections and old requests a multiple of 4, open requests 2 more than such a multiple, and new requests
//! an odd number.

/// Distributes numbers over all users. A prime, so that it shares no factor with the number of users.
const STRIDE: i64 = 611_953;
/// A steep power law has a few users with thousands of rows and none with tens. This one has both.
const EXPONENT: f64 = 0.6;
/// The user with many connections, if the seed has one.
pub const HUB: i64 = 1;
const HUB_EDGES: i64 = 35_000;

/// The size of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub users: i64,
    /// The approximate number of requests and connections at the start, without open requests.
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
    /// Creates the layout. `Err` describes what is wrong with the sizes.
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

    /// The user of a number: each user occurs once, in a scattered order.
    pub fn user(&self, number: i64) -> i64 {
        1 + number % self.users * STRIDE % self.users
    }

    /// The number of rows that start at the user of this rank; rank 0 has most. Each user is the other end of more rows.
    pub fn edges_of(&self, rank: i64) -> i64 {
        if self.hub && self.user(rank) == HUB {
            return HUB_EDGES;
        }
        // The sum of (users / rank) ^ EXPONENT over all ranks is about users / (1 - EXPONENT).
        let least = self.rows as f64 * (1.0 - EXPONENT) / self.users as f64;
        let edges = least * (self.users as f64 / (rank + 1) as f64).powf(EXPONENT);
        (edges as i64).min(self.distances())
    }

    /// One of the rows that start at this user.
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
        // Pending requests are all received, so that users with many rows have lists of both kinds.
        let received = state == State::Pending || number % 2 == 1;
        let (from, to) = if received { (other, user) } else { (user, other) };
        Edge { from, to, state }
    }

    /// The number of first ranks with at least this many rows, which have 20 rows of each listed kind.
    pub fn ranks_with(&self, edges: i64) -> i64 {
        (0..self.users).take_while(|rank| self.edges_of(*rank) >= edges).count() as i64
    }

    /// The users of a request that is sent during the run: a new pair for each number.
    pub fn sent(&self, number: i64) -> (i64, i64) {
        let from = self.user(number);
        (from, self.neighbour(from, 1 + 2 * (number / self.users)))
    }

    /// The users of an open request: a new pair for each number. Within `users` numbers from a multiple of it, each
    /// user is the sender once and the receiver once.
    pub fn waiting(&self, number: i64) -> (i64, i64) {
        let from = self.user(number);
        (from, self.neighbour(from, 2 + 4 * (number / self.users)))
    }

    /// The user whom a user blocks, if any: at the one odd distance that no request is sent over.
    pub fn blocked(&self, user: i64) -> Option<i64> {
        (user % 10 == 0).then(|| self.neighbour(user, self.users / 2 - 1))
    }

    /// The number of requests that can be sent before all pairs are used.
    pub fn sends(&self) -> i64 {
        self.users * (self.users / 4 - 2)
    }

    fn neighbour(&self, user: i64, distance: i64) -> i64 {
        1 + (user - 1 + distance) % self.users
    }

    /// The number of multiples of 4 below half of the circle.
    fn distances(&self) -> i64 {
        self.users / 8 - 1
    }
}
