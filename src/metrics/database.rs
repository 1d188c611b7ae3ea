//! The database: whether it responds, and the connections to it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::Area;
use super::families::Families;
use super::reading::Reading;
use super::writes::DATABASE_SECONDS;

/// What connections to the database are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Reads that find a few rows by an index.
    Short,
    /// Reads that may take long.
    Long,
    /// Reads of the feed for its watchers.
    Feed,
    /// Commits.
    Writer,
    /// Notifications of commits. PostgreSQL only.
    Listener,
}

const POOLS: [(Pool, &str); 5] = [
    (Pool::Short, "short"),
    (Pool::Long, "long"),
    (Pool::Feed, "feed"),
    (Pool::Writer, "writer"),
    (Pool::Listener, "listener"),
];

/// What the connections of a pool do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Open connections that nobody uses.
    pub idle: usize,
    /// Connections that somebody uses. On PostgreSQL, several reads share one.
    pub busy: usize,
    /// Their maximum.
    pub max: usize,
    /// Calls that wait for one.
    pub waiting: usize,
}

/// Follows the database.
#[derive(Debug)]
pub struct Database {
    /// Whether the last check could read.
    is_up: AtomicBool,
    /// Whether commits succeeded at the last check.
    is_writable: AtomicBool,
    /// The engine, and its version.
    info: OnceLock<(&'static str, RwLock<String>)>,
    states: [Reading<PoolState>; POOLS.len()],
    reconnects: [Counter; POOLS.len()],
    /// The length of SQLite's write-ahead log, in bytes.
    pub wal_bytes: Reading<u64>,
    /// Times of copies of that log into the file.
    pub checkpoint_seconds: Histogram,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            is_up: AtomicBool::new(false),
            is_writable: AtomicBool::new(false),
            info: OnceLock::new(),
            states: Default::default(),
            reconnects: Default::default(),
            wal_bytes: Reading::default(),
            checkpoint_seconds: Histogram::new(DATABASE_SECONDS),
        }
    }
}

impl Database {
    /// Records whether the database answers reads, and whether commits succeed.
    pub fn checked(&self, is_up: bool, is_writable: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
        self.is_writable.store(is_writable, Ordering::Relaxed);
    }

    /// Records which database it is.
    pub fn is(&self, engine: &'static str, version: &str) {
        let (_, known) = self.info.get_or_init(|| (engine, RwLock::default()));
        version.clone_into(&mut known.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The connections of a pool.
    pub fn pool(&self, pool: Pool) -> &Reading<PoolState> {
        &self.states[pool as usize]
    }

    /// Counts connections that replace one that was lost.
    pub fn reconnects(&self, pool: Pool) -> &Counter {
        &self.reconnects[pool as usize]
    }
}

impl Area for Database {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { is_up, is_writable, info, states, reconnects, wal_bytes, checkpoint_seconds } = self;
        families
            .gauge("kith_database_up", "1 if the database responded to the last check, which is one every 2 s.")?
            .value(&[], u64::from(is_up.load(Ordering::Relaxed)))?;
        families
            .gauge("kith_database_writable", "1 if commits succeeded at the last check, or the server only reads.")?
            .value(&[], u64::from(is_writable.load(Ordering::Relaxed)))?;
        let engine = info.get();
        if let Some((engine, version)) = engine {
            let version = version.read().unwrap_or_else(PoisonError::into_inner);
            let labels = [("engine", *engine), ("version", version.as_str())];
            families.info("kith_database_info", "The engine of the database, and its version.", &labels)?;
        }
        let states = POOLS.map(|(pool, name)| (name, states[pool as usize].get()));
        let states = || states.into_iter().filter_map(|(name, state)| Some((name, state?)));
        let mut family = families.gauge("kith_database_connections", "Open connections to the database.")?;
        for (name, PoolState { idle, busy, max: _, waiting: _ }) in states() {
            family.value(&[("pool", name), ("state", "idle")], idle)?;
            family.value(&[("pool", name), ("state", "busy")], busy)?;
        }
        let mut family = families.gauge("kith_database_connections_max", "Maximum of kith_database_connections.")?;
        for (name, state) in states() {
            family.value(&[("pool", name)], state.max)?;
        }
        let mut family =
            families.gauge("kith_database_waiting", "Calls that wait for a connection to the database.")?;
        for (name, state) in states() {
            family.value(&[("pool", name)], state.waiting)?;
        }
        let help = "Connections to the database that replaced one that was lost.";
        let mut family = families.counter("kith_database_reconnects_total", help)?;
        for (pool, name) in POOLS {
            family.count(&[("pool", name)], reconnects[pool as usize].get())?;
        }
        if engine.is_none_or(|(engine, _)| *engine != "sqlite") {
            return Ok(());
        }
        let mut family = families.gauge("kith_sqlite_wal_bytes", "Length of SQLite's write-ahead log.")?;
        if let Some(bytes) = wal_bytes.get() {
            family.value(&[], bytes)?;
        }
        families
            .histogram("kith_sqlite_checkpoint_seconds", "Time of a copy of that log into the file of the database.")?
            .distribution(&[], checkpoint_seconds)
    }
}
