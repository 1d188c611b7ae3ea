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
        let (counts, sends) = before.map(|before| (before.counts, before.sends)).unwrap_or_default();
        let member = Member { user: Arc::clone(&user), counts, sends };
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
        });
        sequence
    }
}
