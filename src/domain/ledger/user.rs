//! The commands on users.

use std::sync::Arc;

use super::{Ledger, Tracked};
use crate::domain::command::Member;
use crate::domain::decide::{Decision, Rejection};
use crate::domain::event::{Actor, Cause, Event, EventKind};
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::outcome::{Imported, Outcome};
use crate::domain::pair::Pair;
use crate::domain::text::Username;
use crate::domain::user::{Profile, User, UserUpdate};

impl Ledger {
    pub(super) fn create_user(&mut self, actor: Actor, profile: &Profile) -> Result<Outcome, Rejection> {
        if let Some(id) = profile.id.filter(|id| self.member(*id).is_some()) {
            return Err(Rejection::UserExists(id));
        }
        self.check_username_free(&profile.username, profile.id)?;
        let id = match profile.id {
            Some(id) => id,
            None => self.assign_id()?,
        };
        let (user, _) = self.put_user(actor, profile.clone().into_user(id, None, self.time));
        Ok(Outcome::UserCreated(user))
    }

    pub(super) fn import_user(&mut self, actor: Actor, id: UserId, profile: &Profile) -> Result<Outcome, Rejection> {
        self.check_username_free(&profile.username, Some(id))?;
        let before = self.member(id).map(|member| Arc::clone(&member.user));
        let (_, imported) = self.put_user(actor, profile.clone().into_user(id, before.as_deref(), self.time));
        Ok(Outcome::UserImported(imported))
    }

    pub(super) fn update_user(&mut self, caller: Actor, update: &UserUpdate) -> Result<Outcome, Rejection> {
        let UserUpdate { id, acting, fields, expected } = update;
        if acting.is_some_and(|acting| acting != *id) {
            return Err(Rejection::NotTheUser(*id));
        }
        let member = self.member(*id).ok_or(Rejection::UserNotFound(*id))?;
        let changed = member.user.changed;
        if expected.is_some_and(|expected| changed > expected) {
            return Err(Rejection::Conflict { user: *id, changed });
        }
        if let Some(username) = update.username() {
            self.check_username_free(username, Some(*id))?;
        }
        let mut user = User::clone(&member.user);
        fields.iter().for_each(|field| field.apply(&mut user));
        let (user, _) = self.put_user(acting.map_or(caller, Actor::User), user);
        Ok(Outcome::UserUpdated(user))
    }

    /// Takes the next id that no user has, not even one that this batch created.
    fn assign_id(&mut self) -> Result<UserId, Rejection> {
        let users = &self.users;
        let is_free = |id: &UserId| users.get(id).is_none_or(|user| user.now.is_none());
        let id = self.free_ids.find(is_free).ok_or(Rejection::NoIdLeft)?;
        self.head.last_assigned = id;
        Ok(id)
    }

    /// Fails if another user than `id` has this username. `None` is a user without an id yet.
    fn check_username_free(&self, username: &Username, id: Option<UserId>) -> Result<(), Rejection> {
        match self.names.get(&username.key()) {
            Some(owner) if Some(*owner) != id => Err(Rejection::UsernameTaken(username.as_str().to_owned())),
            Some(_) | None => Ok(()),
        }
    }

    /// Frees the username of a user, unless another one has already taken it in an exchange.
    fn release_username(&mut self, before: &Member, id: UserId) {
        let name = before.user.username.key();
        if self.names.get(&name) == Some(&id) {
            self.names.remove(&name);
        }
    }

