//! The rules once more, written naively and apart from the service: an oracle for random histories.
//!
//! It shares no code with `src/domain`. Times are whole days, users are always approved, limits are off.

use std::collections::{BTreeMap, BTreeSet};

use kith::proto::v1::{ConnectionRequestState as State, ConnectionStatus as Status};

const LIFETIME: i64 = 180;
const COOLDOWN: i64 = 30;

/// What a caller does.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Send(i64, i64),
    Accept(i64, i64),
    Reject(i64, i64),
    Restore(i64, i64),
    Cancel(i64, i64),
    MarkViewed(i64, i64),
    MarkAllViewed(i64),
    Remove(i64, i64),
    Block(i64, i64),
    Unblock(i64, i64),
    DeleteUser(i64),
}

/// What the caller is answered: the reason of a refusal, or what holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Refused(&'static str),
    /// The request that the actor sees, if any, and the actor's status.
    Pair(Option<Seen>, Status),
    Marked(i64),
    Done,
}

/// A request as someone sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: i64,
    pub state: State,
    pub viewed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Pending,
    Silenced,
    Rejected,
    Connected,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: i64,
    from: i64,
    to: i64,
    stands: Stands,
    sent: i64,
    viewed: bool,
}

#[derive(Default)]
pub struct Model {
    pub today: i64,
    /// The sequence of the newest event.
    pub sequence: i64,
    pub users: BTreeSet<i64>,
    requests: BTreeMap<(i64, i64), Request>,
    blocks: BTreeSet<(i64, i64)>,
    /// The day on which the second user last rejected a request of the first.
    cooldowns: BTreeMap<(i64, i64), i64>,
}

fn pair(one: i64, other: i64) -> (i64, i64) {
    (one.min(other), one.max(other))
}

impl Model {
    pub fn add_user(&mut self, id: i64) {
        self.users.insert(id);
        self.sequence += 1;
    }

    pub fn run(&mut self, op: Op) -> Answer {
        match op {
            Op::Send(from, to) => self.send(from, to),
            Op::Accept(id, user)
            | Op::Reject(id, user)
            | Op::Restore(id, user)
            | Op::Cancel(id, user)
            | Op::MarkViewed(id, user) => self.answer(op, id, user),
            Op::MarkAllViewed(user) => self.mark_all(user),
            Op::Remove(user, other) => self.remove(user, other),
            Op::Block(user, other) => self.block(user, other),
            Op::Unblock(user, other) => self.unblock(user, other),
            Op::DeleteUser(user) => self.delete(user),
        }
    }

    /// What a user's counts are: sent, received, unviewed, connections.
    pub fn counts(&self, user: i64) -> [i64; 4] {
        let live = |request: &&Request| !self.is_old(request);
        let mut counts = [0; 4];
        for request in self.requests.values().filter(live) {
            let open = request.stands != Stands::Connected;
            let received = request.to == user && request.stands == Stands::Pending;
            let mine = request.from == user || request.to == user;
            counts[0] += i64::from(open && request.from == user);
            counts[1] += i64::from(received);
            counts[2] += i64::from(received && !request.viewed);
            counts[3] += i64::from(mine && request.stands == Stands::Connected);
        }
        counts
    }

    pub fn status(&self, user: i64, other: i64) -> Status {
        if user == other {
            return Status::Self_;
        }
        if self.blocks.contains(&(user, other)) {
            return Status::Blocked;
        }
        match self.requests.get(&pair(user, other)) {
            Some(request) if self.is_old(request) => Status::None,
            Some(Request { stands: Stands::Connected, .. }) => Status::Connected,
            None => Status::None,
            Some(request) if request.from == user => Status::RequestSent,
            Some(Request { stands: Stands::Silenced, .. }) => Status::None,
            Some(Request { stands: Stands::Pending, .. }) => Status::RequestReceived,
            Some(Request { stands: Stands::Rejected, .. }) => Status::RequestRejected,
        }
    }

    /// The ids of what waits for an answer, for whoever asks: sent (newest first) and received.
    pub fn waiting(&self, user: i64) -> (Vec<i64>, BTreeSet<i64>) {
        let live = || self.requests.values().filter(|request| !self.is_old(request));
        let open = |request: &&Request| request.stands != Stands::Connected;
        let mut sent: Vec<_> =
            live().filter(open).filter(|request| request.from == user).map(|request| request.id).collect();
        sent.sort_unstable_by(|one, other| other.cmp(one));
        let pending = |request: &&Request| request.stands == Stands::Pending && request.to == user;
        (sent, live().filter(pending).map(|request| request.id).collect())
    }

