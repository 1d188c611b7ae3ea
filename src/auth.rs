//! Who calls, and what they may do.
//!
//! Each call has one [`Principal`]. Nothing below the services knows of credentials.

pub mod principal;
pub mod rights;

pub use self::principal::{Principal, Scope, Scopes, Service, Source};
