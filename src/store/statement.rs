//! Statements with a fixed SQL text, for what Diesel's query language cannot express.
//!
//! That is arrays as tables, and writes that stay prepared: Diesel prepares `diesel::sql_query`, updates and upserts
//! again at every call. A [`Statement`] stays prepared, so its text must never depend on values.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::connection::Connection;
use diesel::expression::AsExpression;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::Error;
use diesel::sql_types::SqlType;
use diesel::sqlite::Sqlite;

/// An SQL text in which each `?` stands for the next part: a value, or columns. With more or fewer parts it fails.
///
/// `Part` is a trait object, which decides on which engines the statement runs. `Row` is the SQL type of the returned
/// rows. `Key` identifies the prepared statement in the cache.
pub(super) struct Statement<Part: ?Sized, Row = (), Key = ByText> {
    text: Cow<'static, str>,
    parts: Vec<Box<Part>>,
    row: PhantomData<fn() -> (Row, Key)>,
}

/// A statement for PostgreSQL.
pub(super) type PgStatement<'a, Row = (), Key = ByText> = Statement<dyn QueryFragment<Pg> + Send + 'a, Row, Key>;
/// A statement for SQLite.
pub(super) type SqliteStatement<'a, Row = (), Key = ByText> =
    Statement<dyn QueryFragment<Sqlite> + Send + 'a, Row, Key>;
/// A statement that both engines run.
pub(super) type SharedStatement<Row = (), Key = ByText> = Statement<dyn SharedFragment + Send, Row, Key>;

/// A part of a statement that both engines run.
pub(super) trait SharedFragment: QueryFragment<Pg> + QueryFragment<Sqlite> {}

impl<T: QueryFragment<Pg> + QueryFragment<Sqlite>> SharedFragment for T {}

/// A fragment that can be a part of statements with this `Part`.
pub(super) trait IntoPart<Part: ?Sized> {
    fn boxed(self) -> Box<Part>;
}

impl<'a, T: QueryFragment<Pg> + Send + 'a> IntoPart<dyn QueryFragment<Pg> + Send + 'a> for T {
    fn boxed(self) -> Box<dyn QueryFragment<Pg> + Send + 'a> {
        Box::new(self)
    }
}

impl<'a, T: QueryFragment<Sqlite> + Send + 'a> IntoPart<dyn QueryFragment<Sqlite> + Send + 'a> for T {
    fn boxed(self) -> Box<dyn QueryFragment<Sqlite> + Send + 'a> {
        Box::new(self)
    }
}

impl<T: SharedFragment + Send + 'static> IntoPart<dyn SharedFragment + Send> for T {
    fn boxed(self) -> Box<dyn SharedFragment + Send> {
        Box::new(self)
    }
}

/// The cache key of a prepared statement.
pub(super) trait CacheKey: 'static {
    /// Whether the type alone identifies the text.
    const IS_FIXED: bool;
}

/// Uses the statement's text as the key. The text is composed at each use.
pub(super) enum ByText {}

impl CacheKey for ByText {
    const IS_FIXED: bool = false;
}

/// A [`Statement`] that uses its position in the source code as the cache key.
///
/// Its text is composed once per connection. For statements that run for every row.
macro_rules! statement {
    ($text:expr) => {{
        enum Site {}
        impl $crate::store::statement::CacheKey for Site {
            const IS_FIXED: bool = true;
        }
        $crate::store::statement::Statement::<_, _, Site>::with_key($text)
    }};
}
pub(super) use statement;

impl<Part: ?Sized, Row> Statement<Part, Row> {
    pub(super) fn new(text: &'static str) -> Self {
        Self::with_key(text)
    }

    /// Combines this change with others that join its rows as `moved`.
    ///
    /// If this one changes no row, neither do the others. All of them read the rows as they were before the statement.
    pub(super) fn followed_by(self, others: Vec<Self>) -> Self {
        let Self { text, mut parts, row } = self;
        let mut text = format!("WITH moved AS ({text})");
        for (number, other) in others.into_iter().enumerate() {
            text.push_str(&format!(", other_{number} AS ({})", other.text));
            parts.extend(other.parts);
        }
        text.push_str(" SELECT FROM moved");
        Self { text: Cow::Owned(text), parts, row }
    }
}

impl<Part: ?Sized, Row, Key> Statement<Part, Row, Key> {
    /// Creates a statement with the cache key `Key`: see [`statement!`].
    pub(super) fn with_key(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), parts: Vec::new(), row: PhantomData }
    }

    /// Adds a value of the SQL type `ST` for the next `?`.
    pub(super) fn bind<ST, T>(self, value: T) -> Self
    where
        ST: SqlType + diesel::expression::TypedExpressionType,
        T: AsExpression<ST>,
        T::Expression: IntoPart<Part>,
    {
        self.part(value.as_expression())
    }

    /// Adds any Diesel fragment for the next `?`, such as the columns of a table.
    ///
    /// Its text must be fixed too.
    pub(super) fn part(mut self, part: impl IntoPart<Part>) -> Self {
        self.parts.push(part.boxed());
        self
    }
}

impl<DB: Backend, Part: QueryFragment<DB> + ?Sized, Row, Key> QueryFragment<DB> for Statement<Part, Row, Key> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let wrong = || Error::QueryBuilderError("a statement has another number of parts than its text".into());
        let mut parts = self.parts.iter();
        for (index, piece) in self.text.split('?').enumerate() {
            if index > 0 {
                parts.next().ok_or_else(wrong)?.walk_ast(out.reborrow())?;
            }
            out.push_sql(piece);
        }
        if parts.next().is_none() { Ok(()) } else { Err(wrong()) }
    }
}

impl<Part: ?Sized, Row, Key: CacheKey> QueryId for Statement<Part, Row, Key> {
    type QueryId = Key;
    const HAS_STATIC_QUERY_ID: bool = Key::IS_FIXED;
}

impl<Part: ?Sized, Row, Key> Query for Statement<Part, Row, Key> {
    type SqlType = Row;
}

impl<Part: ?Sized, Row, Key, Conn: Connection> diesel::RunQueryDsl<Conn> for Statement<Part, Row, Key> {}

#[cfg(test)]
mod tests {
    use diesel::prelude::*;
    use diesel::sql_types::BigInt;

    use super::*;

    #[test]
    fn a_statement_with_another_number_of_parts_fails() {
        let mut conn = SqliteConnection::establish(":memory:").unwrap();
        for (parts, is_complete) in [(1, false), (2, true), (3, false)] {
            let sum = SqliteStatement::<BigInt>::new("SELECT ? + ?");
            let sum = (0..parts).fold(sum, |sum, part| sum.bind::<BigInt, _>(part));
            let result: QueryResult<i64> = sum.get_result(&mut conn);
            assert_eq!(result.is_ok(), is_complete, "{parts} parts: {result:?}");
        }
    }
}
