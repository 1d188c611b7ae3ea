//! The import of pairs.

use super::Ledger;
use crate::domain::decide::{Rejection, expire};
use crate::domain::id::{PairKey, UserId};
use crate::domain::import::{Merged, OnConflict, merge};
use crate::domain::outcome::Outcome;
use crate::domain::pair::Pair;

impl Ledger {
    /// Imports a pair. Limits do not apply.
    pub(super) fn import_pair(&mut self, imported: &Pair, on_conflict: OnConflict) -> Result<Outcome, Rejection> {
        let key = imported.key;
        self.check_there(key)?;
        self.expire(key);
        let Merged { decision, effects } = merge(&self.pair(key), imported, on_conflict, self.moment());
        self.apply(decision);
        Ok(Outcome::PairImported(effects))
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
    use crate::domain::import::{Effect, Fact};
    use crate::domain::ledger::tests::{ANN, BOB, day, nth, request, run, snapshot};
    use crate::domain::pair::{Request, RequestState};

    fn import(from: UserId, state: RequestState) -> Command {
        let request = request(7, from, if from == ANN { BOB } else { ANN }, state);
        let key = request.key().unwrap();
        Command::ImportPair(Box::new(Pair { request: Some(request), ..Pair::empty(key) }), OnConflict::Skip)
    }

    #[test]
    fn an_imported_pair_is_saved_and_counted() {
        let (replies, changes) =
            run(snapshot(&[]), [import(ANN, RequestState::Pending), import(ANN, RequestState::Pending)]);
        let effect = |effect| Outcome::PairImported(vec![(Fact::Request, effect)]);
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
        assert_eq!(replies[0], Ok(Outcome::PairImported(vec![(Fact::Request, Effect::Created)])));
    }

    #[test]
    fn the_users_must_be_there() {
        let stranger = UserId::new(99);
        let mut pair = Pair::empty(crate::domain::id::PairKey::of(ANN, stranger).unwrap());
        pair.request = Some(request(7, ANN, stranger, RequestState::Pending));
        let (replies, _) = run(snapshot(&[]), [Command::ImportPair(Box::new(pair), OnConflict::Skip)]);
        assert_eq!(replies[0], Err(Rejection::UserNotFound(stranger)));
    }
}
