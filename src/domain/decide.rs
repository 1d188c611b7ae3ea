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
use super::pair::{Ended, Message, Pair, Request, RequestState};
use super::policy::Policy;
use super::user::UserStatus;

/// A command of one user of a pair (the actor) that affects the pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairCommand {
    /// Sends a request to the other user.
    Send(Message),
    /// Accepts the request of the other user, with a reply that may be empty.
    Accept(Message),
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
    /// Another user has this external id: USER_EXISTS, for a caller that looks the user up by it.
    ExternalIdExists {
        user: UserId,
        external_id: String,
    },
    /// A user has an external id, and the command names another: INVALID_FIELDS.
    ExternalIdFixed(UserId),
    /// A user without an external id must have a username: INVALID_FIELDS.
    UsernameNeeded(UserId),
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
    SendsPerPair,
}

impl Limit {
    /// Returns the name of the limit in the metadata of errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SentRequests => "sent_requests",
            Self::Connections => "connections",
            Self::SendsPerHour => "sends_per_hour",
            Self::SendsPerPair => "sends_per_pair",
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
        PairCommand::Accept(reply) => case.accept(reply),
        PairCommand::Reject => case.reject(),
        PairCommand::Restore => case.restore(),
        PairCommand::Cancel => case.cancel(),
        PairCommand::MarkViewed => case.mark_viewed(),
        PairCommand::Remove => case.remove(),
        PairCommand::Block => case.block(),
        PairCommand::Unblock => case.unblock(),
    }
}

/// Expires the request of a pair. Returns `None` if it has not expired.
pub fn expire(pair: &Pair, policy: &Policy, moment: Moment) -> Option<Decision> {
    let request = pair.request.as_ref()?;
    if !has_expired(request, policy, moment.time) {
        return None;
    }
    let mut decision = Decision::unchanged(pair);
    decision.record(moment, Actor::System, EventKind::RequestExpired, None, request);
    decision.end(request, policy, moment);
    Some(decision)
}

/// Returns the request of the pair at `now`, unless it has expired.
pub fn request_at<'a>(pair: &'a Pair, policy: &Policy, now: Time) -> Option<&'a Request> {
    pair.request.as_ref().filter(|request| !has_expired(request, policy, now))
}

fn has_expired(request: &Request, policy: &Policy, now: Time) -> bool {
    request.state.is_open() && policy.has_expired(request.created, now)
}

impl Decision {
    fn unchanged(pair: &Pair) -> Self {
        Self { pair: pair.clone(), events: Vec::new(), sent: false }
    }

    pub(super) fn record(
        &mut self,
        moment: Moment,
        actor: Actor,
        kind: EventKind,
        cause: Option<Cause>,
        request: &Request,
    ) {
        let event = self.event(moment, actor, kind, cause, (request.from, request.to), Some(request.id));
        // Both users learn of a connection, whatever the request was before.
        let silenced = request.state == RequestState::Silenced && kind != EventKind::ConnectionCreated;
        self.events.push(Event { silenced, ..event });
    }

    /// Ends the request or the connection of the pair, which counts as a send from now on.
    fn end(&mut self, request: &Request, policy: &Policy, moment: Moment) {
        self.pair.request = None;
        let side = self.pair.side_mut(request.from);
        let before = policy.still_counted(side.ended, moment.time);
        let first = Ended { since: request.created, count: 0 };
        let Ended { since, count } = before.unwrap_or(first);
        let ended = Ended { since, count: count + 1 };
        side.ended = policy.max_sends_per_pair.and(policy.still_counted(Some(ended), moment.time));
    }

    /// Creates the event that follows those recorded so far. The ledger adds the principal.
    pub(super) fn event(
        &self,
        moment: Moment,
        actor: Actor,
        kind: EventKind,
        cause: Option<Cause>,
        (user, other): (UserId, UserId),
        request: Option<RequestId>,
    ) -> Event {
        let sequence = self.events.last().map_or(moment.next, |event| event.sequence.next());
        let (time, other) = (moment.time, Some(other));
        Event { sequence, time, kind, cause, actor, user, other, request, silenced: false, principal: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::PairKey;
    use crate::domain::pair::Side;

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
            reply: Message::default(),
        };
        let low = Side { cooldown: Some(time(1)), ..Side::default() };
        Pair { request: Some(request), low, ..Pair::empty(key) }
    }

    fn expire_at(pair: &Pair, policy: &Policy, days: i64) -> Option<Decision> {
        expire(pair, policy, Moment { time: time(days), next: Sequence::new(9) })
    }

    #[test]
    fn open_requests_expire_and_leave_nothing_but_the_cooldown() {
        let policy = Policy { lifetime: Some(TimeDelta::days(10)), ..Policy::default() };
        for state in [RequestState::Pending, RequestState::Silenced, RequestState::Rejected] {
            let mut pair = rejected();
            pair.request.as_mut().expect("a request").state = state;
            assert_eq!(expire_at(&pair, &policy, 9), None);
            let expired = expire_at(&pair, &policy, 10).expect("expired");
            let ended = Some(Ended { since: time(0), count: 1 });
            let low = Side { ended, ..pair.low };
            assert_eq!(expired.pair, Pair { request: None, low, ..pair.clone() });
            let [event] = &expired.events[..] else { panic!("not one event: {expired:?}") };
            assert_eq!(event.kind, EventKind::RequestExpired);
            assert_eq!(event.silenced, state == RequestState::Silenced, "the receiver never knew of a silenced one");
        }
    }

    #[test]
    fn limits_have_names_in_the_metadata_of_errors() {
        let limits = [Limit::SentRequests, Limit::Connections, Limit::SendsPerHour, Limit::SendsPerPair];
        assert_eq!(limits.map(Limit::name), ["sent_requests", "connections", "sends_per_hour", "sends_per_pair"]);
    }

    #[test]
    fn an_ended_request_counts_with_those_of_the_same_cooldown() {
        // The request was sent on day 0 and ends on day 10. A cooldown lasts 30 days.
        let policy = || Policy { lifetime: Some(TimeDelta::days(10)), ..Policy::default() };
        let ended = |days, count| Some(Ended { since: time(days), count });
        for (policy, before, after) in [
            (policy(), None, ended(0, 1)),
            (policy(), ended(-19, 3), ended(-19, 4)),
            (policy(), ended(-20, 3), ended(0, 1)),
            (Policy { max_sends_per_pair: None, ..policy() }, ended(-19, 3), None),
            (Policy { cooldown: None, ..policy() }, ended(-19, 3), None),
            (Policy { cooldown: Some(TimeDelta::days(10)), ..policy() }, None, None),
        ] {
            let mut pair = rejected();
            pair.low.ended = before;
            let expired = expire_at(&pair, &policy, 10).expect("expired");
            assert_eq!(expired.pair.low.ended, after, "{before:?} with {policy:?}");
        }
    }

    #[test]
    fn without_a_lifetime_nothing_expires() {
        let policy = Policy { lifetime: None, ..Policy::default() };
        assert_eq!(expire_at(&rejected(), &policy, 100_000), None);
    }
}
