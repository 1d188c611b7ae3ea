//! A pool of connections for reads, each shared by many concurrent reads.
//!
//! Statements are sent without waiting for earlier ones, and their results arrive in order. A connection for each read
//! would cost PostgreSQL a process each.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::config::{NoAnswer, PostgresConfig, SharedConnection};
use super::role::{Role, open_shared};
use crate::metrics::database::PoolState;
use crate::store::StoreError;

/// How long a read waits for a free slot or a new connection before it fails.
const WAIT: Duration = Duration::from_secs(1);
/// Maximum reads that wait for a slot. Further ones fail at once: under overload, a refusal must cost little time.
const WAITING_MAX: usize = 4_096;

pub(super) struct Pool {
    config: Arc<PostgresConfig>,
    role: Role,
    slots: Vec<Mutex<Option<Arc<SharedConnection>>>>,
    /// The reads that wait, and those that have a slot.
    places: Semaphore,
    leases: Semaphore,
    /// The maximum of `leases`.
    leases_max: usize,
    /// The number of reads that have ended.
    ended: AtomicU64,
    /// Counts connections that replace one that was lost.
    reconnects: Counter,
}

/// A pool, or a share of its leases.
pub(super) struct Access {
    pool: Arc<Pool>,
    /// `None` if all of its leases may be taken.
    share: Option<Share>,
}

/// The limit of a share.
struct Share {
    /// The reads that wait, and those that have a lease.
    places: Semaphore,
    leases: Semaphore,
}

impl Access {
    /// All of a pool.
    pub(super) fn whole(pool: Pool) -> Self {
        Self { pool: Arc::new(pool), share: None }
    }

    /// A quarter of the leases of the same pool, at least one.
    pub(super) fn quarter(&self) -> Self {
        let leases = (self.pool.leases_max / 4).max(1);
        let share = Share { places: Semaphore::new(leases + WAITING_MAX / 4), leases: Semaphore::new(leases) };
        Self { pool: Arc::clone(&self.pool), share: Some(share) }
    }

    pub(super) fn state(&self) -> PoolState {
        self.pool.state()
    }

    /// Returns the least used connection. Reopens it if it has ended.
    ///
    /// # Errors
    ///
    /// [`StoreError::Overloaded`] if too many reads wait for the pool, [`StoreError::Unavailable`] if too many wait for
    /// the share, or this one has to wait for longer than [`WAIT`].
    pub(super) async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let Some(Share { places, leases }) = &self.share else { return self.pool.lease().await };
        let taken =
            || StoreError::Unavailable("reads that no replica can serve have their share of connections".into());
        let place = places.try_acquire().map_err(|_| taken())?;
        let permit = timeout(WAIT, leases.acquire()).await.map_err(|_| taken())?;
        let permit = permit.map_err(|closed| StoreError::Internal(closed.into()))?;
        let mut lease = self.pool.lease().await?;
        lease._share = Some([place, permit]);
        Ok(lease)
    }
}

/// A connection that other reads may use at the same time.
pub(super) struct Lease<'a> {
    shared: Arc<SharedConnection>,
    ended: &'a AtomicU64,
    _place: SemaphorePermit<'a>,
    _permit: SemaphorePermit<'a>,
    /// Of the share, if it is not from the whole pool.
    _share: Option<[SemaphorePermit<'a>; 2]>,
}

