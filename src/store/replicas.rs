//! Reads from replicas of a PostgreSQL database.
//!
//! A replica is a hot standby: it replays what the primary committed, and is always a little behind. A read with a
//! `min_revision` names what it must reflect, so a replica can serve it as soon as its head shows that revision: commits
//! are serial, so a database that shows a head shows everything up to it. Every read loads the head before its rows, and
//! its result has that revision. So nothing here is trusted: what a replica was last seen to have only chooses which one
//! is asked.
//!
//! A read that no replica can serve runs on the primary, with a part of its connections ([`Route::Instead`]). Commits,
//! what they load, watches and exports never use a replica.

mod heads;
mod replica;
mod route;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(super) use self::heads::{Heads, ReplicaHead};
pub use self::replica::Replica;
use self::route::{Choice, Rule, choose};
use super::connect::{DatabaseUrl, Engine};
use super::engine::{Database, Engine as _};
use super::postgres::{self, PostgresEngine};
use super::seen::LastSeen;
use super::{ConnectError, Observed, Options, Store, StoreError};
use crate::domain::id::Sequence;
use crate::metrics::replicas as metrics;
use crate::task::persistent;

/// The time between two checks of a replica, and the least between two of the primary's head.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The time that a replica has to respond to a check. Then its reads in progress go to the primary.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the primary's head is read if no commit is noticed.
const HEAD_INTERVAL: Duration = Duration::from_secs(1);

/// The replicas of a database, and which reads they serve.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The URLs of the replicas. Each of their hosts is a replica.
    pub urls: Vec<DatabaseUrl>,
    /// Whether replicas serve reads without a `min_revision` too.
    pub stale_ok: bool,
    /// How far a replica may be behind. One that is further behind is left out.
    pub max_lag: Duration,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self { urls: Vec::new(), stale_ok: false, max_lag: Duration::from_secs(1) }
    }
}

/// The replicas of a database. By default none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Replicas(Option<Arc<Inner>>);

struct Inner {
    rule: Rule,
    replicas: Vec<Arc<Replica>>,
    /// The primary, for reads that no replica can serve.
    instead: Arc<dyn Store>,
    /// What this server knows of the primary.
    seen: Arc<LastSeen>,
    heads: Arc<Heads>,
    /// The number of reads that were routed.
    turn: AtomicUsize,
    metrics: Arc<metrics::Replicas>,
    /// Check the replicas and the primary's head. End when this is dropped.
    _tasks: JoinSet<()>,
}

/// Where a read runs.
pub enum Route<'a> {
    /// On the primary, as without replicas.
    Primary,
    /// On the primary, because no replica can serve it. This store uses a quarter of the primary's connections.
    Instead(&'a dyn Store),
    /// On this replica. If it cannot serve the read, [`Replicas::instead`] is asked.
    Replica(&'a Replica),
}

/// Without what the replicas are: a URL may have a password.
impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.0.iter().flat_map(|inner| &inner.replicas).map(|replica| replica.host());
        f.debug_list().entries(hosts).finish()
    }
}

impl Replicas {
    /// Begins to follow the replicas of a primary. None of them has to be there.
    pub(super) fn start(primary: &Database<PostgresEngine>, options: &Options) -> Result<Self, ConnectError> {
        let ReplicaOptions { urls, stale_ok, max_lag } = &options.replicas;
        let hosts = hosts(urls)?;
        if hosts.is_empty() {
            return Ok(Self::default());
        }
        let heads = Arc::<Heads>::default();
        let metrics = Arc::clone(&options.metrics.replicas);
        let counted = metrics.hosts(hosts.iter().map(|(host, _)| host.clone()));
        let mut tasks = JoinSet::new();
        let mut replicas = Vec::new();
        for ((host, config), counted) in hosts.into_iter().zip(counted) {
            let head = Arc::new(ReplicaHead::new(Arc::clone(&heads)));
            let database = postgres::replica(primary, config, Arc::clone(&head), options);
            let replica = Arc::new(Replica::new(host, database, head, Arc::clone(&heads), *max_lag, counted));
            replica.measure();
            let checked = Arc::clone(&replica);
            tasks.spawn(persistent("checks of a replica", move || Arc::clone(&checked).follow()));
            replicas.push(replica);
        }
        let primary = Arc::new(postgres::in_place_of_replicas(primary, options));
        let seen = Arc::clone(&primary.seen);
        let followed = (Arc::clone(&primary), Arc::clone(&heads));
        let follow = move || follow_primary(Arc::clone(&followed.0), Arc::clone(&followed.1));
        tasks.spawn(persistent("heads of the primary", follow));
        let rule = Rule { stale_ok: *stale_ok, max_lag: *max_lag };
        let instead: Arc<dyn Store> = Arc::new(Observed::new(primary));
        let turn = AtomicUsize::new(0);
        Ok(Self(Some(Arc::new(Inner { rule, replicas, instead, seen, heads, turn, metrics, _tasks: tasks }))))
    }

    /// Chooses where a read runs that must reflect `min_revision`.
    pub fn route(&self, min_revision: Sequence) -> Route<'_> {
        let Some(inner) = self.0.as_deref() else { return Route::Primary };
        let now = Instant::now();
        // A commit of this server may have begun an epoch that replicas do not have.
        inner.heads.note(&inner.seen.position(), now);
        let known: Vec<_> = inner.replicas.iter().map(|replica| replica.known(now)).collect();
        match choose(inner.rule, min_revision, &known, inner.turn.fetch_add(1, Ordering::Relaxed)) {
            Choice::Primary => Route::Primary,
            Choice::Instead => self.instead().map_or(Route::Primary, Route::Instead),
            Choice::Replica(index) => Route::Replica(&inner.replicas[index]),
        }
    }

    /// Returns the store for a read that a replica was to serve and cannot; `None` if there are no replicas. Counts the
    /// read.
    pub fn instead(&self) -> Option<&dyn Store> {
        let inner = self.0.as_deref()?;
        inner.metrics.fallbacks.inc();
        Some(&*inner.instead)
    }
}

/// Returns each host of the URLs with its settings.
fn hosts(urls: &[DatabaseUrl]) -> Result<Vec<(String, postgres::PostgresConfig)>, ConnectError> {
    let mut hosts: Vec<(String, postgres::PostgresConfig)> = Vec::new();
    for url in urls {
        let Engine::Postgres { config } = &url.0 else {
            return Err(StoreError::Unavailable("a replica has a URL that begins with postgres://".into()).into());
        };
        for (host, config) in config.each_host() {
            if hosts.iter().any(|(other, _)| *other == host) {
                return Err(StoreError::Unavailable(format!("{host} is named twice as a replica").into()).into());
            }
            hosts.push((host, config));
        }
    }
    Ok(hosts)
}

/// Learns of the primary's head after each commit, its own or another server's, and now and then.
async fn follow_primary(primary: Arc<Database<PostgresEngine>>, heads: Arc<Heads>) {
    let mut changes = primary.changes();
    loop {
        let read = timeout(CHECK_TIMEOUT, primary.engine.head()).await;
        // While the primary cannot be read, health says so, and its head does not move.
        if let Ok(Ok(head)) = read {
            primary.seen.note(&head);
            heads.note(&primary.seen.position(), Instant::now());
        }
        sleep(CHECK_INTERVAL).await;
        // An error only means that no commit will be noticed.
        let _noticed = timeout(HEAD_INTERVAL, changes.changed()).await;
    }
}
