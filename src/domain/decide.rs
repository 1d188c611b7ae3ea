//! The rule book: what a command does to a pair. Pure: the same arguments always give the same decision.
//!
//! `docs/semantics.md` tells the same as tables, and a test holds the two together.

use chrono::TimeDelta;

use super::Time;
use super::counts::{Counts, SendWindow};
use super::event::{Actor, Cause, Event, EventKind};
use super::id::{RequestId, Sequence, UserId};
use super::pair::{Block, Message, Pair, Request, RequestState};
use super::policy::Policy;
use super::user::UserStatus;

/// What a user wants to happen between them and the other of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairCommand {
    /// Ask the other to connect.
    Send(Message),
    /// Accept the other's request.
    Accept,
    /// Reject the other's request.
    Reject,
    /// Take a rejection back.
    Restore,
    /// Take one's own request back.
    Cancel,
    /// Note that the other's request was seen.
    MarkViewed,
    /// End the connection.
    Remove,
    /// Block the other.
    Block,
    /// End one's block of the other.
    Unblock,
}

/// One of the two users, as far as the rules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Who.
    pub id: UserId,
    /// Whether they may take part; `None` when there is no such user.
    pub status: Option<UserStatus>,
    /// What they have.
    pub counts: Counts,
    /// What they sent of late.
    pub sends: SendWindow,
}

/// When a decision is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of its events.
    pub time: Time,
    /// The sequence of its first event.
    pub next: Sequence,
}

/// What a command does: the pair afterwards, and the events. No events: nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The pair after the command.
    pub pair: Pair,
    /// What happened, numbered from the moment's next sequence.
    pub events: Vec<Event>,
    /// Whether the actor sent a request, which counts towards their hour.
    pub sent: bool,
}

/// Why a command is refused. The proto's `ErrorReason` documents each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the proto's ErrorReason, which documents them")]
pub enum Rejection {
    UserNotFound(UserId),
    UserNotApproved(UserId),
    UserExists(UserId),
    UsernameTaken(String),
    NoIdLeft,
    RequestNotFound(RequestId),
    NotTheReceiver(RequestId),
    NotTheSender(RequestId),
    BlockedByYou {
        user: UserId,
        other: UserId,
    },
    NotBlocked {
        user: UserId,
        other: UserId,
    },
    NotConnected {
        user: UserId,
        other: UserId,
    },
    /// A send found a connection: ALREADY_EXISTS.
    AlreadyConnected(RequestId),
    /// A change came after the acceptance: FAILED_PRECONDITION.
    AlreadyAccepted(RequestId),
    RequestPending(RequestId),
    LimitReached {
        limit: Limit,
        user: UserId,
        maximum: i64,
        retry_after: Option<TimeDelta>,
    },
    RequestIdReused(uuid::Uuid),
}

/// What there may be only so many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it; the policy documents them")]
pub enum Limit {
    SentRequests,
    Connections,
    SendsPerHour,
}

impl Limit {
    /// The name under which it is published.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SentRequests => "sent_requests",
            Self::Connections => "connections",
            Self::SendsPerHour => "sends_per_hour",
        }
    }
}

/// Decides what `command` by `actor` does to the pair of `actor` and `other`.
///
/// The pair must be [settled](settle).
pub fn decide(
    pair: &Pair,
    command: &PairCommand,
    actor: &Party,
    other: &Party,
    policy: &Policy,
    moment: Moment,
) -> Result<Decision, Rejection> {
    let case = Case { pair, actor, other, policy, moment };
    match command {
        PairCommand::Send(message) => case.send(message),
        PairCommand::Accept => case.accept(),
        PairCommand::Reject => case.reject(),
        PairCommand::Restore => case.restore(),
        PairCommand::Cancel => case.cancel(),
        PairCommand::MarkViewed => case.mark_viewed(),
        PairCommand::Remove => case.remove(),
        PairCommand::Block => case.block(),
        PairCommand::Unblock => case.unblock(),
    }
}

/// What time alone does to a pair: a request expires, a cooldown ends. `None`: nothing is due.
///
/// A rejected request that expires is withdrawn while its cooldown runs, so that its sender sees the same as with
/// a pending one.
pub fn settle(pair: &Pair, policy: &Policy, moment: Moment) -> Option<Decision> {
    let request = pair.request.as_ref()?;
    let expires = request.state.is_open() && policy.has_expired(request.created, moment.time);
    let cooled = request.state == RequestState::Withdrawn && !policy.cools(request.rejected, moment.time);
    if !expires && !cooled {
        return None;
    }
    let mut decision = Decision::unchanged(pair);
    if expires {
        decision.note(moment, Actor::System, EventKind::RequestExpired, None, request);
    }
    decision.pair.request = withdrawn(request, policy, moment);
    Some(decision)
}

