//! A sender cannot tell in which of two worlds they live: in one, their receiver blocks, rejects or keeps them waiting in
//! secret; in the other, the receiver does not.
//!
//! One random script of the sender runs in both worlds, step by step, each on a database of its own. Each response must be
//! the same to the byte, with its ids, times and revisions; [`Call::make`] names the exceptions.
//!
//! A sender calls through a service, or with a credential of their own. A service sees in every revision how many events
//! there are. So after whatever the receiver does, something happens between two strangers until both worlds have the
//! same number. A user's revisions are their own: for them the numbers are made equal only before something that the
//! sender may see, whose own number would show the difference, and all that they read in between must be the same
//! although the worlds have different numbers of events.
//!
//! On PostgreSQL each call must also take as many statements, with the same texts, and as many messages of the protocol in
//! both worlds. There a script is played twice, with different users: the first time, statements are prepared.

mod pair;
mod receiver;
mod sender;

use chrono::TimeDelta;
use kith::domain::policy::Policy;

use self::pair::{STEPS, Worlds};
use self::receiver::Act;
use self::receiver::Act::{
    Accept, Approve, Block, Cancel, Cool, Delete, Reject, RejectOrView, Remove, Restore, Send, Suspend, Unblock, View,
};
use crate::harness::Engine;

/// The users of a script.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    sender: i64,
    receiver: i64,
    /// Somebody else whom the sender asks, and who may accept.
    other: i64,
    /// Strangers, to whom happens what makes the numbers of events equal.
    strangers: (i64, i64),
}

impl Cast {
    /// The users `from`, …, `from + 4`. The sender's id is the larger one if the seed is odd.
    fn of(from: i64, seed: u64) -> Self {
        let (sender, receiver) = if seed.is_multiple_of(2) { (from, from + 1) } else { (from + 1, from) };
        Self { sender, receiver, other: from + 2, strangers: (from + 3, from + 4) }
    }

    fn users(self) -> [i64; 5] {
        [self.sender, self.receiver, self.other, self.strangers.0, self.strangers.1]
    }
}

/// With whose credential a sender calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// That of a service which acts for them.
    Service,
    /// Their own.
    User,
}

/// How two worlds differ.
#[derive(Clone, Copy)]
pub struct Difference {
    /// What happens at random moments in one world only.
    secret: &'static [Act],
    /// What happens at random moments in both worlds.
    open: &'static [Act],
    /// What happens before the script: sends of the sender, and acts of the receiver in one world.
    before: &'static [Before],
    policy: fn(&mut Policy),
}

/// What happens before the script.
#[derive(Clone, Copy, Debug)]
pub enum Before {
    /// The sender sends a request.
    Sends,
    /// The sender cancels it.
    Cancels,
    Secret(Act),
    Open(Act),
}

/// What anybody may see of a receiver.
const PUBLIC: &[Act] =
    &[Accept, Send, Send, Cancel, Cancel, Remove, Remove, Suspend, Approve, Approve, Approve, Approve, Delete];
/// The same, where rejections and views are disclosed.
const DISCLOSED: &[Act] =
    &[View, View, Reject, Reject, Restore, Accept, Send, Cancel, Cancel, Remove, Suspend, Approve, Approve, Delete];

fn disclose(policy: &mut Policy) {
    (policy.disclose_rejections, policy.disclose_views) = (true, true);
}

/// Without disclosure. The receiver blocks and unblocks.
const BLOCKED: Difference = Difference { secret: &[Block, Unblock], open: PUBLIC, before: &[], policy: |_| {} };
const REJECTED: Difference = Difference {
    secret: &[View, Reject, Reject, Restore],
    before: &[Before::Sends, Before::Secret(Reject), Before::Cancels, Before::Sends],
    ..BLOCKED
};
/// The receiver rejected a request, and the sender cancelled it.
const COOLING: Difference = Difference {
    secret: &[],
    open: &[Suspend, Approve, Approve],
    before: &[Before::Sends, Before::Secret(Reject), Before::Cancels],
    policy: |policy| policy.cooldown = Some(TimeDelta::days(100)),
};
/// Everybody may know that the receiver is suspended.
const SUSPENDED: Difference = Difference {
    secret: EVERYTHING.secret,
    open: &[Suspend, Suspend, Approve, Send, Accept],
    before: &[Before::Sends, Before::Secret(Block), Before::Open(Suspend)],
    ..BLOCKED
};
const EVERYTHING: Difference =
    Difference { secret: &[Block, Unblock, Unblock, View, Reject, Reject, Restore], ..BLOCKED };
