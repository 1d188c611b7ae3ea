//! The rules of each command, in the order in which they are checked.

use chrono::TimeDelta;

use super::{Decision, Limit, Moment, Party, Rejection};
use crate::domain::Time;
use crate::domain::event::{Actor, Cause, EventKind};
use crate::domain::id::{RequestId, UserId};
use crate::domain::pair::{Block, Ended, Message, Pair, Request, RequestState};
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
            Some(request) if request.state.is_open() => self.connect(request, Some(Cause::Crossed), message),
            Some(_) | None => self.create(message),
        }
    }

    fn create(&self, message: &Message) -> Result<Decision, Rejection> {
        self.check_request_limits()?;
        let silenced = self.silence();
        let request = Request {
            id: RequestId::new(self.moment.next.get()),
            from: self.actor.id,
            to: self.other.id,
            state: if silenced.is_some() { RequestState::Silenced } else { RequestState::Pending },
            position: self.moment.next,
            message: message.clone(),
            created: self.moment.time,
            viewed: None,
            rejected: None,
            accepted: None,
            reply: Message::default(),
        };
        let decision = self.change(EventKind::RequestCreated, silenced, &request, request.clone());
        Ok(Decision { sent: true, ..decision })
    }

    /// Returns the cause if a new request is silenced from the start.
    fn silence(&self) -> Option<Cause> {
        if self.pair.side(self.other.id).block.is_some() {
            return Some(Cause::Blocked);
        }
        self.in_cooldown(self.actor).then_some(Cause::Cooldown)
    }

    /// Whether a cooldown holds requests of this user back from the other.
    fn in_cooldown(&self, sender: &Party) -> bool {
        self.policy.in_cooldown(self.pair.side(sender.id).cooldown, self.moment.time)
    }

    pub(super) fn accept(&self, reply: &Message) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
        match request.state {
            RequestState::Connected => Ok(self.unchanged()),
            RequestState::Pending | RequestState::Rejected => {
                check_approved(self.actor)?;
                check_approved(self.other)?;
                self.check_not_blocked_by_actor()?;
                self.connect(request, None, reply)
            }
            RequestState::Silenced => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    pub(super) fn reject(&self) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
        match request.state {
            RequestState::Rejected => Ok(self.unchanged()),
            RequestState::Pending => Ok(self.reject_pending(request)),
            RequestState::Connected => Err(Rejection::AlreadyAccepted(request.id)),
            RequestState::Silenced => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    /// Rejects a request, and views it before if it was not: a sender who sees views, and no rejections, must not tell
    /// a rejection from a view.
    fn reject_pending(&self, request: &Request) -> Decision {
        let mut decision = self.unchanged();
        if request.viewed.is_none() {
            decision.record(self.moment, self.as_actor(), EventKind::RequestViewed, None, request);
        }
        decision.record(self.moment, self.as_actor(), EventKind::RequestRejected, None, request);
        decision.pair.request = Some(Request {
            state: RequestState::Rejected,
            position: decision.events.last().map_or(self.moment.next, |event| event.sequence),
            viewed: request.viewed.or(Some(self.time_for(request))),
            rejected: Some(self.time_for(request)),
            ..request.clone()
        });
        decision.pair.side_mut(self.other.id).cooldown = Some(self.moment.time);
        decision
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
                let mut decision = self.change(EventKind::RequestRestored, None, request, after);
                decision.pair.side_mut(self.other.id).cooldown = None;
                Ok(decision)
            }
            RequestState::Connected => Err(Rejection::AlreadyAccepted(request.id)),
            RequestState::Silenced => Err(Rejection::RequestNotFound(request.id)),
        }
    }

    pub(super) fn cancel(&self) -> Result<Decision, Rejection> {
        let request = self.request()?;
        if request.from != self.actor.id {
            return Err(Rejection::NotTheSender(request.id));
        }
        if !request.state.is_open() {
            return Err(Rejection::AlreadyAccepted(request.id));
        }
        Ok(self.end(EventKind::RequestCancelled, None, request))
    }

    pub(super) fn mark_viewed(&self) -> Result<Decision, Rejection> {
        let request = self.received_request()?;
        if request.viewed.is_some() {
            return Ok(self.unchanged());
        }
        let after = Request { viewed: Some(self.time_for(request)), ..request.clone() };
        Ok(self.change(EventKind::RequestViewed, None, request, after))
    }

    pub(super) fn remove(&self) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        match &self.pair.request {
            Some(request) if request.state == RequestState::Connected => {
                Ok(self.end(EventKind::ConnectionRemoved, None, request))
            }
            Some(_) | None => Err(Rejection::NotConnected { user: self.actor.id, other: self.other.id }),
        }
    }

    pub(super) fn block(&self) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        if self.pair.side(self.actor.id).block.is_some() {
            return Ok(self.unchanged());
        }
        let mut decision = match &self.pair.request {
            Some(request) => self.end_for_block(request),
            None => self.unchanged(),
        };
        let event = decision.event(self.moment, self.as_actor(), EventKind::UserBlocked, None, self.both(), None);
        let block = Block { created: self.moment.time, position: event.sequence };
        decision.pair.side_mut(self.actor.id).block = Some(block);
        decision.events.push(event);
        Ok(decision)
    }

    /// Ends the connection or the own request of an actor who blocks the other user, or silences the other's request.
    fn end_for_block(&self, request: &Request) -> Decision {
        let cause = Some(Cause::Blocked);
        let own = request.from == self.actor.id;
        match request.state {
            RequestState::Connected => self.end(EventKind::ConnectionRemoved, cause, request),
            RequestState::Pending | RequestState::Silenced | RequestState::Rejected if own => {
                self.end(EventKind::RequestCancelled, cause, request)
            }
            RequestState::Pending => {
                let after = Request { state: RequestState::Silenced, position: self.moment.next, ..request.clone() };
                self.change(EventKind::RequestSilenced, cause, request, after)
            }
            RequestState::Silenced | RequestState::Rejected => self.unchanged(),
        }
    }

    pub(super) fn unblock(&self) -> Result<Decision, Rejection> {
        self.check_both_exist()?;
        let mut decision = self.unchanged();
        if decision.pair.side_mut(self.actor.id).block.take().is_none() {
            return Err(Rejection::NotBlocked { user: self.actor.id, other: self.other.id });
        }
        let event = decision.event(self.moment, self.as_actor(), EventKind::UserUnblocked, None, self.both(), None);
        decision.events.push(event);
        self.end_silence(&mut decision);
        Ok(decision)
    }

    /// Makes a silenced request to the actor, who removed their block, pending, unless a cooldown holds it back.
    ///
    /// The actor is told of the request if they were told of it before, else of its creation.
    fn end_silence(&self, decision: &mut Decision) {
        let silenced = decision.pair.request.take_if(|request| {
            request.state == RequestState::Silenced && request.to == self.actor.id && !self.in_cooldown(self.other)
        });
        let Some(silenced) = silenced else { return };
        let kind = if silenced.was_told() { EventKind::RequestRestored } else { EventKind::RequestCreated };
        let (actor, cause) = (self.as_actor(), Some(Cause::Unblocked));
        let mut pending = Request { state: RequestState::Pending, ..silenced };
        decision.record(self.moment, actor, kind, cause, &pending);
        pending.position = decision.events.last().map_or(self.moment.next, |event| event.sequence);
        if pending.viewed.is_some() {
            // It left the receiver's lists with the block, so their feed says again that it was viewed.
            decision.record(self.moment, actor, EventKind::RequestViewed, cause, &pending);
        }
        decision.pair.request = Some(pending);
    }

    /// Turns the request into a connection if neither user is at the connection limit.
    ///
    /// `reply` is what the receiver says to it, or the message of their own request that crosses it.
    fn connect(&self, request: &Request, cause: Option<Cause>, reply: &Message) -> Result<Decision, Rejection> {
        self.check_connection_limit(self.actor)?;
        self.check_connection_limit(self.other)?;
        let after = Request {
            state: RequestState::Connected,
            position: self.moment.next,
            viewed: request.viewed.or(Some(self.time_for(request))),
            rejected: None,
            accepted: Some(self.time_for(request)),
            reply: reply.clone(),
            ..request.clone()
        };
        let mut decision = self.change(EventKind::ConnectionCreated, cause, request, after);
        (decision.pair.low.cooldown, decision.pair.high.cooldown) = (None, None);
        Ok(decision)
    }

    /// Returns the request of the pair if it exists for the actor.
    ///
    /// The ledger finds the pair by the id of its request, so the error for a pair without one has no id to report.
    fn request(&self) -> Result<&Request, Rejection> {
        match &self.pair.request {
            Some(request) if request.exists_for(self.actor.id) => Ok(request),
            Some(request) => Err(Rejection::RequestNotFound(request.id)),
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
        match self.pair.side(self.actor.id).block {
            Some(_) => Err(Rejection::BlockedByYou { user: self.actor.id, other: self.other.id }),
            None => Ok(()),
        }
    }

    /// Checks the limits on sending a request.
    ///
    /// They also apply to a request that is silenced, since its sender must not notice that.
    fn check_request_limits(&self) -> Result<(), Rejection> {
        let Party { id, counts, sends, .. } = *self.actor;
        check_limit(self.policy.max_sent_requests, counts.requests_sent, Limit::SentRequests, id, None)?;
        self.check_connection_limit(self.actor)?;
        self.check_connection_limit(self.other)?;
        let window = sends.at(self.moment.time);
        let pause = Some(window.remaining(self.moment.time));
        check_limit(self.policy.max_sends_per_hour, window.count, Limit::SendsPerHour, id, pause)?;
        self.check_sends_to_other()
    }

    fn check_sends_to_other(&self) -> Result<(), Rejection> {
        let ended = self.policy.still_counted(self.pair.side(self.actor.id).ended, self.moment.time);
        let Some((Ended { since, count }, time)) = ended.zip(self.policy.cooldown) else { return Ok(()) };
        let pause = since + time - self.moment.time;
        check_limit(self.policy.max_sends_per_pair, count, Limit::SendsPerPair, self.actor.id, Some(pause))
    }

    fn check_connection_limit(&self, party: &Party) -> Result<(), Rejection> {
        check_limit(self.policy.max_connections, party.counts.connections, Limit::Connections, party.id, None)
    }

    /// Returns the present as a time of `request`: never before its creation, which a wrong clock may have dated ahead.
    fn time_for(&self, request: &Request) -> Time {
        self.moment.time.max(request.created)
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
    fn change(&self, kind: EventKind, cause: Option<Cause>, request: &Request, after: Request) -> Decision {
        let mut decision = self.unchanged();
        decision.record(self.moment, self.as_actor(), kind, cause, request);
        decision.pair.request = Some(after);
        decision
    }

    /// Ends `request` and records one event about it.
    fn end(&self, kind: EventKind, cause: Option<Cause>, request: &Request) -> Decision {
        let mut decision = self.unchanged();
        decision.record(self.moment, self.as_actor(), kind, cause, request);
        decision.end(request, self.policy, self.moment);
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

#[cfg(test)]
mod tests;
