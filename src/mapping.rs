//! Between the wire and the domain: requests become valid commands and queries or say all that is wrong with them;
//! what the domain answers becomes messages.

pub mod connection;
pub mod connection_request;
pub mod event;
pub mod idempotency;
pub mod invalid;
pub mod mutation;
pub mod page;
pub mod user;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// A time on the wire.
fn timestamp(time: DateTime<Utc>) -> Timestamp {
    // Less than a second always fits.
    let nanos = time.timestamp_subsec_nanos().try_into().unwrap_or_default();
    Timestamp { seconds: time.timestamp(), nanos }
}
