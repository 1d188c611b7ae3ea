//! Statements of fixed text, for what Diesel's query language cannot say: arrays as tables, and writes that stay
//! prepared.
//!
//! `diesel::sql_query` is parsed anew at every call, and so are Diesel's updates and upserts. A [`Statement`] is
//! kept prepared by its text, which must therefore never depend on values.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::connection::Connection;
use diesel::expression::AsExpression;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::SqlType;

/// A text in which each `?` stands for the next of its parts: a value, or columns. `Row` is the SQL type of what it
/// answers.
pub(super) struct Statement<'a, DB, Row = ()> {
    text: Cow<'static, str>,
    parts: Vec<Box<dyn QueryFragment<DB> + Send + 'a>>,
    row: PhantomData<fn() -> Row>,
}

impl<'a, DB: Backend, Row> Statement<'a, DB, Row> {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), parts: Vec::new(), row: PhantomData }
    }

    /// A change, and others that name its rows as `moved`, as one statement: where it changes no row, neither do they.
    /// All of them see the rows as they were before any of them.
    pub(super) fn followed_by(self, others: Vec<Self>) -> Self {
        let (mut text, mut parts) = (format!("WITH moved AS ({})", self.text), self.parts);
        for (number, other) in others.into_iter().enumerate() {
            text.push_str(&format!(", other_{number} AS ({})", other.text));
            parts.extend(other.parts);
        }
        text.push_str(" SELECT FROM moved");
        Self { text: Cow::Owned(text), parts, row: PhantomData }
    }

    /// Goes on with more text.
    pub(super) fn then(mut self, text: &'static str) -> Self {
        self.text.to_mut().push_str(text);
        self
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

impl<DB: Backend, Row> QueryFragment<DB> for Statement<'_, DB, Row> {
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

impl<DB, Row> QueryId for Statement<'_, DB, Row> {
    // Not told apart by type: the text is what the statement is kept under.
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<DB: Backend, Row> Query for Statement<'_, DB, Row> {
    type SqlType = Row;
}

impl<DB, Row, Conn: Connection<Backend = DB>> diesel::RunQueryDsl<Conn> for Statement<'_, DB, Row> where DB: Backend {}
