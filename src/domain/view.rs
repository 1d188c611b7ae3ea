//! What a viewer may see. The only place that hides a refusal; everything that leaves Kith passes here.

use super::Time;
use super::decide::request_at;
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
    let Some(request) = request_at(pair, policy, now) else { return (Status::None, None) };
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

    /// When one of the two is told of an event.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum When {
        Always,
        Never,
        /// Unless it has a cause.
        Plain,
        RejectionsDisclosed,
        ViewsDisclosed,
    }

    /// Of each kind: when the first of the two is told, and when the other.
    const TOLD: [(EventKind, When, When); 13] = {
        use EventKind as Kind;
        use When::{Always, Never, Plain, RejectionsDisclosed, ViewsDisclosed};
        [
            (Kind::RequestCreated, Always, Plain),
            (Kind::RequestViewed, ViewsDisclosed, Always),
            (Kind::RequestRejected, RejectionsDisclosed, Always),
            (Kind::RequestRestored, RejectionsDisclosed, Always),
            (Kind::RequestCancelled, Always, Always),
            (Kind::RequestExpired, Always, Always),
            (Kind::ConnectionCreated, Always, Always),
            (Kind::ConnectionRemoved, Always, Always),
            (Kind::UserBlocked, Always, Never),
            (Kind::UserUnblocked, Always, Never),
            (Kind::UserCreated, Always, Always),
            (Kind::UserUpdated, Always, Always),
            (Kind::UserDeleted, Always, Always),
        ]
    };

    /// Whether a cause is told to this viewer, with what they are told.
    fn cause_is_told(cause: Cause, kind: EventKind, actor: Actor, viewer: UserId) -> bool {
        match cause {
            // To the one who blocks, and of a created request the actor is the one who is blocked.
            Cause::Blocked => kind != EventKind::RequestCreated && actor == Actor::User(viewer),
            Cause::Cooldown => false,
            Cause::Crossed | Cause::UserDeleted => true,
        }
    }

    #[test]
    fn a_viewer_is_told_what_they_may_know_and_no_cause_that_tells_more() {
        let (first, other, third) = (UserId::new(1), UserId::new(2), UserId::new(3));
        assert_eq!(TOLD.map(|(kind, ..)| kind), EventKind::ALL);
        let causes = || Cause::ALL.iter().copied().map(Some).chain([None]);
        let actors = [Actor::User(first), Actor::User(other), Actor::Operator, Actor::System];
        for (disclose_rejections, disclose_views) in [(false, false), (true, false), (false, true), (true, true)] {
            let policy = Policy { disclose_rejections, disclose_views, ..Policy::default() };
            for (kind, to_first, to_other) in TOLD {
                for (cause, actor) in causes().flat_map(|cause| actors.map(|actor| (cause, actor))) {
                    let request = Some(RequestId::new(7));
                    let (sequence, time) = (Sequence::new(9), Time::UNIX_EPOCH);
                    let event = Event { sequence, time, kind, cause, actor, user: first, other: Some(other), request };
                    for (viewer, when) in [(first, to_first), (other, to_other), (third, When::Never)] {
                        let told = match when {
                            When::Always => true,
                            When::Never => false,
                            When::Plain => cause.is_none(),
                            When::RejectionsDisclosed => disclose_rejections,
                            When::ViewsDisclosed => disclose_views,
                        };
                        let cause = cause.filter(|cause| cause_is_told(*cause, kind, actor, viewer));
                        let expected = told.then(|| Event { cause, ..event.clone() });
                        let seen = visible_event(&event, Viewer::User(viewer), &policy);
                        assert_eq!(seen, expected, "{event:?} to {viewer} by {policy:?}");
                    }
                    assert_eq!(visible_event(&event, Viewer::Operator, &policy), Some(event));
                }
            }
        }
    }

    #[test]
    fn what_is_about_one_user_is_told_to_them_alone() {
        let (sequence, time, user) = (Sequence::new(9), Time::UNIX_EPOCH, UserId::new(1));
        for kind in [EventKind::UserCreated, EventKind::UserUpdated, EventKind::UserDeleted] {
            let (actor, cause) = (Actor::Operator, None);
            let event = Event { sequence, time, kind, cause, actor, user, other: None, request: None };
            let policy = Policy::default();
            assert_eq!(visible_event(&event, Viewer::User(user), &policy), Some(event.clone()));
            assert_eq!(visible_event(&event, Viewer::User(UserId::new(2)), &policy), None);
        }
    }
}
