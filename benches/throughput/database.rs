//! The database as the seed needs it, the same for both engines: runs SQL, and stores many rows fast.

use std::fmt::Write as _;
use std::path::Path;

use chrono::DateTime;
use diesel::connection::SimpleConnection;
use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection as _, RunQueryDsl, SqliteConnection};
use futures_util::SinkExt;
use prost::bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::Result;

/// A connection to a database.
pub enum Database {
    Postgres(Client, JoinHandle<()>),
    Sqlite(Box<SqliteConnection>),
}

/// One value of a row.
pub enum Cell {
    Int(i64),
    Text(String),
    Word(&'static str),
    /// Microseconds since 1970.
    Time(i64),
    Null,
}

const CHUNK: usize = 1 << 20;
/// Rows of one INSERT. More rows are not parsed faster.
const ROWS: usize = 500;

impl Database {
    pub async fn postgres(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        Ok(Self::Postgres(client, tokio::spawn(async move { _ = connection.await })))
    }

    pub fn sqlite(path: &Path) -> Result<Self> {
        let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
        conn.batch_execute("PRAGMA busy_timeout = 60000; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144;")?;
        Ok(Self::Sqlite(Box::new(conn)))
    }

    /// Returns when the connection is closed: a database can only be copied without connections.
    pub async fn close(self) -> Result<()> {
        if let Self::Postgres(client, connection) = self {
            drop(client);
            connection.await?;
        }
        Ok(())
    }

    pub async fn execute(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Postgres(client, _) => client.batch_execute(text).await?,
            Self::Sqlite(conn) => conn.batch_execute(text)?,
        }
        Ok(())
    }

    /// Begins a transaction during which nobody else writes, not even a Kith server.
    pub async fn begin_alone(&mut self) -> Result<()> {
        match self {
            Self::Postgres(..) => self.execute("BEGIN; SELECT 1 FROM feed FOR UPDATE").await,
            Self::Sqlite(_) => self.execute("BEGIN IMMEDIATE").await,
        }
    }

    /// Returns the number that an SQL expression yields.
    pub async fn number(&mut self, expression: &str) -> Result<i64> {
        match self {
            Self::Postgres(client, _) => {
                Ok(client.query_one(&format!("SELECT ({expression})::bigint"), &[]).await?.get(0))
            }
            Self::Sqlite(conn) => Ok(diesel::select(sql::<BigInt>(expression)).get_result(&mut **conn)?),
        }
    }

    /// Returns the text that an SQL expression yields.
    pub async fn text(&mut self, expression: &str) -> Result<String> {
        match self {
            Self::Postgres(client, _) => {
                Ok(client.query_one(&format!("SELECT ({expression})::text"), &[]).await?.try_get(0)?)
            }
            Self::Sqlite(conn) => Ok(diesel::select(sql::<Text>(expression)).get_result(&mut **conn)?),
        }
    }

    /// The engine and its version.
    pub async fn version(&mut self) -> Result<String> {
        match self {
            Self::Postgres(..) => Ok(format!("PostgreSQL {}", self.text("current_setting('server_version')").await?)),
            Self::Sqlite(_) => Ok(format!("SQLite {}", self.text("sqlite_version()").await?)),
        }
    }

    /// Formats a time for this engine's SQL.
    pub fn time(&self, micros: i64) -> String {
        match self {
            Self::Postgres(..) => format!("'{}'", moment(micros)),
            Self::Sqlite(_) => micros.to_string(),
        }
    }

    /// Whether a table has a column that can be written: the tables are those of the commit that the binary is from.
    pub async fn has_column(&mut self, table: &str, column: &str) -> Result<bool> {
        let columns = match self {
            Self::Postgres(..) => format!(
                "information_schema.columns WHERE table_name = '{table}' AND is_generated = 'NEVER' AND column_name"
            ),
            Self::Sqlite(_) => format!("pragma_table_info('{table}') WHERE name"),
        };
        Ok(self.number(&format!("(SELECT count(*) FROM {columns} = '{column}')")).await? > 0)
    }

    /// Stores rows in the columns that `table` names: `users (id, position, …)`.
    pub async fn insert(&mut self, table: &str, rows: impl Iterator<Item: AsRef<[Cell]>>) -> Result<()> {
        match self {
            Self::Postgres(client, _) => copy(client, table, rows).await,
            Self::Sqlite(conn) => insert(conn, table, rows),
        }
    }
}

async fn copy(client: &Client, table: &str, rows: impl Iterator<Item: AsRef<[Cell]>>) -> Result<()> {
    let sink = client.copy_in(&format!("COPY {table} FROM STDIN")).await?;
    let mut sink = std::pin::pin!(sink);
    let mut text = String::with_capacity(CHUNK + 4_096);
    for row in rows {
        for (number, cell) in row.as_ref().iter().enumerate() {
            text.push_str(if number == 0 { "" } else { "\t" });
            match cell {
                Cell::Int(value) => write!(text, "{value}")?,
                Cell::Text(value) => text.push_str(value),
                Cell::Word(value) => text.push_str(value),
                Cell::Time(micros) => write!(text, "{}", moment(*micros))?,
                Cell::Null => text.push_str("\\N"),
            }
        }
        text.push('\n');
        if text.len() > CHUNK {
            sink.send(Bytes::from(std::mem::take(&mut text))).await?;
        }
    }
    sink.send(Bytes::from(text)).await?;
    sink.finish().await?;
    Ok(())
}

fn insert(conn: &mut SqliteConnection, table: &str, rows: impl Iterator<Item: AsRef<[Cell]>>) -> Result<()> {
    let mut rows = rows.peekable();
    let mut text = String::new();
    while rows.peek().is_some() {
        text.clear();
        write!(text, "INSERT INTO {table} VALUES ")?;
        for (number, row) in rows.by_ref().take(ROWS).enumerate() {
            text.push_str(if number == 0 { "" } else { "," });
            for (number, cell) in row.as_ref().iter().enumerate() {
                text.push(if number == 0 { '(' } else { ',' });
                match cell {
                    Cell::Int(value) | Cell::Time(value) => write!(text, "{value}")?,
                    Cell::Text(value) => write!(text, "'{value}'")?,
                    Cell::Word(value) => write!(text, "'{value}'")?,
                    Cell::Null => text.push_str("NULL"),
                }
            }
            text.push(')');
        }
        conn.batch_execute(&text)?;
    }
    Ok(())
}

fn moment(micros: i64) -> String {
    let moment = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    moment.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}
