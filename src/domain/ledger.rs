//! Runs a batch of commands over what was loaded for it, in memory: each caller's answer, and what to save.
//!
//! Between loading and saving the database's head row is locked, so that what was loaded is the truth.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::Time;
use super::command::{Batch, Command, Imported, Member, Outcome, Replay, Reply, Submission, WholeRequest};
use super::counts::{Counts, SendWindow};
use super::decide::{Decision, Moment, PairCommand, Party, Rejection, decide, settle};
use super::event::{Actor, Cause, Event, EventKind};
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::pair::{Block, Pair, Request, RequestState};
use super::policy::Policy;
use super::user::{FieldUpdate, Profile, User};
use super::view::{Viewer, status, visible};

/// How long an answer is kept for its repetition.
pub const REPLAY_KEPT: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// The head of the feed: the one row that every writer locks first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the newest event.
    pub sequence: Sequence,
    /// The time of the newest event.
    pub time: Time,
    /// The largest id that any user ever had.
    pub last_user: UserId,
}

/// What was loaded for a batch: see [`Needs`](super::command::Needs).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The head, locked.
    pub head: Head,
    /// The users that exist.
    pub members: Vec<Member>,
    /// The pairs that have something between them.
    pub pairs: HashMap<PairKey, Pair>,
    /// The answers that were kept.
    pub replays: Vec<Replay>,
}

impl Snapshot {
    /// Adds a request that was loaded.
    pub fn add_request(&mut self, request: Request) {
        if let Some(key) = request.key() {
            self.pair(key).request = Some(request);
        }
    }

    /// Adds a block that was loaded.
    pub fn add_block(&mut self, user: UserId, other: UserId, block: Block) {
        if let Some(key) = PairKey::of(user, other) {
            *self.pair(key).block_by_mut(user) = Some(block);
        }
    }

    fn pair(&mut self, key: PairKey) -> &mut Pair {
        self.pairs.entry(key).or_insert(Pair::empty(key))
    }
}

/// What a batch changes. Saved as it is, in one transaction; empty when nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The head after the batch.
    pub head: Head,
    /// Users to delete, with their counts; before the creations.
    pub users_deleted: Vec<UserId>,
    /// Users to insert, with empty counts, and the event that created each.
    pub users_created: Vec<(Arc<User>, Sequence)>,
    /// Users to replace.
    pub users_updated: Vec<Arc<User>>,
    /// Requests to insert or replace, by pair.
    pub requests_put: Vec<Request>,
    /// Pairs whose request is to be deleted.
    pub requests_deleted: Vec<PairKey>,
    /// Blocks to insert: who, whom.
    pub blocks_put: Vec<(UserId, UserId, Block)>,
    /// Blocks to delete: who, whom.
    pub blocks_deleted: Vec<(UserId, UserId)>,
    /// What to add to users' counts, and their sends where these changed.
    pub counts: Vec<(UserId, Counts, Option<SendWindow>)>,
    /// The events.
    pub events: Vec<Event>,
    /// Answers to keep.
    pub replays: Vec<Replay>,
    /// Answers given before this time are no longer needed.
    pub replays_end: Option<Time>,
}

impl Changes {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        // Every change of a row but two has an event: a lazily removed withdrawn request, and a kept answer.
        self.events.is_empty()
            && self.replays.is_empty()
            && self.replays_end.is_none()
            && self.requests_deleted.is_empty()
    }
}

/// Decides a batch over its snapshot.
pub fn run(batch: &Batch, snapshot: Snapshot) -> (Vec<Result<Reply, Rejection>>, Changes) {
    let mut ledger = Ledger::open(snapshot, Arc::clone(&batch.policy), batch.now);
    let replies = batch.submissions.iter().map(|submission| ledger.submit(submission)).collect();
    (replies, ledger.close())
}

