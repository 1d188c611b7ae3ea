//! Validation of requests. All violations of a request are collected and reported together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use uuid::Uuid;

use crate::domain::epoch::Position;
use crate::domain::id::{ID_MAX, RequestId, Sequence, UserId};
use crate::domain::text::TextError;

/// Maximum items in a repeated field of a request.
pub const ITEMS_MAX: usize = 1_000;
/// Maximum violations of one request that are reported. A user whose fields are all invalid has fewer.
///
/// They are sent in the trailers of a response, and gRPC clients refuse more than 8 KiB of these.
const VIOLATIONS_MAX: usize = 20;
/// Maximum length of the description of a violation, in bytes. One may quote the request.
const DESCRIPTION_BYTES_MAX: usize = 160;
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
    /// The violations, at least one. If there are many, the last one says how many are left out.
    pub violations: Vec<Violation>,
}

/// Reads the fields of one request and collects their violations.
///
/// An invalid field is read as a default value, so that the remaining fields are validated too. Values must only be used
/// if [`finish`](Fields::finish) returns them.
#[derive(Debug, Default)]
pub struct Fields {
    violations: Vec<Violation>,
    /// The number of those that are not listed.
    left_out: usize,
}

impl Fields {
    /// Adds a violation.
    pub fn violation(&mut self, field: impl Into<String>, description: impl Display) {
        self.add(Kind::Fields, field, description);
    }

