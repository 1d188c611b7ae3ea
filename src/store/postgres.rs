//! The PostgreSQL engine, without libpq: one connection writes and a few read.
//!
//! The statements of one read are pipelined in one round trip. Each has its own snapshot, so the mark is read first:
//! the rows that follow reflect at least its revision.

mod advice;
mod attributes;
mod batcher;
mod commit;
mod config;
mod kind;
mod listen;
mod passfile;
mod pool;
mod pooler;
mod primary;
mod read;
mod rights;
mod role;
mod tls;
mod url;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio::try_join;

use self::batcher::Batcher;
use self::commit::Writer;
pub(super) use self::commit::{LOCK, PostgresBulk, TOUCH};
pub(super) use self::config::PostgresConfig;
pub(super) use self::kind::warn_if_unknown;
use self::listen::Listening;
pub(super) use self::listen::SERVING;
pub(super) use self::passfile::PasswordFile;
pub(super) use self::pooler::refuse_shared_sessions;
use self::read::{CountsOf, PairsOf, Pools};
pub(super) use self::rights::check_writable;
pub use self::rights::roles_script;
pub(super) use self::role::{GENERIC_PLANS, Role, open, open_primary};
pub(super) use self::waiting::reach;
use super::clock::DatabaseClock;
use super::engine::{Database, Engine, Reads, Rows, SharedQuery, StoredCounts};
use super::feed::{self, EventRow};
use super::replicas::ReplicaHead;
use super::row::{FeedHead, FeedRow, UserRow, is_earlier};
use super::schema::{Instant, Stamp, users};
use super::seen::LastSeen;
use super::session::Session;
use super::statement::PgStatement;
use super::users::{Mark, Source, UserCache};
use super::writer::WriterState;
use super::{ConnectError, Options, Pairs, StoreError, query};
use crate::domain::Time;
use crate::domain::command::{Batch, Reply};
use crate::domain::decide::Rejection;
use crate::domain::id::{Sequence, UserId};
use crate::domain::query::{Consumer, EventFilter, EventQuery, FeedSlice, Read, UserKeys};
use crate::domain::text::ExternalId;
use crate::domain::user::User;
use crate::domain::view::HiddenKinds;
use crate::task::persistent;

/// Time between two readings of the clock in a store that only reads. A clock that is set meanwhile is noticed so late.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct PostgresEngine {
    /// `None` for a store that only reads.
    writer: Option<Writer>,
    pools: Arc<Pools>,
    config: Arc<PostgresConfig>,
    marks: Batcher<(), Mark>,
    users: Batcher<Vec<UserId>, Vec<User>>,
    pairs: Batcher<PairsOf, Read<Pairs>>,
    counts: Batcher<CountsOf, Read<StoredCounts>>,
    /// Tasks that end when this is dropped.
    ///
    /// One receives notifications of other servers' commits. In a store that only reads, another one reads the clock.
    _tasks: JoinSet<()>,
}

/// Connects to a database that has been migrated.
pub(super) async fn store(config: PostgresConfig, options: &Options) -> Result<Database<PostgresEngine>, StoreError> {
    let config = Arc::new(if options.read_only { config } else { config.of_primary() });
    let mut tasks = JoinSet::new();
    if let Some(primary) = config.primary() {
        for index in 0..config.hosts() {
            let (config, single) = (Arc::clone(&config), options.single_host_check);
            let follow = move || primary::follow(Arc::clone(&config), index, single);
            tasks.spawn(persistent("the look-out for the primary", follow));
        }
        if config.hosts() > 1 {
            // A former primary may come first.
            primary.looked().await;
        }
    }
    let mut conn = open(&config, Role::ShortReads).await?;
    if !options.read_only {
        advice::warn(&mut conn).await?;
    }
    let head: FeedRow = query::head().first(&mut conn).await?;
    let clock = Arc::new(DatabaseClock::of_server(options.clock.clone(), current_time(&conn).await?));
    let committed = watch::Sender::new(());
    let (listening, notified) = (Arc::clone(&config), committed.clone());
    let metrics = &options.metrics;
    let database = Arc::clone(&metrics.database);
    database.is("postgres", &version(&conn).await?);
    let listener = Arc::new(Listening::new(&database));
    let listen = move || listen::follow(Arc::clone(&listening), notified.clone(), Arc::clone(&listener));
    tasks.spawn(persistent("notifications of commits", listen));
    let users = Arc::new(UserCache::new(options.user_cache, &metrics.caches.users));
    let seen = Arc::<LastSeen>::default();
    let pools = Arc::new(Pools::new(&config, options));
    pools.measure(&database);
    if options.read_only {
        let (pools, clock) = (Arc::clone(&pools), Arc::clone(&clock));
        tasks.spawn(persistent("readings of the clock", move || read_clock(Arc::clone(&pools), Arc::clone(&clock))));
    }
    let writer = || {
        let (users, seen) = (Arc::clone(&users), Arc::clone(&seen));
        let state = WriterState::new(options.user_cache, users, seen, &metrics.caches.writer);
        Writer::new(Arc::clone(&config), Arc::clone(&clock), state, &database)
    };
    let writer = (!options.read_only).then(writer);
    let engine = PostgresEngine { writer, _tasks: tasks, ..PostgresEngine::of_reads(config, pools, options) };
    let feed = Arc::clone(&metrics.feed);
    let token_key = head.token_key.clone().into_bytes();
    seen.note(&head.head());
    Ok(Database { engine, users, seen, clock, token_key, committed, feed, source: Source::Primary })
}

