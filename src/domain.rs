//! What Kith is about, as plain values and pure functions: users, pairs, the rules between them.
//!
//! Nothing here does I/O, reads a clock, or knows of protobuf or SQL. [`decide`](decide::decide) is the rule book;
//! [`ledger`] runs it over a batch of commands in memory.

pub mod caller;
pub mod command;
pub mod counts;
pub mod decide;
pub mod event;
pub mod id;
pub mod ledger;
pub mod outcome;
pub mod pair;
pub mod policy;
pub mod query;
pub mod selection;
pub mod text;
pub mod user;
pub mod view;

/// A point in time. Kept and compared to the microsecond, which is what both databases hold.
pub type Time = chrono::DateTime<chrono::Utc>;

/// Cuts a time to the microsecond.
///
/// ```
/// # use kith::domain::to_micros;
/// let time = chrono::DateTime::from_timestamp(1, 1_234_567).expect("a valid time");
/// assert_eq!(to_micros(time).timestamp_subsec_nanos(), 1_234_000);
/// ```
pub fn to_micros(time: Time) -> Time {
    // Every microsecond count that comes from a valid time is a valid time.
    Time::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}
