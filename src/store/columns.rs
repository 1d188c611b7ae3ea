//! The values that the engines write, column by column, once for both.
//!
//! SQLite binds the values of one row, PostgreSQL an array of each column. Rows are destructured by name, so that a new
//! field stops the compiler here.

use diesel::internal::derives::as_expression::Bound;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};

use super::clock::TOLERANCE;
use super::row::{actor_columns, gender_name, user_status_name};
use super::schema::{Instant, Stamp};
use super::statement::{IntoPart, PgStatement, SqliteStatement, Statement};
use super::{SWEEP_LIMIT, feed};
use crate::domain::Time;
use crate::domain::command::{EncodedResponse, IdempotencyKey, IdempotentResponse};
use crate::domain::counts::Counts;
use crate::domain::event::{Cause, Event, PrincipalKind};
use crate::domain::id::{PairKey, RequestId, Sequence, UserId};
use crate::domain::ledger::CountsChange;
use crate::domain::pair::{Block, Ended, Request};
use crate::domain::text::{ExternalId, Username};
use crate::domain::user::User;

/// Columns that a statement takes, in its order.
pub(super) trait Columns {
    /// The value that has the columns of one row.
    type Row: 'static;

    /// Binds the columns of one row.
    fn one<'a, Key>(write: SqliteStatement<'a, (), Key>, row: &'a Self::Row) -> SqliteStatement<'a, (), Key>;

    /// Binds each column of these rows as an array.
    fn all<'a>(write: PgStatement<'a>, rows: impl Iterator<Item = &'a Self::Row> + Clone) -> PgStatement<'a>;
}

