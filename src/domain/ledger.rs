//! Runs a batch of commands over what was loaded for it, in memory: each caller's answer, and what to save.
//!
//! Nobody else commits between loading and saving, since the head of the feed is locked: so the loaded state is current.

mod close;
mod pair;
mod snapshot;
mod sweep;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use self::snapshot::{Changes, CountsChange, Head, Snapshot, SweepStep};
use super::Time;
use super::caller::Caller;
use super::command::{Batch, Command, IdempotencyKey, IdempotentResponse, Member, Reply, Submission};
use super::counts::{Counts, SendWindow};
use super::decide::{Moment, Party, Rejection};
use super::id::{PairKey, RequestId, Sequence, UserId};
use super::outcome::{Executed, Outcome};
use super::pair::Pair;
use super::policy::Policy;

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
    /// The users that this batch creates, each with the event that does.
    created: HashMap<UserId, Sequence>,
    // Ordered, so that the events of a command over many pairs have one order on every engine.
    pairs: BTreeMap<PairKey, Tracked<Pair>>,
    requests: HashMap<RequestId, PairKey>,
    responses: HashMap<IdempotencyKey, IdempotentResponse>,
    sweep: SweepStep,
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
        let Snapshot { head, members, pairs, responses, sweep } = snapshot;
        let time = now.max(head.time);
        let names = members.iter().map(|member| (member.user.username.key(), member.user.id)).collect();
        let requests = pairs.values().filter_map(|pair| Some((pair.request.as_ref()?.id, pair.key))).collect();
        Self {
            policy,
            time,
            head,
            names,
            created: HashMap::new(),
            requests,
            sweep,
            users: members.into_iter().map(|member| (member.user.id, Tracked::new(Some(member)))).collect(),
            pairs: pairs.into_iter().map(|(key, pair)| (key, Tracked::new(pair))).collect(),
            responses: responses
                .into_iter()
                .filter(|response| response.is_current(time))
                .map(|response| (response.key.clone(), response))
                .collect(),
            counts: BTreeMap::new(),
            changes: Changes::default(),
        }
    }

    /// Returns the stored response, or executes the command and stores its response. Refusals are not stored: a
    /// caller that corrects its request may use the same id again.
    fn submit(&mut self, submission: &Submission) -> Result<Reply, Rejection> {
        let Submission { caller, command, idempotency } = submission;
        let Some(call) = idempotency else {
            return self.execute(caller, command).map(|executed| Reply::Fresh(Box::new(executed)));
        };
        let key = IdempotencyKey::new(caller, call.id);
        if let Some(stored) = self.responses.get(&key) {
            return if stored.fingerprint == call.fingerprint {
                Ok(Reply::Stored(stored.response.clone()))
            } else {
                Err(Rejection::RequestIdReused(call.id))
            };
        }
        let executed = self.execute(caller, command)?;
        // Without an encoding the outcome is not one of this call. That is a bug: the service reports it when it makes
        // the response, and there is nothing to store.
        if let Some(response) = (call.encode)(&executed) {
            let (fingerprint, created) = (call.fingerprint, self.time);
            let stored = IdempotentResponse { key: key.clone(), fingerprint, response, created };
            self.responses.insert(key, stored.clone());
            self.changes.responses.push(stored);
        }
        Ok(Reply::Fresh(Box::new(executed)))
    }

    fn execute(&mut self, caller: &Caller, command: &Command) -> Result<Executed, Rejection> {
        let actor = caller.actor();
        let outcome = match command {
            Command::CreateUser(profile) => self.create_user(actor, profile)?,
            Command::ImportUser(id, profile) => self.import_user(actor, *id, profile)?,
            Command::FinishImport(summary) => Outcome::ImportFinished(summary.clone()),
            Command::UpdateUser(id, updates) => self.update_user(actor, *id, updates)?,
            Command::DeleteUser(id) => self.delete_user(actor, *id)?,
            Command::Send { from, to, message } => self.send(*from, *to, message)?,
            Command::ActOnRequest(id, user, action) => self.act_on_request(*id, *user, *action)?,
            Command::MarkAllViewed(user) => self.mark_all_viewed(*user)?,
            Command::ActOnUser(user, other, action) => self.act_on_user(*user, *other, *action)?,
            Command::Sweep => self.sweep(),
        };
        Ok(Executed { revision: self.head.sequence, outcome })
    }

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
}