    /// Adds a violation of a kind.
    pub(super) fn add(&mut self, kind: Kind, field: impl Into<String>, description: impl Display) {
        if self.violations.len() == VIOLATIONS_MAX {
            self.left_out += 1;
            return;
        }
        let mut description = description.to_string();
        if description.len() > DESCRIPTION_BYTES_MAX {
            description.truncate(description.floor_char_boundary(DESCRIPTION_BYTES_MAX));
            description.push('…');
        }
        self.violations.push(Violation { field: field.into(), description, kind });
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

    /// Parses the revision that a read must reflect, with its epoch.
    pub fn min_revision(&mut self, revision: i64, epoch: &str) -> Position {
        Position { sequence: self.revision("min_revision", revision), epoch: epoch.into() }
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
    pub fn finish<T>(mut self, value: T) -> Result<T, Invalid> {
        if self.left_out > 0 {
            let description = format!("{} more fields are invalid", self.left_out);
            self.violations.push(Violation { field: String::new(), description, kind: Kind::Fields });
        }
        match self.violations.as_slice() {
            [] => Ok(value),
            [only] => Err(Invalid { kind: only.kind, violations: self.violations }),
            [_, _, ..] => Err(Invalid { kind: Kind::Fields, violations: self.violations }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a field. Returns its value, or the fields that have violations.
    fn read<T>(read: impl FnOnce(&mut Fields) -> T) -> Result<T, Vec<String>> {
        let mut fields = Fields::default();
        let value = read(&mut fields);
        fields.finish(value).map_err(|invalid| invalid.violations.into_iter().map(|one| one.field).collect())
    }

    #[test]
    fn many_violations_are_counted_and_long_ones_cut() {
        let mut fields = Fields::default();
        for number in 0..500 {
            fields.violation(format!("ids[{number}]"), "é".repeat(1_000));
        }
        let violations = fields.finish(()).expect_err("violations").violations;
        assert_eq!(violations.len(), VIOLATIONS_MAX + 1);
        assert_eq!(violations[19].field, "ids[19]");
        assert_eq!(violations[19].description, "é".repeat(DESCRIPTION_BYTES_MAX / 2) + "…");
        assert_eq!(violations[20].description, "480 more fields are invalid");
    }

    #[test]
    fn ids_are_1_or_greater() {
        for (id, is_valid) in [(1, true), (2, true), (0, false), (-1, false), (i64::MIN, false)] {
            let expected = |field: &str| if is_valid { Ok(id) } else { Err(vec![field.to_owned()]) };
            assert_eq!(read(|fields| fields.user_id("user_id", id).get()), expected("user_id"));
            assert_eq!(read(|fields| fields.connection_request_id("id", id).get()), expected("id"));
        }
        for (id, expected) in [(0, Ok(None)), (7, Ok(Some(UserId::new(7)))), (-1, Err(vec!["viewer".to_owned()]))] {
            assert_eq!(read(|fields| fields.optional_user_id("viewer", id)), expected);
        }
        for (revision, is_valid) in [(0, true), (7, true), (-1, false)] {
            let expected = if is_valid { Ok(Sequence::new(revision)) } else { Err(vec!["revision".to_owned()]) };
            assert_eq!(read(|fields| fields.revision("revision", revision)), expected);
        }
    }

    #[test]
    fn two_users_are_valid_and_different() {
        let self_request = Kind::SelfRequest(UserId::new(1));
        for (one, other, expected) in [
            (1, 2, Ok(())),
            (1, 1, Err((self_request, vec!["other"]))),
            (1, 0, Err((Kind::Fields, vec!["other"]))),
            (0, 1, Err((Kind::Fields, vec!["one"]))),
            (0, 0, Err((Kind::Fields, vec!["one", "other"]))),
            (-1, -1, Err((Kind::Fields, vec!["one", "other"]))),
        ] {
            let mut fields = Fields::default();
            let users = fields.two_users(("one", one), ("other", other));
            assert_eq!(users, (UserId::new(one), UserId::new(other)));
            let invalid = fields.finish(());
            let named = |invalid: &Invalid| invalid.violations.iter().map(|one| one.field.clone()).collect::<Vec<_>>();
            let found = invalid.map_err(|invalid| (invalid.kind, named(&invalid)));
            let expected = expected.map_err(|(kind, fields)| (kind, fields.into_iter().map(str::to_owned).collect()));
            assert_eq!(found, expected, "{one} {other}");
        }
    }

    #[test]
    fn lists_of_ids_have_1_to_1000_valid_ids() {
        let ids = |ids: &[i64]| read(|fields| fields.user_ids("ids", ids)).map(|ids| ids.len());
        assert_eq!(ids(&[1]), Ok(1));
        assert_eq!(ids(&[7; ITEMS_MAX]), Ok(ITEMS_MAX));
        for invalid in [vec![], vec![7; ITEMS_MAX + 1]] {
            assert_eq!(ids(&invalid), Err(vec!["ids".to_owned()]));
        }
        assert_eq!(ids(&[1, 0, 2, -3]), Err(vec!["ids[1]".to_owned(), "ids[3]".to_owned()]));
    }

    #[test]
    fn a_request_id_is_empty_or_a_hyphenated_uuid() {
        const ID: &str = "7b1d3c0e-4a52-4c6f-9b0a-2f8d1e6c5a43";
        let parsed = Uuid::parse_str(ID).expect("a UUID");
        let upper = ID.to_uppercase();
        for (text, id) in [("", None), (ID, Some(parsed)), (&upper, Some(parsed))] {
            assert_eq!(read(|fields| fields.request_id(text)), Ok(id));
        }
        let (simple, braces, urn) = (ID.replace('-', ""), format!("{{{ID}}}"), format!("urn:uuid:{ID}"));
        for text in [&simple, &braces, &urn, "7", &"x".repeat(36)] {
            assert_eq!(read(|fields| fields.request_id(text)), Err(vec!["request_id".to_owned()]), "{text}");
        }
    }

    #[test]
    fn an_error_has_the_kind_of_its_only_violation() {
        let violations = |kinds: &[Kind]| {
            let mut fields = Fields::default();
            kinds.iter().for_each(|kind| fields.add(*kind, "field", "must be otherwise"));
            fields.finish(()).map_err(|invalid| (invalid.kind, invalid.violations.len()))
        };
        let self_request = Kind::SelfRequest(UserId::new(1));
        assert_eq!(violations(&[]), Ok(()));
        assert_eq!(violations(&[Kind::PageToken]), Err((Kind::PageToken, 1)));
        assert_eq!(violations(&[self_request]), Err((self_request, 1)));
        assert_eq!(violations(&[self_request, Kind::PageToken]), Err((Kind::Fields, 2)));
    }
}
