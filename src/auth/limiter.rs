//! Holds each principal to its limits: calls a second, and concurrent calls.
//!
//! The state of a principal is created at its first call. The table has a maximum size: at it, principals without an
//! open call are dropped, those first that have not called for the longest time. Dropping forgets the calls of the last
//! second at most, since then a principal may make as many calls at once as it may make a second.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, UnitWeighter};
use tokio::time::Instant;

use super::limits::{AtLimit, Kind, Limit, Limits, LimitsByKind};
use super::principal::Principal;
use crate::domain::id::UserId;

/// Maximum principals in the table, except for those with open calls. Each takes some 250 bytes.
const PRINCIPALS_MAX: usize = 65_536;
/// Principals that the table has room for at the start.
const PRINCIPALS_EXPECTED: usize = 4_096;

/// Admits calls within the limits of their principals.
#[derive(Debug)]
pub struct Limiter {
    limits: LimitsByKind,
    usages: Cache<Key, Arc<Usage>, UnitWeighter, RandomState, InUse>,
}

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    User(UserId),
    /// A service by its key: with other scopes it is the same one.
    Service(Arc<str>),
    /// Anonymous callers of a network. `None` is the Unix socket.
    Network(Option<IpAddr>),
}

impl Limiter {
    /// Creates a limiter without any calls.
    pub fn new(limits: LimitsByKind) -> Self {
        let usages = Cache::with(PRINCIPALS_EXPECTED, PRINCIPALS_MAX as u64, UnitWeighter, RandomState::new(), InUse);
        Self { limits, usages }
    }

    /// Admits a call, which is open until the permit is dropped. Without a limit, there is none.
    ///
    /// `network` is the address of the client, or the part of it that one client may choose freely. It counts only if
    /// the caller is anonymous.
    ///
    /// # Errors
    ///
    /// If the principal is at a limit. The call is then not counted.
    pub fn admit(&self, principal: &Principal, network: Option<IpAddr>, kind: Kind) -> Result<Option<Permit>, AtLimit> {
        let limits = match principal {
            Principal::User(_) => &self.limits.user,
            Principal::Service(_) | Principal::Anonymous => &self.limits.service,
        };
        let (rate, concurrent) = (kind.rate(), kind.concurrent());
        if limits.get(rate).is_none() && limits.get(concurrent).is_none() {
            return Ok(None);
        }
        let key = match principal {
            Principal::User(id) => Key::User(*id),
            Principal::Service(service) => Key::Service(Arc::clone(service.key())),
            Principal::Anonymous => Key::Network(network),
        };
        let created = || Ok::<_, Infallible>(Arc::new(Usage::new(limits)));
        let Ok(usage) = self.usages.get_or_insert_with(&key, created);
        // A call that is refused for its number gives back its place at once, and takes no token if it has none.
        let permit = limits.get(concurrent).map(|maximum| Permit::acquire(&usage, concurrent, maximum)).transpose()?;
        usage.take_token(rate)?;
        Ok(permit)
    }
}

/// What a principal uses of its limits.
#[derive(Debug)]
struct Usage {
    reads: Option<Bucket>,
    writes: Option<Bucket>,
    in_flight: AtomicU32,
    watches: AtomicU32,
    imports: AtomicU32,
}

impl Usage {
    fn new(limits: &Limits) -> Self {
        Self {
            reads: limits.reads.map(Bucket::new),
            writes: limits.writes.map(Bucket::new),
            in_flight: AtomicU32::new(0),
            watches: AtomicU32::new(0),
            imports: AtomicU32::new(0),
        }
    }

    /// Counts a call towards a limit on calls a second.
    fn take_token(&self, rate: Limit) -> Result<(), AtLimit> {
        let bucket = match rate {
            Limit::Reads => &self.reads,
            Limit::Writes => &self.writes,
            Limit::InFlight | Limit::Watches | Limit::Imports => &None,
        };
        bucket.as_ref().map_or(Ok(()), |bucket| bucket.take(rate))
    }

    /// The number of open calls that a limit counts.
    fn open(&self, concurrent: Limit) -> &AtomicU32 {
        match concurrent {
            Limit::Watches => &self.watches,
            Limit::Imports => &self.imports,
            Limit::Reads | Limit::Writes | Limit::InFlight => &self.in_flight,
        }
    }
}

/// An open call that counts towards a limit on concurrent calls, until this is dropped.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    limit: Limit,
}

impl Permit {
    fn acquire(usage: &Arc<Usage>, limit: Limit, maximum: NonZeroU32) -> Result<Self, AtLimit> {
        let one_more = |open: u32| (open < maximum.get()).then_some(open + 1);
        let acquired = usage.open(limit).fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        match acquired {
            Ok(_) => Ok(Self { usage: Arc::clone(usage), limit }),
            Err(_) => Err(AtLimit { limit, maximum, retry_after: None }),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.open(self.limit).fetch_sub(1, Ordering::Relaxed);
    }
}

/// A token bucket: a number of calls a second, and the same number at once.
#[derive(Debug)]
struct Bucket {
    maximum: NonZeroU32,
    limiter: RateLimiter<NotKeyed, InMemoryState, Elapsed>,
}

impl Bucket {
    fn new(maximum: NonZeroU32) -> Self {
        Self { maximum, limiter: RateLimiter::direct_with_clock(Quota::per_second(maximum), Elapsed::begin()) }
    }

    fn take(&self, limit: Limit) -> Result<(), AtLimit> {
        self.limiter.check().map_err(|refused| {
            let retry_after = refused.wait_time_from(self.limiter.clock().now());
            AtLimit { limit, maximum: self.maximum, retry_after: Some(retry_after) }
        })
    }
}

/// A clock that shows the time since it was created. Tests can set it, as tokio's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elapsed(Instant);

impl Elapsed {
    /// Begins now.
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Elapsed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// Keeps principals with open calls in the table.
#[derive(Clone, Copy, Debug)]
struct InUse;

impl Lifecycle<Key, Arc<Usage>> for InUse {
    type RequestState = ();

    fn is_pinned(&self, _: &Key, usage: &Arc<Usage>) -> bool {
        Arc::strong_count(usage) > 1
    }
}

#[cfg(test)]
mod tests;
