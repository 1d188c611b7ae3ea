//! The domain model: users, pairs and the rules between them, as plain values and pure functions.
//!
//! Nothing here does I/O, reads a clock, or depends on protobuf or SQL. [`decide`](decide::decide) implements the
//! rules. [`ledger`] applies them to a batch of commands in memory.

pub mod caller;
pub mod command;
pub mod counts;
pub mod decide;
pub mod epoch;
pub mod event;
pub mod id;
pub mod import;
pub mod ledger;
pub mod outcome;
pub mod pair;
pub mod policy;
pub mod query;
pub mod selection;
pub mod text;
pub mod totals;
pub mod user;
pub mod view;

/// A point in time. Stored and compared with microsecond precision, which both databases support.
pub type Time = chrono::DateTime<chrono::Utc>;

/// Truncates a time to the microsecond.
///
/// ```
/// # use kith::domain::to_micros;
/// let time = chrono::DateTime::from_timestamp(1, 1_234_567).expect("a valid time");
/// assert_eq!(to_micros(time).timestamp_subsec_nanos(), 1_234_000);
/// ```
pub fn to_micros(time: Time) -> Time {
    // Cannot fail: the microseconds come from a valid time.
    Time::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}
