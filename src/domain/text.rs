//! Text types that are validated when they are parsed.
//!
//! Lengths count Unicode scalar values. Errors are written for developers and state the rule that was violated.

use std::fmt;
use std::str::FromStr;

use chrono::NaiveDate;

/// The rule that a text violates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError(String);

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn invalid<T>(rule: impl Into<String>) -> Result<T, TextError> {
    Err(TextError(rule.into()))
}

/// The maximum number of characters of an e-mail address (RFC 5321, 4.5.3.1.3, without brackets).
pub const EMAIL_MAX: usize = 254;
/// The maximum number of characters of a URL.
pub const URL_MAX: usize = 200;

macro_rules! text {
    ($(#[$doc:meta])* $name:ident $(<const $max:ident>)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name $(<const $max: usize>)? (String);

        impl $(<const $max: usize>)? $name $(<$max>)? {
            /// Wraps a stored text without validating it: only valid texts reach the database.
            pub fn stored(text: String) -> Self {
                Self(text)
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

mod external_id;
mod username;

pub use self::external_id::{EXTERNAL_ID_MAX, ExternalId};
pub use self::username::{USERNAME_MAX, Username, UsernameRule};

text! {
    /// Single-line text of at most `MAX` characters without control characters. May be empty.
    Line<const MAX>
}
text! {
    /// Multi-line text of at most `MAX` characters. May be empty.
    ///
    /// Newline and tab are the only control characters allowed.
    Prose<const MAX>
}
text! {
    /// An e-mail address (RFC 5321), or empty.
    Email
}
text! {
    /// An absolute http or https URL of at most 200 characters, or empty.
    Url
}
text! {
    /// A date in the form `YYYY-MM-DD`, or empty. Created by [`Birthday::parse`].
    Birthday
}

impl<const MAX: usize> FromStr for Line<MAX> {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.chars().any(char::is_control) {
            return invalid("must not contain control characters");
        }
        check_length(text, MAX)?;
        Ok(Self(text.to_owned()))
    }
}

impl<const MAX: usize> FromStr for Prose<MAX> {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            return invalid("must not contain control characters other than newline and tab");
        }
        check_length(text, MAX)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Email {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        check_length(text, EMAIL_MAX)?;
        // The domain must contain a dot: `ann@localhost` is not an address that others can write to.
        let options =
            email_address::Options::default().with_required_tld().without_display_text().without_domain_literal();
        if text.chars().any(char::is_control) || email_address::EmailAddress::parse_with_options(text, options).is_err()
        {
            return invalid("must be an e-mail address");
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Url {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        check_length(text, URL_MAX)?;
        let is_web = |uri: http::Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        };
        if !text.parse::<http::Uri>().is_ok_and(is_web) {
            return invalid("must be an absolute http or https URL");
        }
        Ok(Self(text.to_owned()))
    }
}

impl Birthday {
    /// Parses a date before `today` in exactly the form `YYYY-MM-DD` (ISO 8601).
    pub fn parse(text: &str, today: NaiveDate) -> Result<Self, TextError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        // The parser also accepts `2000-1-1`. Formatting the date again shows whether the text had the exact form.
        match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(date) if date.format("%Y-%m-%d").to_string() == text && date < today => Ok(Self(text.to_owned())),
            _ => invalid("must be a date YYYY-MM-DD in the past"),
        }
    }
}

fn check_length(text: &str, max: usize) -> Result<(), TextError> {
    if text.chars().nth(max).is_some() {
        return invalid(format!("must have at most {max} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn ok<T: FromStr>(text: &str) -> bool {
        text.parse::<T>().is_ok()
    }

    #[test]
    fn an_error_states_the_violated_rule() {
        fn error<T: FromStr<Err = TextError>>(text: &str) -> String {
            text.parse::<T>().err().expect("invalid").to_string()
        }
        assert_eq!(error::<Line<3>>("four"), "must have at most 3 characters");
        assert_eq!(error::<Line<3>>("\n"), "must not contain control characters");
        assert_eq!(error::<Prose<3>>("\r"), "must not contain control characters other than newline and tab");
        assert_eq!(error::<Username>(""), "must be 1 to 255 characters of A-Z a-z 0-9 - _");
        assert_eq!(error::<Email>("ann"), "must be an e-mail address");
        assert_eq!(error::<Url>("example.com"), "must be an absolute http or https URL");
    }

    #[test]
    fn lengths_count_characters_not_bytes() {
        assert!(ok::<Line<3>>("äöü"));
        assert!(!ok::<Line<3>>("äöüß"));
        assert!(ok::<Prose<3>>("a\n\t"));
    }

    #[test]
    fn control_characters_are_rejected() {
        for text in ["\0", "a\u{7f}", "\u{85}", "\r"] {
            assert!(!ok::<Line<9>>(text) && !ok::<Prose<9>>(text), "{text:?}");
        }
        assert!(!ok::<Line<9>>("\n"));
    }

    #[test]
    fn usernames_allow_only_letters_digits_hyphens_and_underscores() {
        for (text, good) in [("Ann_1-x", true), ("", false), ("a b", false), ("é", false), ("a\0", false)] {
            assert_eq!(ok::<Username>(text), good, "{text:?}");
        }
        assert!(ok::<Username>(&"a".repeat(USERNAME_MAX)));
        assert!(!ok::<Username>(&"a".repeat(USERNAME_MAX + 1)));
    }

    #[test]
    fn emails_are_addresses_with_a_dot_in_the_domain() {
        for (text, good) in [
            ("", true),
            ("ann@example.com", true),
            ("ann+tag@mail.example.com", true),
            ("ann", false),
            ("ann@", false),
            ("@example.com", false),
            ("ann@localhost", false),
            ("Ann <ann@example.com>", false),
            ("a b@example.com", false),
            ("ann@exam\0ple.com", false),
        ] {
            assert_eq!(ok::<Email>(text), good, "{text:?}");
        }
        assert!(!ok::<Email>(&format!("{}@example.com", "a".repeat(250))));
    }

    #[test]
    fn urls_are_absolute_http_or_https_urls() {
        for (text, good) in [
            ("", true),
            ("https://example.com/a?b=c", true),
            ("http://example.com:8080", true),
            ("ftp://example.com", false),
            ("javascript:alert(1)", false),
            ("example.com", false),
            ("/path", false),
            ("http://", false),
            ("https://example.com/\n", false),
        ] {
            assert_eq!(ok::<Url>(text), good, "{text:?}");
        }
        assert!(!ok::<Url>(&format!("https://example.com/{}", "a".repeat(URL_MAX))));
    }

    #[test]
    fn birthdays_are_past_dates_in_iso_form() {
        let today = NaiveDate::from_ymd_opt(2026, 11, 23).expect("a date");
        for (text, good) in [
            ("", true),
            ("2000-02-29", true),
            ("2026-11-22", true),
            ("2026-11-23", false),
            ("2001-02-29", false),
            ("2000-1-1", false),
            ("01.01.2000", false),
            ("+2000-01-01", false),
        ] {
            assert_eq!(Birthday::parse(text, today).is_ok(), good, "{text:?}");
        }
    }
}