struct Ledger {
    policy: Arc<Policy>,
    time: Time,
    head: Head,
    users: HashMap<UserId, Tracked<Option<Member>>>,
    names: HashMap<String, UserId>,
    // Ordered, so that the events of a command over many pairs have one order on every engine.
    pairs: BTreeMap<PairKey, Tracked<Pair>>,
    requests: HashMap<RequestId, PairKey>,
    replays: HashMap<Uuid, Replay>,
    counts: BTreeMap<UserId, (Counts, Option<SendWindow>)>,
    changes: Changes,
}

/// A value as it was loaded and as it is now.
struct Tracked<T> {
    before: T,
    now: T,
}

impl<T: Clone> Tracked<T> {
    fn new(value: T) -> Self {
        Self { before: value.clone(), now: value }
    }
}

impl Ledger {
    fn open(snapshot: Snapshot, policy: Arc<Policy>, now: Time) -> Self {
        let Snapshot { head, members, pairs, replays } = snapshot;
        let time = now.max(head.time);
        let fresh = |replay: &Replay| replay.created > time - REPLAY_KEPT;
        let names = members.iter().map(|member| (member.user.username.key(), member.user.id)).collect();
        let requests = pairs.values().filter_map(|pair| Some((pair.request.as_ref()?.id, pair.key))).collect();
        Self {
            policy,
            time,
            head,
            names,
            requests,
            users: members.into_iter().map(|member| (member.user.id, Tracked::new(Some(member)))).collect(),
            pairs: pairs.into_iter().map(|(key, pair)| (key, Tracked::new(pair))).collect(),
            replays: replays.into_iter().filter(fresh).map(|replay| (replay.id, replay)).collect(),
            counts: BTreeMap::new(),
            changes: Changes::default(),
        }
    }

    /// Answers from what was kept, or carries the command out and keeps the answer. Refusals are not kept: a
    /// caller that mends what was wrong may use the same id again.
    fn submit(&mut self, submission: &Submission) -> Result<Reply, Rejection> {
        let Some(key) = submission.replay else {
            return self.execute(&submission.command).map(|outcome| Reply::Fresh(Box::new(outcome)));
        };
        if let Some(replay) = self.replays.get(&key.id) {
            return if replay.fingerprint == key.fingerprint {
                Ok(Reply::Replayed(replay.response.clone()))
            } else {
                Err(Rejection::RequestIdReused(key.id))
            };
        }
        let outcome = self.execute(&submission.command)?;
        let response = (key.encode)(&outcome);
        let replay = Replay { id: key.id, fingerprint: key.fingerprint, response, created: self.time };
        self.replays.insert(key.id, replay.clone());
        self.changes.replays.push(replay);
        Ok(Reply::Fresh(Box::new(outcome)))
    }

    fn execute(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        let outcome = match command {
            Command::CreateUser(profile) => self.create_user(profile)?,
            Command::ImportUser(id, profile) => self.import_user(*id, profile)?,
            Command::FinishImport(summary) => Outcome { import: summary.clone(), ..Outcome::default() },
            Command::UpdateUser(id, updates) => self.update_user(*id, updates)?,
            Command::DeleteUser(id) => self.delete_user(*id)?,
            Command::Send { from, to, message } => {
                self.expire_sent(*from);
                self.relate(*from, *to, &PairCommand::Send(message.clone()))?
            }
            Command::Answer(id, user, answer) => {
                let other = self.other_party(*id, *user).ok_or(Rejection::RequestNotFound(*id))?;
                self.relate(*user, other, &(*answer).into())?
            }
            Command::MarkAllViewed(user) => self.mark_all_viewed(*user)?,
            Command::Relate(user, other, relation) => self.relate(*user, *other, &(*relation).into())?,
            Command::Sweep => self.sweep(),
        };
        Ok(Outcome { revision: self.head.sequence, ..outcome })
    }

    // --- users ---

    fn create_user(&mut self, profile: &Profile) -> Result<Outcome, Rejection> {
        let id = match profile.id {
            Some(id) => id,
            None => UserId::new(self.head.last_user.get().checked_add(1).ok_or(Rejection::NoIdLeft)?),
        };
        if self.member(id).is_some() {
            return Err(Rejection::UserExists(id));
        }
        self.name_is_free(profile, id)?;
        Ok(self.put_user(profile.clone().into_user(id, None, self.time)))
    }

