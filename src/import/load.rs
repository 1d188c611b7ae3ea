//! The last step of an import into an empty database: numbers all rows in the order of their dates.
//!
//! Each row of a list has its place there by the sequence of an event. So every step takes a sequence, whether its event
//! is stored or not.

use std::io;

use tokio::sync::mpsc;

use super::pairs::Pairs;
use super::record::{StepRecord, UserRecord};
use super::rows_done;
use super::sorter::Sorter;
use super::users::{Assigned, Directory};
use crate::domain::Time;
use crate::domain::caller::Caller;
use crate::domain::counts::Counts;
use crate::domain::event::{Event, EventKind};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::import::{Action, Relation, events};
use crate::domain::ledger::{Changes, CountsChange, Head};
use crate::domain::pair::{Block, Pair, Request, RequestState};
use crate::domain::policy::Policy;
use crate::domain::totals::Totals;
use crate::domain::view::{Viewer, visible_event};
use crate::progress::Progress;

/// The rows that are stored with one statement. More make a statement larger, and not faster.
const CHUNK: usize = 4_096;

/// How rows are numbered and what is stored with them.
#[derive(Clone, Debug)]
pub(super) struct Loading {
    pub(super) policy: Policy,
    pub(super) now: Time,
    /// The head of the empty database.
    pub(super) head: Head,
    /// Whether the events are stored.
    pub(super) events: bool,
    /// The sequence after which new ones begin.
    pub(super) after: Sequence,
}

/// Numbers all rows and sends them in chunks. Returns the users with more connections than the limit.
///
/// Ends early if nobody receives them.
pub(super) fn load(
    loading: Loading,
    directory: &Directory,
    assigned: &Assigned,
    (users, pairs): (Sorter, Pairs),
    sender: mpsc::Sender<Changes>,
    progress: &Progress,
) -> io::Result<Vec<UserId>> {
    let head = Head { time: loading.now, last_assigned: assigned.last, sequence: loading.after, ..loading.head };
    let total = users.len() + pairs.sorter.len();
    let tallies = vec![Tally::default(); directory.len()];
    let ids = vec![0; usize::try_from(pairs.pairs).map_err(io::Error::other)?];
    let chunk = Changes::default();
    let mut loader =
        Loader { loading, directory, tallies, ids, head, next: head.sequence, chunk, rows: 0, done: 0, total, sender };
    let mut users = users.sorted()?;
    while let Some((_, record)) = users.next::<UserRecord>()? {
        let id = assigned.id(record.id);
        loader.user(id, record);
        if !loader.row(progress) {
            return Ok(Vec::new());
        }
    }
    let mut steps = pairs.sorter.sorted()?;
    while let Some((_, record)) = steps.next::<StepRecord>()? {
        loader.step(record);
        if !loader.row(progress) {
            return Ok(Vec::new());
        }
    }
    Ok(loader.finish())
}

/// What is counted of a user.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    counts: [i32; 4],
    last_visible: i64,
}

impl Tally {
    fn add(&mut self, counts: Counts) {
        let Counts { requests_sent, requests_received, requests_unviewed, connections } = counts;
        let all = [requests_sent, requests_received, requests_unviewed, connections];
        for (sum, number) in self.counts.iter_mut().zip(all) {
            *sum += i32::from(number > 0);
        }
    }

    fn counts(&self) -> Counts {
        let [requests_sent, requests_received, requests_unviewed, connections] = self.counts.map(i64::from);
        Counts { requests_sent, requests_received, requests_unviewed, connections }
    }
}

struct Loader<'a> {
    loading: Loading,
    directory: &'a Directory,
    /// By the number of the user.
    tallies: Vec<Tally>,
    /// The id of each pair's request.
    ids: Vec<i64>,
    head: Head,
    /// The last sequence that was taken.
    next: Sequence,
    chunk: Changes,
    /// The rows of the chunk.
    rows: usize,
    done: u64,
    total: u64,
    sender: mpsc::Sender<Changes>,
}

