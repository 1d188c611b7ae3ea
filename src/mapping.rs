//! Conversions between protobuf messages and the domain.
//!
//! A request becomes a valid command or query, or an error with all its violations. Results become responses.

pub mod connection;
pub mod connection_request;
pub mod event;
pub mod export;
pub mod idempotency;
pub mod import;
pub mod invalid;
pub mod mutation;
pub mod page;
pub mod relation;
pub mod user;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// Converts a time to a protobuf timestamp.
fn timestamp(time: DateTime<Utc>) -> Timestamp {
    // Always fits: less than a second.
    let nanos = time.timestamp_subsec_nanos().try_into().unwrap_or_default();
    Timestamp { seconds: time.timestamp(), nanos }
}
