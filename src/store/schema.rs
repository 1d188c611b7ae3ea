//! The tables of both engines in Diesel's terms. `migrations/` has the SQL, with the reasons.

use chrono::{DateTime, Utc};
use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::{AppearsOnTable, AsExpression, Expression, SelectableExpression, ValidGrouping, is_aggregate};
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Bool, SqlType, Timestamptz};
use diesel::sqlite::{Sqlite, SqliteValue};

/// The SQL type of points in time: `timestamptz` on PostgreSQL, microseconds since 1970 on SQLite.
#[derive(Clone, Copy, Debug, SqlType, QueryId)]
#[diesel(postgres_type(oid = 1184, array_oid = 1185))]
#[diesel(sqlite_type(name = "Long"))]
pub struct Instant;

/// A stored point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Instant)]
pub(super) struct Stamp(pub(super) DateTime<Utc>);

impl ToSql<Instant, Pg> for Stamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<Timestamptz, Pg>::to_sql(&self.0, out)
    }
}

impl FromSql<Instant, Pg> for Stamp {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        FromSql::<Timestamptz, Pg>::from_sql(value).map(Self)
    }
}

impl ToSql<Instant, Sqlite> for Stamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.timestamp_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<Instant, Sqlite> for Stamp {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?;
        DateTime::from_timestamp_micros(micros).map(Self).ok_or_else(|| format!("{micros} is no time").into())
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    feed (id) {
        id -> BigInt,
        epoch -> Text,
        token_key -> Text,
        last_sequence -> BigInt,
        last_time -> Instant,
        last_assigned_user_id -> BigInt,
        users_changed -> BigInt,
        swept_id -> BigInt,
        last_batch_id -> BigInt,
        forgotten -> BigInt,
        forgetting -> BigInt,
        total_users -> BigInt,
        total_pending -> BigInt,
        total_silenced -> BigInt,
        total_rejected -> BigInt,
        total_connected -> BigInt,
        total_blocks -> BigInt,
        system_identifier -> Nullable<BigInt>,
        timeline -> Nullable<BigInt>,
    }
}

diesel::table! {
    epochs (number) {
        number -> BigInt,
        epoch -> Text,
        first_sequence -> BigInt,
        system_identifier -> Nullable<BigInt>,
        timeline -> Nullable<BigInt>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    users (id) {
        id -> BigInt,
        position -> BigInt,
        username -> Text,
        username_key -> Text,
        real_name -> Text,
        email -> Text,
        email_isvalid -> Bool,
        date_joined -> Instant,
        bio -> Text,
        location -> Text,
        birthday -> Text,
        description -> Text,
        gender -> Text,
        status -> Text,
        website -> Text,
        avatar -> Text,
        cover -> Text,
        changed -> BigInt,
        external_id -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    user_counts (user_id) {
        user_id -> BigInt,
        requests_sent -> BigInt,
        requests_received -> BigInt,
        requests_unviewed -> BigInt,
        connections -> BigInt,
        sends -> BigInt,
        sends_since -> Nullable<Instant>,
        last_visible -> BigInt,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    /// Does not declare `out_of_order`, which only the sweep uses: see [`IsInOrder`](super::IsInOrder).
    connection_requests (low_user_id, high_user_id) {
        low_user_id -> BigInt,
        high_user_id -> BigInt,
        id -> BigInt,
        from_user_id -> BigInt,
        to_user_id -> BigInt,
        state -> Text,
        position -> BigInt,
        message -> Text,
        created -> Instant,
        viewed -> Nullable<Instant>,
        rejected -> Nullable<Instant>,
        accepted -> Nullable<Instant>,
        reply -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    /// A view with two rows for each connection, one for each of its users.
    connections (user_id, other_user_id) {
        user_id -> BigInt,
        other_user_id -> BigInt,
        connection_request_id -> BigInt,
        connected -> Instant,
        position -> BigInt,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    blocks (user_id, other_user_id) {
        user_id -> BigInt,
        other_user_id -> BigInt,
        created -> Instant,
        position -> BigInt,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    cooldowns (from_user_id, to_user_id) {
        from_user_id -> BigInt,
        to_user_id -> BigInt,
        since -> Instant,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    ended_requests (from_user_id, to_user_id) {
        from_user_id -> BigInt,
        to_user_id -> BigInt,
        since -> Instant,
        requests -> BigInt,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    /// Does not declare `stretch`, which only the indexes need: see [`feed`](crate::store::feed).
    events (sequence) {
        sequence -> BigInt,
        time -> Instant,
        batch_id -> BigInt,
        kind -> Text,
        cause -> Nullable<Text>,
        actor -> Text,
        actor_user_id -> Nullable<BigInt>,
        user_id -> BigInt,
        other_user_id -> Nullable<BigInt>,
        request_id -> Nullable<BigInt>,
        silenced -> Bool,
        principal -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::*;
    use super::Instant;

    request_ids (caller, id) {
        caller -> Text,
        id -> Text,
        fingerprint -> Binary,
        response -> Binary,
        created -> Instant,
        without_profiles -> Binary,
        actor_user_id -> Nullable<BigInt>,
        user_id -> Nullable<BigInt>,
        other_user_id -> Nullable<BigInt>,
    }
}

diesel::joinable!(user_counts -> users (user_id));
diesel::allow_tables_to_appear_in_same_query!(users, user_counts);
diesel::allow_tables_to_appear_in_same_query!(connections, connection_requests);
diesel::allow_tables_to_appear_in_same_query!(feed, connection_requests);

/// Declares a condition on `connection_requests` with the literal text of a partial index.
///
/// A bound value would not match the index. `diesel::dsl::sql` would, but is prepared again at every call.
macro_rules! condition {
    ($(#[$doc:meta])* $name:ident, $sql:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, QueryId)]
        pub(super) struct $name;

        impl Expression for $name {
            type SqlType = Bool;
        }

        impl<DB: Backend> QueryFragment<DB> for $name {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> diesel::QueryResult<()> {
                out.push_sql($sql);
                Ok(())
            }
        }

        impl<Group> ValidGrouping<Group> for $name {
            type IsAggregate = is_aggregate::No;
        }

        impl AppearsOnTable<connection_requests::table> for $name {}
        impl SelectableExpression<connection_requests::table> for $name {}
    };
}

condition! {
    /// The request is pending, silenced or rejected: its sender sees it as pending.
    IsOpen, "connection_requests.state IN ('PENDING', 'SILENCED', 'REJECTED')"
}
condition! {
    /// No request with a larger id expires before this one.
    IsInOrder, "NOT connection_requests.out_of_order"
}
condition! {
    /// A request with a larger id may expire before this one.
    IsOutOfOrder, "connection_requests.out_of_order"
}
condition! {
    /// The request was accepted.
    IsConnected, "connection_requests.state = 'CONNECTED'"
}
