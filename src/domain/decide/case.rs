//! The rules of each command, in the order in which they are checked.

use chrono::TimeDelta;

use super::{Decision, Limit, Moment, Party, Rejection, withdrawn};
use crate::domain::Time;
use crate::domain::event::{Actor, Cause, EventKind};
use crate::domain::id::{RequestId, UserId};
use crate::domain::pair::{Block, Message, Pair, Request, RequestState};
use crate::domain::policy::Policy;
use crate::domain::user::UserStatus;

/// The arguments of [`decide`](super::decide) without the command.
pub(super) struct Case<'a> {
    pub(super) pair: &'a Pair,
    pub(super) actor: &'a Party,
    pub(super) other: &'a Party,
    pub(super) policy: &'a Policy,
    pub(super) moment: Moment,
}

impl Case<'_> {
    pub(super) fn send(&self, message: &Message) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        check_approved(self.actor)?;
        check_approved(self.other)?;
        self.check_not_blocked_by_actor()?;
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
        self.check_request_limits()?;
        let rejection = self.initial_rejection();
        let request = Request {
            id: RequestId::new(self.moment.next.get()),
            from: self.actor.id,
            to: self.other.id,
            state: if rejection.is_some() { RequestState::Rejected } else { RequestState::Pending },
            position: self.moment.next,
            message: message.clone(),
            created: self.moment.time,
            viewed: None,
            rejected: rejection.map(|(rejected, _)| rejected),
            accepted: None,
        };
        let cause = rejection.map(|(_, cause)| cause);
        let decision = self.change(EventKind::RequestCreated, cause, &request, Some(request.clone()));
        Ok(Decision { sent: true, ..decision })
    }

    /// Returns the time and the cause of the rejection if a new request is rejected from the start.
    ///
    /// The receiver does not see such a request. Its sender sees it as pending.
    fn initial_rejection(&self) -> Option<(Time, Cause)> {
        if self.pair.block_by(self.other.id).is_some() {
            return Some((self.moment.time, Cause::Blocked));
        }
        let withdrawn = self.pair.request.as_ref().filter(|request| request.from == self.actor.id)?;
        let rejected = withdrawn.rejected?;
        self.policy.in_cooldown(Some(rejected), self.moment.time).then_some((rejected, Cause::Cooldown))
    }

    pub(super) fn accept(&self) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
        match request.state {
            RequestState::Connected => Ok(self.unchanged()),
            RequestState::Pending | RequestState::Rejected => {
                check_approved(self.actor)?;
                check_approved(self.other)?;
                self.check_not_blocked_by_actor()?;
                self.connect(request, None)
            }
            RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    pub(super) fn reject(&self) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
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

    pub(super) fn restore(&self) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
        match request.state {
            RequestState::Pending => Ok(self.unchanged()),
            RequestState::Rejected => {
                check_approved(self.actor)?;
                self.check_not_blocked_by_actor()?;
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

    pub(super) fn cancel(&self) -> Result<Decision, Rejection> {
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

    pub(super) fn mark_viewed(&self) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
        if request.viewed.is_some() {
            return Ok(self.unchanged());
        }
        let after = Request { viewed: Some(self.moment.time), ..request.clone() };
        Ok(self.change(EventKind::RequestViewed, None, request, Some(after)))
    }

    pub(super) fn remove(&self) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        match &self.pair.request {
            Some(request) if request.state == RequestState::Connected => {
                Ok(self.change(EventKind::ConnectionRemoved, None, request, None))
            }
            Some(_) | None => Err(Rejection::NotConnected { user: self.actor.id, other: self.other.id }),
        }
    }

    pub(super) fn block(&self) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        if self.pair.block_by(self.actor.id).is_some() {
            return Ok(self.unchanged());
        }
        let mut decision = match &self.pair.request {
            Some(request) => self.end_for_block(request),
            None => self.unchanged(),
        };
        let event = decision.event(self.moment, self.as_actor(), EventKind::UserBlocked, None, self.both(), None);
        let block = Block { created: self.moment.time, position: event.sequence };
        *decision.pair.block_by_mut(self.actor.id) = Some(block);
        decision.events.push(event);
        Ok(decision)
    }

    /// Ends the request or the connection of a pair in which the actor blocks the other user.
    fn end_for_block(&self, request: &Request) -> Decision {
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

    pub(super) fn unblock(&self) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        let mut decision = self.unchanged();
        if decision.pair.block_by_mut(self.actor.id).take().is_none() {
            return Err(Rejection::NotBlocked { user: self.actor.id, other: self.other.id });
        }
        let event = decision.event(self.moment, self.as_actor(), EventKind::UserUnblocked, None, self.both(), None);
        decision.events.push(event);
        Ok(decision)
    }

    /// Turns the request into a connection if neither user is at the connection limit.
    fn connect(&self, request: &Request, cause: Option<Cause>) -> Result<Decision, Rejection> {
        self.check_connection_limit(self.actor)?;
        self.check_connection_limit(self.other)?;
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

    /// Returns the request of the pair unless it is withdrawn.
    ///
    /// The ledger finds the pair by the id of its request, so the error for a pair without one has no id to report.
    fn request(&self) -> Result<&Request, Rejection> {
        match &self.pair.request {
            Some(request) if request.state == RequestState::Withdrawn => Err(Rejection::RequestNotFound(request.id)),
            Some(request) => Ok(request),
            None => Err(Rejection::RequestNotFound(RequestId::default())),
        }
    }

    fn received_request(&self) -> Result<&Request, Rejection> {
        let request = self.request()?;
        if request.to == self.actor.id { Ok(request) } else { Err(Rejection::NotTheReceiver(request.id)) }
    }

    fn check_both_exist(&self) -> Result<(), Rejection> {
        match (self.actor.status, self.other.status) {
            (None, _) => Err(Rejection::UserNotFound(self.actor.id)),
            (_, None) => Err(Rejection::UserNotFound(self.other.id)),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    fn check_not_blocked_by_actor(&self) -> Result<(), Rejection> {
        match self.pair.block_by(self.actor.id) {
            Some(_) => Err(Rejection::BlockedByYou { user: self.actor.id, other: self.other.id }),
            None => Ok(()),
        }
    }

    /// Checks the limits on sending a request.
    ///
    /// They also apply to a request that is rejected from the start, since its sender must not notice the rejection.
    fn check_request_limits(&self) -> Result<(), Rejection> {
        let Party { id, counts, sends, .. } = *self.actor;
        check_limit(self.policy.max_sent_requests, counts.requests_sent, Limit::SentRequests, id, None)?;
        self.check_connection_limit(self.actor)?;
        self.check_connection_limit(self.other)?;
        let window = sends.at(self.moment.time);
        let pause = Some(window.remaining(self.moment.time));
        check_limit(self.policy.max_sends_per_hour, window.count, Limit::SendsPerHour, id, pause)
    }

    fn check_connection_limit(&self, party: &Party) -> Result<(), Rejection> {
        check_limit(self.policy.max_connections, party.counts.connections, Limit::Connections, party.id, None)
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

    /// Replaces `request` by `after` and records one event about it.
    fn change(&self, kind: EventKind, cause: Option<Cause>, request: &Request, after: Option<Request>) -> Decision {
        let mut decision = self.unchanged();
        decision.record(self.moment, self.as_actor(), kind, cause, request);
        decision.pair.request = after;
        decision
    }
}

fn check_approved(party: &Party) -> Result<(), Rejection> {
    match party.status {
        Some(UserStatus::Approved) => Ok(()),
        Some(UserStatus::Blocked | UserStatus::Unregistered) => Err(Rejection::UserNotApproved(party.id)),
        None => Err(Rejection::UserNotFound(party.id)),
    }
}

fn check_limit(
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
