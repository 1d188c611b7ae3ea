//! Prepares an empty database for millions of rows, and restores its tables as the migrations created them.

use super::Result;
use super::database::Database;

/// All indexes of the tables that the seed fills, with the constraints that depend on them.
const INDEXES: &str = "pg_index AS made
    LEFT JOIN pg_constraint AS rule ON rule.conindid = made.indexrelid AND rule.contype IN ('p', 'u')
    WHERE made.indrelid IN ('users'::regclass, 'user_counts'::regclass, 'connection_requests'::regclass,
                            'blocks'::regclass, 'events'::regclass)";
const DROP: &str = "CASE WHEN rule.oid IS NULL THEN format('DROP INDEX %s', made.indexrelid::regclass)
    ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', made.indrelid::regclass, rule.conname) END";
const MAKE: &str = "pg_get_indexdef(made.indexrelid) || CASE WHEN rule.oid IS NULL THEN ''
    ELSE format('; ALTER TABLE %s ADD CONSTRAINT %I %s USING INDEX %I', made.indrelid::regclass, rule.conname,
                CASE rule.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, rule.conname) END";

/// What must be restored after the rows are stored.
pub struct Bulk {
    indexes: String,
}

impl Bulk {
    /// Prepares a database that has no other connections.
    ///
    /// PostgreSQL drops its indexes: creating one over existing rows is a sort. Inserting into one that is larger than
    /// the buffers writes a page to the log for almost every row.
    ///
    /// SQLite retains its indexes, because it fills every page of a new one completely. The first rows written to a
    /// large database would then split one page after the other and seem expensive. With indexes, the slow part is
    /// reading pages back from a log of gigabytes, so it runs without the log and with a large cache.
    pub async fn begin(database: &mut Database) -> Result<Self> {
        if let Database::Sqlite(_) = database {
            database.execute("PRAGMA journal_mode = OFF; PRAGMA cache_size = -4194304").await?;
            return Ok(Self { indexes: String::new() });
        }
        let indexes = statements(database, MAKE).await?;
        let drop = statements(database, DROP).await?;
        database.execute(&format!("SET maintenance_work_mem = '1GB'; {drop}")).await?;
        Ok(Self { indexes })
    }

    /// Restores everything, or fails if the result differs. Settings of the connection remain until it is closed.
    pub async fn end(self, database: &mut Database) -> Result<()> {
        if let Database::Sqlite(_) = database {
            return database.execute("PRAGMA journal_mode = WAL").await;
        }
        database.execute(&self.indexes).await?;
        let indexes = statements(database, MAKE).await?;
        if indexes == self.indexes { Ok(()) } else { Err(format!("these are not the indexes: {indexes}").into()) }
    }
}

/// One statement for each index, in the order of the migrations: the planner prefers earlier ones.
async fn statements(database: &mut Database, each: &str) -> Result<String> {
    database.text(&format!("(SELECT string_agg({each}, ';\n' ORDER BY made.indexrelid) FROM {INDEXES})")).await
}
