//! Who calls, and what they may do.
//!
//! Each call has one [`Principal`]. The [`Authenticator`] finds it by the call's credentials, an API key or a token, or
//! else by the certificate of its connection. Nothing below the services knows of credentials.

pub mod api_key;
pub mod authenticator;
mod crypto;
mod failures;
mod fetch;
mod keys;
pub mod limiter;
pub mod limits;
pub mod names;
pub mod principal;
mod principals;
mod remote;
pub mod rights;
pub mod signing;
#[cfg(test)]
mod testing;
mod token;
pub mod unauthenticated;

pub use self::api_key::ApiKey;
pub use self::authenticator::{Authenticator, CredentialSettings, Jwt, KeySource};
pub use self::failures::{Client, FAILURES_MAX};
pub use self::names::Names;
pub use self::principal::{Principal, Scope, Scopes, Service, Source};
pub use self::signing::SigningKey;
pub use self::unauthenticated::{Cause, Unauthenticated};
