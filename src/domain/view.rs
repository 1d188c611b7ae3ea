//! Visibility: what a viewer may see of requests, events and statuses.
//!
//! Rejections and blocks are hidden here and nowhere else. Everything that leaves Kith passes through these functions.

use super::Time;
use super::decide::request_at;
use super::event::{Actor, Cause, Event, EventKind};
use super::id::{RequestId, UserId};
use super::pair::{Pair, Request, RequestState};
use super::policy::Policy;

/// The viewer on whose behalf something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A user. Sees what concerns them, without rejections and blocks by others.
    User(UserId),
    /// A caller that acts on behalf of no user. Sees everything as it is stored.
    Operator,
}

/// The status of one user towards another. A block by the other user is never visible.
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

/// Returns the request as the viewer may see it, or `None` if it does not exist for them.
///
/// A silenced request does not exist for its receiver. Its sender sees it as pending, whatever the policy discloses.
/// Unless the policy discloses it, a sender also sees a rejected request as pending, and not whether a request was
/// viewed. Expired requests are visible to nobody.
pub fn visible(request: &Request, viewer: Viewer, policy: &Policy, now: Time) -> Option<Request> {
    if request.state.is_open() && policy.has_expired(request.created, now) {
        return None;
    }
    let mut seen = request.clone();
    let Viewer::User(user) = viewer else { return Some(seen) };
    if !request.exists_for(user) {
        return None;
    }
    if user == request.from {
        let hidden = match request.state {
            RequestState::Silenced => true,
            RequestState::Rejected => !policy.disclose_rejections,
            RequestState::Pending | RequestState::Connected => false,
        };
        if hidden {
            seen.state = RequestState::Pending;
            seen.rejected = None;
        }
        if !policy.disclose_views {
            seen.viewed = None;
        }
    }
    Some(seen)
}

/// Returns the event as the viewer may see it, or `None` if it is not visible to them.
///
/// Users see the events about themselves, with these exceptions:
///
/// - A sender sees no rejection, restoration or view of their request unless the policy discloses it.
/// - A receiver sees no event of a silenced request. No user sees that a request is silenced, and only its receiver sees
///   that it no longer is.
/// - A block, and a block as the cause of another event, is visible only to the blocking user.
pub fn visible_event(event: &Event, viewer: Viewer, policy: &Policy) -> Option<Event> {
    let Viewer::User(user) = viewer else { return Some(event.clone()) };
    let is_first = event.user == user;
    if !is_first && event.other != Some(user) {
        return None;
    }
    if event.silenced && !is_first || event.cause == Some(Cause::Unblocked) && is_first {
        return None;
    }
    let own = event.actor == Actor::User(user);
    let cause = event.cause.filter(|cause| match cause {
        // A created request is silenced because of a block by its receiver, while the actor is its sender.
        Cause::Blocked => own && event.kind != EventKind::RequestCreated,
        Cause::Cooldown => false,
        // Visible only to the user who removed the block.
        Cause::Unblocked | Cause::Crossed | Cause::UserDeleted | Cause::Imported => true,
    });
    // How others authenticate is for operators only.
    sees_kind(event.kind, is_first, policy).then(|| Event { cause, silenced: false, principal: None, ..event.clone() })
}

/// Whether a user sees events of this kind about them, as the first of the two users or as the other one.
fn sees_kind(kind: EventKind, is_first: bool, policy: &Policy) -> bool {
    match kind {
        EventKind::RequestViewed => !is_first || policy.disclose_views,
        EventKind::RequestSilenced => false,
        EventKind::RequestRejected | EventKind::RequestRestored => !is_first || policy.disclose_rejections,
        EventKind::UserBlocked | EventKind::UserUnblocked => is_first,
        EventKind::RequestCreated
        | EventKind::RequestCancelled
        | EventKind::RequestExpired
        | EventKind::ConnectionCreated
        | EventKind::ConnectionRemoved
        | EventKind::UserCreated
        | EventKind::UserUpdated
        | EventKind::UserDeleted => true,
    }
}

/// The kinds of events about a user that they do not see. A kind may be repeated.
///
/// A read that leaves these out takes the same time whether there are such events or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenKinds {
    /// Where the user is the first of the two users.
    pub as_first: [EventKind; 4],
    /// Where the user is the other one.
    pub as_other: [EventKind; 3],
}

impl HiddenKinds {
    /// Those that this policy does not disclose.
    pub fn of(policy: &Policy) -> Self {
        Self { as_first: hidden_kinds(true, policy), as_other: hidden_kinds(false, policy) }
    }
}

