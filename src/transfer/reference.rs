//! How rows name users.

use std::fmt;
use std::str::FromStr;

use crate::domain::id::UserId;

/// The maximum number of characters of an external id.
const EXTERNAL_ID_MAX: usize = 128;

/// The id of a user in the system that owns the profiles: 1 to 128 characters without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId(String);

impl ExternalId {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExternalId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid =
            !text.is_empty() && text.chars().nth(EXTERNAL_ID_MAX).is_none() && !text.chars().any(char::is_control);
        if is_valid { Ok(Self(text.to_owned())) } else { Err("must be 1 to 128 characters without control characters") }
    }
}

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
