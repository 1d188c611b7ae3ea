//! What a row states of two users who were found: the relation, with its dates.

use super::refusal::{Reason, Violation};
use super::row::{BlockRow, ConnectionRow, RequestRow, RequestRowState, Row};
use crate::domain::Time;
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::import::{Dated, Dating, GivenDates, Life, Relation};
use crate::domain::pair::{Block, Message, Request, RequestState};

/// A relation that a row states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// The relation. The id and the position are those of the row, or 0.
    pub relation: Relation,
    /// Whether the row has no date of creation, so that one was made up.
    pub made_up: bool,
    /// The date of a pending request that would have expired, and begins with the import.
    pub renewed: Option<Time>,
}

/// Returns what a row states of its two users, in the order of its fields. `fallback` is its date if it has none.
///
/// # Errors
///
/// Why the row is refused.
pub fn relation(
    row: &Row,
    (from, to): (UserId, UserId),
    fallback: Time,
    dating: &Dating<'_>,
) -> Result<Stated, (Reason, Vec<Violation>)> {
    if from == to {
        return Err((Reason::SelfRequest, Vec::new()));
    }
    let expired = |_| (Reason::Expired, Vec::new());
    let (created, viewed, answered) = match row {
        Row::Connection(row) => (row.created, row.viewed, row.connected),
        Row::Request(row) => (row.created, row.viewed, row.rejected),
        Row::Block(row) => (row.created, Default::default(), Default::default()),
        Row::Header(_) | Row::User(_) | Row::Footer(_) => return Err((Reason::UnknownType, Vec::new())),
    };
    if matches!(row, Row::Request(RequestRow { state: RequestRowState::Withdrawn, .. })) {
        let since = dating.cools(answered.known()).map_err(expired)?;
        return Ok(Stated { relation: Relation::Cooldown { from, to, since }, made_up: false, renewed: None });
    }
    let given = GivenDates { created: created.known(), viewed: viewed.known(), answered: answered.known() };
    let dated = given.complete(fallback).ok_or_else(|| (Reason::DateOrder, out_of_order(given)))?;
    let mut renewed = None;
    let relation = match row {
        Row::Block(BlockRow { position, .. }) => {
            let block = Block { created: dated.created, position: position.unwrap_or_default() };
            Relation::Block { user: from, other: to, block }
        }
        Row::Connection(ConnectionRow { id, message, reply, position, .. }) => {
            let request = request((from, to), (*id, *position), message, dated);
            let (state, accepted) = (RequestState::Connected, Some(dated.answered));
            Relation::Request(Request { state, accepted, reply: reply.clone(), ..request })
        }
        Row::Request(RequestRow { id, state, message, position, .. }) => {
            let request = request((from, to), (*id, *position), message, dated);
            let state = state.stored().unwrap_or(RequestState::Rejected);
            let rejected = Some(dated.answered).filter(|_| state == RequestState::Rejected);
            match dating.life(Request { state, rejected, ..request }).map_err(expired)? {
                Life::Lives(request) => Relation::Request(request),
                Life::Renewed(request) => {
                    renewed = Some(dated.created);
                    Relation::Request(request)
                }
                Life::Cools(since) => Relation::Cooldown { from, to, since },
            }
        }
        Row::Header(_) | Row::User(_) | Row::Footer(_) => return Err((Reason::UnknownType, Vec::new())),
    };
    Ok(Stated { relation, made_up: dated.made_up, renewed })
}

/// Returns a request in no particular state.
fn request(
    (from, to): (UserId, UserId),
    (id, position): (Option<RequestId>, Option<Sequence>),
    message: &Message,
    dated: Dated,
) -> Request {
    Request {
        id: id.unwrap_or_default(),
        from,
        to,
        state: RequestState::Pending,
        position: position.unwrap_or_default(),
        message: message.clone(),
        created: dated.created,
        viewed: dated.viewed,
        rejected: None,
        accepted: None,
        reply: Message::default(),
    }
}

fn out_of_order(given: GivenDates) -> Vec<Violation> {
    let GivenDates { created, viewed, answered } = given;
    let is_before = |date: Option<Time>| date.zip(created).is_some_and(|(date, created)| date < created);
    [("viewed", viewed), ("connected or rejected", answered)]
        .into_iter()
        .filter(|(_, date)| is_before(*date))
        .map(|(field, _)| Violation::new(field, "must not be before created"))
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::policy::Policy;
    use crate::transfer::{Date, UserReference};

    const ANN: UserId = UserId::new(1);
    const BOB: UserId = UserId::new(2);

    fn day(day: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
    }

    fn request_row(state: RequestRowState, created: Option<i64>, rejected: Option<i64>) -> Row {
        let date = |date: Option<i64>| date.map_or(Date::default(), |date| Date::Known(day(date)));
        Row::Request(RequestRow {
            id: Some(RequestId::new(7)),
            from: UserReference::Id(ANN),
            to: UserReference::Id(BOB),
            state,
            created: date(created),
            viewed: Date::default(),
            rejected: date(rejected),
            message: Message::default(),
            position: None,
        })
    }

    #[test]
    fn a_row_states_a_relation_or_is_refused() {
        use RequestRowState::{Pending, Rejected, Silenced, Withdrawn};
        let policy = Policy::default();
        let dating = Dating { now: day(100), policy: &policy, pending_since: Default::default() };
        // The state and date of the request, or the start of the cooldown.
        for (state, created, rejected, expected) in [
            (Pending, Some(1), None, Ok((Some(RequestState::Pending), 1, false))),
            (Pending, None, None, Ok((Some(RequestState::Pending), 50, true))),
            (Silenced, Some(1), None, Ok((Some(RequestState::Silenced), 1, false))),
            (Rejected, Some(1), Some(2), Ok((Some(RequestState::Rejected), 1, false))),
            (Rejected, None, Some(2), Ok((Some(RequestState::Rejected), 2, true))),
            (Rejected, Some(-100), Some(90), Ok((None, 90, false))),
            (Withdrawn, None, Some(90), Ok((None, 90, false))),
            (Withdrawn, Some(1), Some(60), Err(Reason::Expired)),
            (Withdrawn, Some(1), None, Err(Reason::Expired)),
            (Pending, Some(-100), None, Err(Reason::Expired)),
            (Rejected, Some(2), Some(1), Err(Reason::DateOrder)),
        ] {
            let row = request_row(state, created, rejected);
            let found = relation(&row, (ANN, BOB), day(50), &dating).map(|stated| {
                let days = |time: Time| (time - day(0)).num_days();
                match stated.relation {
                    Relation::Request(request) => (Some(request.state), days(request.created), stated.made_up),
                    Relation::Cooldown { from, to, since } => {
                        assert_eq!((from, to), (ANN, BOB));
                        (None, days(since), stated.made_up)
                    }
                    Relation::Block { .. } => panic!("a block"),
                }
            });
            assert_eq!(found.map_err(|(reason, _)| reason), expected, "{row:?}");
        }
        let itself = relation(&request_row(Pending, Some(1), None), (ANN, ANN), day(50), &dating);
        assert_eq!(itself, Err((Reason::SelfRequest, vec![])));
    }
}