    /// Creates or replaces a user. Returns the user and the effect.
    pub(super) fn put_user(&mut self, actor: Actor, mut user: User) -> (Arc<User>, Imported) {
        let before = self.member(user.id).cloned();
        let imported = match &before {
            None => Imported::Created,
            Some(before) if *before.user == user => Imported::Unchanged,
            Some(_) => Imported::Updated,
        };
        match imported {
            Imported::Created => {
                user.changed = self.record_user_event(actor, EventKind::UserCreated, user.id);
                self.created.insert(user.id, user.changed);
                self.head.totals.users += 1;
            }
            Imported::Updated => {
                user.changed = self.record_user_event(actor, EventKind::UserUpdated, user.id);
                self.head.users_changed = user.changed;
            }
            Imported::Unchanged => {}
        }
        let user = Arc::new(user);
        if let Some(before) = &before {
            self.release_username(before, user.id);
        }
        self.names.insert(user.username.key(), user.id);
        let (counts, sends, last_visible) = match before {
            Some(Member { user: _, counts, sends, last_visible }) => (counts, sends, last_visible),
            None => Default::default(),
        };
        let member = Member { user: Arc::clone(&user), counts, sends, last_visible };
        self.users.entry(user.id).or_insert(Tracked { before: None, now: None }).now = Some(member);
        (user, imported)
    }

    pub(super) fn delete_user(&mut self, actor: Actor, id: UserId) -> Result<Outcome, Rejection> {
        let member = self.member(id).ok_or(Rejection::UserNotFound(id))?;
        let member = member.clone();
        let keys: Vec<_> = self.pairs.keys().copied().filter(|key| key.has(id)).collect();
        for key in keys {
            self.expire(key);
            self.delete_pair(actor, key);
        }
        self.release_username(&member, id);
        self.counts.remove(&id);
        if let Some(user) = self.users.get_mut(&id) {
            user.now = None;
        }
        self.created.remove(&id);
        self.head.totals.users -= 1;
        // Responses to calls on behalf of the user are deleted: a later user with this id must not receive them.
        self.responses.retain(|_, response| response.forget(id));
        self.changes.responses.retain_mut(|response| response.forget(id));
        self.head.users_changed = self.record_user_event(actor, EventKind::UserDeleted, id);
        Ok(Outcome::UserDeleted)
    }

    /// Deletes everything between the two users of a pair, of whom one is deleted.
    fn delete_pair(&mut self, actor: Actor, key: PairKey) {
        let pair = self.pair(key);
        let mut decision = Decision { pair: Pair::empty(key), events: Vec::new(), sent: false };
        let (moment, cause) = (self.moment(), Some(Cause::UserDeleted));
        if let Some(request) = &pair.request {
            let kind = if request.state.is_open() { EventKind::RequestCancelled } else { EventKind::ConnectionRemoved };
            decision.record(moment, actor, kind, cause, request);
        }
        for (user, side) in pair.sides() {
            if side.block.is_some() {
                let both = (user, key.other_than(user));
                let event = decision.event(moment, actor, EventKind::UserUnblocked, cause, both, None);
                decision.events.push(event);
            }
        }
        self.apply(decision);
    }

