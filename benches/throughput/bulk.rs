//! Lets an empty database take millions of rows at once, and leaves its tables as the migrations made them.

use super::Result;
use super::database::Database;

/// All indexes of the tables that the seed fills, with the constraints that rest on them.
const INDEXES: &str = "pg_index AS made
    LEFT JOIN pg_constraint AS rule ON rule.conindid = made.indexrelid AND rule.contype IN ('p', 'u')
    WHERE made.indrelid IN ('users'::regclass, 'user_counts'::regclass, 'connection_requests'::regclass,
                            'blocks'::regclass, 'events'::regclass)";
const DROP: &str = "CASE WHEN rule.oid IS NULL THEN format('DROP INDEX %s', made.indexrelid::regclass)
    ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', made.indrelid::regclass, rule.conname) END";
const MAKE: &str = "pg_get_indexdef(made.indexrelid) || CASE WHEN rule.oid IS NULL THEN ''
    ELSE format('; ALTER TABLE %s ADD CONSTRAINT %I %s USING INDEX %I', made.indrelid::regclass, rule.conname,
                CASE rule.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, rule.conname) END";

/// What is to be put back when the rows are there.
pub struct Bulk {
    indexes: String,
}

impl Bulk {
    /// Prepares a database to which nobody else is connected.
    ///
    /// PostgreSQL goes without indexes: made from rows that are there, they cost a sort, and not a page of the log
    /// for nearly every row, as they do once they are larger than the memory for them.
    ///
    /// SQLite keeps its indexes, as it would fill every page of a new one. The first rows that a large database took
    /// afterwards would split one page after the other, and look dear because of that. What is slow there is to find
    /// pages that did not fit into the cache in a log of gigabytes: it goes without the log, and has a large cache.
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

    /// Puts everything back; fails if it is not what it was. What is set for the connection stays until that ends.
    pub async fn end(self, database: &mut Database) -> Result<()> {
        if let Database::Sqlite(_) = database {
            return database.execute("PRAGMA journal_mode = WAL").await;
        }
        database.execute(&self.indexes).await?;
        let indexes = statements(database, MAKE).await?;
        if indexes == self.indexes { Ok(()) } else { Err(format!("these are not the indexes: {indexes}").into()) }
    }
}

/// One statement for each index, in the order in which the migrations made them: the planner prefers earlier ones.
async fn statements(database: &mut Database, each: &str) -> Result<String> {
    database.text(&format!("(SELECT string_agg({each}, ';\n' ORDER BY made.indexrelid) FROM {INDEXES})")).await
}
