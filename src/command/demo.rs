//! `kith demo`: fills an empty database with a small community, for those who try Kith.

mod community;
mod names;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;

use self::community::{Act, BLOCKED, Member, SPANS, UNREGISTERED, acts, person};
use super::database::Database;
use super::{Failure, print, start_log};
use crate::clock::{Clock, Reading};
use crate::config::{Demo, Sources};
use crate::domain::Time;
use crate::domain::caller::Caller;
use crate::domain::command::{Batch, Command, Reply, RequestAction, Submission, UserAction};
use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::outcome::Outcome;
use crate::domain::policy::Policy;
use crate::domain::text::UsernameRule;
use crate::domain::user::{Profile, UserStatus};
use crate::store::{self, Seen, Store};

/// How long before the end of the program the community began.
///
/// It is shorter than the time for which events are retained by default, and that of a cooldown.
const AGE: TimeDelta = TimeDelta::days(25);
/// The maximum number of acts with the same time.
const AT_ONCE: usize = 8;

pub(super) async fn run(args: Demo, sources: &Sources) -> Result<(), Failure> {
    let _log = start_log(&args.common, false, sources)?;
    let database = Database::reach(&args.common, sources).await?;
    let end = Clock::system().now();
    let begin = end - AGE;
    // In microseconds after the beginning. No time passes but what the community takes, so the clock does not leap.
    let age = Arc::new(AtomicU64::new(0));
    let shown = Arc::clone(&age);
    let clock = Clock::from_fn(move || {
        let elapsed = Duration::from_micros(shown.load(Ordering::Relaxed));
        Reading { time: begin + elapsed, elapsed }
    });
    let options = store::Options { clock, ..store::Options::default() };
    let store = store::connect(&database.url, options).await.map_err(|error| database.failure(&error))?;
    let revision = store.position().await.map_err(|error| database.failure(&error))?.sequence;
    if revision > Sequence::default() {
        let error = format!(
            "{} is not empty: it is at revision {revision}; choose another database with --database-url",
            database.url
        );
        return Err(error.into());
    }
    let mut demo = Demonstration { store: &*store, members: Vec::new(), requests: HashMap::new() };
    let span = AGE / i32::try_from(SPANS)?;
    for (number, acts) in (0_i32..).zip(acts()) {
        for (part, acts) in (0_i32..).zip(acts.chunks(AT_ONCE)) {
            let now = begin + span * number + TimeDelta::minutes(part.into());
            let passed = (now - begin).num_microseconds().and_then(|passed| passed.try_into().ok());
            age.store(passed.ok_or("the community is too old")?, Ordering::Relaxed);
            demo.commit(acts, now).await.map_err(|error| database.failure(&*error))?;
        }
    }
    print(&summary(&database.url.to_string(), store.seen()))
}

/// The community as it is stored so far.
struct Demonstration<'a> {
    store: &'a dyn Store,
    /// The ids of those who joined.
    members: Vec<UserId>,
    /// The requests by sender and receiver.
    requests: HashMap<(Member, Member), RequestId>,
}

impl Demonstration<'_> {
    /// Commits what happens at one time, as a server would.
    async fn commit(&mut self, acts: &[Act], now: Time) -> Result<(), Failure> {
        let policy = Policy { max_sends_per_hour: None, ..Policy::default() };
        let command = |act| -> Result<Submission, Failure> {
            Ok(Submission { caller: Caller::Operator, command: self.command(act, now)?, idempotency: None })
        };
        let submissions = acts.iter().map(command).collect::<Result<_, _>>()?;
        let replies = self.store.commit(Arc::new(Batch { submissions, policy: Arc::new(policy) })).await?;
        for (act, reply) in acts.iter().zip(replies) {
            let Reply::Fresh(executed) = reply.map_err(|rejection| format!("{act:?}: {rejection:?}"))? else {
                continue;
            };
            match (act, executed.outcome) {
                (Act::Join(_), Outcome::UserCreated(user)) => self.members.push(user.id),
                (Act::Send(from, to, _), Outcome::Sent(sent)) => {
                    let id = sent.request.map(|request| request.request.id);
                    self.requests.extend(id.map(|id| ((*from, *to), id)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn command(&self, act: &Act, now: Time) -> Result<Command, Failure> {
        let on = |from: Member, to: Member, user: Member, action| -> Result<Command, Failure> {
            let id = self.requests.get(&(from, to)).ok_or_else(|| format!("{from} sent nothing to {to}"))?;
            Ok(Command::ActOnRequest(*id, self.member(user)?, action))
        };
        let about = |user: Member, other: Member, action| -> Result<Command, Failure> {
            Ok(Command::ActOnUser(self.member(user)?, self.member(other)?, action))
        };
        match *act {
            Act::Join(member) => Ok(Command::CreateUser(Box::new(profile(member, now)?))),
            Act::Send(from, to, message) => {
                let (from, to) = (self.member(from)?, self.member(to)?);
                Ok(Command::Send { from, to, message: text(message)? })
            }
            Act::View(from, to) => on(from, to, to, RequestAction::MarkViewed),
            Act::Accept(from, to, reply) => on(from, to, to, RequestAction::Accept(text(reply)?)),
            Act::Reject(from, to) => on(from, to, to, RequestAction::Reject),
            Act::Restore(from, to) => on(from, to, to, RequestAction::Restore),
            Act::Cancel(from, to) => on(from, to, from, RequestAction::Cancel),
            Act::Remove(user, other) => about(user, other, UserAction::Remove),
            Act::Block(user, other) => about(user, other, UserAction::Block),
        }
    }

    fn member(&self, member: Member) -> Result<UserId, Failure> {
        Ok(*self.members.get(member).ok_or_else(|| format!("{member} has not joined"))?)
    }
}

fn profile(member: Member, now: Time) -> Result<Profile, Failure> {
    let person = person(member);
    let status = match member {
        _ if BLOCKED.contains(&member) => UserStatus::Blocked,
        _ if UNREGISTERED.contains(&member) => UserStatus::Unregistered,
        _ => UserStatus::Approved,
    };
    Ok(Profile {
        username: UsernameRule::Ascii.parse(&person.username).map_err(|error| error.to_string())?,
        real_name: text(&person.real_name)?,
        email: text(&person.email)?,
        email_isvalid: true,
        date_joined: Some(now),
        bio: text(person.bio)?,
        location: text(person.location)?,
        status: Some(status),
        ..Profile::default()
    })
}

/// Parses a text of a profile or a request.
fn text<T: FromStr<Err: ToString>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: T::Err| error.to_string().into())
}

/// What is in the database now, and what to try.
fn summary(url: &str, seen: Seen) -> String {
    let Seen { revision, totals } = seen;
    format!(
        "{url} has {} users, {} connections, {} pending, {} rejected and {} silenced requests, {} blocks, {revision} \
         events.\n\n\
         Serve it with `kith serve`, and try in another terminal:\n  \
         kith user list\n  kith connection list ann\n  kith request list ann\n  kith connection mutual ann bob\n  \
         kith status ann bob\n  kith watch --after 0\n",
        totals.users, totals.connected, totals.pending, totals.rejected, totals.silenced, totals.blocks,
    )
}
