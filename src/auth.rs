//! Who calls, and what they may do.
//!
//! Each call has one [`Principal`]. The [`Authenticator`] finds it by the call's credentials, an API key or a token, or
//! else by the certificate of its connection. Nothing below the services knows of credentials.

pub mod authenticator;
pub mod limiter;
pub mod limits;
pub mod names;
pub mod principal;
mod principals;
pub mod rights;
pub mod unauthenticated;

pub use self::authenticator::{Authenticator, CredentialSettings};
pub use self::names::Names;
pub use self::principal::{Principal, Scope, Scopes, Service, Source};
pub use self::unauthenticated::{Cause, Unauthenticated};
