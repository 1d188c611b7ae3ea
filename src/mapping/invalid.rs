//! Validation of requests. All violations of a request are collected and reported together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use uuid::Uuid;

use crate::domain::id::{ID_MAX, RequestId, Sequence, UserId};
use crate::domain::text::TextError;

/// Maximum items in a repeated field of a request.
pub const ITEMS_MAX: usize = 1_000;
/// The ids of users and connection requests.
const IDS: RangeInclusive<i64> = 1..=ID_MAX;

/// A field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, for example `user.email`.
    pub field: String,
    /// The rule, such as `must not be negative`.
    pub description: String,
    kind: Kind,
}

/// The kind of a violation. It determines the reason in the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A field breaks its rule.
    Fields,
    /// The two users are the same.
    SelfRequest(UserId),
    /// The page token is forged, altered, or from another request.
    PageToken,
}

/// The error of an invalid request. Nothing was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The kind of the only violation, or [`Kind::Fields`] for several.
    pub kind: Kind,
    /// All violations, at least one.
    pub violations: Vec<Violation>,
}

/// Reads the fields of one request and collects their violations.
///
/// An invalid field is read as a default value, so that the remaining fields are validated too. Values must only be used
/// if [`finish`](Fields::finish) returns them.
#[derive(Debug, Default)]
pub struct Fields {
    violations: Vec<Violation>,
}

impl Fields {
    /// Adds a violation.
    pub fn violation(&mut self, field: impl Into<String>, description: impl Display) {
        self.add(Kind::Fields, field, description);
    }

    /// Adds a violation of a kind.
    pub(super) fn add(&mut self, kind: Kind, field: impl Into<String>, description: impl Display) {
        self.violations.push(Violation { field: field.into(), description: description.to_string(), kind });
    }

    /// Reads a required user id.
    pub fn user_id(&mut self, field: &str, value: i64) -> UserId {
        if !IDS.contains(&value) {
            self.violation(field, format!("must be a user id (1 to {ID_MAX})"));
        }
        UserId::new(value)
    }

    /// Reads an optional user id. 0 means none.
    pub fn optional_user_id(&mut self, field: &str, value: i64) -> Option<UserId> {
        (value != 0).then(|| self.user_id(field, value))
    }

    /// Reads two required user ids, which must differ.
    pub fn two_users(&mut self, (one_field, one): (&str, i64), (other_field, other): (&str, i64)) -> (UserId, UserId) {
        let one = self.user_id(one_field, one);
        let other_id = self.user_id(other_field, other);
        if one == other_id && IDS.contains(&other) {
            self.add(Kind::SelfRequest(one), other_field, format!("must differ from {one_field}"));
        }
        (one, other_id)
    }

    /// Reads a list of 1 to 1,000 user ids.
    pub fn user_ids(&mut self, field: &str, values: &[i64]) -> Vec<UserId> {
        if values.is_empty() || values.len() > ITEMS_MAX {
            self.violation(field, format!("must contain 1 to {ITEMS_MAX} ids"));
            return Vec::new();
        }
        let item = |(index, value): (usize, &i64)| self.user_id(&format!("{field}[{index}]"), *value);
        values.iter().enumerate().map(item).collect()
    }

    /// Reads a required id of a connection request.
    pub fn connection_request_id(&mut self, field: &str, value: i64) -> RequestId {
        if !IDS.contains(&value) {
            self.violation(field, format!("must be a connection request id (1 to {ID_MAX})"));
        }
        RequestId::new(value)
    }

    /// Reads a revision or a sequence. 0 means before the first event.
    pub fn revision(&mut self, field: &str, value: i64) -> Sequence {
        if value < 0 {
            self.violation(field, "must not be negative");
        }
        Sequence::new(value.max(0))
    }

    /// Reads a text by the rules of its type.
    pub fn text<T: FromStr<Err = TextError> + Default>(&mut self, field: impl Into<String>, value: &str) -> T {
        value.parse().unwrap_or_else(|error| {
            self.violation(field, error);
            T::default()
        })
    }

    /// Reads an enum value, which this version must know.
    pub fn known<E: TryFrom<i32> + Default>(&mut self, field: impl Into<String>, value: i32) -> E {
        E::try_from(value).unwrap_or_else(|_| {
            self.violation(field, format!("must be a known enum value, not {value}"));
            E::default()
        })
    }

    /// Reads an optional `request_id`: a UUID in its hyphenated form (RFC 9562, section 4).
    pub fn request_id(&mut self, value: &str) -> Option<Uuid> {
        if value.is_empty() {
            return None;
        }
        // The parser also accepts braces, URNs and no hyphens, but a key must have a single form.
        let id = Uuid::parse_str(value).ok().filter(|_| value.len() == 36);
        if id.is_none() {
            self.violation("request_id", "must be a UUID such as 7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43");
        }
        id
    }

    /// Returns `value` if there are no violations.
    pub fn finish<T>(self, value: T) -> Result<T, Invalid> {
        match self.violations.as_slice() {
            [] => Ok(value),
            [only] => Err(Invalid { kind: only.kind, violations: self.violations }),
            [_, _, ..] => Err(Invalid { kind: Kind::Fields, violations: self.violations }),
        }
    }
}