/// Declares columns: the type of their rows, its pattern, and the SQL type and the value of each.
macro_rules! columns {
    ($($(#[$doc:meta])* $name:ident: $type:ty as $row:pat => { $($sql:ty: $value:expr),+ $(,)? })+) => {$(
        $(#[$doc])*
        pub(super) enum $name {}

        impl Columns for $name {
            type Row = $type;

            fn one<'a, Key>(
                write: SqliteStatement<'a, (), Key>,
                $row: &'a Self::Row,
            ) -> SqliteStatement<'a, (), Key> {
                write$(.bind::<$sql, _>($value))+
            }

            #[allow(unused_variables, reason = "a column uses some of the row's fields")]
            fn all<'a>(write: PgStatement<'a>, rows: impl Iterator<Item = &'a Self::Row> + Clone) -> PgStatement<'a> {
                write$(.bind::<Array<$sql>, _>(rows.clone().map(|$row: &'a Self::Row| $value).collect::<Vec<_>>()))+
            }
        }
    )+};
}

columns! {
    /// A user's key.
    UserKey: UserId as id => { BigInt: id.get() }

    /// All columns of a user but its position.
    Profile: User as User {
        id, username, real_name, email, email_isvalid, date_joined, bio, location, birthday, description, gender,
        status, website, avatar, cover, external_id, changed,
    } => {
        Text: username.as_str(),
        Text: username_key(username, *id),
        Text: real_name.as_str(),
        Text: email.as_str(),
        Bool: *email_isvalid,
        Instant: Stamp(*date_joined),
        Text: bio.as_str(),
        Text: location.as_str(),
        Text: birthday.as_str(),
        Text: description.as_str(),
        Text: gender_name(*gender),
        Text: user_status_name(*status),
        Text: website.as_str(),
        Text: avatar.as_str(),
        Text: cover.as_str(),
        Nullable<Text>: external_id.as_ref().map(ExternalId::as_str),
        BigInt: changed.get(),
        BigInt: id.get(),
    }

    /// A request's id.
    RequestKey: RequestId as id => { BigInt: id.get() }

    /// The key of a request's row.
    Pair: PairKey as key => { BigInt: key.low().get(), BigInt: key.high().get() }

    /// All columns of a request.
    NewRequest: Request as Request {
        id, from, to, state, position, message, created, viewed, rejected, accepted, reply,
    } => {
        BigInt: id.get(),
        BigInt: from.get(),
        BigInt: to.get(),
        Text: state.name(),
        BigInt: position.get(),
        Text: message.as_str(),
        Instant: Stamp(*created),
        Nullable<Instant>: viewed.map(Stamp),
        Nullable<Instant>: rejected.map(Stamp),
        Nullable<Instant>: accepted.map(Stamp),
        Text: reply.as_str(),
        BigInt: (*from).min(*to).get(),
        BigInt: (*from).max(*to).get(),
    }

    /// The columns that a receiver may change, and the id.
    Answer: Request as Request {
        id, state, position, viewed, rejected, accepted, reply, from: _, to: _, message: _, created: _,
    } => {
        Text: state.name(),
        BigInt: position.get(),
        Nullable<Instant>: viewed.map(Stamp),
        Nullable<Instant>: rejected.map(Stamp),
        Nullable<Instant>: accepted.map(Stamp),
        Text: reply.as_str(),
        BigInt: id.get(),
    }

    /// The time of the first view, and the id.
    View: Request as request => { Nullable<Instant>: request.viewed.map(Stamp), BigInt: request.id.get() }

    /// The key of a row of one user about another.
    Directed: (UserId, UserId) as (user, other) => { BigInt: user.get(), BigInt: other.get() }

    /// A block.
    NewBlock: (UserId, UserId, Block) as (user, other, Block { created, position }) => {
        BigInt: user.get(),
        BigInt: other.get(),
        Instant: Stamp(*created),
        BigInt: position.get(),
    }

    /// A cooldown.
    NewCooldown: (UserId, UserId, Time) as (from, to, since) => {
        BigInt: from.get(),
        BigInt: to.get(),
        Instant: Stamp(*since),
    }

    /// A number of ended requests.
    NewEnded: (UserId, UserId, Ended) as (from, to, Ended { since, count }) => {
        BigInt: from.get(),
        BigInt: to.get(),
        Instant: Stamp(*since),
        BigInt: *count,
    }

    /// A change of a user's counts, and the user.
    CountsChanged: CountsChange as CountsChange {
        user, change: Counts { requests_sent, requests_received, requests_unviewed, connections }, sends, last_visible,
    } => {
        BigInt: *requests_sent,
        BigInt: *requests_received,
        BigInt: *requests_unviewed,
        BigInt: *connections,
        Nullable<BigInt>: sends.map(|sends| sends.count),
        Nullable<Instant>: sends.and_then(|sends| sends.since).map(Stamp),
        Nullable<BigInt>: last_visible.map(Sequence::get),
        BigInt: user.get(),
    }

    /// All columns of an event but its batch.
    NewEvent: Event as Event {
        sequence, time, kind, cause, actor, user, other, request, silenced, principal,
    } => {
        BigInt: sequence.get(),
        BigInt: feed::stretch(*sequence),
        Instant: Stamp(*time),
        Text: kind.name(),
        Nullable<Text>: cause.map(Cause::name),
        Text: actor_columns(*actor).0,
        Nullable<BigInt>: actor_columns(*actor).1,
        BigInt: user.get(),
        Nullable<BigInt>: other.map(UserId::get),
        Nullable<BigInt>: request.map(RequestId::get),
        Bool: *silenced,
        Nullable<Text>: principal.map(PrincipalKind::name),
    }

    /// A stored response.
    NewResponse: IdempotentResponse as IdempotentResponse {
        key: IdempotencyKey { caller, id },
        fingerprint,
        encoded: EncodedResponse { response, without_profiles },
        created,
        actor,
        users: (user, other),
    } => {
        Text: caller.as_str(),
        Text: id.to_string(),
        Binary: fingerprint.as_slice(),
        Binary: response.as_slice(),
        Binary: without_profiles.as_slice(),
        Instant: Stamp(*created),
        Nullable<BigInt>: actor.map(UserId::get),
        Nullable<BigInt>: user.map(UserId::get),
        Nullable<BigInt>: other.map(UserId::get),
    }
}

/// Returns the stored key of a username: for a user without one, a slash and their id, which is no key of a name.
///
/// Servers of earlier versions need a key for every user.
pub(super) fn username_key(username: &Username, id: UserId) -> String {
    username.key().unwrap_or_else(|| format!("/{id}"))
}

/// Deletes the oldest rows of a table, up to the limit of one sweep.
macro_rules! delete_oldest {
    ($table:literal, $key:literal, $time:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE (",
            $key,
            ") IN (SELECT ",
            $key,
            " FROM ",
            $table,
            " \
             WHERE ",
            $time,
            " <= ? ORDER BY ",
            $time,
            " LIMIT ?)"
        )
    };
}

/// Returns the deletions of the rows whose time is over: cooldowns and numbers of ended requests that began at `cooled`
/// or before, and responses that were stored at `responses` or before.
pub(super) fn delete_over<Part: ?Sized>(
    cooled: Option<Time>,
    responses: Option<Time>,
) -> impl Iterator<Item = Statement<Part>>
where
    Bound<Instant, Stamp>: IntoPart<Part>,
    Bound<BigInt, i64>: IntoPart<Part>,
{
    let deletions = [
        (delete_oldest!("cooldowns", "from_user_id, to_user_id", "since"), cooled),
        (delete_oldest!("ended_requests", "from_user_id, to_user_id", "since"), cooled),
        (delete_oldest!("request_ids", "caller, id", "created"), responses),
    ];
    deletions.into_iter().filter_map(|(text, until)| {
        let until = Stamp(until?);
        Some(Statement::new(text).bind::<Instant, _>(until).bind::<BigInt, _>(SWEEP_LIMIT))
    })
}

/// Returns the updates that let cooldowns and numbers of ended requests begin at `now` that begin well after it.
pub(super) fn begin_now<Part: ?Sized>(now: Option<Time>) -> impl Iterator<Item = Statement<Part>>
where
    Bound<Instant, Stamp>: IntoPart<Part>,
    Bound<BigInt, i64>: IntoPart<Part>,
{
    let texts = [
        "UPDATE cooldowns SET since = ? WHERE (from_user_id, to_user_id) IN \
         (SELECT from_user_id, to_user_id FROM cooldowns WHERE since > ? ORDER BY since LIMIT ?)",
        "UPDATE ended_requests SET since = ? WHERE (from_user_id, to_user_id) IN \
         (SELECT from_user_id, to_user_id FROM ended_requests WHERE since > ? ORDER BY since LIMIT ?)",
    ];
    texts.into_iter().filter_map(move |text| {
        let now = now?;
        let statement = Statement::new(text).bind::<Instant, _>(Stamp(now)).bind::<Instant, _>(Stamp(now + TOLERANCE));
        Some(statement.bind::<BigInt, _>(SWEEP_LIMIT))
    })
}
