//! The import of pairs.

use super::Ledger;
use crate::domain::decide::{Rejection, expire};
use crate::domain::id::{PairKey, UserId};
use crate::domain::import::{Effect, Fact, Merged, OnConflict, merge};
use crate::domain::outcome::Outcome;
use crate::domain::pair::{Pair, RequestState};

impl Ledger {
    /// Imports a pair. Limits do not apply.
    pub(super) fn import_pair(&mut self, imported: &Pair, on_conflict: OnConflict) -> Result<Outcome, Rejection> {
        let key = imported.key;
        self.check_there(key)?;
        self.expire(key);
        let Merged { decision, effects } = merge(&self.pair(key), imported, on_conflict, self.moment());
        self.apply(decision);
        let is_stored = |(fact, effect): &(Fact, Effect)| {
            *fact == Fact::Request && matches!(effect, Effect::Created | Effect::Replaced)
        };
        let is_above_limit = effects.iter().any(is_stored) && self.is_above_limit(key);
        Ok(Outcome::PairImported { effects, is_above_limit })
    }

    /// Whether the request or the connection of a pair is one of more than a user may have.
    fn is_above_limit(&self, key: PairKey) -> bool {
        let Some(request) = self.pair(key).request else { return false };
        let counts = |user| self.member(user).map(|member| member.counts).unwrap_or_default();
        let is_above = |count: i64, limit: Option<i64>| limit.is_some_and(|limit| count > limit);
        if request.state == RequestState::Connected {
            [request.from, request.to]
                .into_iter()
                .any(|user| is_above(counts(user).connections, self.policy.max_connections))
        } else {
            is_above(counts(request.from).requests_sent, self.policy.max_sent_requests)
        }
    }

    /// Returns what is stored between two users, and changes nothing.
    pub(super) fn look_at_pair(&self, key: PairKey) -> Result<Outcome, Rejection> {
        self.check_there(key)?;
        let pair = self.pair(key);
        let expired = expire(&pair, &self.policy, self.moment());
        Ok(Outcome::PairSeen(Box::new(expired.map_or(pair, |decision| decision.pair))))
    }

    /// Fails if one of the two users is not there.
    fn check_there(&self, key: PairKey) -> Result<(), Rejection> {
        let missing = |user: &UserId| self.member(*user).is_none();
        [key.low(), key.high()].into_iter().find(missing).map_or(Ok(()), |user| Err(Rejection::UserNotFound(user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::Command;
    use crate::domain::event::EventKind;
    use crate::domain::id::UserId;
    use crate::domain::ledger::tests::{ANN, BOB, CY, day, nth, request, run, run_with, snapshot};
    use crate::domain::pair::Request;
    use crate::domain::policy::Policy;

    fn import(from: UserId, state: RequestState) -> Command {
        let request = request(7, from, if from == ANN { BOB } else { ANN }, state);
        let key = request.key().unwrap();
        Command::ImportPair(Box::new(Pair { request: Some(request), ..Pair::empty(key) }), OnConflict::Skip)
    }

    #[test]
    fn an_imported_pair_is_saved_and_counted() {
        let (replies, changes) =
            run(snapshot(&[]), [import(ANN, RequestState::Pending), import(ANN, RequestState::Pending)]);
        let effect = |effect| Outcome::PairImported { effects: vec![(Fact::Request, effect)], is_above_limit: false };
        let found: Vec<_> = replies.into_iter().map(|reply| reply.unwrap()).collect();
        assert_eq!(found, [effect(Effect::Created), effect(Effect::Unchanged)]);
        let created: Vec<_> =
            changes.requests_created.iter().map(|request| (request.id.get(), request.created)).collect();
        assert_eq!(created, [(nth(1).get(), request(7, ANN, BOB, RequestState::Pending).created)]);
        assert_eq!(changes.head.totals.pending, 1);
        let kinds: Vec<_> = changes.events.iter().map(|event| (event.kind, event.time)).collect();
        assert_eq!(kinds, [(EventKind::RequestCreated, day(0))]);
        let counts: Vec<_> = changes.counts.iter().map(|row| (row.user, row.change.requests_sent)).collect();
        assert_eq!(counts, [(ANN, 1), (BOB, 0)]);
    }

    #[test]
    fn an_expired_request_is_no_conflict() {
        let expired = Request { created: day(-9_999), ..request(7, BOB, ANN, RequestState::Pending) };
        let (replies, _) = run(snapshot(&[expired]), [import(ANN, RequestState::Pending)]);
        assert_eq!(
            replies[0],
            Ok(Outcome::PairImported { effects: vec![(Fact::Request, Effect::Created)], is_above_limit: false })
        );
    }

    #[test]
    fn the_users_must_be_there() {
        let stranger = UserId::new(99);
        let mut pair = Pair::empty(crate::domain::id::PairKey::of(ANN, stranger).unwrap());
        pair.request = Some(request(7, ANN, stranger, RequestState::Pending));
        let (replies, _) = run(snapshot(&[]), [Command::ImportPair(Box::new(pair), OnConflict::Skip)]);
        assert_eq!(replies[0], Err(Rejection::UserNotFound(stranger)));
    }

    #[test]
    fn a_look_at_a_pair_changes_nothing() {
        let stored = request(7, ANN, BOB, RequestState::Pending);
        let expired = Request { created: day(-9_999), ..stored.clone() };
        let key = stored.key().unwrap();
        for (before, seen) in [(Some(stored.clone()), true), (Some(expired), false), (None, false)] {
            let before: Vec<_> = before.into_iter().collect();
            let ([outcome], changes) = run(snapshot(&before), [Command::LookAtPair(key)]);
            let Ok(Outcome::PairSeen(pair)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(pair.request, Some(stored.clone()).filter(|_| seen));
            assert!(changes.events.is_empty() && changes.requests_deleted.is_empty(), "{changes:?}");
        }
        let stranger = PairKey::of(ANN, UserId::new(99)).unwrap();
        let ([outcome], _) = run(snapshot(&[]), [Command::LookAtPair(stranger)]);
        assert_eq!(outcome, Err(Rejection::UserNotFound(UserId::new(99))));
    }

    #[test]
    fn a_pair_that_brings_a_user_above_a_limit_is_stored_and_says_so() {
        let policy =
            |maximum| Policy { max_connections: Some(maximum), max_sent_requests: Some(maximum), ..Policy::default() };
        let other = |state| vec![request(5, ANN, CY, state)];
        use RequestState::{Connected, Pending};
        for (maximum, before, state, is_above) in [
            (1, vec![], Connected, false),
            (1, other(Connected), Connected, true),
            (2, other(Connected), Connected, false),
            (1, other(Pending), Connected, false),
            (1, other(Pending), Pending, true),
            (1, other(Connected), Pending, false),
        ] {
            let commands = [import(ANN, state), import(ANN, state)];
            let (replies, changes) = run_with(policy(maximum), snapshot(&before), commands);
            let said = |reply: &Result<Outcome, Rejection>| match reply {
                Ok(Outcome::PairImported { effects: _, is_above_limit }) => *is_above_limit,
                _ => panic!("{reply:?}"),
            };
            // The second time it is unchanged.
            assert_eq!(replies.each_ref().map(said), [is_above, false], "{state:?} after {before:?}");
            assert_eq!(changes.requests_created.len(), 1);
        }
    }
}