    fn is_old(&self, request: &Request) -> bool {
        request.stands != Stands::Connected && self.today - request.sent >= LIFETIME
    }

    /// Lets time do its work on a pair that somebody touches.
    fn settle(&mut self, key: (i64, i64)) {
        let Some(request) = self.requests.get(&key).copied() else { return };
        if self.is_old(&request) {
            self.sequence += 1;
            self.requests.remove(&key);
        }
    }

    fn cools(&self, from: i64, to: i64) -> bool {
        self.cooldowns.get(&(from, to)).is_some_and(|day| self.today - day < COOLDOWN)
    }

    fn both(&self, one: i64, other: i64) -> bool {
        self.users.contains(&one) && self.users.contains(&other)
    }

    fn told(&self, user: i64, other: i64) -> Answer {
        let exists = |request: &&Request| request.from == user || request.stands != Stands::Silenced;
        let seen = self.requests.get(&pair(user, other)).filter(exists);
        let seen = seen.map(|request| {
            let mine = request.from == user;
            let state = match request.stands {
                Stands::Connected => State::Connected,
                Stands::Rejected if !mine => State::Rejected,
                _ => State::Pending,
            };
            Seen { id: request.id, state, viewed: request.viewed && !mine }
        });
        Answer::Pair(seen, self.status(user, other))
    }

    fn send(&mut self, from: i64, to: i64) -> Answer {
        if from == to {
            return Answer::Refused("SELF_REQUEST");
        }
        self.settle(pair(from, to));
        if !self.both(from, to) {
            return Answer::Refused("USER_NOT_FOUND");
        }
        if self.blocks.contains(&(from, to)) {
            return Answer::Refused("BLOCKED_BY_YOU");
        }
        let before = self.requests.get(&pair(from, to)).copied();
        match before {
            Some(Request { stands: Stands::Connected, .. }) => return Answer::Refused("ALREADY_CONNECTED"),
            Some(request) if request.from == from => return Answer::Refused("REQUEST_PENDING"),
            Some(request) => self.connect(request),
            None => {
                self.sequence += 1;
                let silenced = self.blocks.contains(&(to, from)) || self.cools(from, to);
                let stands = if silenced { Stands::Silenced } else { Stands::Pending };
                let (id, sent) = (self.sequence, self.today);
                let request = Request { id, from, to, stands, sent, viewed: false };
                self.requests.insert(pair(from, to), request);
            }
        }
        self.told(from, to)
    }

    fn connect(&mut self, request: Request) {
        self.sequence += 1;
        let connected = Request { stands: Stands::Connected, viewed: true, ..request };
        self.requests.insert(pair(request.from, request.to), connected);
        self.cooldowns.remove(&(request.from, request.to));
        self.cooldowns.remove(&(request.to, request.from));
    }

    fn answer(&mut self, op: Op, id: i64, user: i64) -> Answer {
        let with_id = |request: &&Request| request.id == id && (request.from == user || request.to == user);
        let Some(request) = self.requests.values().find(with_id).copied() else {
            return Answer::Refused("REQUEST_NOT_FOUND");
        };
        let key = pair(request.from, request.to);
        self.settle(key);
        let exists = |request: &&Request| request.from == user || request.stands != Stands::Silenced;
        let Some(request) = self.requests.get(&key).filter(exists).copied() else {
            return Answer::Refused("REQUEST_NOT_FOUND");
        };
        let other = if request.from == user { request.to } else { request.from };
        if matches!(op, Op::Cancel(..)) != (request.from == user) {
            return Answer::Refused(if request.from == user { "NOT_THE_RECEIVER" } else { "NOT_THE_SENDER" });
        }
        match (op, request.stands) {
            (Op::Accept(..), Stands::Connected)
            | (Op::Reject(..), Stands::Rejected)
            | (Op::Restore(..), Stands::Pending) => {}
            (Op::Reject(..) | Op::Restore(..) | Op::Cancel(..), Stands::Connected) => {
                return Answer::Refused("ALREADY_CONNECTED");
            }
            (Op::Accept(..) | Op::Restore(..), _) if self.blocks.contains(&(user, other)) => {
                return Answer::Refused("BLOCKED_BY_YOU");
            }
            (Op::Accept(..), _) => self.connect(request),
            (Op::MarkViewed(..), _) if request.viewed => {}
            (Op::Cancel(..), _) => {
                self.sequence += 1;
                self.requests.remove(&key);
            }
            (op, _) => {
                self.sequence += 1;
                let request = self.requests.get_mut(&key).expect("there");
                match op {
                    Op::Reject(..) => {
                        self.sequence += i64::from(!request.viewed);
                        request.stands = Stands::Rejected;
                        request.viewed = true;
                        self.cooldowns.insert((other, user), self.today);
                    }
                    Op::Restore(..) => {
                        request.stands = Stands::Pending;
                        self.cooldowns.remove(&(other, user));
                    }
                    _ => request.viewed = true,
                }
            }
        }
        self.told(user, other)
    }