/// The same database, for reads that its replicas were to serve: with a quarter of the connections.
pub(super) fn in_place_of_replicas(primary: &Database<PostgresEngine>, options: &Options) -> Database<PostgresEngine> {
    let (config, pools) = (Arc::clone(&primary.engine.config), Arc::new(primary.engine.pools.quarter()));
    primary.beside(PostgresEngine::of_reads(config, pools, options), Source::Primary)
}

/// A replica of this database. It is not connected to before it is read.
pub(super) fn replica(
    primary: &Database<PostgresEngine>,
    config: PostgresConfig,
    head: Arc<ReplicaHead>,
    options: &Options,
) -> Database<PostgresEngine> {
    let config = Arc::new(config);
    let pools = Arc::new(Pools::of_replica(&config, options, head));
    primary.beside(PostgresEngine::of_reads(config, pools, options), Source::Replica)
}

/// Returns the version of the server, such as `15.14`, without the name of its package.
async fn version(mut conn: &AsyncPgConnection) -> Result<String, StoreError> {
    let version: String =
        PgStatement::<Text>::new("SELECT current_setting('server_version')").get_result(&mut conn).await?;
    Ok(version.split(' ').next().unwrap_or_default().to_owned())
}

async fn current_time(mut conn: &AsyncPgConnection) -> Result<Time, StoreError> {
    let Stamp(time) = PgStatement::<Instant>::new("SELECT clock_timestamp()").get_result(&mut conn).await?;
    Ok(time)
}

/// Reads the clock of the database now and then. A store that writes reads it with each commit instead.
async fn read_clock(pools: Arc<Pools>, clock: Arc<DatabaseClock>) {
    loop {
        sleep(CLOCK_INTERVAL).await;
        let read = async { current_time(&*pools.short.lease().await?).await };
        // While the database cannot be read, health says so.
        if let Ok(time) = read.await {
            clock.read(time);
        }
    }
}

impl PostgresEngine {
    /// An engine without a writer.
    fn of_reads(config: Arc<PostgresConfig>, pools: Arc<Pools>, options: &Options) -> Self {
        let max = options.read_batch_max;
        let of = || Arc::clone(&pools);
        let (of_marks, of_users, of_pairs, of_counts) = (of(), of(), of(), of());
        Self {
            writer: None,
            marks: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_marks).marks(queries))),
            users: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_users).users(queries))),
            pairs: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_pairs).pairs(queries))),
            counts: Batcher::new(max, move |queries| Box::pin(Arc::clone(&of_counts).counts(queries))),
            pools,
            config,
            _tasks: JoinSet::new(),
        }
    }

    /// Checks a replica: that it is one, and has the feed of the primary. Notes how far it is.
    pub(super) async fn check_replica(&self) -> Result<(), StoreError> {
        let conn = &*self.pools.feed.lease().await?;
        let is_standby = async {
            let recovers = PgStatement::<Bool>::new("SELECT pg_is_in_recovery()");
            Ok::<bool, StoreError>(recovers.get_result(&mut &*conn).await?)
        };
        // Read first: what a primary has is not noted.
        if !is_standby.await? {
            return Err(StoreError::Unavailable("it is not a standby".into()));
        }
        self.pools.mark(conn).await.map(drop)
    }

    fn pools(&self) -> Arc<Pools> {
        Arc::clone(&self.pools)
    }
}

/// Reads the mark, and then the rows of a query on the same connection, which is of these pools.
async fn rows<R: Send>(
    pools: &Pools,
    conn: &AsyncPgConnection,
    query: impl SharedQuery<R>,
) -> Result<Rows<R>, StoreError> {
    let rows = async { Ok(RunQueryDsl::load(query, &mut &*conn).await?) };
    let (mark, rows) = try_join!(biased; pools.mark(conn), rows)?;
    Ok(Rows { mark, rows })
}

#[async_trait]
impl Engine for PostgresEngine {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Result<Reply, Rejection>>, StoreError> {
        self.writer.as_ref().ok_or_else(StoreError::read_only)?.commit(&batch).await
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        self.marks.get(()).await
    }

    async fn head(&self) -> Result<FeedHead, StoreError> {
        let conn = &*self.pools.short.lease().await?;
        Ok(query::head().first::<FeedRow>(&mut &*conn).await?.head())
    }

    async fn changed_users(&self, after: Sequence, until: Sequence) -> Result<Option<Vec<UserId>>, StoreError> {
        let mut conn = &*self.pools.short.lease().await?;
        let changed: Vec<i64> = feed::users_changed(after.get(), until.get()).load(&mut conn).await?;
        // Read last. An event that was deleted before the query above is detected here.
        let oldest: Option<i64> = feed::oldest().first(&mut conn).await.optional()?;
        let is_complete = oldest.is_some_and(|oldest| oldest <= after.get() + 1);
        Ok(feed::changed(changed).filter(|_| is_complete))
    }

