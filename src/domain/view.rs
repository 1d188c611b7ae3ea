//! What a viewer may see. The only place that hides a refusal; everything that leaves Kith passes here.

use super::Time;
use super::decide::settled;
use super::event::{Actor, Cause, Event, EventKind};
use super::id::{RequestId, UserId};
use super::pair::{Pair, Request, RequestState};
use super::policy::Policy;

/// For whom something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A user, who sees their side.
    User(UserId),
    /// A caller that acts for no user, and sees the truth.
    Operator,
}

/// How one user stands towards another. Being blocked by the other never shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it; the proto documents them")]
pub enum Status {
    #[default]
    None,
    RequestSent,
    RequestReceived,
    RequestRejected,
    Connected,
    Blocked,
    Itself,
}

/// The request as the viewer may see it; `None` where it does not exist for them.
///
/// A sender sees a rejected request as pending, and not whether it was viewed, unless the policy discloses it.
/// A withdrawn or expired request exists for nobody.
pub fn visible(request: &Request, viewer: Viewer, policy: &Policy, now: Time) -> Option<Request> {
    if request.state == RequestState::Withdrawn || request.state.is_open() && policy.has_expired(request.created, now) {
        return None;
    }
    let mut seen = request.clone();
    match viewer {
        Viewer::Operator => {}
        Viewer::User(user) if user == request.to => {}
        Viewer::User(user) if user == request.from => {
            if !policy.disclose_rejections && request.state == RequestState::Rejected {
                seen.state = RequestState::Pending;
                seen.rejected = None;
            }
            if !policy.disclose_views {
                seen.viewed = None;
            }
        }
        Viewer::User(_) => return None,
    }
    Some(seen)
}

/// The event as the viewer may see it; `None` where they may not know of it.
///
/// A user sees the events that they take part in. A sender does not see what became of a request behind their back:
/// rejections, restorations and views, unless the policy discloses them. A receiver is not told of a request that was
/// born rejected. A block is told to the one who blocks, and so is that it was the cause of anything.
pub fn visible_event(event: &Event, viewer: Viewer, policy: &Policy) -> Option<Event> {
    let Viewer::User(user) = viewer else { return Some(event.clone()) };
    let is_first = event.user == user;
    if !is_first && event.other != Some(user) {
        return None;
    }
    let told = match event.kind {
        EventKind::RequestCreated => is_first || event.cause.is_none(),
        EventKind::RequestViewed => !is_first || policy.disclose_views,
        EventKind::RequestRejected | EventKind::RequestRestored => !is_first || policy.disclose_rejections,
        EventKind::UserBlocked | EventKind::UserUnblocked => is_first,
        EventKind::RequestCancelled
        | EventKind::RequestExpired
        | EventKind::ConnectionCreated
        | EventKind::ConnectionRemoved
        | EventKind::UserCreated
        | EventKind::UserUpdated
        | EventKind::UserDeleted => true,
    };
    let own = event.actor == Actor::User(user);
    let cause = event.cause.filter(|cause| match cause {
        // Of a created request it is the receiver's block, and the actor is the sender.
        Cause::Blocked => own && event.kind != EventKind::RequestCreated,
        Cause::Cooldown => false,
        Cause::Crossed | Cause::UserDeleted => true,
    });
    told.then(|| Event { cause, ..event.clone() })
}

/// How `user` stands towards the other of the pair, and the request or connection that this stands for.
pub fn status(pair: &Pair, user: UserId, policy: &Policy, now: Time) -> (Status, Option<RequestId>) {
    if pair.block_by(user).is_some() {
        return (Status::Blocked, None);
    }
    let Some(request) = settled(pair, policy, now) else { return (Status::None, None) };
    let sent = request.from == user;
    let status = match request.state {
        RequestState::Connected => Status::Connected,
        RequestState::Pending | RequestState::Rejected if sent => Status::RequestSent,
        RequestState::Pending => Status::RequestReceived,
        RequestState::Rejected => Status::RequestRejected,
        RequestState::Withdrawn => return (Status::None, None),
    };
    (status, Some(request.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Sequence;
    use crate::domain::pair::Message;

    #[test]
    fn a_sender_sees_what_the_policy_discloses_and_no_more() {
        let time = Time::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
        let request = Request {
            id: RequestId::new(7),
            from: UserId::new(1),
            to: UserId::new(2),
            state: RequestState::Rejected,
            position: Sequence::new(8),
            message: Message::default(),
            created: time,
            viewed: Some(time),
            rejected: Some(time),
            accepted: None,
        };
        for (disclose_rejections, disclose_views) in [(false, false), (true, false), (false, true), (true, true)] {
            let policy = Policy { disclose_rejections, disclose_views, ..Policy::default() };
            let seen = visible(&request, Viewer::User(request.from), &policy, time).expect("visible");
            assert_eq!(seen.state == RequestState::Rejected, disclose_rejections);
            assert_eq!(seen.rejected.is_some(), disclose_rejections);
            assert_eq!(seen.viewed.is_some(), disclose_views);
            assert_eq!(visible(&request, Viewer::User(request.to), &policy, time), Some(request.clone()));
            assert_eq!(visible(&request, Viewer::User(UserId::new(3)), &policy, time), None);
        }
    }
}