impl Deref for Lease<'_> {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.shared.conn
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Creates a pool of `count` connections with the settings of `role`.
    ///
    /// Each connection is shared by at most `depth` concurrent reads.
    pub(super) fn new(
        config: Arc<PostgresConfig>,
        role: Role,
        count: usize,
        depth: usize,
        reconnects: Counter,
    ) -> Self {
        let slots = (0..count).map(|_| Mutex::default()).collect();
        let leases_max = count * depth;
        let places = Semaphore::new(leases_max + WAITING_MAX);
        let leases = Semaphore::new(leases_max);
        Self { config, role, slots, places, leases, leases_max, ended: AtomicU64::new(0), reconnects }
    }

    /// Returns what its connections do. One that is being opened is neither idle nor busy.
    fn state(&self) -> PoolState {
        let leases = self.leases_max.saturating_sub(self.leases.available_permits());
        let places = (self.leases_max + WAITING_MAX).saturating_sub(self.places.available_permits());
        let mut state =
            PoolState { max: self.slots.len(), waiting: places.saturating_sub(leases), ..PoolState::default() };
        for slot in &self.slots {
            // The lock is held for an instant, or while a connection is opened. Nobody waits for it here.
            let Ok(slot) = slot.try_lock() else { continue };
            match slot.as_ref().filter(|shared| !shared.is_closed()) {
                Some(shared) if Arc::strong_count(shared) > 1 => state.busy += 1,
                Some(_) => state.idle += 1,
                None => {}
            }
        }
        state
    }

    /// Returns the least used connection. Reopens it if it has ended.
    ///
    /// # Errors
    ///
    /// [`StoreError::Overloaded`] if too many reads wait for a slot, or this one has to wait for longer than [`WAIT`].
    /// [`StoreError::Unavailable`] if no read has ended during that time: then the database is silent.
    async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        self.config.ready().await?;
        let place = self.places.try_acquire().map_err(|_| StoreError::Overloaded)?;
        let ended = self.ended.load(Ordering::Relaxed);
        let Ok(permit) = timeout(WAIT, self.leases.acquire()).await else {
            // Reads that may take long can all take longer than that.
            let is_silent = self.role != Role::LongReads && self.ended.load(Ordering::Relaxed) == ended;
            let silent = || StoreError::Unavailable("the database does not respond".into());
            return Err(if is_silent { silent() } else { StoreError::Overloaded });
        };
        let permit = permit.map_err(|closed| StoreError::Internal(closed.into()))?;
        let Ok(shared) = timeout(WAIT, self.connection()).await else {
            let silent = NoAnswer(WAIT).into();
            self.config.primary().into_iter().for_each(|primary| primary.failed(&silent));
            return Err(StoreError::Unavailable(silent));
        };
        Ok(Lease { shared: shared?, ended: &self.ended, _place: place, _permit: permit, _share: None })
    }

    async fn connection(&self) -> Result<Arc<SharedConnection>, StoreError> {
        let mut slot = self.least_used().lock().await;
        if let Some(shared) = slot.as_ref().filter(|shared| !shared.is_closed()) {
            return Ok(Arc::clone(shared));
        }
        let shared = open_shared(&self.config, self.role).await?;
        if slot.is_some() {
            self.reconnects.inc();
        }
        Ok(Arc::clone(slot.insert(Arc::new(shared))))
    }

    fn least_used(&self) -> &Mutex<Option<Arc<SharedConnection>>> {
        let users = |slot: &&Mutex<Option<Arc<SharedConnection>>>| match slot.try_lock() {
            Ok(slot) => slot.as_ref().map_or(0, Arc::strong_count),
            // The lock is held while a connection is opened.
            Err(_) => usize::MAX,
        };
        // There is at least one.
        self.slots.iter().min_by_key(users).unwrap_or(&self.slots[0])
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reads_beyond_those_that_may_wait_are_refused_at_once_and_the_others_after_a_second() {
        let config = PostgresConfig::parse("postgres://kith@192.0.2.1/kith").expect("a URL");
        let pool = Pool::new(Arc::new(config), Role::ShortReads, 1, 2, Counter::default());
        let busy = pool.leases.try_acquire_many(2).expect("both slots");
        let _places = pool.places.try_acquire_many(2).expect("and their places");
        let mut waiting = Box::pin(join_all((0..WAITING_MAX).map(|_| pool.lease())));
        assert!((&mut waiting).now_or_never().is_none());
        let refused = pool.lease().now_or_never().expect("no wait");
        assert!(matches!(refused, Err(StoreError::Overloaded)));
        // Nobody's read has ended meanwhile.
        assert!(waiting.await.iter().all(|late| matches!(late, Err(StoreError::Unavailable(_)))));
        assert!(pool.lease().now_or_never().is_none(), "there is room again");
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_waits_for_a_quarter_of_the_leases_whatever_is_free_in_the_pool() {
        for (count, depth, expected) in [(2, 64, 32), (1, 1, 1), (3, 1, 1)] {
            let config = PostgresConfig::parse("postgres://kith@192.0.2.1/kith").expect("a URL");
            let pool = Pool::new(Arc::new(config), Role::ShortReads, count, depth, Counter::default());
            let whole = Access::whole(pool);
            let share = whole.quarter();
            let limit = share.share.as_ref().expect("a limit");
            assert_eq!(limit.leases.available_permits(), expected);
            let _leases = limit.leases.try_acquire_many(u32::try_from(expected).expect("a few")).expect("all");
            let begun = tokio::time::Instant::now();
            assert!(matches!(share.lease().await, Err(StoreError::Unavailable(_))), "after the wait");
            assert_eq!(begun.elapsed(), WAIT);
            assert_eq!(whole.pool.leases.available_permits(), count * depth, "the pool was not asked");
            let _places = limit.places.try_acquire_many(u32::try_from(limit.places.available_permits()).expect("some"));
            let refused = share.lease().now_or_never().expect("no wait");
            assert!(matches!(refused, Err(StoreError::Unavailable(_))));
        }
    }
}