    fn record_user_event(&mut self, actor: Actor, kind: EventKind, user: UserId) -> Sequence {
        let sequence = self.head.sequence.next();
        self.record(Event {
            sequence,
            time: self.time,
            kind,
            cause: None,
            actor,
            user,
            other: None,
            request: None,
            silenced: false,
            principal: None,
        });
        sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::command::Command;
    use crate::domain::ledger::Snapshot;
    use crate::domain::ledger::tests::{
        ANN, BOB, CY, NOBODY, day, key, kinds, nth, profile, request, run, send, snapshot,
    };
    use crate::domain::pair::{Block, Request, RequestState, Side};
    use crate::domain::user::FieldUpdate;

    fn create(id: Option<UserId>, username: &str) -> Command {
        Command::CreateUser(Box::new(Profile { id, ..profile(username) }))
    }

    fn import(id: UserId, username: &str) -> Command {
        Command::ImportUser(id, Box::new(profile(username)))
    }

    fn rename(id: UserId, username: &str) -> UserUpdate {
        let fields = vec![FieldUpdate::Username(username.parse().unwrap())];
        UserUpdate { id, acting: None, fields, expected: None }
    }

    fn taken(username: &str) -> Result<Outcome, Rejection> {
        Err(Rejection::UsernameTaken(username.to_owned()))
    }

    /// The id of the created user.
    fn created(outcome: &Result<Outcome, Rejection>) -> UserId {
        match outcome {
            Ok(Outcome::UserCreated(user)) => user.id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn created_users_get_ids_that_no_user_has() {
        let [first, second, third] = [11, 12, 13].map(UserId::new);
        let before = Snapshot { free_ids: vec![first, second, third], ..snapshot(&[]) };
        let commands = [create(None, "dan"), create(Some(second), "eve"), create(None, "fay"), create(None, "guy")];
        let ([dan, eve, fay, guy], changes) = run(before, commands);
        assert_eq!([dan, eve, fay].map(|outcome| created(&outcome)), [first, second, third]);
        assert_eq!(guy, Err(Rejection::NoIdLeft));
        assert_eq!((changes.head.last_assigned, changes.head.sequence), (third, nth(3)));
        let ([exists], _) = run(snapshot(&[]), [create(Some(ANN), "dan")]);
        assert_eq!(exists, Err(Rejection::UserExists(ANN)));
    }

    #[test]
    fn a_username_is_free_if_no_other_user_has_it_now() {
        let update = |id, username| Command::UpdateUser(rename(id, username));
        let dan = UserId::new(4);
        // The second command of each, after the first.
        for (first, second, is_free) in [
            (Command::Sweep, create(Some(dan), "Ann"), false),
            (Command::Sweep, import(dan, "Ann"), false),
            (Command::Sweep, update(BOB, "Ann"), false),
            (Command::Sweep, import(ANN, "Ann"), true),
            (Command::Sweep, update(ANN, "Ann"), true),
            (update(ANN, "eve"), update(BOB, "Ann"), true),
            (update(ANN, "Ann"), update(BOB, "Ann"), false),
            (Command::DeleteUser(ANN), update(BOB, "Ann"), true),
            (update(CY, "eve"), update(BOB, "Eve"), false),
        ] {
            let ([_, outcome], _) = run(snapshot(&[]), [first.clone(), second.clone()]);
            assert_eq!(outcome.is_ok(), is_free, "{second:?} after {first:?}");
        }
    }

    #[test]
    fn users_who_exchanged_their_names_have_them() {
        let exchange = Command::ImportTogether(vec![(ANN, profile("bob")), (BOB, profile("ann"))]);
        let commands = [exchange, import(CY, "ann"), import(CY, "bob")];
        let ([exchanged, ann, bob], changes) = run(snapshot(&[]), commands);
        assert_eq!(exchanged, Ok(Outcome::UsersImported(vec![Some(Imported::Updated); 2])));
        assert_eq!((ann, bob), (taken("ann"), taken("bob")));
        assert!(changes.users_updated.iter().all(|user| user.date_joined == day(-9)), "unset fields stay as they are");
        let mut renamed = changes.users_renamed;
        renamed.sort_unstable();
        assert_eq!(renamed, [ANN, BOB]);
    }

    #[test]
    fn an_update_is_of_the_acting_user_and_of_the_expected_revision() {
        // Users were last changed by event 50.
        let conflict = || Err(Rejection::Conflict { user: ANN, changed: Sequence::new(50) });
        for (acting, expected, result) in [
            (None, None, Ok(Actor::Operator)),
            (Some(ANN), None, Ok(Actor::User(ANN))),
            (Some(BOB), None, Err(Rejection::NotTheUser(ANN))),
            (None, Some(49), conflict()),
            (None, Some(50), Ok(Actor::Operator)),
            (None, Some(51), Ok(Actor::Operator)),
        ] {
            let update = UserUpdate { acting, expected: expected.map(Sequence::new), ..rename(ANN, "eve") };
            let ([outcome], changes) = run(snapshot(&[]), [Command::UpdateUser(update.clone())]);
            let actor = outcome.map(|_| changes.events[0].actor);
            assert_eq!(actor, result, "{update:?}");
        }
        let ([unknown], _) = run(snapshot(&[]), [Command::UpdateUser(rename(NOBODY, "eve"))]);
        assert_eq!(unknown, Err(Rejection::UserNotFound(NOBODY)));
    }

    #[test]
    fn a_user_changes_with_an_event_or_not_at_all() {
        let before = snapshot(&[]).head;
        let dan = UserId::new(4);
        for (command, imported, kinds_of_events, (changed, users_changed)) in [
            (import(ANN, "ann"), Imported::Unchanged, vec![], (Sequence::new(50), before.users_changed)),
            (import(ANN, "eve"), Imported::Updated, vec![EventKind::UserUpdated], (nth(1), nth(1))),
            (import(dan, "dan"), Imported::Created, vec![EventKind::UserCreated], (nth(1), before.users_changed)),
        ] {
            let ([outcome], changes) = run(snapshot(&[]), [command.clone()]);
            assert_eq!(outcome, Ok(Outcome::UserImported(imported)));
            assert_eq!(kinds(&changes), kinds_of_events, "{command:?}");
            assert_eq!(changes.head.users_changed, users_changed, "{command:?}");
            let saved = changes.users_created.iter().map(|(user, _)| user).chain(&changes.users_updated);
            assert!(saved.clone().all(|user| user.changed == changed) && saved.count() == changes.events.len());
        }
    }

    #[test]
    fn a_changed_user_keeps_their_counts() {
        let before = || snapshot(&[request(7, ANN, BOB, RequestState::Pending)]);
        let (_, changes) = run(before(), [import(ANN, "eve")]);
        let [member] = &changes.members[..] else { panic!("{changes:?}") };
        assert_eq!(member.counts, before().members[0].counts);
        assert_eq!(changes.counts, []);
    }

    #[test]
    fn with_a_user_everything_between_them_and_others_ends() {
        let dan = UserId::new(4);
        let mut before = snapshot(&[
            request(7, ANN, BOB, RequestState::Silenced),
            request(8, CY, ANN, RequestState::Connected),
            request(9, CY, BOB, RequestState::Pending),
            Request { created: day(-180), ..request(10, dan, ANN, RequestState::Pending) },
        ]);
        let block = Block { created: day(-2), position: Sequence::new(5) };
        before.add_side(BOB, ANN, Side { block: Some(block), ..Side::default() });
        let commands = [Command::DeleteUser(ANN), Command::DeleteUser(ANN), send(BOB, ANN)];
        let ([deleted, again, sent], changes) = run(before, commands);
        assert_eq!((deleted, again), (Ok(Outcome::UserDeleted), Err(Rejection::UserNotFound(ANN))));
        assert_eq!(sent, Err(Rejection::UserNotFound(ANN)));
        let cause = Some(Cause::UserDeleted);
        let events: Vec<_> =
            changes.events.iter().map(|event| (event.kind, event.cause, event.user, event.other)).collect();
        assert_eq!(
            events,
            [
                (EventKind::RequestCancelled, cause, ANN, Some(BOB)),
                (EventKind::UserUnblocked, cause, BOB, Some(ANN)),
                (EventKind::ConnectionRemoved, cause, CY, Some(ANN)),
                (EventKind::RequestExpired, None, dan, Some(ANN)),
                (EventKind::UserDeleted, None, ANN, None),
            ]
        );
        let sequences: Vec<_> = changes.events.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, [1, 2, 3, 4, 5].map(nth));
        assert_eq!(changes.head.users_changed, nth(5));
        assert_eq!(changes.requests_deleted, [key(ANN, BOB), key(ANN, CY), key(ANN, dan)]);
        assert_eq!((changes.blocks_deleted, changes.users_deleted), (vec![(BOB, ANN)], vec![ANN]));
        let counted: Vec<_> = changes.counts.iter().map(|counts| (counts.user, counts.change.connections)).collect();
        assert_eq!(counted, [(BOB, 0), (CY, -1), (dan, 0)], "the counts of the deleted user go with them");
    }
}
