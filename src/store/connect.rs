//! Opens the store that a database URL names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::migration::{Pending, migrate_postgres, migrate_sqlite};
use super::postgres::{self, Role};
use super::sqlite::{self, SqliteFile};
use super::tls::PostgresConfig;
use super::{ConnectError, Store, StoreError};
use crate::clock::Clock;

/// The URL of a database: `sqlite://PATH`, or `postgres://…` as in PostgreSQL's own tools.
#[derive(Clone)]
pub struct DatabaseUrl(pub(super) Engine);

#[derive(Clone)]
pub(super) enum Engine {
    Sqlite(SqliteFile),
    Postgres { config: Box<PostgresConfig>, shown: String },
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
    /// The clock. On PostgreSQL, the system's clock stands for that of the database.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self { readers: 4, read_batch_max: 32, user_cache: 256 << 20, migrate: true, clock: Clock::system() }
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
        if let Some(file) = url.strip_prefix("sqlite://") {
            return Ok(Self(Engine::Sqlite(file.parse()?)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let config = PostgresConfig::parse(url).map_err(|error| error.to_string())?;
            let shown = without_secrets(url);
            return Ok(Self(Engine::Postgres { config: Box::new(config), shown }));
        }
        Err("must begin with sqlite:// or postgres://".to_owned())
    }
}

/// Returns the URL without user, password and parameters.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let rest = rest.split('?').next().unwrap_or_default();
    let location = rest.rsplit_once('@').map_or(rest, |(_, location)| location);
    format!("{scheme}://{location}")
}

/// Formats the URL without secrets.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Engine::Sqlite(file) => write!(f, "sqlite://{file}"),
            Engine::Postgres { shown, .. } => f.write_str(shown),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Opens a database, and migrates it if the options say so.
pub async fn connect(url: &DatabaseUrl, options: Options) -> Result<Arc<dyn Store>, ConnectError> {
    if let Engine::Sqlite(file) = url.0.clone() {
        blocking(move || Ok(sqlite::check_writable(&file)?)).await?;
    }
    prepare(url, if options.migrate { Pending::Apply } else { Pending::Refuse }).await?;
    match url.0.clone() {
        Engine::Sqlite(file) => {
            let store = blocking(move || Ok(sqlite::store(&file, &options)?)).await?;
            Ok(Arc::new(store))
        }
        Engine::Postgres { config, .. } => Ok(Arc::new(postgres::store(*config, options).await?)),
    }
}

/// Applies pending migrations. Returns the number of applied ones.
pub async fn migrate(url: &DatabaseUrl) -> Result<usize, ConnectError> {
    prepare(url, Pending::Apply).await
}

/// Returns an error if the database does not exist or does not have the tables of this version.
pub(super) async fn refuse_other_tables(url: &DatabaseUrl) -> Result<(), ConnectError> {
    // Checked first, because opening a missing file would create it.
    if let Engine::Sqlite(file) = &url.0
        && !file.path().exists()
    {
        return Err(StoreError::Unavailable("no such file".into()).into());
    }
    prepare(url, Pending::Refuse).await.map(drop)
}

async fn prepare(url: &DatabaseUrl, pending: Pending) -> Result<usize, ConnectError> {
    match url.0.clone() {
        Engine::Sqlite(file) => {
            let migrate = move || {
                if pending == Pending::Apply {
                    sqlite::check_writable(&file)?;
                }
                migrate_sqlite(&mut sqlite::open(&file)?, pending)
            };
            blocking(migrate).await
        }
        Engine::Postgres { config, .. } => {
            migrate_postgres(postgres::open(&config, Role::Migration).await?, pending).await
        }
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
        assert_eq!(url.to_string(), "postgres://db:5432/kith");
        assert_eq!(format!("{url:?}"), "postgres://db:5432/kith");
    }

    #[test]
    fn urls_of_no_engine_are_refused() {
        for url in ["", "kith.db", "mysql://db", "sqlite://", "sqlite://:memory:", "postgres://h:port/d"] {
            assert!(url.parse::<DatabaseUrl>().is_err(), "{url}");
        }
    }
}
