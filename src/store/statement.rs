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
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::SqlType;

/// An SQL text in which each `?` stands for the next part: a value, or columns.
///
/// `Row` is the SQL type of the returned rows. `Key` identifies the prepared statement in the cache.
pub(super) struct Statement<'a, DB, Row = (), Key = ByText> {
    text: Cow<'static, str>,
    parts: Vec<Box<dyn QueryFragment<DB> + Send + 'a>>,
    row: PhantomData<fn() -> (Row, Key)>,
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

impl<DB: Backend, Row> Statement<'_, DB, Row> {
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

impl<'a, DB: Backend, Row, Key> Statement<'a, DB, Row, Key> {
    /// Creates a statement with the cache key `Key`: see [`statement!`].
    pub(super) fn with_key(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), parts: Vec::new(), row: PhantomData }
    }

    /// Adds a value of the SQL type `ST` for the next `?`.
    pub(super) fn bind<ST, T>(self, value: T) -> Self
    where
        ST: SqlType + diesel::expression::TypedExpressionType,
        T: AsExpression<ST>,
        T::Expression: QueryFragment<DB> + Send + 'a,
    {
        self.part(value.as_expression())
    }

    /// Adds any Diesel fragment for the next `?`, such as the columns of a table.
    ///
    /// Its text must be fixed too.
    pub(super) fn part(mut self, part: impl QueryFragment<DB> + Send + 'a) -> Self {
        self.parts.push(Box::new(part));
        self
    }
}

impl<DB: Backend, Row, Key> QueryFragment<DB> for Statement<'_, DB, Row, Key> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let mut parts = self.parts.iter();
        for (index, piece) in self.text.split('?').enumerate() {
            if index > 0
                && let Some(part) = parts.next()
            {
                part.walk_ast(out.reborrow())?;
            }
            out.push_sql(piece);
        }
        Ok(())
    }
}

impl<DB, Row, Key: CacheKey> QueryId for Statement<'_, DB, Row, Key> {
    type QueryId = Key;
    const HAS_STATIC_QUERY_ID: bool = Key::IS_FIXED;
}

impl<DB: Backend, Row, Key> Query for Statement<'_, DB, Row, Key> {
    type SqlType = Row;
}

impl<DB, Row, Key, Conn> diesel::RunQueryDsl<Conn> for Statement<'_, DB, Row, Key>
where
    DB: Backend,
    Conn: Connection<Backend = DB>,
{
}
