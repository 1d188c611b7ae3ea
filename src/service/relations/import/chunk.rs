//! The rows that are decided together.

use std::collections::{BTreeSet, HashMap};

use tonic::Status;

use super::Import;
use super::find::{Found, Known};
use crate::committer::{CommitError, Queued};
use crate::domain::Time;
use crate::domain::command::{Command, Reply, Submission};
use crate::domain::decide::Rejection;
use crate::domain::id::{PairKey, UserId};
use crate::domain::import::{Dating, Effect, Fact, Loss, Relation, settle};
use crate::domain::outcome::{Imported, Outcome, RefusalReason};
use crate::domain::pair::{Pair, RequestState};
use crate::domain::text::Username;
use crate::domain::user::{Profile, UserStatus};
use crate::error;
use crate::mapping::import::profile_of;
use crate::mapping::relation as mapping;
use crate::mapping::user::refusal;
use crate::proto::server as pb;
use crate::transfer::{
    BlockRow, ConnectionRow, Reason, RequestRow, Row, Rules, UserReference, UserRow, Violation, relation,
};

/// The rows after which other tasks have their turn.
const TURN: i64 = 50;

/// The rows about one pair, with their positions.
struct Group {
    key: PairKey,
    rows: Vec<(i64, Relation)>,
}

/// A pair that is decided, and the rows that state its facts.
struct Decided {
    facts: Vec<(i64, Fact)>,
    queued: Queued,
}

