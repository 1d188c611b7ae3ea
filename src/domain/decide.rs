//! The rule book: what a command does to a pair. Pure: the same arguments always give the same decision.
//!
//! `docs/semantics.md` tells the same as tables, and a test holds the two together.

mod case;

use chrono::TimeDelta;

use self::case::Case;
use super::Time;
use super::counts::{Counts, SendWindow};
use super::event::{Actor, Cause, Event, EventKind};
use super::id::{RequestId, Sequence, UserId};
use super::pair::{Message, Pair, Request, RequestState};
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
/// The pair must be [request_at](expire).
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
pub fn expire(pair: &Pair, policy: &Policy, moment: Moment) -> Option<Decision> {
    let request = pair.request.as_ref()?;
    let expires = request.state.is_open() && policy.has_expired(request.created, moment.time);
    let cooled = request.state == RequestState::Withdrawn && !policy.in_cooldown(request.rejected, moment.time);
    if !expires && !cooled {
        return None;
    }
    let mut decision = Decision::unchanged(pair);
    if expires {
        decision.record(moment, Actor::System, EventKind::RequestExpired, None, request);
    }
    decision.pair.request = withdrawn(request, policy, moment);
    Some(decision)
}

/// The request of the pair after what time alone has done to it at `now`.
pub fn request_at(pair: &Pair, policy: &Policy, now: Time) -> Option<Request> {
    match expire(pair, policy, Moment { time: now, next: Sequence::default() }) {
        Some(decision) => decision.pair.request,
        None => pair.request.clone(),
    }
}

/// What is left of a request that its sender no longer sees: a withdrawn row while a cooldown runs, else nothing.
fn withdrawn(request: &Request, policy: &Policy, moment: Moment) -> Option<Request> {
    let holds = request.state != RequestState::Pending && policy.in_cooldown(request.rejected, moment.time);
    holds.then(|| Request { state: RequestState::Withdrawn, position: moment.next, ..request.clone() })
}

impl Decision {
    fn unchanged(pair: &Pair) -> Self {
        Self { pair: pair.clone(), events: Vec::new(), sent: false }
    }

    fn record(&mut self, moment: Moment, actor: Actor, kind: EventKind, cause: Option<Cause>, request: &Request) {
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

    fn expire_at(pair: &Pair, policy: &Policy, days: i64) -> Option<Decision> {
        expire(pair, policy, Moment { time: time(days), next: Sequence::new(9) })
    }

    #[test]
    fn a_rejected_request_that_expires_holds_a_cooldown_that_still_runs() {
        let days = |days| Some(TimeDelta::days(days));
        let policy = Policy { lifetime: days(10), cooldown: days(30), ..Policy::default() };
        assert_eq!(expire_at(&rejected(), &policy, 9), None);
        let expired = expire_at(&rejected(), &policy, 10).expect("expired");
        assert_eq!(expired.events.len(), 1);
        assert_eq!(expired.pair.request.as_ref().map(|request| request.state), Some(RequestState::Withdrawn));
        assert_eq!(expire_at(&expired.pair, &policy, 30), None);
        let cooled = expire_at(&expired.pair, &policy, 31).expect("cooled");
        assert_eq!((cooled.pair.request, cooled.events.len()), (None, 0));
    }

    #[test]
    fn what_is_switched_off_never_comes() {
        let policy = Policy { lifetime: None, cooldown: None, ..Policy::default() };
        assert_eq!(expire_at(&rejected(), &policy, 100_000), None);
        let moment = Moment { time: time(1), next: Sequence::new(9) };
        let party = |id| Party { id, status: None, counts: Counts::default(), sends: SendWindow::default() };
        let key = rejected().key;
        let cancel = decide(&rejected(), &PairCommand::Cancel, &party(key.low()), &party(key.high()), &policy, moment);
        assert_eq!(cancel.expect("cancelled").pair.request, None, "without a cooldown nothing is kept");
    }
}