/// A view that was disclosed before a block stays disclosed.
const BLOCKED_DISCLOSED: Difference = Difference {
    open: DISCLOSED,
    before: &[Before::Sends, Before::Open(View), Before::Secret(Block)],
    policy: disclose,
    ..BLOCKED
};
/// The sender knows of the rejections, and not of the cooldowns, which one world does not have.
const COOLING_DISCLOSED: Difference = Difference {
    secret: &[],
    open: &[Cool, Cool, View, Restore, Suspend, Approve, Approve, Send],
    before: &[Before::Sends, Before::Open(Cool), Before::Cancels],
    policy: |policy| {
        disclose(policy);
        policy.cooldown = Some(TimeDelta::days(100));
    },
};
/// Views are disclosed, and rejections are not: a rejection shows as a view.
const VIEWS_DISCLOSED: Difference = Difference {
    secret: &[RejectOrView],
    open: &[View, Send, Accept, Cancel, Remove, Suspend, Approve, Approve],
    before: &[Before::Sends, Before::Secret(RejectOrView)],
    policy: |policy| policy.disclose_views = true,
};
/// With limits that the sender reaches, and a cooldown that outlasts a request.
const TIGHT: Difference = Difference {
    policy: |policy| {
        (policy.max_sent_requests, policy.max_connections) = (Some(1), Some(1));
        (policy.max_sends_per_hour, policy.max_sends_per_pair) = (Some(4), Some(3));
        (policy.cooldown, policy.lifetime) = (Some(TimeDelta::days(60)), Some(TimeDelta::days(20)));
    },
    ..EVERYTHING
};

/// The number of scripts of each difference. The comparison of two is minutes of work, so `make soak` plays more.
fn scripts() -> u64 {
    std::env::var("KITH_TEST_WORLDS").map_or(1, |number| number.parse().expect("KITH_TEST_WORLDS: a number"))
}

/// Plays scripts: twice as many of a service on SQLite, where each is played once.
async fn compare(engine: Engine, difference: Difference, principal: Principal) {
    let (mut different, mut uneven) = (Vec::new(), Vec::new());
    let seeds = match (engine, principal) {
        (Engine::Sqlite, Principal::Service) => 0..2 * scripts(),
        // Scripts of a user are longer, and on PostgreSQL each script is played twice.
        (Engine::Sqlite, Principal::User) | (Engine::Postgres, _) => 0..scripts(),
    };
    for seed in seeds {
        let mut worlds = Worlds::new(engine, difference, seed, principal).await;
        worlds.play().await.unwrap_or_else(|told| panic!("{told}"));
        different.push(worlds.different());
        uneven.push(worlds.uneven());
    }
    // Otherwise nothing was compared.
    let is_uneven = uneven.iter().sum::<usize>() > 0;
    let may_be = principal == Principal::User && !difference.secret.is_empty();
    assert_eq!(is_uneven, may_be, "calls while the numbers of events were different, by seed: {uneven:?}");
    let found = different.iter().sum::<usize>();
    assert!(found >= different.len() * STEPS / 8, "calls that found different worlds, by seed: {different:?}");
}

macro_rules! worlds {
    ($($name:ident: $difference:expr;)+) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                compare(Engine::Sqlite, $difference, Principal::Service).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                compare(Engine::Postgres, $difference, Principal::Service).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite_as_user() {
                compare(Engine::Sqlite, $difference, Principal::User).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres_as_user() {
                compare(Engine::Postgres, $difference, Principal::User).await;
            }
        }
    )+};
}

worlds! {
    blocked_or_not: BLOCKED;
    rejected_or_not: REJECTED;
    cooling_or_not: COOLING;
    refused_in_any_way_by_who_is_suspended_now_and_then: SUSPENDED;
    refused_in_any_way_or_not: EVERYTHING;
    refused_in_any_way_or_not_with_tight_limits: TIGHT;
    blocked_or_not_with_disclosure: BLOCKED_DISCLOSED;
    cooling_or_not_with_disclosure: COOLING_DISCLOSED;
    rejected_or_viewed_with_views_disclosed: VIEWS_DISCLOSED;
}

/// The scripts notice what may be noticed: an acceptance, and a rejection that is disclosed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_notices_what_is_told() {
    let accepted = Difference { secret: &[Accept], open: &[], ..BLOCKED };
    let disclosed = Difference { secret: &[Reject], open: &[], policy: disclose, ..BLOCKED };
    for (difference, principal) in
        [(accepted, Principal::Service), (disclosed, Principal::Service), (accepted, Principal::User)]
    {
        let mut worlds = Worlds::new(Engine::Sqlite, difference, 0, principal).await;
        worlds.play().await.expect_err("a difference");
    }
}