    fn mark_all(&mut self, user: i64) -> Answer {
        if !self.users.contains(&user) {
            return Answer::Refused("USER_NOT_FOUND");
        }
        let to_user = |request: &&Request| request.to == user && request.stands == Stands::Pending && !request.viewed;
        let keys: Vec<_> =
            self.requests.values().filter(to_user).map(|request| pair(request.from, request.to)).collect();
        let mut marked = 0;
        for key in keys {
            self.settle(key);
            if let Some(request) = self.requests.get_mut(&key).filter(|request| request.stands == Stands::Pending) {
                request.viewed = true;
                marked += 1;
            }
        }
        self.sequence += marked;
        Answer::Marked(marked)
    }

    fn remove(&mut self, user: i64, other: i64) -> Answer {
        if user == other {
            return Answer::Refused("SELF_REQUEST");
        }
        self.settle(pair(user, other));
        if !self.both(user, other) {
            return Answer::Refused("USER_NOT_FOUND");
        }
        match self.requests.get(&pair(user, other)) {
            Some(Request { stands: Stands::Connected, .. }) => {
                self.requests.remove(&pair(user, other));
                self.sequence += 1;
                self.told(user, other)
            }
            _ => Answer::Refused("NOT_CONNECTED"),
        }
    }

    fn block(&mut self, user: i64, other: i64) -> Answer {
        if user == other {
            return Answer::Refused("SELF_REQUEST");
        }
        let key = pair(user, other);
        self.settle(key);
        if !self.both(user, other) {
            return Answer::Refused("USER_NOT_FOUND");
        }
        if self.blocks.insert((user, other)) {
            self.sequence += 1;
            match self.requests.get(&key).copied() {
                Some(Request { stands: Stands::Connected, .. }) => {
                    self.requests.remove(&key);
                    self.sequence += 1;
                }
                Some(request) if request.from == user => {
                    self.requests.remove(&key);
                    self.sequence += 1;
                }
                Some(request) if request.stands == Stands::Pending => {
                    self.requests.insert(key, Request { stands: Stands::Silenced, ..request });
                    self.sequence += 1;
                }
                _ => {}
            }
        }
        self.told(user, other)
    }

    fn unblock(&mut self, user: i64, other: i64) -> Answer {
        if user == other {
            return Answer::Refused("SELF_REQUEST");
        }
        self.settle(pair(user, other));
        if !self.both(user, other) {
            return Answer::Refused("USER_NOT_FOUND");
        }
        if !self.blocks.remove(&(user, other)) {
            return Answer::Refused("NOT_BLOCKED");
        }
        self.sequence += 1;
        let cools = self.cools(other, user);
        let request = self.requests.get_mut(&pair(user, other)).filter(|request| request.to == user && !cools);
        if let Some(request) = request.filter(|request| request.stands == Stands::Silenced) {
            request.stands = Stands::Pending;
            // A view is told anew.
            self.sequence += 1 + i64::from(request.viewed);
        }
        self.told(user, other)
    }

    fn delete(&mut self, user: i64) -> Answer {
        if !self.users.remove(&user) {
            return Answer::Refused("USER_NOT_FOUND");
        }
        let keys: Vec<_> = self.requests.keys().copied().filter(|key| key.0 == user || key.1 == user).collect();
        for key in keys {
            self.settle(key);
            if self.requests.remove(&key).is_some() {
                self.sequence += 1;
            }
        }
        let before = self.blocks.len();
        self.blocks.retain(|(one, other)| *one != user && *other != user);
        self.cooldowns.retain(|(one, other), _| *one != user && *other != user);
        // Each block ends with an event, and then the user.
        self.sequence += i64::try_from(before - self.blocks.len()).expect("few blocks") + 1;
        Answer::Done
    }
}