impl Loader<'_> {
    /// Counts a row, and sends the chunk if it is full. Returns whether it is received.
    fn row(&mut self, progress: &Progress) -> bool {
        self.rows += 1;
        self.done += 1;
        rows_done(progress, "writing", self.done, self.total);
        self.rows < CHUNK || self.send()
    }

    fn send(&mut self) -> bool {
        self.rows = 0;
        self.head.sequence = self.next;
        let chunk = Changes { head: self.head, ..std::mem::take(&mut self.chunk) };
        self.sender.blocking_send(chunk).is_ok()
    }

    /// Returns the given sequence, or the next one.
    fn sequence(&mut self, given: i64, events: usize) -> Sequence {
        if given > 0 {
            return Sequence::new(given);
        }
        let first = self.next.next();
        self.next = Sequence::new(self.next.get() + events as i64);
        first
    }

    fn user(&mut self, id: UserId, record: UserRecord) {
        let position = self.sequence(record.position, 1);
        let mut user = record.profile(id).into_user(id, None, self.loading.now);
        user.changed = position;
        self.head.totals.users += 1;
        self.chunk.users_created.push((user.into(), position));
        if self.loading.events {
            let caller = Caller::Operator;
            self.chunk.events.push(Event {
                sequence: position,
                time: self.loading.now,
                kind: EventKind::UserCreated,
                cause: None,
                actor: caller.actor(),
                user: id,
                other: None,
                request: None,
                silenced: false,
                principal: Some(caller.kind()),
            });
        }
    }

    fn step(&mut self, record: StepRecord) {
        let action = record.action();
        let users = (UserId::new(record.user), UserId::new(record.other));
        let index = usize::try_from(record.pair).ok().filter(|index| *index < self.ids.len());
        let stored = record.stored.map(|stored| stored.relation(users.0, users.1));
        let given = match &stored {
            _ if action.creates() => record.id,
            Some(Relation::Request(request)) => request.position.get(),
            Some(Relation::Block { block, .. }) => block.position.get(),
            Some(Relation::Cooldown { .. }) | None => 0,
        };
        let is_silent = matches!(action, Action::Cool(_)) && !self.loading.events;
        let first = if is_silent { Sequence::default() } else { self.sequence(given, action.events().len()) };
        if let Some(index) = index.filter(|_| action.creates()) {
            self.ids[index] = first.get();
        }
        let id = index.map(|index| RequestId::new(self.ids[index]));
        if !is_silent {
            for event in events(action, users, id, first, self.loading.now) {
                self.event(&event);
            }
        }
        match stored {
            Some(Relation::Request(request)) => {
                let id = id.unwrap_or_default();
                // Of a request that was restored, it is neither its id nor that of a step.
                let kept = Some(request.position).filter(|kept| *kept != Sequence::default());
                self.request(Request { id, position: kept.unwrap_or(first), ..request });
            }
            Some(Relation::Cooldown { from, to, since }) => self.chunk.cooldowns_put.push((from, to, since)),
            Some(Relation::Block { user, other, block }) => {
                self.head.totals.blocks += 1;
                self.chunk.blocks_put.push((user, other, Block { position: first, ..block }));
            }
            None => {}
        }
    }

    fn event(&mut self, event: &Event) {
        for user in [Some(event.user), event.other].into_iter().flatten() {
            if visible_event(event, Viewer::User(user), &self.loading.policy).is_some()
                && let Some(tally) = self.tally(user)
            {
                tally.last_visible = tally.last_visible.max(event.sequence.get());
            }
        }
        if self.loading.events {
            self.chunk.events.push(Event { principal: Some(Caller::Operator.kind()), ..event.clone() });
        }
    }

    fn tally(&mut self, user: UserId) -> Option<&mut Tally> {
        let index = self.directory.index_of(user)?;
        self.tallies.get_mut(index)
    }

    fn request(&mut self, request: Request) {
        for user in [request.from, request.to] {
            let counts = Counts::of(Some(&request), user);
            if let Some(tally) = self.tally(user) {
                tally.add(counts);
            }
        }
        let Loading { policy, now, .. } = &self.loading;
        if request.state == RequestState::Rejected && policy.in_cooldown(request.rejected, *now) {
            self.chunk.cooldowns_put.extend(request.rejected.map(|since| (request.from, request.to, since)));
        }
        if let Some(key) = request.key() {
            let pair = Pair { request: Some(request), ..Pair::empty(key) };
            self.head.totals += Totals::of(&pair);
            self.chunk.requests_created.extend(pair.request);
        }
    }

    /// Sends the rest, and the counts of all users.
    fn finish(mut self) -> Vec<UserId> {
        if !self.loading.events {
            // There are no events in which a deleted user could be named.
            self.head.forgotten = self.next;
        }
        let mut full = Vec::new();
        let limit = self.loading.policy.max_connections;
        let tallies = std::mem::take(&mut self.tallies);
        for (user, index) in self.directory.ids() {
            let Some(tally) = tallies.get(index) else { continue };
            let (change, last_visible) = (tally.counts(), Sequence::new(tally.last_visible));
            if limit.is_some_and(|limit| change.connections > limit) {
                full.push(user);
            }
            if last_visible == Sequence::default() && change == Counts::default() {
                continue;
            }
            let change = CountsChange { change, last_visible: Some(last_visible), ..CountsChange::none(user) };
            self.chunk.counts.push(change);
            self.rows += 1;
            if self.rows >= CHUNK && !self.send() {
                return Vec::new();
            }
        }
        self.send();
        full.sort_unstable();
        full
    }
}
