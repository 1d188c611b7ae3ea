//! Statements with a fixed text, for what Diesel's query language cannot express: arrays as tables, and writes that
//! stay prepared.
//!
//! Diesel plans `diesel::sql_query`, its updates and its upserts anew at every call. A [`Statement`] stays prepared, so
//! its text must never depend on values.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::connection::Connection;
use diesel::expression::AsExpression;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::SqlType;

/// A text in which each `?` stands for the next of its parts: a value, or columns. `Row` is the SQL type of its rows,
/// `Key` what the prepared statement is cached under.
pub(super) struct Statement<'a, DB, Row = (), Key = ByText> {
    text: Cow<'static, str>,
    parts: Vec<Box<dyn QueryFragment<DB> + Send + 'a>>,
    row: PhantomData<fn() -> (Row, Key)>,
}

/// What a prepared statement is cached under.
pub(super) trait CacheKey: 'static {
    /// Whether the type alone identifies the text.
    const IS_FIXED: bool;
}

/// Caches a statement under its text, which is put together at each use.
pub(super) enum ByText {}

impl CacheKey for ByText {
    const IS_FIXED: bool = false;
}

/// A [`Statement`] that is cached under the place in the code where it is made: its text is put together once for each
/// connection. For statements that run for every row.
macro_rules! statement {
    ($text:expr) => {{
        enum Here {}
        impl $crate::store::statement::CacheKey for Here {
            const IS_FIXED: bool = true;
        }
        $crate::store::statement::Statement::<_, _, Here>::with_key($text)
    }};
}
pub(super) use statement;

impl<DB: Backend, Row> Statement<'_, DB, Row> {
    pub(super) fn new(text: &'static str) -> Self {
        Self::with_key(text)
    }

    /// A change, and others that use its rows as `moved`, as one statement: if it changes no row, neither do they. All
    /// of them see the rows as they were before any of them.
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
    /// See [`statement!`].
    pub(super) fn with_key(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), parts: Vec::new(), row: PhantomData }
    }

    /// A value of the SQL type `ST` for the next `?`.
    pub(super) fn bind<ST, T>(self, value: T) -> Self
    where
        ST: SqlType + diesel::expression::TypedExpressionType,
        T: AsExpression<ST>,
        T::Expression: QueryFragment<DB> + Send + 'a,
    {
        self.part(value.as_expression())
    }

    /// Anything that Diesel can write, such as a table's columns, for the next `?`. Its text must be fixed too.
    pub(super) fn part(mut self, part: impl QueryFragment<DB> + Send + 'a) -> Self {
        self.parts.push(Box::new(part));
        self
    }
}

impl<DB: Backend, Row, Key> QueryFragment<DB> for Statement<'_, DB, Row, Key> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let mut parts = self.parts.iter();
        for (place, piece) in self.text.split('?').enumerate() {
            if place > 0
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