    fn import_user(&mut self, id: UserId, profile: &Profile) -> Result<Outcome, Rejection> {
        self.name_is_free(profile, id)?;
        let before = self.member(id).map(|member| Arc::clone(&member.user));
        let user = profile.clone().into_user(id, before.as_deref(), self.time);
        Ok(self.put_user(user))
    }

    fn update_user(&mut self, id: UserId, updates: &[FieldUpdate]) -> Result<Outcome, Rejection> {
        let member = self.member(id).ok_or(Rejection::UserNotFound(id))?;
        let mut user = User::clone(&member.user);
        updates.iter().for_each(|update| update.apply(&mut user));
        Ok(self.put_user(user))
    }

    fn name_is_free(&self, profile: &Profile, id: UserId) -> Result<(), Rejection> {
        match self.names.get(&profile.username.key()) {
            Some(owner) if *owner != id => Err(Rejection::UsernameTaken(profile.username.as_str().to_owned())),
            Some(_) | None => Ok(()),
        }
    }

    fn put_user(&mut self, user: User) -> Outcome {
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
                let sequence = self.note_user(EventKind::UserCreated, user.id);
                self.changes.users_created.push((Arc::clone(&user), sequence));
            }
            Imported::Updated => _ = self.note_user(EventKind::UserUpdated, user.id),
            Imported::Unchanged => {}
        }
        if let Some(before) = &before {
            self.names.remove(&before.user.username.key());
        }
        self.names.insert(user.username.key(), user.id);
        let (counts, sends) = before.map(|before| (before.counts, before.sends)).unwrap_or_default();
        let member = Member { user: Arc::clone(&user), counts, sends };
        self.users.entry(user.id).or_insert(Tracked { before: None, now: None }).now = Some(member);
        Outcome { user: Some(user), imported: Some(imported), ..Outcome::default() }
    }

    fn delete_user(&mut self, id: UserId) -> Result<Outcome, Rejection> {
        let member = self.member(id).ok_or(Rejection::UserNotFound(id))?;
        let name = member.user.username.key();
        let keys: Vec<_> = self.pairs.keys().copied().filter(|key| key.has(id)).collect();
        for key in keys {
            self.settle(key);
            self.delete_pair(key);
        }
        self.names.remove(&name);
        self.counts.remove(&id);
        if let Some(user) = self.users.get_mut(&id) {
            user.now = None;
        }
        self.changes.users_created.retain(|(user, _)| user.id != id);
        self.note_user(EventKind::UserDeleted, id);
        Ok(Outcome::default())
    }

    /// Removes all that is between two users of whom one is deleted.
    fn delete_pair(&mut self, key: PairKey) {
        let pair = self.pair(key);
        let mut decision = Decision { pair: Pair::empty(key), events: Vec::new(), sent: false };
        let kind = pair.request.as_ref().and_then(|request| match request.state {
            RequestState::Connected => Some(EventKind::ConnectionRemoved),
            RequestState::Pending | RequestState::Rejected => Some(EventKind::RequestCancelled),
            RequestState::Withdrawn => None,
        });
        if let (Some(kind), Some(request)) = (kind, &pair.request) {
            decision.events.push(Event {
                sequence: self.head.sequence.next(),
                time: self.time,
                kind,
                cause: Some(Cause::UserDeleted),
                actor: Actor::Operator,
                user: request.from,
                other: Some(request.to),
                request: Some(request.id),
            });
        }
        self.apply(decision);
    }

    fn note_user(&mut self, kind: EventKind, user: UserId) -> Sequence {
        let sequence = self.head.sequence.next();
        let actor = Actor::Operator;
        self.note(Event { sequence, time: self.time, kind, cause: None, actor, user, other: None, request: None });
        sequence
    }

    // --- pairs ---

    /// The other user of a request, if the request is live and `user` takes part in it.
    fn other_party(&mut self, id: RequestId, user: UserId) -> Option<UserId> {
        let key = *self.requests.get(&id).filter(|key| key.has(user))?;
        self.settle(key);
        // The pair may have another request by now.
        let request = self.pair(key).request.filter(|request| request.id == id)?;
        (request.state != RequestState::Withdrawn).then(|| key.other_than(user))
    }

    /// Runs one command of `user` on what is between them and `other`, and answers what `user` may see of it.
    fn relate(&mut self, user: UserId, other: UserId, command: &PairCommand) -> Result<Outcome, Rejection> {
        // The mapping refuses a pair of one; a command that got past it is about nobody else.
        let key = PairKey::of(user, other).ok_or(Rejection::UserNotFound(other))?;
        self.change(key, user, command)?;
        Ok(self.outcome(key, user, other))
    }

    fn change(&mut self, key: PairKey, user: UserId, command: &PairCommand) -> Result<(), Rejection> {
        self.settle(key);
        let (actor, other) = (self.party(user), self.party(key.other_than(user)));
        let decision = decide(&self.pair(key), command, &actor, &other, &self.policy, self.moment())?;
        if decision.sent {
            self.count_send(user);
        }
        self.apply(decision);
        Ok(())
    }

    fn outcome(&self, key: PairKey, user: UserId, other: UserId) -> Outcome {
        let pair = self.pair(key);
        let (status, _) = status(&pair, user, &self.policy, self.time);
        let seen = pair.request.as_ref();
        let seen = seen.and_then(|request| visible(request, Viewer::User(user), &self.policy, self.time));
        let whole = seen.and_then(|request| {
            let from = Arc::clone(&self.member(request.from)?.user);
            let to = Arc::clone(&self.member(request.to)?.user);
            Some(WholeRequest { request, from, to })
        });
        let block = pair.block_by(user).zip(self.member(other)).map(|(block, other)| (*block, Arc::clone(&other.user)));
        Outcome { status, request: whole, block, ..Outcome::default() }
    }

    fn mark_all_viewed(&mut self, user: UserId) -> Result<Outcome, Rejection> {
        if self.member(user).is_none() {
            return Err(Rejection::UserNotFound(user));
        }
        let received = |pair: &Tracked<Pair>| pair.now.request.as_ref().is_some_and(|request| request.to == user);
        let keys: Vec<_> = self.pairs.iter().filter(|(_, pair)| received(pair)).map(|(key, _)| *key).collect();
        let mut marked = 0;
        for key in keys {
            self.settle(key);
            let pair = self.pair(key);
            let pending = |request: &Request| request.state == RequestState::Pending && request.viewed.is_none();
            if pair.request.as_ref().is_some_and(pending) {
                self.change(key, user, &PairCommand::MarkViewed)?;
                marked += 1;
            }
        }
        Ok(Outcome { marked, ..Outcome::default() })
    }

    /// Expires what is due among the loaded requests of a sender at their limit: it no longer counts.
    fn expire_sent(&mut self, sender: UserId) {
        let sent = self.party(sender).counts.requests_sent;
        if self.policy.max_sent_requests.is_some_and(|maximum| sent >= maximum) {
            let keys: Vec<_> = self.pairs.keys().copied().filter(|key| key.has(sender)).collect();
            keys.into_iter().for_each(|key| _ = self.settle(key));
        }
    }

    fn sweep(&mut self) -> Outcome {
        let keys: Vec<_> = self.pairs.keys().copied().collect();
        let due = keys.into_iter().filter(|key| self.settle(*key)).count();
        self.changes.replays_end = Some(self.time - REPLAY_KEPT);
        Outcome { marked: due.try_into().unwrap_or(i64::MAX), ..Outcome::default() }
    }

    /// Does to a pair what time alone has done; answers whether that was anything.
    fn settle(&mut self, key: PairKey) -> bool {
        let decision = settle(&self.pair(key), &self.policy, self.moment());
        decision.map(|decision| self.apply(decision)).is_some()
    }

    /// Makes a decision true in memory: the pair, the counts that follow from it, the events.
    fn apply(&mut self, decision: Decision) {
        let key = decision.pair.key;
        let before = self.pair(key).request;
        let after = decision.pair.request.as_ref();
        for user in [key.low(), key.high()] {
            let change = Counts::of(after, user) - Counts::of(before.as_ref(), user);
            if change != Counts::default() {
                self.counts.entry(user).or_default().0 += change;
                if let Some(member) = self.member_mut(user) {
                    member.counts += change;
                }
            }
        }
        self.requests.extend(after.map(|request| (request.id, key)));
        decision.events.into_iter().for_each(|event| self.note(event));
        self.pairs.entry(key).or_insert_with(|| Tracked::new(Pair::empty(key))).now = decision.pair;
    }

    fn count_send(&mut self, user: UserId) {
        let time = self.time;
        if let Some(member) = self.member_mut(user) {
            member.sends = member.sends.after_send(time);
            let sends = member.sends;
            self.counts.entry(user).or_default().1 = Some(sends);
        }
    }

    fn note(&mut self, event: Event) {
        self.head.sequence = event.sequence;
        self.head.time = event.time;
        self.changes.events.push(event);
    }

    // --- looking things up ---

    fn moment(&self) -> Moment {
        Moment { time: self.time, next: self.head.sequence.next() }
    }

    fn pair(&self, key: PairKey) -> Pair {
        self.pairs.get(&key).map_or(Pair::empty(key), |pair| pair.now.clone())
    }

    fn member(&self, id: UserId) -> Option<&Member> {
        self.users.get(&id)?.now.as_ref()
    }

    fn member_mut(&mut self, id: UserId) -> Option<&mut Member> {
        self.users.get_mut(&id)?.now.as_mut()
    }

    fn party(&self, id: UserId) -> Party {
        match self.member(id) {
            Some(Member { user, counts, sends }) => {
                Party { id, status: Some(user.status), counts: *counts, sends: *sends }
            }
            None => Party { id, status: None, counts: Counts::default(), sends: SendWindow::default() },
        }
    }

    // --- what to save ---

    fn close(self) -> Changes {
        let mut changes = Changes { head: self.head, ..self.changes };
        for Tracked { before, now } in self.users.into_values() {
            let created = |id| changes.users_created.iter().any(|(user, _)| user.id == id);
            match (before, now) {
                (Some(before), None) => changes.users_deleted.push(before.user.id),
                (Some(before), Some(now)) if created(now.user.id) => changes.users_deleted.push(before.user.id),
                (Some(before), Some(now)) if before.user != now.user => changes.users_updated.push(now.user),
                (None, Some(now)) => {
                    // A user who was created and then changed in one batch is inserted as they ended.
                    let inserted = changes.users_created.iter_mut().find(|(user, _)| user.id == now.user.id);
                    inserted.into_iter().for_each(|(user, _)| *user = Arc::clone(&now.user));
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        for (key, Tracked { before, now }) in self.pairs {
            match now.request {
                request if request == before.request => {}
                Some(request) => changes.requests_put.push(request),
                None => changes.requests_deleted.push(key),
            }
            for (user, before, now) in
                [(key.low(), before.low_block, now.low_block), (key.high(), before.high_block, now.high_block)]
            {
                let other = key.other_than(user);
                match (before, now) {
                    (Some(_), None) => changes.blocks_deleted.push((user, other)),
                    (before, Some(block)) if before != now => changes.blocks_put.push((user, other, block)),
                    (_, Some(_)) | (None, None) => {}
                }
            }
        }
        let changed =
            |(_, (counts, sends)): &(_, (Counts, Option<SendWindow>))| *counts != Counts::default() || sends.is_some();
        changes.counts =
            self.counts.into_iter().filter(changed).map(|(id, (counts, sends))| (id, counts, sends)).collect();
        changes
    }
}
