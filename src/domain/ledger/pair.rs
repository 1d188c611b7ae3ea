//! The commands on pairs, and their expiry.

use std::sync::Arc;

use super::forget::{ForgetProgress, forget_progress};
use super::sweep::{SweepProgress, sweep_progress};
use super::{CountsChange, ForgetStep, Ledger, SweepStep, Tracked};
use crate::domain::command::{RESPONSE_RETENTION, RequestAction, UserAction};
use crate::domain::counts::Counts;
use crate::domain::decide::{Decision, PairCommand, Rejection, decide, expire};
use crate::domain::event::{Actor, Event, EventKind, PrincipalKind};
use crate::domain::id::{PairKey, RequestId, UserId};
use crate::domain::outcome::{FullRequest, Outcome, Swept, Transition};
use crate::domain::pair::{Message, Pair, Request, RequestState};
use crate::domain::totals::Totals;
use crate::domain::view::{Viewer, status, visible, visible_event};

impl Ledger {
    pub(super) fn send(&mut self, from: UserId, to: UserId, message: &Message) -> Result<Outcome, Rejection> {
        self.expire_sent(from);
        let key = self.change_between(from, to, &PairCommand::Send(message.clone()))?;
        Ok(Outcome::Sent(self.transition(key, from)))
    }

    pub(super) fn act_on_request(
        &mut self,
        id: RequestId,
        user: UserId,
        action: &RequestAction,
    ) -> Result<Outcome, Rejection> {
        let other = self.other_party(id, user).ok_or(Rejection::RequestNotFound(id))?;
        let key = self.change_between(user, other, &action.into())?;
        Ok(Outcome::RequestChanged(action.clone(), self.transition(key, user)))
    }

    pub(super) fn act_on_user(
        &mut self,
        user: UserId,
        other: UserId,
        action: UserAction,
    ) -> Result<Outcome, Rejection> {
        let key = self.change_between(user, other, &action.into())?;
        let pair = self.pair(key);
        let (status, _) = status(&pair, user, &self.policy, self.time);
        Ok(match action {
            UserAction::Remove => Outcome::Removed { status },
            UserAction::Unblock => Outcome::Unblocked { status },
            UserAction::Block => {
                // Both exist: the rules created the block, and reject unknown users.
                let blocked = pair.side(user).block.zip(self.member(other));
                let (block, member) = blocked.ok_or(Rejection::UserNotFound(other))?;
                Outcome::Blocked { block, user: Arc::clone(&member.user), status }
            }
        })
    }

    /// Returns the other user of a request if it still exists and `user` is its sender or receiver.
    fn other_party(&mut self, id: RequestId, user: UserId) -> Option<UserId> {
        let key = *self.requests.get(&id).filter(|key| key.has(user))?;
        self.expire(key);
        // A later request of the pair may have replaced it.
        let request = self.pair(key).request.filter(|request| request.id == id)?;
        request.exists_for(user).then(|| key.other_than(user))
    }

    /// Executes a command of `user` on the pair with `other`.
    fn change_between(&mut self, user: UserId, other: UserId, command: &PairCommand) -> Result<PairKey, Rejection> {
        // The mapping rejects commands of a user on themselves, so this error is not expected.
        let key = PairKey::of(user, other).ok_or(Rejection::UserNotFound(other))?;
        self.change(key, user, command)?;
        Ok(key)
    }

    fn change(&mut self, key: PairKey, user: UserId, command: &PairCommand) -> Result<(), Rejection> {
        self.expire(key);
        let (actor, other) = (self.party(user), self.party(key.other_than(user)));
        let decision = decide(&self.pair(key), command, &actor, &other, &self.policy, self.moment())?;
        if decision.sent {
            self.record_send(user);
        }
        self.apply(decision);
        Ok(())
    }

    /// Returns the request and the status of the pair as `user` may see them.
    fn transition(&self, key: PairKey, user: UserId) -> Transition {
        let pair = self.pair(key);
        let (status, _) = status(&pair, user, &self.policy, self.time);
        let seen = pair.request.as_ref();
        let seen = seen.and_then(|request| visible(request, Viewer::User(user), &self.policy, self.time));
        let request = seen.and_then(|request| {
            let from = Arc::clone(&self.member(request.from)?.user);
            let to = Arc::clone(&self.member(request.to)?.user);
            Some(FullRequest { request, from, to })
        });
        Transition { request, status }
    }

    pub(super) fn mark_all_viewed(&mut self, user: UserId) -> Result<Outcome, Rejection> {
        if self.member(user).is_none() {
            return Err(Rejection::UserNotFound(user));
        }
        let received = |pair: &Tracked<Pair>| pair.now.request.as_ref().is_some_and(|request| request.to == user);
        let keys: Vec<_> = self.pairs.iter().filter(|(_, pair)| received(pair)).map(|(key, _)| *key).collect();
        let mut marked = 0;
        for key in keys {
            self.expire(key);
            let pair = self.pair(key);
            let pending = |request: &Request| request.state == RequestState::Pending && request.viewed.is_none();
            if pair.request.as_ref().is_some_and(pending) {
                self.change(key, user, &PairCommand::MarkViewed)?;
                marked += 1;
            }
        }
        Ok(Outcome::AllViewed { marked })
    }