    async fn users_by_id(&self, ids: Vec<UserId>) -> Result<Vec<User>, StoreError> {
        self.users.get(ids).await
    }

    async fn users_by_key(&self, keys: UserKeys) -> Result<Rows<UserRow>, StoreError> {
        let UserKeys { external_ids, names } = keys;
        let conn = &*self.pools.short.lease().await?;
        let external_ids: Vec<_> = external_ids.iter().map(ExternalId::as_str).collect();
        let by_external_id = async {
            if external_ids.is_empty() {
                return Ok(Vec::new());
            }
            let load = users::table.filter(users::external_id.eq_any(external_ids));
            Ok(load.load::<UserRow>(&mut &*conn).await?)
        };
        let by_name = async {
            if names.is_empty() {
                return Ok(Vec::new());
            }
            Ok(users::table.filter(users::username_key.eq_any(names)).load::<UserRow>(&mut &*conn).await?)
        };
        let (mark, mut rows, by_name) = try_join!(biased; self.pools.mark(conn), by_external_id, by_name)?;
        rows.extend(by_name);
        Ok(Rows { mark, rows })
    }

    async fn pairs(&self, user: UserId, others: Vec<UserId>) -> Result<Read<Pairs>, StoreError> {
        self.pairs.get(PairsOf { user, others }).await
    }

    async fn counts(&self, user: UserId, expired: Option<Time>) -> Result<Read<StoredCounts>, StoreError> {
        self.counts.get(CountsOf { user, expired }).await
    }

    async fn rows<Q: SharedQuery<R>, R: Send + 'static>(&self, reads: Reads, query: Q) -> Result<Rows<R>, StoreError> {
        match reads {
            Reads::Few => rows(&self.pools, &*self.pools.short.lease().await?, query).await,
            Reads::Many => {
                let pools = self.pools();
                to_completion(async move { rows(&pools, &*pools.long.lease().await?, query).await }).await
            }
        }
    }

    async fn session(&self) -> Result<Session, ConnectError> {
        Session::read_server(&self.config).await
    }

    async fn events(&self, query: EventQuery) -> Result<FeedSlice, StoreError> {
        let pools = self.pools();
        to_completion(async move {
            let pool = match query.consumer {
                Consumer::Watchers => &pools.feed,
                Consumer::Call => &pools.long,
            };
            let slice = events(&*pool.lease().await?, query).await?;
            pools.note(&slice.epoch, slice.last)?;
            Ok(slice)
        })
        .await
    }
}

/// Runs a read that may take long in its own task, to its end even if the caller is dropped.
///
/// PostgreSQL executes a statement that was sent even if nobody waits for it. The task holds the slot of the connection
/// until then.
async fn to_completion<T: Send + 'static>(
    read: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::spawn(read).await.unwrap_or_else(|panic| Err(StoreError::Internal(panic.into())))
}

async fn events(conn: &AsyncPgConnection, query: EventQuery) -> Result<FeedSlice, StoreError> {
    let EventQuery { filter, after, limit, consumer: _, epoch } = query;
    let head = async { Ok::<FeedRow, StoreError>(query::head().first(&mut &*conn).await?) };
    let (head, rows) = match filter {
        EventFilter::All => {
            let rows = async { Ok(feed::all_after(after.get(), limit).load(&mut &*conn).await?) };
            try_join!(biased; head, rows)?
        }
        EventFilter::Of(user, hidden) => {
            let head = head.await?;
            let rows = events_of(conn, (user, hidden.as_ref()), after.get(), head.last_sequence, limit).await?;
            (head, rows)
        }
    };
    // Read last, so that events that a sweep deletes concurrently do not look like a gap. In a separate round trip,
    // because in the same one this statement could overtake the others while they are not prepared yet.
    let oldest = oldest_event(conn).await?;
    let history = if is_earlier(&epoch, &head) { query::history().load(&mut &*conn).await? } else { Vec::new() };
    feed::slice(head, history, rows, oldest)
}

async fn oldest_event(mut conn: &AsyncPgConnection) -> Result<Option<i64>, StoreError> {
    Ok(feed::oldest().first(&mut conn).await.optional()?)
}

/// Reads the first events of a user after `after` and up to `until`; with hidden kinds, those that the user sees.
async fn events_of(
    mut conn: &AsyncPgConnection,
    (user, hidden): (UserId, Option<&HiddenKinds>),
    after: i64,
    until: i64,
    limit: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let mut rows: Vec<EventRow> = Vec::new();
    for stretches in feed::stretches(after, until, oldest_event(conn).await?) {
        let missing = limit - rows.len() as i64;
        if missing == 0 {
            break;
        }
        rows.extend(feed::of_user_in(stretches, (user.get(), hidden), after, missing).load(&mut conn).await?);
    }
    // A commit since then may be read in part: its first events lie in a stretch that was read after it, and the others in
    // one that was not.
    rows.retain(|row| row.sequence() <= until);
    Ok(rows)
}
