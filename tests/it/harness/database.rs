//! Fresh databases of either engine.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use kith::progress::Progress;
use kith::store::{self, DatabaseUrl};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::overdue;
use super::postgres::server;

/// The engines that the service runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// The number of migrations.
pub fn migrations() -> usize {
    std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite")).expect("a folder").count()
}

/// A database for one test.
pub struct Database {
    pub url: String,
    pub engine: Engine,
    /// Deleted when the test ends.
    _directory: Option<TempDir>,
}

impl Database {
    /// A database without tables.
    pub async fn empty(engine: Engine) -> Self {
        overdue::watch();
        match engine {
            Engine::Sqlite => Self::sqlite(),
            Engine::Postgres => {
                let name = format!("kith_test_{}", Uuid::new_v4().simple());
                execute(&server().url("postgres"), &format!("CREATE DATABASE {name}")).await;
                Self { url: server().url(&name), engine, _directory: None }
            }
        }
    }

    /// A database with tables. On PostgreSQL a copy of a prepared one, which is faster than the migrations.
    pub async fn migrated(engine: Engine) -> Self {
        overdue::watch();
        match engine {
            Engine::Sqlite => {
                let database = Self::sqlite();
                store::migrate(&database.url(), &Progress::default()).await.expect("a migration");
                database
            }
            Engine::Postgres => {
                let name = format!("kith_test_{}", Uuid::new_v4().simple());
                let template = template().await;
                execute(&server().url("postgres"), &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
                Self { url: server().url(&name), engine, _directory: None }
            }
        }
    }

    /// An existing database, which somebody else deletes.
    pub fn at(url: &str, engine: Engine) -> Self {
        Self { url: url.to_owned(), engine, _directory: None }
    }

    /// A copy of this database. No service may be running on it.
    pub async fn copy(&self) -> Self {
        match self.engine {
            Engine::Sqlite => {
                let copy = Self::sqlite();
                self.execute(&format!("VACUUM INTO '{}'", copy.path())).await;
                copy
            }
            Engine::Postgres => {
                let name = self.name();
                let copy = format!("kith_test_{}", Uuid::new_v4().simple());
                unused(name).await;
                execute(&server().url("postgres"), &format!("CREATE DATABASE {copy} TEMPLATE {name}")).await;
                Self { url: server().url(&copy), engine: self.engine, _directory: None }
            }
        }
    }

    fn sqlite() -> Self {
        let directory = TempDir::with_prefix("kith-test-").expect("a directory");
        let url = format!("sqlite://{}", directory.path().join("kith.db").display());
        Self { url, engine: Engine::Sqlite, _directory: Some(directory) }
    }

    /// The name of a PostgreSQL database.
    pub fn name(&self) -> &str {
        let base = self.url.split('?').next().expect("a URL");
        base.rsplit('/').next().expect("a name")
    }

    pub fn url(&self) -> DatabaseUrl {
        self.url.parse().expect("a URL")
    }

    /// The file of a SQLite database.
    pub fn path(&self) -> &str {
        self.url.strip_prefix("sqlite://").expect("a SQLite database")
    }

    /// The texts in the column `value` of a query's rows. For checks from outside the service.
    pub async fn values(&self, query: &str) -> Vec<Option<String>> {
        let sql = format!("SELECT CAST(value AS text) AS value FROM ({query}) AS result");
        match self.engine {
            Engine::Sqlite => sqlite_values(self.path(), &sql),
            Engine::Postgres => postgres_values(&self.url, &sql).await,
        }
    }

    /// The single number in the column `value` of a query's result.
    pub async fn number(&self, query: &str) -> i64 {
        let values = self.values(query).await;
        values[0].as_deref().expect("a number").parse().expect("a number")
    }

    /// Runs statements without a result.
    pub async fn execute(&self, sql: &str) {
        match self.engine {
            Engine::Sqlite => sqlite(self.path()).batch_execute(sql).expect("valid SQL"),
            Engine::Postgres => execute(&self.url, sql).await,
        }
    }
}

/// The name of a database that has its tables and no connections.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let name = format!("kith_test_template_{}", Uuid::new_v4().simple());
            execute(&server().url("postgres"), &format!("CREATE DATABASE {name}")).await;
            let url: DatabaseUrl = server().url(&name).parse().expect("a URL");
            store::migrate(&url, &Progress::default()).await.expect("a migration");
            unused(&name).await;
            name
        })
        .await
}

/// Waits until nobody is connected. Dropped connections end some time later.
async fn unused(name: &str) {
    let left = format!("SELECT count(*)::text AS value FROM pg_stat_activity WHERE datname = '{name}'");
    while postgres_values(&server().url("postgres"), &left).await[0].as_deref() != Some("0") {
        tokio::task::yield_now().await;
    }
}

/// A separate connection of the test.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    // Ends with the client.
    tokio::spawn(connection);
    client
}

pub async fn execute(url: &str, sql: &str) {
    connect(url).await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

pub async fn postgres_values(url: &str, sql: &str) -> Vec<Option<String>> {
    let rows = connect(url).await.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get("value")).collect()
}

/// A separate connection of the test.
pub fn sqlite(path: &str) -> SqliteConnection {
    let mut conn = SqliteConnection::establish(path).expect("a connection");
    conn.batch_execute("PRAGMA busy_timeout = 30000").expect("valid SQL");
    conn
}

#[expect(clippy::disallowed_methods, reason = "run once each")]
fn sqlite_values(path: &str, sql: &str) -> Vec<Option<String>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Nullable<Text>)]
        value: Option<String>,
    }
    let rows: Vec<Row> =
        diesel::sql_query(sql).load(&mut sqlite(path)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter().map(|row| row.value).collect()
}
