//! Why a row is refused.

use std::fmt;

/// A row that is not imported, or one that is imported with a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number of the row's first line in its file, from 1.
    pub line: u64,
    /// Why.
    pub reason: Reason,
    /// The fields that are wrong, all of them; may be empty.
    pub violations: Vec<Violation>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the field, such as `created`. Empty: the row as a whole.
    pub field: String,
    /// What is wrong with it, for developers.
    pub rule: String,
}

impl Violation {
    /// Creates a violation of a field.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, rule } = self;
        if field.is_empty() { f.write_str(rule) } else { write!(f, "{field}: {rule}") }
    }
}

impl Refusal {
    /// Returns the violations in one line; empty if there are none.
    pub fn detail(&self) -> String {
        self.violations.iter().map(Violation::to_string).collect::<Vec<_>>().join("; ")
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// The reasons for which rows are refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// All of them, in the order in which reports list them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the name in reports and files.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

reasons! {
    /// The line is no JSON object, or its `type` is none of the format.
    UnknownType => "UNKNOWN_TYPE",
    /// Fields are unknown, missing, given twice, or have invalid values.
    InvalidFields => "INVALID_FIELDS",
    /// The dates of the row contradict each other, such as a rejection before the request.
    DateOrder => "DATE_ORDER",
    /// The row is about a user and the same user.
    SelfRequest => "SELF_REQUEST",
    /// A user of the row does not exist.
    UserNotFound => "USER_NOT_FOUND",
    /// Another user has the id, and is not the same as the one of the row.
    UserExists => "USER_EXISTS",
    /// Another user has the username.
    UsernameTaken => "USERNAME_TAKEN",
    /// Another user has the external id.
    ExternalIdTaken => "EXTERNAL_ID_TAKEN",
    /// Another row about the same two users prevails.
    DuplicatePair => "DUPLICATE_PAIR",
    /// The two users are in another state in the database, which stays.
    ConflictingState => "CONFLICTING_STATE",
    /// One user blocks the other, so that they cannot be connected.
    Blocked => "BLOCKED",
    /// The request is older than requests live.
    Expired => "EXPIRED",
    /// The row is imported. It brings a user beyond a limit.
    LimitReached => "LIMIT_REACHED",
}

impl Reason {
    /// Whether rows with this reason are imported nevertheless.
    pub const fn is_warning(self) -> bool {
        matches!(self, Self::LimitReached)
    }
}
