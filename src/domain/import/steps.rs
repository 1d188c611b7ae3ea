//! The steps that lead to an imported pair, each with its date and its events.

use crate::domain::Time;
use crate::domain::event::{Actor, Cause, Event, EventKind};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::pair::{Pair, Request, RequestState};

/// A step towards the state of an imported pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request that ended left only its cooldown. That of a request by this user.
    Cool(UserId),
    /// The request was sent.
    Create,
    /// The request was sent, and its receiver never knew of it.
    CreateSilenced,
    /// Its receiver viewed it.
    View,
    /// Its receiver no longer sees it.
    Silence,
    /// It was rejected.
    Reject,
    /// It was accepted.
    Connect,
    /// This user blocked the other.
    Block(UserId),
}

/// A step with its date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was.
    pub time: Time,
    /// What it was.
    pub action: Action,
}

impl Action {
    /// Returns the kinds of its events.
    pub const fn events(self) -> &'static [EventKind] {
        match self {
            Self::Cool(_) => &[
                EventKind::RequestCreated,
                EventKind::RequestViewed,
                EventKind::RequestRejected,
                EventKind::RequestCancelled,
            ],
            Self::Create | Self::CreateSilenced => &[EventKind::RequestCreated],
            Self::View => &[EventKind::RequestViewed],
            Self::Silence => &[EventKind::RequestSilenced],
            Self::Reject => &[EventKind::RequestRejected],
            Self::Connect => &[EventKind::ConnectionCreated],
            Self::Block(_) => &[EventKind::UserBlocked],
        }
    }

    /// Returns the user whose step it is, if it is not one of the pair's request.
    pub const fn user(self) -> Option<UserId> {
        match self {
            Self::Cool(user) | Self::Block(user) => Some(user),
            Self::Create | Self::CreateSilenced | Self::View | Self::Silence | Self::Reject | Self::Connect => None,
        }
    }

    /// Whether the request is new with it.
    pub const fn creates(self) -> bool {
        matches!(self, Self::Create | Self::CreateSilenced)
    }
}

/// Returns the steps that lead to a pair, in the order of their dates. Those of its request come in their own order.
pub fn steps(pair: &Pair) -> Vec<Step> {
    let mut steps = pair.request.as_ref().map(of_request).unwrap_or_default();
    let first = steps.first().map(|step| step.time);
    for (user, side) in pair.sides() {
        if let Some(since) = cooldown_alone(pair, user) {
            // Two requests of one pair never lived at the same time.
            steps.insert(0, Step { time: first.unwrap_or(since).min(since), action: Action::Cool(user) });
        }
        steps.extend(side.block.map(|block| Step { time: block.created, action: Action::Block(user) }));
    }
    steps.sort_by_key(|step| step.time);
    steps
}

/// Returns the cooldown of a user's requests if it is not that of their rejected request.
pub(super) fn cooldown_alone(pair: &Pair, user: UserId) -> Option<Time> {
    let rejected = |request: &Request| request.state == RequestState::Rejected && request.from == user;
    pair.side(user).cooldown.filter(|_| !pair.request.as_ref().is_some_and(rejected))
}

/// Returns the steps that lead to a request.
pub(super) fn of_request(request: &Request) -> Vec<Step> {
    let Request { created, viewed, rejected, accepted, state, .. } = *request;
    let create = Step { time: created, action: Action::Create };
    let view = viewed.map(|time| Step { time: time.max(created), action: Action::View });
    let answered = rejected.or(accepted).unwrap_or(created);
    match state {
        RequestState::Pending => [create].into_iter().chain(view).collect(),
        RequestState::Silenced if viewed.is_none() && !request.was_told() => {
            vec![Step { action: Action::CreateSilenced, ..create }]
        }
        RequestState::Silenced => {
            let time = view.map_or(created, |step| step.time);
            [create].into_iter().chain(view).chain([Step { time, action: Action::Silence }]).collect()
        }
        RequestState::Rejected => {
            // Nothing is viewed after it was rejected.
            let view = view.map(|step| Step { time: step.time.min(answered), ..step });
            let reject = Step { time: answered, action: Action::Reject };
            [create].into_iter().chain(view).chain([reject]).collect()
        }
        RequestState::Connected => vec![create, Step { time: answered, action: Action::Connect }],
    }
}

