//! Dry runs: what an import would store, decided without storing it.

use std::collections::{BTreeSet, HashMap};

use tonic::Status;

use super::Import;
use super::chunk::effect_of;
use super::find::{Found, Known};
use crate::domain::Time;
use crate::domain::command::Command;
use crate::domain::decide::{Moment, Rejection};
use crate::domain::id::{PairKey, Sequence, UserId};
use crate::domain::import::{Fact, merge};
use crate::domain::outcome::{Imported, Outcome};
use crate::domain::pair::Pair;
use crate::domain::user::Profile;
use crate::error;
use crate::mapping::user::EXTERNAL_ID_FIXED;
use crate::store::Users;
use crate::transfer::{Reason, UserReference, Violation};

/// The maximum number of pairs and of users that a dry run remembers. Rows that lie further apart are decided as if those
/// before were not there.
const REMEMBERED: usize = 100_000;

/// What a dry run would have stored.
#[derive(Default)]
pub(super) struct Trial {
    /// Users who would have been created. Those without an id have a negative one.
    users: Found,
    pairs: HashMap<PairKey, Pair>,
    unassigned: i64,
}

impl Trial {
    /// Returns those of the references that name users who would have been created.
    pub(super) fn named(&self, references: &BTreeSet<UserReference>) -> Found {
        let known = |reference: &UserReference| Some((reference.clone(), *self.users.get(&folded(reference))?));
        references.iter().filter_map(known).collect()
    }

    /// Remembers a user who would have been created.
    pub(super) fn create(&mut self, profile: &Profile, now: Time) -> Known {
        if self.users.len() >= REMEMBERED {
            self.users.clear();
        }
        let id = profile.id.unwrap_or_else(|| {
            self.unassigned += 1;
            UserId::new(-self.unassigned)
        });
        let known = Known { id, joined: profile.date_joined.unwrap_or(now) };
        self.users.extend(references(profile).into_iter().map(|reference| (folded(&reference), known)));
        self.users.insert(UserReference::Id(id), known);
        known
    }
}

/// Everything that names a user.
fn references(profile: &Profile) -> Vec<UserReference> {
    let name = Some(&profile.username).filter(|name| !name.is_empty());
    let name = name.map(|name| UserReference::Username(name.as_str().to_owned()));
    let external_id = profile.external_id.clone().map(UserReference::ExternalId);
    profile.id.map(UserReference::Id).into_iter().chain(external_id).chain(name).collect()
}

/// The same for all names that differ in case.
fn folded(reference: &UserReference) -> UserReference {
    match reference {
        UserReference::Username(name) => {
            let key = crate::domain::text::Username::stored(name.clone()).key();
            UserReference::Username(key.unwrap_or_default())
        }
        UserReference::Id(_) | UserReference::ExternalId(_) => reference.clone(),
    }
}

impl Import {
    /// Decides rows of users without storing them.
    pub(super) async fn try_users(&mut self, rows: Vec<(i64, Profile)>, now: Time) -> Result<(), Status> {
        let all: BTreeSet<_> = rows.iter().flat_map(|(_, profile)| references(profile)).collect();
        let mut found = self.find(all.clone()).await?;
        let ids = found.values().map(|known| known.id).collect();
        let stored = self.core.store.users(ids).await?.value;
        for (position, profile) in rows {
            // Rows before, in this chunk too.
            found.extend(self.trial.iter().flat_map(|trial| trial.named(&all)));
            match try_user(&profile, &found, &stored, now) {
                Ok(imported) => {
                    if let (Imported::Created, Some(trial)) = (imported, &mut self.trial) {
                        trial.create(&profile, now);
                    }
                    self.count(effect_of(imported));
                }
                Err((reason, violations)) => self.refuse(position, reason, violations),
            }
        }
        Ok(())
    }

    /// Decides a pair without storing it.
    pub(super) async fn try_pair(&mut self, pair: &Pair, facts: &[(i64, Fact)], now: Time) -> Result<(), Status> {
        let key = pair.key;
        let remembered = self.trial.as_mut().and_then(|trial| trial.pairs.remove(&key));
        let is_new = key.low().get() < 0;
        let before = match remembered {
            Some(before) => before,
            None if is_new => Pair::empty(key),
            None => self.look_at(key).await?,
        };
        let moment = Moment { time: now, next: Sequence::new(1) };
        let merged = merge(&before, pair, self.options.on_conflict, moment);
        self.count_facts(facts, &merged.effects);
        if let Some(trial) = &mut self.trial {
            if trial.pairs.len() >= REMEMBERED {
                trial.pairs.clear();
            }
            trial.pairs.insert(key, merged.decision.pair);
        }
        Ok(())
    }

    async fn look_at(&mut self, key: PairKey) -> Result<Pair, Status> {
        let queued = self.enqueue(Command::LookAtPair(key)).await?;
        match self.outcome(queued).await? {
            Ok(Outcome::PairSeen(pair)) => Ok(*pair),
            // A user was deleted meanwhile, or would be created.
            Err(Rejection::UserNotFound(_)) => Ok(Pair::empty(key)),
            Ok(_) => Err(error::internal("a pair has the outcome of another call")),
            Err(rejection) => Err(rejection.into()),
        }
    }
}

/// Decides what a row would do to the user whom it is about.
fn try_user(profile: &Profile, found: &Found, stored: &Users, now: Time) -> Result<Imported, (Reason, Vec<Violation>)> {
    let owner = |reference: Option<UserReference>| reference.and_then(|it| found.get(&it)).map(|known| known.id);
    let by_external_id = owner(profile.external_id.clone().map(UserReference::ExternalId));
    let name = Some(profile.username.as_str().to_owned()).filter(|name| !name.is_empty());
    let by_name = owner(name.map(UserReference::Username));
    let id = profile.id.or(by_external_id);
    if by_external_id.is_some() && by_external_id != id {
        return Err((Reason::ExternalIdTaken, Vec::new()));
    }
    if by_name.is_some() && by_name != id {
        return Err((Reason::UsernameTaken, Vec::new()));
    }
    let Some(id) = id.filter(|id| found.contains_key(&UserReference::Id(*id)) || by_external_id.is_some()) else {
        return Ok(Imported::Created);
    };
    // One who would be created by a row before may be anything.
    let Some(before) = stored.get(&id) else { return Ok(Imported::Updated) };
    if before.external_id.is_some() && profile.external_id.is_some() && before.external_id != profile.external_id {
        let violation = Violation::new("external_id", EXTERNAL_ID_FIXED);
        return Err((Reason::InvalidFields, vec![violation]));
    }
    let after = profile.clone().into_user(id, Some(before), now);
    Ok(if after == **before { Imported::Unchanged } else { Imported::Updated })
}
