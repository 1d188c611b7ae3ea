//! The keys of users in the system that owns the profiles.

use std::str::FromStr;

use super::{TextError, check_length, invalid};

/// The maximum number of characters of an external id.
pub const EXTERNAL_ID_MAX: usize = 128;

/// The key of a user in the system that owns the profiles, such as a UUID.
///
/// It has 1 to 128 characters: any but control characters. The first and the last are no white space. Two are equal if all
/// their characters are: case counts, and nothing is normalized.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId(String);

impl ExternalId {
    /// Wraps a stored text without validating it: only valid texts reach the database.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExternalId {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.is_empty() {
            return invalid("must not be empty");
        }
        if text.chars().any(char::is_control) {
            return invalid("must not contain control characters");
        }
        if text.trim().len() != text.len() {
            return invalid("must not begin or end with white space");
        }
        check_length(text, EXTERNAL_ID_MAX)?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_ids_have_any_characters_but_control_characters_and_white_space_around() {
        for good in [
            "0",
            "0b1e4f4c-9f3c-4b52-8f4c-2a8f5b7e1d3c",
            "auth0|5f7c8ec7c33c6c004bbafe82",
            "ann@example.com",
            "a b",
            "a\u{a0}b",
            "Ärger/日本 %_'\"\\",
            "\u{202e}",
            "-1",
        ] {
            assert_eq!(good.parse::<ExternalId>().map(|id| id.as_str().to_owned()), Ok(good.to_owned()));
        }
        for (bad, rule) in [
            ("", "must not be empty"),
            (" ", "must not begin or end with white space"),
            (" a", "must not begin or end with white space"),
            ("a\u{3000}", "must not begin or end with white space"),
            ("\u{2028}a", "must not begin or end with white space"),
            ("a\0", "must not contain control characters"),
            ("a\nb", "must not contain control characters"),
            ("\ta", "must not contain control characters"),
            ("a\u{85}", "must not contain control characters"),
            ("\u{7f}", "must not contain control characters"),
        ] {
            assert_eq!(bad.parse::<ExternalId>().map_err(|error| error.to_string()), Err(rule.to_owned()), "{bad:?}");
        }
        for character in ["a", "é", "👋"] {
            assert!(character.repeat(EXTERNAL_ID_MAX).parse::<ExternalId>().is_ok());
            let long = character.repeat(EXTERNAL_ID_MAX + 1).parse::<ExternalId>();
            assert_eq!(long.map_err(|error| error.to_string()), Err("must have at most 128 characters".to_owned()));
        }
    }

    #[test]
    fn external_ids_that_differ_in_anything_differ() {
        for (one, other) in [("A", "a"), ("é", "e\u{301}"), ("1", "01"), ("ﬁ", "fi")] {
            assert_ne!(one.parse::<ExternalId>(), other.parse(), "{one:?} and {other:?}");
        }
    }
}
