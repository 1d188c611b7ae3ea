//! Usernames, and the rules for their characters.

use std::str::FromStr;

use unicase::UniCase;
use unicode_bidi::{BidiClass, bidi_class};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;

use super::{TextError, invalid};

/// The maximum number of characters of a username.
pub const USERNAME_MAX: usize = 255;
/// The maximum number of nonspacing marks in a row. More would cover the text around the name.
const MARKS_MAX: usize = 4;
/// Letters that are not visible. Names that differ only in them would look the same.
const INVISIBLE: [char; 4] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];

text! {
    /// A username of 1 to 255 characters, in Unicode's normal form C. Created by [`UsernameRule::parse`].
    ///
    /// The default is empty: that of a user who has none.
    Username
}

/// The characters that usernames may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsernameRule {
    /// `A-Z a-z 0-9 - _`.
    #[default]
    Ascii,
    /// Letters and digits of all scripts, and `- _ . @ + '`.
    Open,
}

impl UsernameRule {
    /// Parses a username by this rule.
    pub fn parse(self, text: &str) -> Result<Username, TextError> {
        match self {
            Self::Ascii => text.parse(),
            Self::Open => open(text),
        }
    }
}

impl Username {
    /// Whether this is the username of a user who has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the key of the username; `None` for a user who has none. No two users have the same key.
    ///
    /// Names that differ only in case have the same key.
    pub fn key(&self) -> Option<String> {
        match &self.0 {
            name if name.is_empty() => None,
            name if name.is_ascii() => Some(name.to_ascii_lowercase()),
            name => Some(UniCase::unicode(name).to_folded_case().nfc().collect()),
        }
    }
}

impl FromStr for Username {
    type Err = TextError;

    /// Parses a username by the rule [`UsernameRule::Ascii`].
    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || text.len() > USERNAME_MAX || !text.chars().all(allowed) {
            return invalid(format!("must be 1 to {USERNAME_MAX} characters of A-Z a-z 0-9 - _"));
        }
        Ok(Self(text.to_owned()))
    }
}

fn open(text: &str) -> Result<Username, TextError> {
    let name: String = text.nfc().collect();
    let starts_with_mark = name.chars().next().is_some_and(is_mark);
    let allowed = |c: char| !INVISIBLE.contains(&c) && (c.is_alphanumeric() || "-_.@+'".contains(c) || is_mark(c));
    if name.is_empty() || name.chars().count() > USERNAME_MAX || starts_with_mark || !name.chars().all(allowed) {
        return invalid(format!("must be 1 to {USERNAME_MAX} letters and digits of any script, or - _ . @ + '"));
    }
    if has_stacked_marks(&name) {
        return invalid(format!(
            "must not have more than {MARKS_MAX} marks on a letter, or the same mark twice in a row"
        ));
    }
    if !has_one_direction(&name) {
        return invalid(
            "must not mix characters written from left to right and from right to left; a name written from right to \
             left must begin with a letter",
        );
    }
    Ok(Username(name))
}

/// Whether this is a visible mark on the letter before it, such as an accent or a virama.
fn is_mark(c: char) -> bool {
    // Variation selectors and other invisible marks have no combining class.
    canonical_combining_class(c) != 0
}

/// Whether more than [`MARKS_MAX`] nonspacing marks follow each other, or one follows itself.
///
/// These are two conditions of UTS #39, section 5.4. They apply to the decomposed name (form D), in which the marks on a
/// letter have one order and none is part of the letter. Marks that take space of their own, such as vowels of Indic
/// scripts, do not count.
fn has_stacked_marks(name: &str) -> bool {
    let mut marks: Vec<char> = Vec::new();
    name.nfd().any(|c| {
        // The class of the nonspacing and enclosing marks.
        if bidi_class(c) != BidiClass::NSM {
            marks.clear();
            return false;
        }
        let repeats = marks.last() == Some(&c);
        marks.push(c);
        repeats || marks.len() > MARKS_MAX
    })
}