    /// Expires loaded requests of a sender who is at their limit.
    ///
    /// Expired requests do not count towards the limit, although the sweep may not have deleted them yet.
    fn expire_sent(&mut self, sender: UserId) {
        let sent = self.party(sender).counts.requests_sent;
        if self.policy.max_sent_requests.is_some_and(|maximum| sent >= maximum) {
            let keys: Vec<_> = self.pairs.keys().copied().filter(|key| key.has(sender)).collect();
            keys.into_iter().for_each(|key| _ = self.expire(key));
        }
    }

    pub(super) fn sweep(&mut self) -> Outcome {
        let keys: Vec<_> = self.pairs.keys().copied().collect();
        let expired = keys.into_iter().filter(|key| self.expire(*key)).count();
        if let Some(until) = self.sweep.open_until {
            let loaded = self.pairs.values().filter_map(|pair| pair.now.request.as_ref());
            let open = loaded.filter(|request| request.state.is_open() && request.id > self.head.swept);
            let open = open.filter(|request| request.id <= until).map(|request| (request.id, request.created));
            let SweepProgress { until, out_of_order } = sweep_progress(open.collect(), until);
            self.head.swept = until;
            self.changes.requests_out_of_order = out_of_order;
        }
        let cooled = self.policy.cooled_before(self.time).unwrap_or(self.time);
        self.changes.cooled = (self.sweep.cooled > 0).then_some(cooled);
        self.changes.ahead = (self.sweep.ahead > 0).then_some(self.time);
        self.changes.responses_deleted = (self.sweep.responses > 0).then(|| self.time - RESPONSE_RETENTION);
        self.changes.events_deleted = self.sweep.events_until;
        let SweepStep { open_until: _, events_until: _, cooled, ahead, events, responses, forget } = self.sweep.clone();
        let (forgotten, more) = forget.map_or((0, false), |step| self.forget(step));
        let [requests, forgotten] = [expired, forgotten].map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
        let rows = Swept { requests, cooldowns: cooled + ahead, responses, events, forgotten };
        Outcome::Swept { rows, more }
    }

    /// Erases a deleted user from some events. Returns their number, and whether there may be more to forget now.
    fn forget(&mut self, step: ForgetStep) -> (usize, bool) {
        let ForgetProgress { forgotten, forgetting, more } = forget_progress(&step, &self.head);
        self.head.forgotten = forgotten;
        self.head.forgetting = forgetting;
        let ForgetStep::Deletion { event: _, searched: _, user, named } = step else { return (0, more) };
        let rows = named.len();
        self.changes.forgotten = (rows > 0).then_some((user, named));
        (rows, more)
    }

    /// Expires the request of a pair. Returns whether it had expired.
    pub(super) fn expire(&mut self, key: PairKey) -> bool {
        let decision = expire(&self.pair(key), &self.policy, self.moment());
        decision.map(|decision| self.apply(decision)).is_some()
    }

    /// Applies a decision to the pair, the counts of its users and the totals, and records its events.
    pub(super) fn apply(&mut self, decision: Decision) {
        let key = decision.pair.key;
        let before = self.pair(key);
        self.head.totals += Totals::of(&decision.pair) - Totals::of(&before);
        let (before, after) = (before.request.as_ref(), decision.pair.request.as_ref());
        // Whether a receiver's counts change shows whether the request was silenced or rejected. Its sender must not
        // notice by the time of the commit, so the row is written in any case.
        let is_private = |event: &Event| matches!(event.kind, EventKind::RequestCreated | EventKind::RequestCancelled);
        let writes_both = decision.events.iter().any(is_private);
        for user in [key.low(), key.high()] {
            let change = Counts::of(after, user) - Counts::of(before, user);
            if writes_both || change != Counts::default() {
                self.counts_of(user).change += change;
                if let Some(member) = self.member_mut(user) {
                    member.counts += change;
                }
            }
        }
        self.requests.extend(after.map(|request| (request.id, key)));
        decision.events.into_iter().for_each(|event| self.record(event));
        self.pairs.entry(key).or_insert_with(|| Tracked::new(Pair::empty(key))).now = decision.pair;
    }

    fn record_send(&mut self, user: UserId) {
        let time = self.time;
        if let Some(member) = self.member_mut(user) {
            member.sends = member.sends.after_send(time);
            let sends = member.sends;
            self.counts_of(user).sends = Some(sends);
        }
    }

    /// Records an event of the command that is executed.
    pub(super) fn record(&mut self, mut event: Event) {
        // What expired would have ended without the command too.
        let principal = if event.actor == Actor::System { PrincipalKind::System } else { self.principal };
        event.principal = Some(principal);
        self.head.sequence = event.sequence;
        self.head.time = event.time;
        self.note_visible(&event);
        self.changes.events.push(event);
    }

    /// Notes an event about two users for each of them who may see it. One about a single user is in their own row.
    fn note_visible(&mut self, event: &Event) {
        let Some(other) = event.other else { return };
        for user in [event.user, other] {
            if visible_event(event, Viewer::User(user), &self.policy).is_some() {
                self.counts_of(user).last_visible = Some(event.sequence);
                if let Some(member) = self.member_mut(user) {
                    member.last_visible = event.sequence;
                }
            }
        }
    }

    fn counts_of(&mut self, user: UserId) -> &mut CountsChange {
        self.counts.entry(user).or_insert(CountsChange::none(user))
    }
}

#[cfg(test)]
mod tests;