/// Returns the events of an action, numbered from `first`. `request` is the one of the pair, with its id.
///
/// A cooldown has a request of its own, whose id is the first of these numbers.
pub fn events(
    action: Action,
    (user, other): (UserId, UserId),
    request: Option<RequestId>,
    first: Sequence,
    time: Time,
) -> impl Iterator<Item = Event> {
    let request = match action {
        Action::Cool(_) => Some(RequestId::new(first.get())),
        Action::Block(_) => None,
        Action::Create | Action::CreateSilenced | Action::View | Action::Silence | Action::Reject | Action::Connect => {
            request
        }
    };
    // A request is silenced after its receiver knew of it.
    let silenced = matches!(action, Action::CreateSilenced | Action::Silence);
    action.events().iter().zip(first.get()..).map(move |(kind, sequence)| Event {
        sequence: Sequence::new(sequence),
        time,
        kind: *kind,
        cause: Some(Cause::Imported),
        actor: Actor::Operator,
        user,
        other: Some(other),
        request,
        silenced,
        principal: None,
    })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::id::PairKey;
    use crate::domain::pair::{Block, Message, Side};

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn day(day: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
    }

    fn pair(state: RequestState, viewed: Option<i64>, answered: i64) -> Pair {
        let request = Request {
            id: RequestId::default(),
            from: ANN,
            to: BOB,
            state,
            position: Sequence::default(),
            message: Message::default(),
            created: day(1),
            viewed: viewed.map(day),
            rejected: Some(day(answered)).filter(|_| state == RequestState::Rejected),
            accepted: Some(day(answered)).filter(|_| state == RequestState::Connected),
            reply: Message::default(),
        };
        Pair { request: Some(request), ..Pair::empty(PairKey::of(ANN, BOB).expect("two users")) }
    }

    fn found(pair: &Pair) -> Vec<(i64, Action)> {
        steps(pair).into_iter().map(|step| ((step.time - day(0)).num_days(), step.action)).collect()
    }

    #[test]
    fn a_request_has_the_steps_that_lead_to_its_state() {
        use Action::{Connect, Create, CreateSilenced, Reject, Silence, View};
        use RequestState::{Connected, Pending, Rejected, Silenced};
        for (state, viewed, answered, expected) in [
            (Pending, None, 0, vec![(1, Create)]),
            (Pending, Some(2), 0, vec![(1, Create), (2, View)]),
            (Silenced, None, 0, vec![(1, CreateSilenced)]),
            (Silenced, Some(2), 0, vec![(1, Create), (2, View), (2, Silence)]),
            (Rejected, Some(2), 3, vec![(1, Create), (2, View), (3, Reject)]),
            (Rejected, Some(4), 3, vec![(1, Create), (3, View), (3, Reject)]),
            (Connected, Some(2), 3, vec![(1, Create), (3, Connect)]),
            (Connected, Some(1), 1, vec![(1, Create), (1, Connect)]),
        ] {
            assert_eq!(found(&pair(state, viewed, answered)), expected, "{state:?}, viewed {viewed:?}");
        }
        let mut told = pair(Silenced, None, 0);
        let request = told.request.as_mut().expect("a request");
        (request.id, request.position) = (RequestId::new(7), Sequence::new(9));
        assert_eq!(found(&told), [(1, Create), (1, Silence)]);
    }

    #[test]
    fn the_steps_of_both_sides_come_in_the_order_of_their_dates() {
        let block = |created| Some(Block { created: day(created), position: Sequence::default() });
        let mut rejected = pair(RequestState::Rejected, None, 3);
        rejected.low.cooldown = Some(day(3));
        rejected.high = Side { block: block(2), ..Side::default() };
        assert_eq!(found(&rejected), [(1, Action::Create), (2, Action::Block(BOB)), (3, Action::Reject)]);
        rejected.high.cooldown = Some(day(9));
        assert_eq!(found(&rejected)[0], (1, Action::Cool(BOB)), "before the request that lives");
        let alone = Pair { request: None, ..rejected };
        assert_eq!(found(&alone), [(2, Action::Block(BOB)), (3, Action::Cool(ANN)), (9, Action::Cool(BOB))]);
    }

    #[test]
    fn each_action_has_its_events() {
        let of = |action| events(action, (ANN, BOB), Some(RequestId::new(5)), Sequence::new(7), day(0));
        for (action, expected) in [
            (Action::Create, vec![(7, EventKind::RequestCreated, Some(5), false)]),
            (Action::CreateSilenced, vec![(7, EventKind::RequestCreated, Some(5), true)]),
            (Action::Connect, vec![(7, EventKind::ConnectionCreated, Some(5), false)]),
            (Action::Block(ANN), vec![(7, EventKind::UserBlocked, None, false)]),
            (
                Action::Cool(ANN),
                vec![
                    (7, EventKind::RequestCreated, Some(7), false),
                    (8, EventKind::RequestViewed, Some(7), false),
                    (9, EventKind::RequestRejected, Some(7), false),
                    (10, EventKind::RequestCancelled, Some(7), false),
                ],
            ),
        ] {
            let found: Vec<_> = of(action)
                .map(|event| {
                    assert_eq!((event.cause, event.actor), (Some(Cause::Imported), Actor::Operator));
                    (event.sequence.get(), event.kind, event.request.map(RequestId::get), event.silenced)
                })
                .collect();
            assert_eq!(found, expected, "{action:?}");
        }
    }
}