/// Whether the characters are displayed in the order in which they are stored, or all in the reverse order.
///
/// Otherwise two different names could look the same. These are the conditions of the Bidi Rule (RFC 5893) that matter
/// for the allowed characters.
fn has_one_direction(name: &str) -> bool {
    let classes = || name.chars().map(bidi_class);
    let is_right_to_left = |class: BidiClass| matches!(class, BidiClass::R | BidiClass::AL);
    let has = |class: BidiClass| classes().any(|it| it == class);
    if !classes().any(is_right_to_left) {
        return !has(BidiClass::AN);
    }
    let starts_with_letter = classes().next().is_some_and(is_right_to_left);
    starts_with_letter && !has(BidiClass::L) && !(has(BidiClass::EN) && has(BidiClass::AN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<Username> {
        UsernameRule::Open.parse(text).ok()
    }

    fn key(text: &str) -> String {
        name(text).and_then(|name| name.key()).unwrap_or_else(|| panic!("{text:?} is a name"))
    }

    #[test]
    fn open_names_have_letters_and_digits_of_any_script_and_some_signs() {
        for good in [
            "Ann_1-x",
            "o'neil",
            "ann.b+c@example.com",
            "José",
            "Ωμέγα",
            "Иван",
            "李小龍",
            "ひろし",
            "김철수",
            "हिन्दी",
            "ไทย",
            "שלום",
            "محمد",
            "محمد1",
            "٣",
            "ß",
            "x\u{323}\u{307}",
        ] {
            let is_arabic_digit_alone = good == "٣";
            assert_eq!(name(good).is_some(), !is_arabic_digit_alone, "{good:?}");
        }
        for bad in [
            "",
            " ",
            "ann ",
            " ann",
            "a b",
            "a\0",
            "a\n",
            "a/b",
            "a:b",
            "👋",
            "a\u{200d}b",
            "a\u{200b}",
            "\u{301}a",
            "a\u{fe0f}",
            "a\u{34f}",
            "\u{3164}",
            "a\u{115f}",
            "\u{feff}a",
            "a\u{ad}b",
            "a\u{2028}",
            "a\u{a0}",
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        assert!(name(&"é".repeat(USERNAME_MAX)).is_some());
        assert!(name(&"é".repeat(USERNAME_MAX + 1)).is_none());
        assert!(name(&"e\u{301}".repeat(USERNAME_MAX)).is_some(), "counted in the normal form");
    }

    #[test]
    fn marks_may_not_be_stacked() {
        let four = "x\u{300}\u{301}\u{302}\u{303}";
        for (text, is_valid) in [
            (four.to_owned(), true),
            (four.repeat(20), true),
            (format!("{four}\u{304}"), false),
            (format!("a{four}\u{304}b"), false),
            // A mark that is part of a letter counts, and so does the order of form D: here the two dots are apart.
            ("\u{1ed1}\u{323}".to_owned(), true),
            ("\u{1ed1}\u{300}\u{303}\u{304}".to_owned(), false),
            ("e\u{301}\u{301}".to_owned(), false),
            ("\u{e9}\u{301}".to_owned(), false),
            ("e\u{323}\u{301}\u{323}".to_owned(), false),
            ("e\u{301}\u{323}\u{300}".to_owned(), true),
            // Nonspacing vowels, which are letters too.
            ("\u{915}\u{941}\u{941}".to_owned(), false),
            (format!("a{}", "\u{301}\u{302}".repeat(15)), false),
            // Names as they are written: Vietnamese, Devanagari, Thai, Hebrew with points, Arabic, Tibetan.
            ("Nguyễn_Thị_Ánh".to_owned(), true),
            ("प्रज्ञा".to_owned(), true),
            ("น้ำผึ้ง".to_owned(), true),
            ("שָׁלוֹם".to_owned(), true),
            ("مُحَمَّد".to_owned(), true),
            ("བསྒྲུབས".to_owned(), true),
            // Burmese, with five marks on a letter, of which one takes space.
            ("\u{1019}\u{103c}\u{103e}\u{102f}\u{1036}\u{1037}".to_owned(), true),
        ] {
            assert_eq!(name(&text).is_some(), is_valid, "{text:?}");
        }
        let error = UsernameRule::Open.parse("e\u{301}\u{301}").expect_err("a mark twice").to_string();
        assert!(error.contains("same mark twice"), "{error}");
    }

    #[test]
    fn names_of_two_directions_are_refused() {
        for bad in ["annשלום", "שלוםann", "1שלום", "שלום1٣", "\u{202e}ann", "ann\u{202c}", "\u{2066}a", "a\u{200f}b"]
        {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        assert!(name("שלום.1").is_some());
    }

    #[test]
    fn names_that_differ_in_case_or_composition_have_one_key() {
        for (one, other) in [
            ("ANN", "ann"),
            ("JOSÉ", "jose\u{301}"),
            ("Straße", "STRASSE"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("ИВАН", "иван"),
            ("ǅ", "ǆ"),
            ("\u{212a}elvin", "kelvin"),
        ] {
            assert_eq!(key(one), key(other), "{one:?} and {other:?}");
        }
        for (one, other) in [("jose", "josé"), ("ı", "i"), ("ann.", "ann")] {
            assert_ne!(key(one), key(other), "{one:?} and {other:?}");
        }
        assert_eq!(name("jose\u{301}").map(|name| name.as_str().to_owned()).as_deref(), Some("josé"));
        // A key is longest for letters whose folding is: it must fit into an index of PostgreSQL (2,704 bytes).
        assert!(["\u{390}", "\u{1fb7}", "\u{1e9e}"].iter().all(|c| key(&c.repeat(USERNAME_MAX)).len() < 2_000));
    }
}
