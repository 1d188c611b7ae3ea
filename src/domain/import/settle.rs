//! What several rows about one pair come to.

use std::cmp::Reverse;

use super::Relation;
use crate::domain::Time;
use crate::domain::id::{PairKey, UserId};
use crate::domain::pair::{Block, Pair, Request, RequestState};

/// A fact about a pair: one of those that rows state and the database stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The request or the connection.
    Request,
    /// The block by this user.
    Block(UserId),
    /// The cooldown of this user's requests to the other.
    Cooldown(UserId),
}

/// Why a row has no effect beside others about the same pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Another row states the same, with a date that prevails.
    Duplicate,
    /// Another row states something that prevails.
    Conflicting,
    /// Another row is a block.
    Blocked,
}

/// What the rows about a pair come to. Rows are numbered from 0, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The pair. Ids and positions are those of the rows.
    pub pair: Pair,
    /// The rows that have an effect, each with the fact that it states.
    pub rows: Vec<(usize, Fact)>,
    /// The rows that have none.
    pub lost: Vec<(usize, Loss)>,
}

/// Settles the rows about one pair by the [`RULE`](super::RULE).
///
/// Only a silenced or rejected request to the user who blocks, and a cooldown, are facts beside a block, as in the database.
pub fn settle(key: PairKey, relations: Vec<Relation>) -> Settled {
    let mut settled = Settled { pair: Pair::empty(key), rows: Vec::new(), lost: Vec::new() };
    let (mut requests, mut cooldowns, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for (row, relation) in relations.into_iter().enumerate() {
        match relation {
            Relation::Request(request) => requests.push((row, request)),
            Relation::Cooldown { from, to: _, since } => cooldowns.push((row, from, since)),
            Relation::Block { user, other: _, block } => blocks.push((row, user, block)),
        }
    }
    settled.block(blocks);
    let requests = settled.drop_blocked(requests);
    settled.request(requests);
    settled.cool(cooldowns);
    settled.rows.sort_unstable();
    settled.lost.sort_unstable_by_key(|(row, _)| *row);
    settled
}

/// The order in which states prevail, the strongest first.
fn rank(state: RequestState) -> u8 {
    match state {
        RequestState::Connected => 0,
        RequestState::Pending => 1,
        RequestState::Silenced => 2,
        RequestState::Rejected => 3,
    }
}

impl Settled {
    fn block(&mut self, mut blocks: Vec<(usize, UserId, Block)>) {
        blocks.sort_by_key(|(row, _, block)| (block.created, *row));
        for (row, user, block) in blocks {
            let side = self.pair.side_mut(user);
            if side.block.is_some() {
                self.lost.push((row, Loss::Duplicate));
            } else {
                side.block = Some(block);
                self.rows.push((row, Fact::Block(user)));
            }
        }
    }

    /// Returns the requests that a block leaves.
    fn drop_blocked(&mut self, requests: Vec<(usize, Request)>) -> Vec<(usize, Request)> {
        let pair = &self.pair;
        let stays = |(_, request): &(usize, Request)| match request.state {
            RequestState::Connected | RequestState::Pending => pair.low.block.is_none() && pair.high.block.is_none(),
            RequestState::Silenced | RequestState::Rejected => pair.side(request.from).block.is_none(),
        };
        let (stay, blocked): (Vec<_>, Vec<_>) = requests.into_iter().partition(stays);
        self.lost.extend(blocked.into_iter().map(|(row, _)| (row, Loss::Blocked)));
        stay
    }

    fn request(&mut self, mut requests: Vec<(usize, Request)>) {
        let Some(strongest) = requests.iter().map(|(_, request)| rank(request.state)).min() else { return };
        let (mut best, weaker): (Vec<_>, Vec<_>) =
            requests.drain(..).partition(|(_, request)| rank(request.state) == strongest);
        self.lost.extend(weaker.into_iter().map(|(row, _)| (row, Loss::Conflicting)));
        if strongest == rank(RequestState::Connected) {
            best.sort_by_key(|(row, request)| (request.accepted, *row));
        } else {
            best.sort_by_key(|(row, request)| (Reverse(request.created), *row));
        }
        let mut best = best.into_iter();
        let Some((row, mut request)) = best.next() else { return };
        self.rows.push((row, Fact::Request));
        for (row, other) in best {
            // The latest pending request of each side. Further ones find a connection.
            if request.state == RequestState::Pending && other.from != request.from {
                request = crossed(other, request);
                self.rows.push((row, Fact::Request));
            } else {
                self.lost.push((row, Loss::Duplicate));
            }
        }
        // Whoever answers a request has viewed it.
        request.viewed = request.viewed.or(request.rejected).or(request.accepted);
        if let Some(rejected) = request.rejected {
            self.pair.side_mut(request.from).cooldown = Some(rejected);
        }
        self.pair.request = Some(request);
    }

    fn cool(&mut self, mut cooldowns: Vec<(usize, UserId, Time)>) {
        let connected = self.pair.request.as_ref().is_some_and(|request| request.state == RequestState::Connected);
        cooldowns.sort_by_key(|(row, _, since)| (Reverse(*since), *row));
        for (row, from, since) in cooldowns {
            let side = self.pair.side_mut(from);
            if connected {
                self.lost.push((row, Loss::Conflicting));
            } else if side.cooldown.is_some() {
                self.lost.push((row, Loss::Duplicate));
            } else {
                side.cooldown = Some(since);
                self.rows.push((row, Fact::Cooldown(from)));
            }
        }
    }
}

/// Connects two users whose requests cross, as Kith does: the earlier request is accepted by the later one.
fn crossed(earlier: Request, later: Request) -> Request {
    let accepted = later.created.max(earlier.created);
    Request {
        state: RequestState::Connected,
        viewed: earlier.viewed.or(Some(accepted)),
        accepted: Some(accepted),
        reply: later.message,
        // Of the two, only the earlier one was a request that stayed.
        position: later.position,
        ..earlier
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::id::{RequestId, Sequence};
    use crate::domain::pair::{Message, Side};

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn day(day: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
    }

    fn key() -> PairKey {
        PairKey::of(ANN, BOB).expect("two users")
    }

    fn request(from: UserId, state: RequestState, created: i64) -> Request {
        let answered = Some(day(created));
        Request {
            id: RequestId::default(),
            from,
            to: key().other_than(from),
            state,
            position: Sequence::default(),
            message: format!("{created}").parse().expect("a message"),
            created: day(created),
            viewed: None,
            rejected: answered.filter(|_| state == RequestState::Rejected),
            accepted: answered.filter(|_| state == RequestState::Connected),
            reply: Message::default(),
        }
    }

    fn row(from: UserId, state: RequestState, created: i64) -> Relation {
        Relation::Request(request(from, state, created))
    }

    fn block_of(created: i64) -> Block {
        Block { created: day(created), position: Sequence::default() }
    }

    fn block(user: UserId, created: i64) -> Relation {
        Relation::Block { user, other: key().other_than(user), block: block_of(created) }
    }

    fn cooldown(from: UserId, since: i64) -> Relation {
        Relation::Cooldown { from, to: key().other_than(from), since: day(since) }
    }

    use Loss::{Blocked, Conflicting, Duplicate};
    use RequestState::{Connected, Pending, Rejected, Silenced};

    #[test]
    fn of_several_rows_one_state_prevails() {
        // The rows, the sender, state and day of the request that is left, and the rows that are lost.
        for (rows, left, lost) in [
            (vec![row(ANN, Connected, 3)], Some((ANN, Connected, 3)), vec![]),
            // A friendship in two rows, as django-friendship has it.
            (vec![row(ANN, Connected, 3), row(BOB, Connected, 2)], Some((BOB, Connected, 2)), vec![(0, Duplicate)]),
            (vec![row(ANN, Connected, 2), row(BOB, Connected, 2)], Some((ANN, Connected, 2)), vec![(1, Duplicate)]),
            (vec![row(ANN, Pending, 9), row(BOB, Connected, 2)], Some((BOB, Connected, 2)), vec![(0, Conflicting)]),
            (vec![row(ANN, Pending, 1), row(ANN, Pending, 2)], Some((ANN, Pending, 2)), vec![(0, Duplicate)]),
            // Denied, and sent anew: Laravel.
            (vec![row(ANN, Rejected, 1), row(ANN, Pending, 2)], Some((ANN, Pending, 2)), vec![(0, Conflicting)]),
            (vec![row(ANN, Rejected, 9), row(BOB, Pending, 2)], Some((BOB, Pending, 2)), vec![(0, Conflicting)]),
            (vec![row(ANN, Rejected, 9), row(BOB, Rejected, 2)], Some((ANN, Rejected, 9)), vec![(1, Duplicate)]),
            (vec![row(ANN, Rejected, 9), row(BOB, Silenced, 2)], Some((BOB, Silenced, 2)), vec![(0, Conflicting)]),
            (vec![row(ANN, Silenced, 9), row(BOB, Pending, 2)], Some((BOB, Pending, 2)), vec![(0, Conflicting)]),
            (vec![row(ANN, Silenced, 1), row(ANN, Silenced, 2)], Some((ANN, Silenced, 2)), vec![(0, Duplicate)]),
            // A block ends all but what the blocking user does not see anyway.
            (vec![row(ANN, Connected, 3), block(ANN, 9)], None, vec![(0, Blocked)]),
            (vec![row(ANN, Pending, 3), block(BOB, 1)], None, vec![(0, Blocked)]),
            (vec![row(ANN, Pending, 3), block(ANN, 1)], None, vec![(0, Blocked)]),
            (vec![row(ANN, Silenced, 3), block(BOB, 1)], Some((ANN, Silenced, 3)), vec![]),
            (vec![row(ANN, Silenced, 3), block(ANN, 1)], None, vec![(0, Blocked)]),
            (vec![row(ANN, Rejected, 3), block(BOB, 1)], Some((ANN, Rejected, 3)), vec![]),
            (vec![row(ANN, Rejected, 3), block(BOB, 1), block(ANN, 2)], None, vec![(0, Blocked)]),
            (
                vec![row(ANN, Connected, 3), row(ANN, Rejected, 3), block(BOB, 1)],
                Some((ANN, Rejected, 3)),
                vec![(0, Blocked)],
            ),
        ] {
            let settled = settle(key(), rows.clone());
            let request = settled.pair.request.clone();
            let found = request.map(|request| (request.from, request.state, (request.created - day(0)).num_days()));
            assert_eq!((found, &settled.lost), (left, &lost), "{rows:?}");
            let all: usize = settled.rows.len() + settled.lost.len();
            assert_eq!(all, rows.len(), "each row has an effect or is lost: {rows:?}");
        }
    }

    #[test]
    fn crossing_requests_connect() {
        let at = |from, created| request(from, Pending, created);
        for (rows, earlier, later, lost) in [
            (vec![row(ANN, Pending, 1), row(BOB, Pending, 2)], at(ANN, 1), 2, vec![]),
            (vec![row(ANN, Pending, 2), row(BOB, Pending, 1)], at(BOB, 1), 2, vec![]),
            (
                vec![row(ANN, Pending, 1), row(ANN, Pending, 3), row(BOB, Pending, 2)],
                at(BOB, 2),
                3,
                vec![(0, Duplicate)],
            ),
        ] {
            let settled = settle(key(), rows.clone());
            let expected = Request {
                state: Connected,
                accepted: Some(day(later)),
                viewed: Some(day(later)),
                reply: format!("{later}").parse().expect("a message"),
                ..earlier
            };
            assert_eq!((settled.pair.request, settled.lost), (Some(expected), lost), "{rows:?}");
            assert_eq!(settled.rows.len(), 2, "both have an effect: {rows:?}");
        }
    }

    #[test]
    fn each_side_has_its_earliest_block_and_its_latest_cooldown() {
        let blocked = |created| Side { block: Some(block_of(created)), ..Side::default() };
        let cooled = |since| Side { cooldown: Some(day(since)), ..Side::default() };
        let none = Side::default();
        for (rows, low, high, lost) in [
            (vec![block(ANN, 2), block(ANN, 1), block(BOB, 3)], blocked(1), blocked(3), vec![(0, Duplicate)]),
            (vec![cooldown(ANN, 1), cooldown(ANN, 2)], cooled(2), none, vec![(0, Duplicate)]),
            (vec![cooldown(ANN, 1), cooldown(BOB, 2)], cooled(1), cooled(2), vec![]),
            // A rejection begins one itself.
            (vec![row(ANN, Rejected, 5), cooldown(ANN, 9)], cooled(5), none, vec![(1, Duplicate)]),
            (vec![row(ANN, Rejected, 5), cooldown(BOB, 9)], cooled(5), cooled(9), vec![]),
            (vec![row(ANN, Pending, 5), cooldown(ANN, 9)], cooled(9), none, vec![]),
            (vec![row(ANN, Connected, 5), cooldown(ANN, 9)], none, none, vec![(1, Conflicting)]),
        ] {
            let settled = settle(key(), rows.clone());
            assert_eq!((settled.pair.low, settled.pair.high, settled.lost), (low, high, lost), "{rows:?}");
        }
    }
}