/// The request of the pair after what time alone has done to it at `now`.
pub fn settled(pair: &Pair, policy: &Policy, now: Time) -> Option<Request> {
    match settle(pair, policy, Moment { time: now, next: Sequence::default() }) {
        Some(decision) => decision.pair.request,
        None => pair.request.clone(),
    }
}

/// What is left of a request that its sender no longer sees: a withdrawn row while a cooldown runs, else nothing.
fn withdrawn(request: &Request, policy: &Policy, moment: Moment) -> Option<Request> {
    let holds = request.state != RequestState::Pending && policy.cools(request.rejected, moment.time);
    holds.then(|| Request { state: RequestState::Withdrawn, position: moment.next, ..request.clone() })
}

/// One command with all that it is decided from.
struct Case<'a> {
    pair: &'a Pair,
    actor: &'a Party,
    other: &'a Party,
    policy: &'a Policy,
    moment: Moment,
}

impl Case<'_> {
    fn send(&self, message: &Message) -> Result<Decision, Rejection> {
        self.both_exist()?;
        approved(self.actor)?;
        approved(self.other)?;
        self.not_blocked_by_actor()?;
        match &self.pair.request {
            Some(request) if request.state == RequestState::Connected => Err(Rejection::AlreadyConnected(request.id)),
            Some(request) if request.state.is_open() && request.from == self.actor.id => {
                Err(Rejection::RequestPending(request.id))
            }
            Some(request) if request.state.is_open() => self.connect(request, Some(Cause::Crossed)),
            Some(_) | None => self.create(message),
        }
    }

    fn create(&self, message: &Message) -> Result<Decision, Rejection> {
        self.room_for_a_request()?;
        let refusal = self.born_rejected();
        let request = Request {
            id: RequestId::new(self.moment.next.get()),
            from: self.actor.id,
            to: self.other.id,
            state: if refusal.is_some() { RequestState::Rejected } else { RequestState::Pending },
            position: self.moment.next,
            message: message.clone(),
            created: self.moment.time,
            viewed: None,
            rejected: refusal.map(|(rejected, _)| rejected),
            accepted: None,
        };
        let cause = refusal.map(|(_, cause)| cause);
        let decision = self.change(EventKind::RequestCreated, cause, &request, Some(request.clone()));
        Ok(Decision { sent: true, ..decision })
    }

    /// Whether a new request is refused before its receiver hears of it, and since when.
    fn born_rejected(&self) -> Option<(Time, Cause)> {
        if self.pair.block_by(self.other.id).is_some() {
            return Some((self.moment.time, Cause::Blocked));
        }
        let withdrawn = self.pair.request.as_ref().filter(|request| request.from == self.actor.id)?;
        let rejected = withdrawn.rejected?;
        self.policy.cools(Some(rejected), self.moment.time).then_some((rejected, Cause::Cooldown))
    }

    fn accept(&self) -> Result<Decision, Rejection> {
        let request = self.as_receiver()?;
        match request.state {
            RequestState::Connected => Ok(self.unchanged()),
            RequestState::Pending | RequestState::Rejected => {
                approved(self.actor)?;
                approved(self.other)?;
                self.not_blocked_by_actor()?;
                self.connect(request, None)
            }
            RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    fn reject(&self) -> Result<Decision, Rejection> {
        let request = self.as_receiver()?;
        match request.state {
            RequestState::Rejected => Ok(self.unchanged()),
            RequestState::Pending => {
                let after = Request { viewed: request.viewed.or(Some(self.moment.time)), ..self.rejected(request) };
                Ok(self.change(EventKind::RequestRejected, None, request, Some(after)))
            }
            RequestState::Connected => Err(Rejection::AlreadyAccepted(request.id)),
            RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    fn restore(&self) -> Result<Decision, Rejection> {
        let request = self.as_receiver()?;
        match request.state {
            RequestState::Pending => Ok(self.unchanged()),
            RequestState::Rejected => {
                approved(self.actor)?;
                self.not_blocked_by_actor()?;
                let after = Request {
                    state: RequestState::Pending,
                    position: self.moment.next,
                    rejected: None,
                    ..request.clone()
                };
                Ok(self.change(EventKind::RequestRestored, None, request, Some(after)))
            }
            RequestState::Connected => Err(Rejection::AlreadyAccepted(request.id)),
            RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    fn cancel(&self) -> Result<Decision, Rejection> {
        let request = self.request()?;
        if request.from != self.actor.id {
            return Err(Rejection::NotTheSender(request.id));
        }
        match request.state {
            RequestState::Pending | RequestState::Rejected => {
                let after = withdrawn(request, self.policy, self.moment);
                Ok(self.change(EventKind::RequestCancelled, None, request, after))
            }
            RequestState::Connected => Err(Rejection::AlreadyAccepted(request.id)),
            RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    fn mark_viewed(&self) -> Result<Decision, Rejection> {
        let request = self.as_receiver()?;
        if request.viewed.is_some() {
            return Ok(self.unchanged());
        }
        let after = Request { viewed: Some(self.moment.time), ..request.clone() };
        Ok(self.change(EventKind::RequestViewed, None, request, Some(after)))
    }

    fn remove(&self) -> Result<Decision, Rejection> {
        self.both_exist()?;
        match &self.pair.request {
            Some(request) if request.state == RequestState::Connected => {
                Ok(self.change(EventKind::ConnectionRemoved, None, request, None))
            }
            Some(_) | None => Err(Rejection::NotConnected { user: self.actor.id, other: self.other.id }),
        }
    }

    fn block(&self) -> Result<Decision, Rejection> {
        self.both_exist()?;
        if self.pair.block_by(self.actor.id).is_some() {
            return Ok(self.unchanged());
        }
        let mut decision = match &self.pair.request {
            Some(request) => self.end_by_block(request),
            None => self.unchanged(),
        };
        let event = decision.event(self.moment, self.as_actor(), EventKind::UserBlocked, None, self.both(), None);
        let block = Block { created: self.moment.time, position: event.sequence };
        *decision.pair.block_by_mut(self.actor.id) = Some(block);
        decision.events.push(event);
        Ok(decision)
    }

    /// What a block does to the request or connection that it meets.
    fn end_by_block(&self, request: &Request) -> Decision {
        let cause = Some(Cause::Blocked);
        let own = request.from == self.actor.id;
        match request.state {
            RequestState::Connected => self.change(EventKind::ConnectionRemoved, cause, request, None),
            RequestState::Pending | RequestState::Rejected if own => {
                let after = withdrawn(request, self.policy, self.moment);
                self.change(EventKind::RequestCancelled, cause, request, after)
            }
            RequestState::Pending => {
                self.change(EventKind::RequestRejected, cause, request, Some(self.rejected(request)))
            }
            RequestState::Rejected | RequestState::Withdrawn => self.unchanged(),
        }
    }

    fn unblock(&self) -> Result<Decision, Rejection> {
        self.both_exist()?;
        let mut decision = self.unchanged();
        if decision.pair.block_by_mut(self.actor.id).take().is_none() {
            return Err(Rejection::NotBlocked { user: self.actor.id, other: self.other.id });
        }
        let event = decision.event(self.moment, self.as_actor(), EventKind::UserUnblocked, None, self.both(), None);
        decision.events.push(event);
        Ok(decision)
    }

    /// Makes a connection of the request, if both have room for one more.
    fn connect(&self, request: &Request, cause: Option<Cause>) -> Result<Decision, Rejection> {
        self.room_for_a_connection(self.actor)?;
        self.room_for_a_connection(self.other)?;
        let after = Request {
            state: RequestState::Connected,
            position: self.moment.next,
            viewed: request.viewed.or(Some(self.moment.time)),
            rejected: None,
            accepted: Some(self.moment.time),
            ..request.clone()
        };
        Ok(self.change(EventKind::ConnectionCreated, cause, request, Some(after)))
    }

    fn rejected(&self, request: &Request) -> Request {
        Request {
            state: RequestState::Rejected,
            position: self.moment.next,
            rejected: Some(self.moment.time),
            ..request.clone()
        }
    }

    /// The pair's live request. Callers look it up by its id first; a pair without one has none to name.
    fn request(&self) -> Result<&Request, Rejection> {
        match &self.pair.request {
            Some(request) if request.state == RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
            Some(request) => Ok(request),
            None => Err(Rejection::RequestNotFound(RequestId::default())),
        }
    }

    fn as_receiver(&self) -> Result<&Request, Rejection> {
        let request = self.request()?;
        if request.to == self.actor.id { Ok(request) } else { Err(Rejection::NotTheReceiver(request.id)) }
    }

    fn both_exist(&self) -> Result<(), Rejection> {
        match (self.actor.status, self.other.status) {
            (None, _) => Err(Rejection::UserNotFound(self.actor.id)),
            (_, None) => Err(Rejection::UserNotFound(self.other.id)),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    fn not_blocked_by_actor(&self) -> Result<(), Rejection> {
        match self.pair.block_by(self.actor.id) {
            Some(_) => Err(Rejection::BlockedByYou { user: self.actor.id, other: self.other.id }),
            None => Ok(()),
        }
    }

    /// The limits on a new request. They are the same for one that is born rejected: its sender must not notice.
    fn room_for_a_request(&self) -> Result<(), Rejection> {
        let Party { id, counts, sends, .. } = *self.actor;
        below(self.policy.max_sent_requests, counts.requests_sent, Limit::SentRequests, id, None)?;
        self.room_for_a_connection(self.actor)?;
        self.room_for_a_connection(self.other)?;
        let window = sends.at(self.moment.time);
        let pause = Some(window.remaining(self.moment.time));
        below(self.policy.max_sends_per_hour, window.count, Limit::SendsPerHour, id, pause)
    }

    fn room_for_a_connection(&self, party: &Party) -> Result<(), Rejection> {
        below(self.policy.max_connections, party.counts.connections, Limit::Connections, party.id, None)
    }

    fn as_actor(&self) -> Actor {
        Actor::User(self.actor.id)
    }

    fn both(&self) -> (UserId, UserId) {
        (self.actor.id, self.other.id)
    }

    fn unchanged(&self) -> Decision {
        Decision::unchanged(self.pair)
    }

    /// One event about `request`, which is `after` from now on.
    fn change(&self, kind: EventKind, cause: Option<Cause>, request: &Request, after: Option<Request>) -> Decision {
        let mut decision = self.unchanged();
        decision.note(self.moment, self.as_actor(), kind, cause, request);
        decision.pair.request = after;
        decision
    }
}

impl Decision {
    fn unchanged(pair: &Pair) -> Self {
        Self { pair: pair.clone(), events: Vec::new(), sent: false }
    }

    fn note(&mut self, moment: Moment, actor: Actor, kind: EventKind, cause: Option<Cause>, request: &Request) {
        let event = self.event(moment, actor, kind, cause, (request.from, request.to), Some(request.id));
        self.events.push(event);
    }

    /// The event that would follow those noted so far.
    fn event(
        &self,
        moment: Moment,
        actor: Actor,
        kind: EventKind,
        cause: Option<Cause>,
        (user, other): (UserId, UserId),
        request: Option<RequestId>,
    ) -> Event {
        let sequence = self.events.last().map_or(moment.next, |event| event.sequence.next());
        Event { sequence, time: moment.time, kind, cause, actor, user, other: Some(other), request }
    }
}

fn approved(party: &Party) -> Result<(), Rejection> {
    match party.status {
        Some(UserStatus::Approved) => Ok(()),
        Some(UserStatus::Blocked | UserStatus::Unregistered) => Err(Rejection::UserNotApproved(party.id)),
        None => Err(Rejection::UserNotFound(party.id)),
    }
}

fn below(
    maximum: Option<i64>,
    count: i64,
    limit: Limit,
    user: UserId,
    retry_after: Option<TimeDelta>,
) -> Result<(), Rejection> {
    match maximum {
        Some(maximum) if count >= maximum => Err(Rejection::LimitReached { limit, user, maximum, retry_after }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::PairKey;

    fn time(days: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(20_000 + days)
    }

    fn rejected() -> Pair {
        let key = PairKey::of(UserId::new(1), UserId::new(2)).expect("two users");
        let request = Request {
            id: RequestId::new(7),
            from: key.low(),
            to: key.high(),
            state: RequestState::Rejected,
            position: Sequence::new(8),
            message: Message::default(),
            created: time(0),
            viewed: Some(time(1)),
            rejected: Some(time(1)),
            accepted: None,
        };
        Pair { request: Some(request), ..Pair::empty(key) }
    }

    fn settle_at(pair: &Pair, policy: &Policy, days: i64) -> Option<Decision> {
        settle(pair, policy, Moment { time: time(days), next: Sequence::new(9) })
    }

    #[test]
    fn a_rejected_request_that_expires_holds_a_cooldown_that_still_runs() {
        let days = |days| Some(TimeDelta::days(days));
        let policy = Policy { lifetime: days(10), cooldown: days(30), ..Policy::default() };
        assert_eq!(settle_at(&rejected(), &policy, 9), None);
        let expired = settle_at(&rejected(), &policy, 10).expect("expired");
        assert_eq!(expired.events.len(), 1);
        assert_eq!(expired.pair.request.as_ref().map(|request| request.state), Some(RequestState::Withdrawn));
        assert_eq!(settle_at(&expired.pair, &policy, 30), None);
        let cooled = settle_at(&expired.pair, &policy, 31).expect("cooled");
        assert_eq!((cooled.pair.request, cooled.events.len()), (None, 0));
    }

    #[test]
    fn what_is_switched_off_never_comes() {
        let policy = Policy { lifetime: None, cooldown: None, ..Policy::default() };
        assert_eq!(settle_at(&rejected(), &policy, 100_000), None);
        let moment = Moment { time: time(1), next: Sequence::new(9) };
        let party = |id| Party { id, status: None, counts: Counts::default(), sends: SendWindow::default() };
        let key = rejected().key;
        let cancel = decide(&rejected(), &PairCommand::Cancel, &party(key.low()), &party(key.high()), &policy, moment);
        assert_eq!(cancel.expect("cancelled").pair.request, None, "without a cooldown nothing is kept");
    }
}
