//! How rows name users.

use std::fmt;

use crate::domain::id::UserId;
pub use crate::domain::text::ExternalId;

/// A user as a row names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserReference {
    /// By the id in Kith.
    Id(UserId),
    /// By the id in the system that owns the profiles.
    ExternalId(ExternalId),
    /// By the username, regardless of case. Whether it can be one is not checked.
    Username(String),
}

impl fmt::Display for UserReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::ExternalId(id) => write!(f, "external_id {:?}", id.as_str()),
            Self::Username(name) => write!(f, "username {name:?}"),
        }
    }
}
