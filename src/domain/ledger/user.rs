//! The commands on users.

use std::sync::Arc;

use super::{Ledger, Tracked};
use crate::domain::command::Member;
use crate::domain::decide::{Decision, Rejection};
use crate::domain::event::{Actor, Cause, Event, EventKind};
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::outcome::{Imported, Outcome};
use crate::domain::pair::Pair;
use crate::domain::user::{FieldUpdate, Profile, User};

impl Ledger {
    pub(super) fn create_user(&mut self, actor: Actor, profile: &Profile) -> Result<Outcome, Rejection> {
        let id = match profile.id {
            Some(id) => id,
            None => UserId::new(self.head.last_user.get().checked_add(1).ok_or(Rejection::NoIdLeft)?),
        };
        if self.member(id).is_some() {
            return Err(Rejection::UserExists(id));
        }
        self.check_username_free(profile, id)?;
        let (user, _) = self.put_user(actor, profile.clone().into_user(id, None, self.time));
        Ok(Outcome::UserCreated(user))
    }

    pub(super) fn import_user(&mut self, actor: Actor, id: UserId, profile: &Profile) -> Result<Outcome, Rejection> {
        self.check_username_free(profile, id)?;
        let before = self.member(id).map(|member| Arc::clone(&member.user));
        let (_, imported) = self.put_user(actor, profile.clone().into_user(id, before.as_deref(), self.time));
        Ok(Outcome::UserImported(imported))
    }

    pub(super) fn update_user(
        &mut self,
        actor: Actor,
        id: UserId,
        updates: &[FieldUpdate],
    ) -> Result<Outcome, Rejection> {
        let member = self.member(id).ok_or(Rejection::UserNotFound(id))?;
        let mut user = User::clone(&member.user);
        updates.iter().for_each(|update| update.apply(&mut user));
        let (user, _) = self.put_user(actor, user);
        Ok(Outcome::UserUpdated(user))
    }

    fn check_username_free(&self, profile: &Profile, id: UserId) -> Result<(), Rejection> {
        match self.names.get(&profile.username.key()) {
            Some(owner) if *owner != id => Err(Rejection::UsernameTaken(profile.username.as_str().to_owned())),
            Some(_) | None => Ok(()),
        }
    }

    /// Creates or replaces a user. Returns the user and the effect.
    fn put_user(&mut self, actor: Actor, user: User) -> (Arc<User>, Imported) {
        let user = Arc::new(user);
        let before = self.member(user.id).cloned();
        let imported = match &before {
            None => Imported::Created,
            Some(before) if before.user == user => Imported::Unchanged,
            Some(_) => Imported::Updated,
        };
        match imported {
            Imported::Created => {
                self.head.last_user = self.head.last_user.max(user.id);
                let sequence = self.record_user_event(actor, EventKind::UserCreated, user.id);
                self.created.insert(user.id, sequence);
            }
            Imported::Updated => {
                self.head.users_changed = self.record_user_event(actor, EventKind::UserUpdated, user.id)
            }
            Imported::Unchanged => {}
        }
        if let Some(before) = &before {
            self.names.remove(&before.user.username.key());
        }
        self.names.insert(user.username.key(), user.id);
        let (counts, sends) = before.map(|before| (before.counts, before.sends)).unwrap_or_default();
        let member = Member { user: Arc::clone(&user), counts, sends };
        self.users.entry(user.id).or_insert(Tracked { before: None, now: None }).now = Some(member);
        (user, imported)
    }

    pub(super) fn delete_user(&mut self, actor: Actor, id: UserId) -> Result<Outcome, Rejection> {
        let member = self.member(id).ok_or(Rejection::UserNotFound(id))?;
        let name = member.user.username.key();
        let keys: Vec<_> = self.pairs.keys().copied().filter(|key| key.has(id)).collect();
        for key in keys {
            self.expire(key);
            self.delete_pair(actor, key);
        }
        self.names.remove(&name);
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
