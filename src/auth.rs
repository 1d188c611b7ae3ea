//! Who calls, and what they may do.
//!
//! Each call has one [`Principal`]. Nothing below the services knows of credentials.

pub mod limiter;
pub mod limits;
pub mod principal;

pub use self::principal::{Principal, Scope, Scopes, Service, Source};
