//! The rules: what a command does to a pair.
//!
//! The functions are pure: the same arguments always give the same decision. `docs/semantics.md` documents the rules as
//! tables. A test compares the two.

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

/// A command of one user of a pair (the actor) that affects the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairCommand {
    /// Sends a request to the other user.
    Send(Message),
    /// Accepts the request of the other user.
    Accept,
    /// Rejects the request of the other user.
    Reject,
    /// Makes a rejected request of the other user pending again.
    Restore,
    /// Cancels the actor's own request.
    Cancel,
    /// Marks the request of the other user as viewed.
    MarkViewed,
    /// Removes the connection.
    Remove,
    /// Blocks the other user.
    Block,
    /// Removes the actor's block of the other user.
    Unblock,
}

/// One user of a pair, with everything that the rules depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// The user's id.
    pub id: UserId,
    /// The status of the user. `None` if the user does not exist.
    pub status: Option<UserStatus>,
    /// The counts of the user's requests and connections.
    pub counts: Counts,
    /// The sends of the user in the current hour.
    pub sends: SendWindow,
}

/// The position of a decision in time and in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of the decision and of its events.
    pub time: Time,
    /// The sequence of the decision's first event.
    pub next: Sequence,
}

/// The effect of a command: the pair after it, and its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The pair after the command.
    pub pair: Pair,
    /// The events, numbered from the moment's next sequence. Empty if the command changed nothing.
    pub events: Vec<Event>,
    /// Whether the actor sent a request, which counts towards their hourly limit.
    pub sent: bool,
}

/// The reason for which a command is rejected. `ErrorReason` in the protos documents each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the proto's ErrorReason, which documents them")]
pub enum Rejection {
    UserNotFound(UserId),
    UserNotApproved(UserId),
    UserExists(UserId),
    UsernameTaken(String),
    NoIdLeft,
    NotTheUser(UserId),
    Conflict {
        user: UserId,
        changed: Sequence,
    },
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
    /// The users of a send are already connected: ALREADY_EXISTS.
    AlreadyConnected(RequestId),
    /// The request of the command is already accepted: FAILED_PRECONDITION.
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

/// A limit of the [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it; the policy documents them")]
pub enum Limit {
    SentRequests,
    Connections,
    SendsPerHour,
}

impl Limit {
    /// Returns the name of the limit in the metadata of errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SentRequests => "sent_requests",
            Self::Connections => "connections",
            Self::SendsPerHour => "sends_per_hour",
        }
    }
}

/// Decides what a command by `actor` does to the pair of `actor` and `other`.
///
/// [`expire`] must have been applied to the pair before.
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

/// Expires the request or the cooldown of a pair. Returns `None` if neither has expired.
///
/// A rejected request that expires during its cooldown becomes withdrawn. Its sender sees the same as when a pending
/// request expires.
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

/// Returns the request of the pair at `now`, after [`expire`].
pub fn request_at(pair: &Pair, policy: &Policy, now: Time) -> Option<Request> {
    match expire(pair, policy, Moment { time: now, next: Sequence::default() }) {
        Some(decision) => decision.pair.request,
        None => pair.request.clone(),
    }
}

/// Returns what remains of a request that ends: a withdrawn request during a cooldown, else nothing.
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

    /// Creates the event that follows those recorded so far.
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
    fn a_rejected_request_that_expires_is_withdrawn_until_its_cooldown_ends() {
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
    fn without_a_lifetime_and_a_cooldown_nothing_expires() {
        let policy = Policy { lifetime: None, cooldown: None, ..Policy::default() };
        assert_eq!(expire_at(&rejected(), &policy, 100_000), None);
        let moment = Moment { time: time(1), next: Sequence::new(9) };
        let party = |id| Party { id, status: None, counts: Counts::default(), sends: SendWindow::default() };
        let key = rejected().key;
        let cancel = decide(&rejected(), &PairCommand::Cancel, &party(key.low()), &party(key.high()), &policy, moment);
        assert_eq!(cancel.expect("cancelled").pair.request, None, "without a cooldown no row remains");
    }
}