fn hidden_kinds<const N: usize>(is_first: bool, policy: &Policy) -> [EventKind; N] {
    // Nobody sees that a request is silenced.
    let mut kinds = [EventKind::RequestSilenced; N];
    let hidden = EventKind::ALL.iter().filter(|kind| !sees_kind(**kind, is_first, policy));
    kinds.iter_mut().zip(hidden).for_each(|(place, kind)| *place = *kind);
    kinds
}

/// Returns the status of `user` towards the other user, and the id of the request or connection.
pub fn status(pair: &Pair, user: UserId, policy: &Policy, now: Time) -> (Status, Option<RequestId>) {
    if pair.side(user).block.is_some() {
        return (Status::Blocked, None);
    }
    let Some(request) = request_at(pair, policy, now) else { return (Status::None, None) };
    let sent = request.from == user;
    let status = match request.state {
        RequestState::Connected => Status::Connected,
        RequestState::Pending | RequestState::Silenced | RequestState::Rejected if sent => Status::RequestSent,
        RequestState::Pending => Status::RequestReceived,
        RequestState::Rejected => Status::RequestRejected,
        RequestState::Silenced => return (Status::None, None),
    };
    (status, Some(request.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::PrincipalKind;
    use crate::domain::id::{PairKey, Sequence};
    use crate::domain::pair::Message;

    fn silenced(key: PairKey, created: Time) -> Request {
        Request {
            id: RequestId::new(7),
            from: key.low(),
            to: key.high(),
            state: RequestState::Silenced,
            position: Sequence::new(8),
            message: Message::default(),
            created,
            viewed: None,
            rejected: None,
            accepted: None,
            reply: Message::default(),
        }
    }

    #[test]
    fn a_silenced_request_is_pending_for_its_sender_and_nothing_for_its_receiver_whatever_is_disclosed() {
        let time = Time::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
        let key = PairKey::of(UserId::new(1), UserId::new(2)).expect("two users");
        let request = silenced(key, time);
        let pending = Request { state: RequestState::Pending, ..request.clone() };
        let pair = Pair { request: Some(request.clone()), ..Pair::empty(key) };
        for policy in
            [Policy::default(), Policy { disclose_rejections: true, disclose_views: true, ..Policy::default() }]
        {
            assert_eq!(visible(&request, Viewer::User(request.from), &policy, time), Some(pending.clone()));
            assert_eq!(visible(&request, Viewer::User(request.to), &policy, time), None);
            assert_eq!(visible(&request, Viewer::Operator, &policy, time), Some(request.clone()));
            assert_eq!(status(&pair, request.from, &policy, time), (Status::RequestSent, Some(request.id)));
            assert_eq!(status(&pair, request.to, &policy, time), (Status::None, None));
        }
    }

    #[test]
    fn an_expired_request_is_visible_to_nobody_and_a_connection_does_not_expire() {
        let time = Time::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
        let policy = Policy { lifetime: Some(chrono::TimeDelta::days(10)), ..Policy::default() };
        let key = PairKey::of(UserId::new(1), UserId::new(2)).expect("two users");
        for (state, days, is_visible, expected) in [
            (RequestState::Pending, 9, true, Status::RequestSent),
            (RequestState::Pending, 10, false, Status::None),
            (RequestState::Connected, 10, true, Status::Connected),
        ] {
            let request = Request { state, ..silenced(key, time) };
            let now = time + chrono::TimeDelta::days(days);
            for viewer in [Viewer::User(key.low()), Viewer::User(key.high()), Viewer::Operator] {
                assert_eq!(visible(&request, viewer, &policy, now).is_some(), is_visible, "{state:?} for {viewer:?}");
            }
            let pair = Pair { request: Some(request), ..Pair::empty(key) };
            assert_eq!(status(&pair, key.low(), &policy, now).0, expected);
        }
    }

    #[test]
    fn senders_see_only_what_the_policy_discloses() {
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
            reply: Message::default(),
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

    /// When an event is visible to one of its two users.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum When {
        Always,
        Never,
        RejectionsDisclosed,
        ViewsDisclosed,
    }

    /// For each kind: when an event is visible to its first user, and when to the other.
    const VISIBILITY: [(EventKind, When, When); 14] = {
        use EventKind as Kind;
        use When::{Always, Never, RejectionsDisclosed, ViewsDisclosed};
        [
            (Kind::RequestCreated, Always, Always),
            (Kind::RequestViewed, ViewsDisclosed, Always),
            (Kind::RequestSilenced, Never, Never),
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

    /// Whether a cause is visible to a viewer who sees the event.
    fn cause_is_visible(cause: Cause, kind: EventKind, actor: Actor, viewer: UserId) -> bool {
        match cause {
            // Only to the blocking user. The actor of a created request is the blocked one.
            Cause::Blocked => kind != EventKind::RequestCreated && actor == Actor::User(viewer),
            Cause::Cooldown => false,
            Cause::Unblocked | Cause::Crossed | Cause::UserDeleted | Cause::Imported => true,
        }
    }

    #[test]
    fn viewers_see_only_the_events_and_causes_that_they_may_know() {
        let (first, other, third) = (UserId::new(1), UserId::new(2), UserId::new(3));
        assert_eq!(VISIBILITY.map(|(kind, ..)| kind), EventKind::ALL);
        let causes = || Cause::ALL.iter().copied().map(Some).chain([None]);
        let actors = [Actor::User(first), Actor::User(other), Actor::Operator, Actor::System];
        for (disclose_rejections, disclose_views) in [(false, false), (true, false), (false, true), (true, true)] {
            let policy = Policy { disclose_rejections, disclose_views, ..Policy::default() };
            for (kind, to_first, to_other) in VISIBILITY {
                let all = causes().flat_map(|cause| actors.map(|actor| (cause, actor)));
                for (cause, actor, silenced) in
                    all.flat_map(|(cause, actor)| [(cause, actor, false), (cause, actor, true)])
                {
                    let event = Event {
                        sequence: Sequence::new(9),
                        time: Time::UNIX_EPOCH,
                        kind,
                        cause,
                        actor,
                        user: first,
                        other: Some(other),
                        request: Some(RequestId::new(7)),
                        silenced,
                        principal: Some(PrincipalKind::Service),
                    };
                    for (viewer, when) in [(first, to_first), (other, to_other), (third, When::Never)] {
                        let visible = match when {
                            When::Always => true,
                            When::Never => false,
                            When::RejectionsDisclosed => disclose_rejections,
                            When::ViewsDisclosed => disclose_views,
                        };
                        // The receiver of a silenced request knows nothing of it, its sender nothing of a block's end.
                        let visible = visible
                            && !(silenced && viewer == other)
                            && !(cause == Some(Cause::Unblocked) && viewer == first);
                        let cause = cause.filter(|cause| cause_is_visible(*cause, kind, actor, viewer));
                        let expected =
                            visible.then(|| Event { cause, silenced: false, principal: None, ..event.clone() });
                        let seen = visible_event(&event, Viewer::User(viewer), &policy);
                        assert_eq!(seen, expected, "{event:?} for user {viewer} with {policy:?}");
                    }
                    assert_eq!(visible_event(&event, Viewer::Operator, &policy), Some(event));
                }
            }
        }
    }

    #[test]
    fn hidden_kinds_are_those_of_which_a_user_sees_no_event() {
        for (disclose_rejections, disclose_views) in [(false, false), (true, false), (false, true), (true, true)] {
            let policy = Policy { disclose_rejections, disclose_views, ..Policy::default() };
            let HiddenKinds { as_first, as_other } = HiddenKinds::of(&policy);
            for kind in EventKind::ALL {
                assert_eq!(as_first.contains(kind), !sees_kind(*kind, true, &policy), "{kind:?} with {policy:?}");
                assert_eq!(as_other.contains(kind), !sees_kind(*kind, false, &policy), "{kind:?} with {policy:?}");
            }
        }
    }

    #[test]
    fn events_about_one_user_are_visible_to_that_user_only() {
        let (sequence, time, user) = (Sequence::new(9), Time::UNIX_EPOCH, UserId::new(1));
        for kind in [EventKind::UserCreated, EventKind::UserUpdated, EventKind::UserDeleted] {
            let (actor, cause, principal) = (Actor::Operator, None, Some(PrincipalKind::Service));
            let (other, request, silenced) = (None, None, false);
            let event = Event { sequence, time, kind, cause, actor, user, other, request, silenced, principal };
            let policy = Policy::default();
            let seen = Event { principal: None, ..event.clone() };
            assert_eq!(visible_event(&event, Viewer::User(user), &policy), Some(seen));
            assert_eq!(visible_event(&event, Viewer::User(UserId::new(2)), &policy), None);
        }
    }
}
