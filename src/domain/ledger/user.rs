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
        self.check_external_id(profile, profile.id)?;
        self.check_username_free(&profile.username, profile.id)?;
        let (user, _) = self.put_profile(actor, profile, profile.id)?;
        Ok(Outcome::UserCreated(user))
    }

    pub(super) fn import_user(&mut self, actor: Actor, profile: &Profile) -> Result<Outcome, Rejection> {
        let id = self.imported_id(profile);
        self.check_external_id(profile, id)?;
        self.check_username_free(&profile.username, id)?;
        let (user, imported) = self.put_profile(actor, profile, id)?;
        Ok(Outcome::UserImported(user, imported))
    }

    /// Returns the id of the user whom a row of an import is about; `None` if the user is new and gets the next id.
    pub(super) fn imported_id(&self, profile: &Profile) -> Option<UserId> {
        profile.id.or_else(|| self.external_ids.get(profile.external_id.as_ref()?).copied())
    }

    /// Creates or replaces the user with this id, or creates one with the next id.
    pub(super) fn put_profile(
        &mut self,
        actor: Actor,
        profile: &Profile,
        id: Option<UserId>,
    ) -> Result<(Arc<User>, Imported), Rejection> {
        let id = match id {
            Some(id) => id,
            None => self.assign_id()?,
        };
        let before = self.member(id).map(|member| Arc::clone(&member.user));
        Ok(self.put_user(actor, profile.clone().into_user(id, before.as_deref(), self.time)))
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
            if username.is_empty() && member.user.external_id.is_none() {
                return Err(Rejection::UsernameNeeded(*id));
            }
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
        match username.key().and_then(|key| self.names.get(&key)) {
            Some(owner) if Some(*owner) != id => Err(Rejection::UsernameTaken(username.as_str().to_owned())),
            Some(_) | None => Ok(()),
        }
    }

    /// Fails if the profile's external id is another user's, or not the one that user `id` has.
    pub(super) fn check_external_id(&self, profile: &Profile, id: Option<UserId>) -> Result<(), Rejection> {
        let Some(external_id) = &profile.external_id else { return Ok(()) };
        let before = id.and_then(|id| self.member(id)?.user.external_id.as_ref().map(|before| (id, before)));
        match (before, self.external_ids.get(external_id)) {
            (Some((id, before)), _) if before != external_id => Err(Rejection::ExternalIdFixed(id)),
            (_, Some(owner)) if Some(*owner) != id => {
                Err(Rejection::ExternalIdExists { user: *owner, external_id: external_id.as_str().to_owned() })
            }
            (_, Some(_) | None) => Ok(()),
        }
    }

    /// Frees the username of a user, unless another one has already taken it in an exchange.
    fn release_username(&mut self, before: &Member, id: UserId) {
        if let Some(name) = before.user.username.key()
            && self.names.get(&name) == Some(&id)
        {
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
        self.names.extend(user.username.key().map(|name| (name, user.id)));
        self.external_ids.extend(user.external_id.clone().map(|external_id| (external_id, user.id)));
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
        member.user.external_id.iter().for_each(|external_id| _ = self.external_ids.remove(external_id));
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
        Command::ImportUser(Box::new(Profile { id: Some(id), ..profile(username) }))
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
        let row = |id, username| Profile { id: Some(id), ..profile(username) };
        let exchange = Command::ImportTogether(vec![row(ANN, "bob"), row(BOB, "ann")]);
        let commands = [exchange, import(CY, "ann"), import(CY, "bob")];
        let ([exchanged, ann, bob], changes) = run(snapshot(&[]), commands);
        assert_eq!(exchanged, Ok(Outcome::UsersImported(vec![Ok(Imported::Updated); 2])));
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
            assert!(matches!(outcome, Ok(Outcome::UserImported(_, effect)) if effect == imported), "{outcome:?}");
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

    /// A profile with an external id, which is none if it is empty, and a username, which is none if it is empty.
    fn keyed(id: Option<UserId>, username: &str, external_id: &str) -> Profile {
        let username = if username.is_empty() { Username::default() } else { username.parse().unwrap() };
        Profile { id, username, external_id: external_id.parse().ok(), ..Profile::default() }
    }

    /// Ann with the external id `a-1`; Bob and Cy without any.
    fn with_external_id() -> Snapshot {
        let mut before = snapshot(&[]);
        let ann = User { external_id: "a-1".parse().ok(), ..User::clone(&before.members[0].user) };
        before.members[0].user = Arc::new(ann);
        Snapshot { free_ids: vec![UserId::new(11), UserId::new(12)], ..before }
    }

    fn exists(user: UserId, external_id: &str) -> Result<UserId, Rejection> {
        Err(Rejection::ExternalIdExists { user, external_id: external_id.to_owned() })
    }

    #[test]
    fn an_external_id_is_set_once_and_never_changed() {
        let create = |profile| Command::CreateUser(Box::new(profile));
        let import = |profile| Command::ImportUser(Box::new(profile));
        let (dan, first) = (UserId::new(4), UserId::new(11));
        let fixed = |id| Err(Rejection::ExternalIdFixed(id));
        // The commands before the last, and what becomes of the last one: the user whom it is about.
        for (before, last, expected) in [
            (vec![], create(keyed(Some(dan), "dan", "d-1")), Ok(dan)),
            (vec![], create(keyed(None, "", "d-1")), Ok(first)),
            (vec![], create(keyed(Some(dan), "dan", "a-1")), exists(ANN, "a-1")),
            (vec![], create(keyed(None, "ann", "a-1")), exists(ANN, "a-1")),
            (vec![], create(keyed(Some(ANN), "dan", "d-1")), Err(Rejection::UserExists(ANN))),
            (vec![create(keyed(None, "", "d-1"))], create(keyed(None, "", "d-1")), exists(first, "d-1")),
            (vec![Command::DeleteUser(ANN)], create(keyed(Some(dan), "dan", "a-1")), Ok(dan)),
            // Imports: about the user with the id, else with the external id, else a new one.
            (vec![], import(keyed(None, "ann", "a-1")), Ok(ANN)),
            (vec![], import(keyed(Some(ANN), "ann", "a-1")), Ok(ANN)),
            (vec![], import(keyed(Some(ANN), "ann", "")), Ok(ANN)),
            (vec![], import(keyed(Some(ANN), "ann", "a-2")), fixed(ANN)),
            (vec![], import(keyed(Some(BOB), "bob", "b-1")), Ok(BOB)),
            (vec![], import(keyed(Some(BOB), "bob", "a-1")), exists(ANN, "a-1")),
            (vec![], import(keyed(None, "dan", "d-1")), Ok(first)),
            (vec![], import(keyed(None, "ann", "d-1")), Err(Rejection::UsernameTaken("ann".to_owned()))),
            (vec![import(keyed(None, "dan", "d-1"))], import(keyed(None, "eve", "d-1")), Ok(first)),
            (vec![import(keyed(Some(BOB), "bob", "b-1"))], import(keyed(Some(BOB), "bob", "b-2")), fixed(BOB)),
            (vec![import(keyed(Some(BOB), "bob", "b-1"))], import(keyed(Some(CY), "cy", "b-1")), exists(BOB, "b-1")),
            (vec![Command::DeleteUser(ANN)], import(keyed(None, "ann", "a-1")), Ok(first)),
        ] {
            let commands: [Command; 2] = [before.first().cloned().unwrap_or(Command::Probe), last.clone()];
            let ([_, outcome], changes) = run(with_external_id(), commands);
            let user = outcome.map(|outcome| {
                let (Outcome::UserCreated(user) | Outcome::UserImported(user, _)) = outcome else {
                    panic!("{outcome:?}")
                };
                user
            });
            let named = |user: &Arc<User>| user.external_id.is_some();
            assert!(user.as_ref().is_ok_and(named) || user.is_err(), "{last:?}: an external id is never lost");
            assert_eq!(user.map(|user| user.id), expected, "{last:?} after {before:?}");
            assert!(changes.users_renamed.is_empty() || before.len() == 1, "{last:?}");
        }
    }

    #[test]
    fn a_user_with_an_external_id_needs_no_username() {
        let clear = |id| {
            let fields = vec![FieldUpdate::Username(Username::default())];
            Command::UpdateUser(UserUpdate { id, acting: None, fields, expected: None })
        };
        let ([ann, bob, freed, again], changes) =
            run(with_external_id(), [clear(ANN), clear(BOB), import(BOB, "ann"), import(ANN, "ann")]);
        assert!(matches!(&ann, Ok(Outcome::UserUpdated(user)) if user.username.is_empty()), "{ann:?}");
        assert_eq!(bob, Err(Rejection::UsernameNeeded(BOB)));
        assert!(freed.is_ok(), "the name is free: {freed:?}");
        assert_eq!(again, taken("ann"));
        let mut renamed = changes.users_renamed;
        renamed.sort_unstable();
        assert_eq!(renamed, [ANN, BOB]);
        // Any number of users may have none.
        let nameless = |external_id| Command::CreateUser(Box::new(keyed(None, "", external_id)));
        let ([one, other], _) = run(with_external_id(), [nameless("x-1"), nameless("x-2")]);
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    }

    #[test]
    fn rows_that_wait_are_stored_with_their_external_ids_or_refused_for_them() {
        let rows = vec![
            keyed(Some(ANN), "bob", ""),
            keyed(Some(BOB), "ann", "b-1"),
            // Refused: another has the external id, and has another one.
            keyed(Some(CY), "cyrus", "b-1"),
            keyed(None, "dan", "d-1"),
            keyed(Some(UserId::new(5)), "eve", "d-1"),
        ];
        let ([outcome], changes) = run(with_external_id(), [Command::ImportTogether(rows)]);
        let (updated, created) = (Ok(Imported::Updated), Ok(Imported::Created));
        let refused = |owner, id| exists(owner, id).map(|_| Imported::Unchanged);
        let expected = vec![updated.clone(), updated, refused(BOB, "b-1"), created, refused(UserId::new(11), "d-1")];
        assert_eq!(outcome, Ok(Outcome::UsersImported(expected)));
        let external_ids = |users: &[Arc<User>]| -> Vec<_> {
            let mut keys: Vec<_> = users.iter().map(|user| (user.id, user.external_id.clone())).collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(external_ids(&changes.users_updated), [(ANN, "a-1".parse().ok()), (BOB, "b-1".parse().ok())]);
        let created: Vec<_> = changes.users_created.into_iter().map(|(user, _)| user).collect();
        assert_eq!(external_ids(&created), [(UserId::new(11), "d-1".parse().ok())]);
    }
}