impl Import {
    /// Decides rows. Returns whether the import goes on: not after a conflict that ends it.
    pub(super) async fn decide(&mut self, rows: Vec<pb::RelationRow>) -> Result<bool, Status> {
        if !self.options.ends_at_conflict {
            return self.decide_together(rows).await;
        }
        // No row after the conflict may be stored.
        for row in rows {
            if !self.decide_together(vec![row]).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn decide_together(&mut self, rows: Vec<pb::RelationRow>) -> Result<bool, Status> {
        let rules = Rules { usernames: self.core.policy.usernames, now: self.core.store.now() };
        let (mut users, mut relations) = (Vec::new(), Vec::new());
        let end = self.position + i64::try_from(rows.len()).unwrap_or(i64::MAX);
        for (position, row) in (self.position..).zip(&rows) {
            turn(position).await;
            match mapping::row(row, &rules) {
                Ok(Row::User(user)) => users.push((position, *user)),
                Ok(row) => relations.push((position, row)),
                Err((reason, violations)) => self.refuse(position, reason, violations),
            }
        }
        self.import_users(users, rules.now).await?;
        self.import_relations(relations, &rules).await?;
        let is_conflict = |position: i64| (self.position..end).contains(&position);
        let conflicts = || self.refusals.iter().filter(|refused| refused.reason == Reason::ConflictingState);
        if self.options.ends_at_conflict && conflicts().any(|refused| is_conflict(refused.position)) {
            return Ok(false);
        }
        self.position = end;
        Ok(true)
    }

    async fn import_users(&mut self, users: Vec<(i64, UserRow)>, now: Time) -> Result<(), Status> {
        let mut rows: Vec<_> = users.into_iter().map(|(position, row)| (position, profile_of(row))).collect();
        // A row with nothing but a name is about the user who has it.
        let name = |profile: &Profile| {
            let has_key = profile.id.is_some() || profile.external_id.is_some();
            (!has_key).then(|| UserReference::Username(profile.username.as_str().to_owned()))
        };
        let named: BTreeSet<_> = rows.iter().filter_map(|(_, profile)| name(profile)).collect();
        if !named.is_empty() {
            let found = self.find(named).await?;
            for (_, profile) in &mut rows {
                profile.id = profile.id.or(name(profile).and_then(|name| found.get(&name)).map(|known| known.id));
            }
        }
        if self.options.dry_run {
            return self.try_users(rows, now).await;
        }
        let mut in_progress = Vec::with_capacity(rows.len());
        for (position, profile) in rows {
            in_progress.push((position, self.enqueue(Command::ImportUser(Box::new(profile))).await?));
        }
        for (position, queued) in in_progress {
            match self.outcome(queued).await? {
                Ok(Outcome::UserImported(_, imported)) => self.count(effect_of(imported)),
                Ok(_) => return Err(error::internal("an imported user has the outcome of another call")),
                Err(rejection) => self.reject_user(position, rejection)?,
            }
        }
        Ok(())
    }

    fn reject_user(&mut self, position: i64, rejection: Rejection) -> Result<(), Status> {
        let Some((reason, field, rule)) = refusal(&rejection) else { return Err(rejection.into()) };
        let reason = match reason {
            RefusalReason::InvalidFields => Reason::InvalidFields,
            RefusalReason::UsernameTaken => Reason::UsernameTaken,
            RefusalReason::UserExists => Reason::ExternalIdTaken,
        };
        // In a row, the user's fields are those of the row.
        let field = field.trim_start_matches("user.");
        self.refuse(position, reason, vec![Violation::new(field, rule)]);
        Ok(())
    }

    async fn import_relations(&mut self, rows: Vec<(i64, Row)>, rules: &Rules) -> Result<(), Status> {
        let references =
            rows.iter().filter_map(|(_, row)| users_of(row)).flatten().map(|(_, reference)| reference.clone());
        let references: BTreeSet<_> = references.collect();
        if references.is_empty() {
            return Ok(());
        }
        let mut found = self.find(references.clone()).await?;
        if let Some(trial) = &self.trial {
            found.extend(trial.named(&references));
        }
        if self.options.create_missing_users {
            let missing = references.into_iter().filter(|reference| !found.contains_key(reference)).collect();
            self.create_missing(missing, &mut found, rules).await?;
        }
        let groups = self.relate(rows, &found, rules.now).await;
        let mut in_progress = Vec::with_capacity(groups.len());
        for group in groups {
            let (pair, facts) = self.settle(group);
            if facts.is_empty() {
                continue;
            }
            if self.options.dry_run {
                self.try_pair(&pair, &facts, rules.now).await?;
                continue;
            }
            let command = Command::ImportPair(Box::new(pair), self.options.on_conflict);
            in_progress.push(Decided { facts, queued: self.enqueue(command).await? });
        }
        for Decided { facts, queued } in in_progress {
            match self.outcome(queued).await? {
                Ok(Outcome::PairImported { effects, is_above_limit }) => {
                    self.count_facts(&facts, &effects);
                    if is_above_limit {
                        self.warn(&facts);
                    }
                }
                Ok(_) => return Err(error::internal("an imported pair has the outcome of another call")),
                // A user was deleted meanwhile.
                Err(Rejection::UserNotFound(_)) => {
                    facts.iter().for_each(|(position, _)| self.refuse(*position, Reason::UserNotFound, Vec::new()));
                }
                Err(rejection) => return Err(rejection.into()),
            }
        }
        Ok(())
    }

    /// Groups the rows by their pairs, in the order of the first row of each. Refuses the others.
    async fn relate(&mut self, rows: Vec<(i64, Row)>, found: &Found, now: Time) -> Vec<Group> {
        let policy = std::sync::Arc::clone(&self.core.policy);
        let dating = Dating { now, policy: &policy, pending_since: self.options.pending_since };
        let (mut groups, mut numbers): (Vec<Group>, HashMap<PairKey, usize>) = Default::default();
        for (position, row) in rows {
            turn(position).await;
            let Some(users) = users_of(&row) else { continue };
            let missing: Vec<_> = users
                .iter()
                .filter(|(_, reference)| !found.contains_key(*reference))
                .map(|(field, reference)| Violation::new(*field, format!("there is no user {reference}")))
                .collect();
            let [Some(one), Some(other)] = users.map(|(_, reference)| found.get(reference)) else {
                self.refuse(position, Reason::UserNotFound, missing);
                continue;
            };
            let fallback = self.options.default_date.unwrap_or_else(|| one.joined.max(other.joined).min(now));
            match relation(&row, (one.id, other.id), fallback, &dating) {
                Ok(stated) => {
                    let Some(key) = stated.relation.key() else { continue };
                    let number = *numbers.entry(key).or_insert(groups.len());
                    if number == groups.len() {
                        groups.push(Group { key, rows: Vec::new() });
                    }
                    groups[number].rows.push((position, stated.relation));
                }
                Err((reason, violations)) => self.refuse(position, reason, violations),
            }
        }
        groups
    }

    /// Settles the rows about a pair, and refuses those that others prevail over.
    fn settle(&mut self, group: Group) -> (Pair, Vec<(i64, Fact)>) {
        let Group { key, mut rows } = group;
        if self.options.older_crosses {
            self.drop_crossing(&mut rows);
        }
        let (positions, relations): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let settled = settle(key, relations);
        for (row, loss) in settled.lost {
            let reason = match loss {
                Loss::Duplicate => Reason::DuplicatePair,
                Loss::Conflicting => Reason::ConflictingState,
                Loss::Blocked => Reason::Blocked,
            };
            self.refuse(positions[row], reason, Vec::new());
        }
        (settled.pair, settled.rows.into_iter().map(|(row, fact)| (positions[row], fact)).collect())
    }

    /// Of pending requests that cross, only those of the sender of the oldest one remain.
    fn drop_crossing(&mut self, rows: &mut Vec<(i64, Relation)>) {
        let pending = |relation: &Relation| match relation {
            Relation::Request(request) if request.state == RequestState::Pending => {
                Some((request.created, request.from))
            }
            Relation::Request(_) | Relation::Cooldown { .. } | Relation::Block { .. } => None,
        };
        let oldest =
            rows.iter().filter_map(|(position, relation)| pending(relation).map(|(at, from)| (at, *position, from)));
        let Some((_, _, first)) = oldest.min() else { return };
        let crosses = |relation: &Relation| pending(relation).is_some_and(|(_, from)| from != first);
        for (position, _) in rows.extract_if(.., |(_, relation)| crosses(relation)).collect::<Vec<_>>() {
            self.refuse(position, Reason::DuplicatePair, Vec::new());
        }
    }

    /// Counts what became of the facts of a pair, or refuses their rows.
    pub(super) fn count_facts(&mut self, facts: &[(i64, Fact)], effects: &[(Fact, Effect)]) {
        for (position, fact) in facts {
            let effect = effects.iter().find(|(of, _)| of == fact).map_or(Effect::Unchanged, |(_, effect)| *effect);
            match effect {
                Effect::Conflict => self.refuse(*position, Reason::ConflictingState, Vec::new()),
                Effect::Blocked => self.refuse(*position, Reason::Blocked, Vec::new()),
                Effect::Created | Effect::Unchanged | Effect::Replaced => self.count(effect),
            }
        }
    }

    /// Warns of a request or a connection that is stored above a limit.
    fn warn(&mut self, facts: &[(i64, Fact)]) {
        for (position, _) in facts.iter().filter(|(_, fact)| *fact == Fact::Request) {
            self.refuse(*position, Reason::LimitReached, Vec::new());
        }
    }

    /// Creates the users whom rows name, as unregistered ones, as far as they can be.
    async fn create_missing(
        &mut self,
        missing: Vec<UserReference>,
        found: &mut Found,
        rules: &Rules,
    ) -> Result<(), Status> {
        let mut in_progress = Vec::new();
        for reference in missing {
            let Some(profile) = placeholder(&reference, rules) else { continue };
            match &mut self.trial {
                Some(trial) => found.extend([(reference, trial.create(&profile, rules.now))]),
                None => in_progress.push((reference, self.enqueue(Command::CreateUser(Box::new(profile))).await?)),
            }
        }
        for (reference, queued) in in_progress {
            match self.outcome(queued).await? {
                Ok(Outcome::UserCreated(user)) => found.extend([(reference, Known::from(&*user))]),
                Ok(_) => return Err(error::internal("a created user has the outcome of another call")),
                // Another user has the name, so this one is not found.
                Err(_) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn enqueue(&self, command: Command) -> Result<Queued, CommitError> {
        let submission = Submission { caller: self.caller.clone(), command, idempotency: None };
        self.core.committer.enqueue(submission).await
    }

    /// Waits for the outcome of a command.
    pub(super) async fn outcome(&mut self, queued: Queued) -> Result<Result<Outcome, Rejection>, Status> {
        match queued.result().await {
            Ok(Reply::Fresh(executed)) => {
                self.reached.advance(executed.position());
                Ok(Ok(executed.outcome))
            }
            Ok(Reply::Stored(_)) => Err(error::internal("an imported row has a stored response")),
            Err(CommitError::Rejected(rejection)) => Ok(Err(rejection)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Lets other tasks have their turn at times, which must not wait for all rows of a chunk.
async fn turn(position: i64) {
    if position % TURN == 0 {
        tokio::task::yield_now().await;
    }
}

pub(super) fn effect_of(imported: Imported) -> Effect {
    match imported {
        Imported::Created => Effect::Created,
        Imported::Updated => Effect::Replaced,
        Imported::Unchanged => Effect::Unchanged,
    }
}

/// Returns the profile of a user of whom a row knows only one key. `None`: there can be no such user.
fn placeholder(reference: &UserReference, rules: &Rules) -> Option<Profile> {
    let status = Some(UserStatus::Unregistered);
    let keys = match reference {
        UserReference::Id(id) => Profile { id: Some(*id), username: missing_name(*id), ..Profile::default() },
        UserReference::ExternalId(id) => Profile { external_id: Some(id.clone()), ..Profile::default() },
        UserReference::Username(name) => Profile { username: rules.usernames.parse(name).ok()?, ..Profile::default() },
    };
    Some(Profile { status, ..keys })
}

fn missing_name(id: UserId) -> Username {
    Username::stored(format!("missing-{id}"))
}

/// Returns the two users of a relation, each with the name of its field. `None`: the row is none.
fn users_of(row: &Row) -> Option<[(&'static str, &UserReference); 2]> {
    match row {
        Row::Connection(ConnectionRow { from, to, .. }) | Row::Request(RequestRow { from, to, .. }) => {
            Some([("from", from), ("to", to)])
        }
        Row::Block(BlockRow { user, other, .. }) => Some([("user", user), ("other", other)]),
        Row::Header(_) | Row::User(_) | Row::Footer(_) => None,
    }
}
