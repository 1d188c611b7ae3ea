//! Opens the store that a database URL names.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use diesel::{Connection as _, SqliteConnection};

use super::migration::{self, Blocking, Migrations, Pending};
use super::postgres::{self, PasswordFile, PostgresConfig, Role, refuse_shared_sessions};
use super::replicas::{ReplicaOptions, Replicas};
use super::sqlite::{self, SqliteFile};
use super::{ConnectError, Store, StoreError};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::progress::Progress;

/// The URL of a database: `sqlite://PATH`, or `postgres://…` as in PostgreSQL's own tools.
#[derive(Clone)]
pub struct DatabaseUrl(pub(super) Engine);

#[derive(Clone)]
pub(super) enum Engine {
    Sqlite(SqliteFile),
    Postgres { config: Box<PostgresConfig> },
}

/// Options of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of connections for reads, at least two.
    ///
    /// Two thirds serve short reads, one third serves reads that may take long. The feed and the writer have their own.
    pub readers: usize,
    /// PostgreSQL: the maximum number of look-ups that share a statement. 1 turns sharing off.
    pub read_batch_max: usize,
    /// The approximate maximum size of the user cache in bytes. 0 turns it off.
    pub user_cache: u64,
    /// Whether to apply pending migrations. If not, a database with pending migrations is refused.
    pub migrate: bool,
    /// Whether the database is only read. Then it is neither migrated nor written, and may be one that cannot be.
    pub read_only: bool,
    /// PostgreSQL: the time between two checks of a single host, which may be a proxy that leads to another primary by then.
    pub single_host_check: Duration,
    /// The clock. On PostgreSQL, the system's clock stands for that of the database.
    pub clock: Clock,
    /// The replicas of a PostgreSQL database.
    pub replicas: ReplicaOptions,
    /// What the store counts.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            readers: 4,
            read_batch_max: 32,
            user_cache: 256 << 20,
            migrate: true,
            read_only: false,
            single_host_check: Duration::from_secs(30),
            clock: Clock::system(),
            replicas: ReplicaOptions::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Options {
    /// Returns the number of connections for short reads and for long reads.
    pub(super) fn short_and_long(&self) -> (usize, usize) {
        let long = (self.readers / 3).max(1);
        (self.readers.saturating_sub(long).max(1), long)
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        // Files and variables often have a newline at their end.
        let url = url.trim();
        if let Some(file) = url.strip_prefix("sqlite://") {
            return Ok(Self(Engine::Sqlite(file.parse()?)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let config = PostgresConfig::parse(url).map_err(|error| error.to_string())?;
            return Ok(Self(Engine::Postgres { config: Box::new(config) }));
        }
        Err("must begin with sqlite:// or postgres://".to_owned())
    }
}

impl DatabaseUrl {
    /// Whether it is a PostgreSQL database.
    pub fn is_postgres(&self) -> bool {
        matches!(self.0, Engine::Postgres { .. })
    }

    /// Whether it has a password.
    pub fn has_password(&self) -> bool {
        matches!(&self.0, Engine::Postgres { config, .. } if config.has_password())
    }

    /// Sets the password of the user in the URL.
    pub fn set_password(&mut self, password: &str) {
        if let Engine::Postgres { config, .. } = &mut self.0 {
            config.set_password(password);
        }
    }

    /// The file of passwords that the URL names (`passfile`).
    pub fn password_file(&self) -> Option<&Path> {
        match &self.0 {
            Engine::Sqlite(_) => None,
            Engine::Postgres { config, .. } => config.password_file(),
        }
    }

    /// Sets the password that is in the text of a password file, in the format of libpq, if there is one.
    pub fn set_password_from(&mut self, file: &str) {
        if let Engine::Postgres { config, .. } = &mut self.0 {
            config.set_passwords(&PasswordFile::parse(file));
        }
    }
}

/// Formats the URL without secrets.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Engine::Sqlite(file) => write!(f, "sqlite://{file}"),
            Engine::Postgres { config, .. } => f.write_str(&config.shown()),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Waits until a PostgreSQL database accepts connections, for at most `limit`.
///
/// Calls `report` with the cause and the remaining time before each further attempt, about once a second.
///
/// # Errors
///
/// The last error, if the time is over; any error that waiting cannot mend, such as a wrong password, immediately.
pub async fn wait_for(
    url: &DatabaseUrl,
    limit: Duration,
    report: impl FnMut(&ConnectError, Duration),
) -> Result<(), ConnectError> {
    match &url.0 {
        Engine::Postgres { config, .. } if !limit.is_zero() => postgres::reach(config, limit, report).await,
        Engine::Postgres { .. } | Engine::Sqlite(_) => Ok(()),
    }
}

/// Opens a database, and migrates it if the options say so.
///
/// # Errors
///
/// [`ConnectError::ReadOnly`] if the database cannot be written, unless the options say that it is only read.
pub async fn connect(url: &DatabaseUrl, options: Options) -> Result<Arc<dyn Store>, ConnectError> {
    Ok(connect_with_replicas(url, options).await?.0)
}

/// The same with the replicas that the options name. None of them has to be there.
///
/// # Errors
///
/// [`ConnectError::ReadOnly`] if the database cannot be written, unless the options say that it is only read.
pub async fn connect_with_replicas(
    url: &DatabaseUrl,
    options: Options,
) -> Result<(Arc<dyn Store>, Replicas), ConnectError> {
    if options.read_only {
        refuse_other_tables(url).await?;
    } else {
        refuse_pooler(url).await?;
        check_writable(url).await?;
        let pending = if options.migrate { Pending::Apply } else { Pending::Refuse };
        run_migrations(url, pending, &Progress::default()).await?;
    }
    match url.0.clone() {
        Engine::Sqlite(file) => {
            let store = blocking(move || Ok(sqlite::store(&file, &options)?)).await?;
            Ok((Arc::new(store), Replicas::default()))
        }
        Engine::Postgres { config, .. } => {
            let store = postgres::store(*config, &options).await?;
            let replicas = Replicas::start(&store, &options)?;
            Ok((Arc::new(store), replicas))
        }
    }
}

/// Applies pending migrations, all or none. Returns those that were applied now and before.
pub async fn migrate(url: &DatabaseUrl, progress: &Progress) -> Result<Migrations, ConnectError> {
    prepare(url, Pending::Apply, progress).await
}

/// Applies pending migrations and rolls back. Takes the same locks as [`migrate`].
pub async fn try_migrations(url: &DatabaseUrl, progress: &Progress) -> Result<Migrations, ConnectError> {
    prepare(url, Pending::Try, progress).await
}

/// Returns the applied and the pending migrations. Changes nothing.
pub async fn migrations(url: &DatabaseUrl) -> Result<Migrations, ConnectError> {
    prepare(url, Pending::List, &Progress::default()).await
}

/// Returns an error if the database does not exist or does not have the tables of this version.
pub(super) async fn refuse_other_tables(url: &DatabaseUrl) -> Result<(), ConnectError> {
    // Checked first, because what is read of a missing file is an empty database.
    if let Engine::Sqlite(file) = &url.0
        && !file.path().exists()
    {
        return Err(StoreError::Unavailable("no such file".into()).into());
    }
    prepare(url, Pending::Refuse, &Progress::default()).await.map(drop)
}

async fn check_writable(url: &DatabaseUrl) -> Result<(), ConnectError> {
    match url.0.clone() {
        Engine::Sqlite(file) => blocking(move || sqlite::check_writable(&file)).await,
        Engine::Postgres { config, .. } => postgres::check_writable(&config).await,
    }
}

async fn prepare(url: &DatabaseUrl, pending: Pending, progress: &Progress) -> Result<Migrations, ConnectError> {
    refuse_pooler(url).await?;
    run_migrations(url, pending, progress).await
}

/// Returns an error if the sessions of PostgreSQL are shared. Comes first: the settings of a session would stay in others.
async fn refuse_pooler(url: &DatabaseUrl) -> Result<(), ConnectError> {
    match &url.0 {
        Engine::Sqlite(_) => Ok(()),
        Engine::Postgres { config, .. } => refuse_shared_sessions(config).await,
    }
}

async fn run_migrations(url: &DatabaseUrl, pending: Pending, progress: &Progress) -> Result<Migrations, ConnectError> {
    let progress = progress.clone();
    match url.0.clone() {
        Engine::Sqlite(file) => {
            blocking(move || migration::migrate(&mut to_migrate(&file, pending)?, pending, &progress)).await
        }
        Engine::Postgres { config, .. } => {
            let conn = postgres::open(&config, Role::Migration).await?;
            blocking(move || migration::migrate(&mut Blocking::from(conn), pending, &progress)).await
        }
    }
}

/// Opens a file to do with its pending migrations what `pending` says. Only applying them creates the file.
fn to_migrate(file: &SqliteFile, pending: Pending) -> Result<SqliteConnection, ConnectError> {
    sqlite::refuse_faulty()?;
    if pending == Pending::Apply {
        sqlite::check_writable(file)?;
    } else if file.may_be_created() && !file.path().exists() {
        let empty = SqliteConnection::establish(":memory:");
        return Ok(empty.map_err(|error| StoreError::Unavailable(error.into()))?);
    }
    match pending {
        Pending::Apply | Pending::Try => Ok(sqlite::open(file)?),
        Pending::Refuse | Pending::List => Ok(sqlite::open(&sqlite::for_reads(file)?)?),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, ConnectError> + Send + 'static,
) -> Result<T, ConnectError> {
    let done = tokio::task::spawn_blocking(job).await;
    done.unwrap_or_else(|error| Err(StoreError::Internal(error.into()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let url: DatabaseUrl = "postgres://kith:s3cr%40t@db:5432/kith?application_name=s3cret".parse().expect("a URL");
        assert_eq!(url.to_string(), "postgres://db/kith");
        assert_eq!(format!("{url:?}"), "postgres://db/kith");
        let url: DatabaseUrl = "postgres://kith:s3cr%40t@[::1]:6432,%2Ftmp/kith\n".parse().expect("a URL");
        assert_eq!(url.to_string(), "postgres://[::1]:6432,/tmp/kith");
    }

    #[test]
    fn urls_of_no_engine_are_refused() {
        for url in ["", "kith.db", "mysql://db", "sqlite://", "sqlite://:memory:", "postgres://h:port/d"] {
            assert!(url.parse::<DatabaseUrl>().is_err(), "{url}");
        }
    }
}
