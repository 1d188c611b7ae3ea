//! Property tests: a text parses if and only if it satisfies the rules of its type.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Short texts with many of the characters that the rules treat differently.
fn texts() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec!['\0', '\n', '\t', '\r', '\u{7f}', '\u{85}', ' ', 'é', 'a', 'Z', '-', '_']);
    let plain = prop::char::range('a', 'z');
    vec(prop_oneof![1 => special, 3 => plain, 1 => any::<char>()], 0..8).prop_map(|text| text.into_iter().collect())
}

proptest! {
    #[test]
    fn a_line_parses_if_it_is_short_and_has_no_control_characters(text in texts()) {
        let valid = text.chars().count() <= 5 && !text.chars().any(char::is_control);
        prop_assert_eq!(text.parse::<Line<5>>().is_ok(), valid);
    }

    #[test]
    fn prose_parses_with_newlines_and_tabs(text in texts()) {
        let valid = text.chars().count() <= 5 && text.chars().all(|c| !c.is_control() || "\n\t".contains(c));
        prop_assert_eq!(text.parse::<Prose<5>>().is_ok(), valid);
    }

    #[test]
    fn a_username_parses_if_its_length_and_characters_are_allowed(text in texts(), repeated in 1_usize..300) {
        let text = text.repeat(repeated);
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let valid = (1..=255).contains(&text.chars().count()) && text.chars().all(|c| alphabet.contains(c));
        let username = text.parse::<Username>();
        prop_assert_eq!(username.is_ok(), valid);
        if let Ok(username) = username {
            prop_assert_eq!(username.key(), Some(text.to_lowercase()));
        }
    }

    #[test]
    fn parsing_does_not_change_the_text(text in texts()) {
        if let Ok(line) = text.parse::<Line<5>>() {
            prop_assert_eq!(line.as_str(), &text);
        }
        if let Ok(prose) = text.parse::<Prose<5>>() {
            prop_assert_eq!(prose.as_str(), &text);
        }
    }

    #[test]
    fn an_email_has_a_local_part_and_a_domain_with_a_dot(text in "[a-z. @<>\"\0-]{0,12}@?[a-z.@-]{0,12}(\\.com)?") {
        if let Ok(email) = text.parse::<Email>()
            && !text.is_empty()
        {
            prop_assert_eq!(email.as_str(), &text);
            let (local, domain) = text.rsplit_once('@').expect("an @");
            prop_assert!(!local.is_empty() && domain.contains('.') && !text.chars().any(char::is_control), "{}", text);
        }
    }

    #[test]
    fn a_url_is_an_http_or_https_url(text in "((https?|ftp|javascript)?:?/{0,2})[a-z.:@ /?\n-]{0,20}", more in 0_usize..250) {
        let text = text + &"x".repeat(more);
        if text.parse::<Url>().is_ok() && !text.is_empty() {
            prop_assert!(text.starts_with("http://") || text.starts_with("https://"), "{}", text);
            prop_assert!(text.len() <= URL_MAX && !text.contains([' ', '\n']), "{}", text);
        }
    }
}
