//! Which dates a row has, and whether its request still lives.

use crate::domain::Time;
use crate::domain::pair::{Request, RequestState};
use crate::domain::policy::Policy;

/// The dates that a row gives, without those that cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenDates {
    /// When the request was sent, or the block was made.
    pub created: Option<Time>,
    /// When its receiver viewed it.
    pub viewed: Option<Time>,
    /// When it was accepted or rejected.
    pub answered: Option<Time>,
}

/// The dates of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// When the request was sent, or the block was made.
    pub created: Time,
    /// When its receiver viewed it.
    pub viewed: Option<Time>,
    /// When it was accepted or rejected, if it was.
    pub answered: Time,
    /// Whether the row did not say when it was created.
    pub made_up: bool,
}

/// What to do with pending requests that would expire at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PendingSince {
    /// Leave them out.
    #[default]
    Keep,
    /// Let them begin at the time of the import.
    Now,
}

/// How the rows of an import are dated.
#[derive(Clone, Copy, Debug)]
pub struct Dating<'a> {
    /// The time of the import.
    pub now: Time,
    /// The rules, which say how long requests live.
    pub policy: &'a Policy,
    /// What to do with pending requests that would expire at once.
    pub pending_since: PendingSince,
}

/// Why a row that is dated has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry;

/// What becomes of a request at the time of the import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It lives, as it is.
    Lives(Request),
    /// It would have expired, and begins at the time of the import.
    Renewed(Request),
    /// It has expired, and the cooldown after its rejection still runs.
    Cools(Time),
}

impl GivenDates {
    /// Completes the dates. A missing date of creation is the earliest of the others, or else `fallback`.
    ///
    /// Returns `None` if the request was viewed or answered before it was created.
    pub fn complete(self, fallback: Time) -> Option<Dated> {
        let Self { created, viewed, answered } = self;
        let earliest = viewed.into_iter().chain(answered).min();
        let is_after = |created: Time| earliest.is_none_or(|earliest| created <= earliest);
        if !created.is_none_or(is_after) {
            return None;
        }
        let made_up = created.is_none();
        let created = created.or(earliest).unwrap_or(fallback);
        Some(Dated { created, viewed, answered: answered.unwrap_or(created.max(viewed.unwrap_or(created))), made_up })
    }
}

impl Dating<'_> {
    /// Decides whether a request still lives. A connection always does.
    pub fn life(&self, request: Request) -> Result<Life, Expiry> {
        let expired = request.state.is_open() && self.policy.has_expired(request.created, self.now);
        match (expired, request.state, self.pending_since) {
            (false, _, _) => Ok(Life::Lives(request)),
            (true, RequestState::Pending | RequestState::Silenced, PendingSince::Now) => {
                let viewed = request.viewed.map(|_| self.now);
                Ok(Life::Renewed(Request { created: self.now, viewed, ..request }))
            }
            (true, _, _) => self.cools(request.rejected).map(Life::Cools),
        }
    }

    /// Returns the start of a cooldown if it still runs.
    pub fn cools(&self, rejected: Option<Time>) -> Result<Time, Expiry> {
        rejected.filter(|_| self.policy.in_cooldown(rejected, self.now)).ok_or(Expiry)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::domain::id::{RequestId, Sequence, UserId};
    use crate::domain::pair::Message;

    fn day(day: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(20_000 + day)
    }

    #[test]
    fn missing_dates_follow_from_the_others() {
        let dated = |created, viewed: Option<i64>, answered, made_up| {
            Some(Dated { created: day(created), viewed: viewed.map(day), answered: day(answered), made_up })
        };
        for (created, viewed, answered, expected) in [
            (Some(1), Some(2), Some(3), dated(1, Some(2), 3, false)),
            (Some(1), None, Some(1), dated(1, None, 1, false)),
            (Some(1), None, None, dated(1, None, 1, false)),
            (Some(1), Some(2), None, dated(1, Some(2), 2, false)),
            (None, None, Some(3), dated(3, None, 3, true)),
            (None, Some(2), Some(3), dated(2, Some(2), 3, true)),
            (None, Some(4), Some(3), dated(3, Some(4), 3, true)),
            (None, None, None, dated(9, None, 9, true)),
            (Some(3), Some(2), None, None),
            (Some(3), None, Some(2), None),
            (Some(3), Some(4), Some(2), None),
        ] {
            let given = GivenDates { created: created.map(day), viewed: viewed.map(day), answered: answered.map(day) };
            assert_eq!(given.complete(day(9)), expected, "{given:?}");
        }
    }

    #[test]
    fn requests_older_than_the_lifetime_are_left_out_or_renewed() {
        let policy =
            Policy { lifetime: Some(TimeDelta::days(180)), cooldown: Some(TimeDelta::days(30)), ..Policy::default() };
        let request = |state, created, rejected: Option<i64>| Request {
            id: RequestId::default(),
            from: UserId::new(1),
            to: UserId::new(2),
            state,
            position: Sequence::default(),
            message: Message::default(),
            created: day(created),
            viewed: Some(day(created)),
            rejected: rejected.map(day),
            accepted: None,
            reply: Message::default(),
        };
        use PendingSince::{Keep, Now};
        use RequestState::{Connected, Pending, Rejected, Silenced};
        let lives = |request| Ok(Life::Lives(request));
        let renewed = |state| Ok(Life::Renewed(request(state, 200, None)));
        for (state, created, rejected, since, expected) in [
            (Pending, 21, None, Keep, lives(request(Pending, 21, None))),
            (Pending, 20, None, Keep, Err(Expiry)),
            (Pending, 20, None, Now, renewed(Pending)),
            (Pending, 21, None, Now, lives(request(Pending, 21, None))),
            (Silenced, 20, None, Now, renewed(Silenced)),
            (Silenced, 20, None, Keep, Err(Expiry)),
            (Rejected, 21, Some(22), Keep, lives(request(Rejected, 21, Some(22)))),
            (Rejected, 20, Some(22), Keep, Err(Expiry)),
            (Rejected, 20, Some(171), Keep, Ok(Life::Cools(day(171)))),
            (Rejected, 20, Some(170), Now, Err(Expiry)),
            (Connected, -9_999, None, Keep, lives(request(Connected, -9_999, None))),
        ] {
            let dating = Dating { now: day(200), policy: &policy, pending_since: since };
            assert_eq!(dating.life(request(state, created, rejected)), expected, "{state:?} of {created}, {since:?}");
        }
    }
}
