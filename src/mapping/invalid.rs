//! Collects everything that is wrong with a request, so that its caller learns it all at once.

use std::fmt::Display;
use std::str::FromStr;

use uuid::Uuid;

use crate::domain::id::{RequestId, Sequence, UserId};
use crate::domain::text::TextError;

/// The most items that a repeated field of a request has.
pub const ITEMS_MAX: usize = 1_000;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, for example `user.email`.
    pub field: String,
    /// The rule that it breaks.
    pub description: String,
    kind: Kind,
}

/// What kind of wrong a request is, by the reason that its caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fields break their rules.
    Fields,
    /// The two users are the same.
    SelfRequest(UserId),
    /// The page token is not one of ours, or not for this request.
    PageToken,
}

/// A request that breaks rules. Nothing is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The reason.
    pub kind: Kind,
    /// Every wrong field; at least one.
    pub violations: Vec<Violation>,
}

/// Reads the fields of one request. A wrong field is noted and read as a default, so that the others are read too;
/// [`finish`](Fields::finish) must be asked before anything that was read is used.
#[derive(Debug, Default)]
pub struct Fields {
    violations: Vec<Violation>,
}

impl Fields {
    /// Notes a wrong field.
    pub fn wrong(&mut self, field: impl Into<String>, description: impl Display) {
        self.note(Kind::Fields, field, description);
    }

    pub(super) fn note(&mut self, kind: Kind, field: impl Into<String>, description: impl Display) {
        self.violations.push(Violation { field: field.into(), description: description.to_string(), kind });
    }

    /// A required user.
    pub fn user_id(&mut self, field: &str, value: i64) -> UserId {
        if value < 1 {
            self.wrong(field, "must be a user's id, 1 or more");
        }
        UserId::new(value)
    }

    /// An optional user; 0 is none.
    pub fn optional_user_id(&mut self, field: &str, value: i64) -> Option<UserId> {
        (value != 0).then(|| self.user_id(field, value))
    }

    /// Two required users, who must differ.
    pub fn two_users(&mut self, (one_field, one): (&str, i64), (other_field, other): (&str, i64)) -> (UserId, UserId) {
        let one = self.user_id(one_field, one);
        let other_id = self.user_id(other_field, other);
        if one == other_id && other > 0 {
            self.note(Kind::SelfRequest(one), other_field, format!("must differ from {one_field}"));
        }
        (one, other_id)
    }

    /// 1 to 1,000 required users.
    pub fn user_ids(&mut self, field: &str, values: &[i64]) -> Vec<UserId> {
        if values.is_empty() || values.len() > ITEMS_MAX {
            self.wrong(field, format!("must have 1 to {ITEMS_MAX} ids"));
            return Vec::new();
        }
        let item = |(place, value): (usize, &i64)| self.user_id(&format!("{field}[{place}]"), *value);
        values.iter().enumerate().map(item).collect()
    }

    /// A required connection request.
    pub fn connection_request_id(&mut self, field: &str, value: i64) -> RequestId {
        if value < 1 {
            self.wrong(field, "must be a connection request's id, 1 or more");
        }
        RequestId::new(value)
    }

    /// A revision, or a place in the feed; 0 is before the first event.
    pub fn revision(&mut self, field: &str, value: i64) -> Sequence {
        if value < 0 {
            self.wrong(field, "must not be negative");
        }
        Sequence::new(value.max(0))
    }

    /// A text with rules of its own.
    pub fn text<T: FromStr<Err = TextError> + Default>(&mut self, field: impl Into<String>, value: &str) -> T {
        value.parse().unwrap_or_else(|error| {
            self.wrong(field, error);
            T::default()
        })
    }

    /// An enum's value, if it is one that this version knows.
    pub fn known<E: TryFrom<i32> + Default>(&mut self, field: impl Into<String>, value: i32) -> E {
        E::try_from(value).unwrap_or_else(|_| {
            self.wrong(field, format!("has no value {value}"));
            E::default()
        })
    }

    /// An optional `request_id`: a UUID in its usual form (RFC 9562, section 4).
    pub fn request_id(&mut self, value: &str) -> Option<Uuid> {
        if value.is_empty() {
            return None;
        }
        // The parser also takes braces, a URN and no hyphens; one key has one form.
        let id = Uuid::parse_str(value).ok().filter(|_| value.len() == 36);
        if id.is_none() {
            self.wrong("request_id", "must be a UUID such as 7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43");
        }
        id
    }

    /// What was read, if nothing was wrong.
    pub fn finish<T>(self, read: T) -> Result<T, Invalid> {
        match self.violations.as_slice() {
            [] => Ok(read),
            [only] => Err(Invalid { kind: only.kind, violations: self.violations }),
            [_, _, ..] => Err(Invalid { kind: Kind::Fields, violations: self.violations }),
        }
    }
}
