use super::*;

const KEY: &str = "kith_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHER: &str = "kith_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

/// The hash of a key, as the file has it.
fn hash(key: &str) -> String {
    KeyHash::of(key).to_string()
}

fn names(spiffe: &[&str], dns: &[&str]) -> Names {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Names { spiffe: owned(spiffe), dns: owned(dns) }
}

#[test]
fn principals_are_found_by_each_of_their_credentials() {
    let text = format!(
        r#"
            [billing]
            keys = ["{}", "{}"]
            certificate = "spiffe://example.com/billing"
            scopes = ["read", "users"]

            ["feed.1"]
            certificate = "dns:Feed.example.com"
            scopes = ["admin"]
        "#,
        hash(KEY),
        hash(OTHER)
    );
    let principals = Principals::parse(&text).ok().unwrap();
    let named = |found: Result<Principal, Cause>| found.map(|principal| principal.to_string());
    let billing = Ok("service:billing".to_owned());
    let feed = Ok("service:feed.1".to_owned());
    for (key, expected) in [
        (KEY, &billing),
        (OTHER, &billing),
        (&KEY.replace("kith_A", "kith_C"), &Err(Cause::UnknownApiKey)),
        ("kith_", &Err(Cause::UnknownApiKey)),
    ] {
        assert_eq!(&named(principals.by_api_key(key)), expected, "{key}");
    }
    for (names, expected) in [
        (names(&["spiffe://example.com/billing"], &[]), &billing),
        (names(&[], &["feed.example.com"]), &feed),
        (names(&["spiffe://example.com/other"], &["other.example.com", "feed.example.com"]), &feed),
        (names(&["spiffe://example.com/billing"], &["feed.example.com"]), &Err(Cause::AmbiguousCertificate)),
        (names(&["spiffe://example.com/Billing"], &[]), &Err(Cause::UnknownCertificate)),
        (names(&["feed.example.com"], &["spiffe://example.com/billing"]), &Err(Cause::UnknownCertificate)),
        (names(&[], &[]), &Err(Cause::UnknownCertificate)),
    ] {
        assert_eq!(&named(principals.by_certificate(&names)), expected, "{names:?}");
    }
    let Ok(Principal::Service(service)) = principals.by_api_key(KEY) else { panic!("a service") };
    assert_eq!(service.scopes, [Scope::Read, Scope::Users].into_iter().collect());
}

#[test]
fn a_key_that_can_be_guessed_is_refused_even_if_its_hash_is_in_the_file() {
    for key in ["kith_secret", &KEY[..47], &format!("{KEY}A"), &KEY.replace("AAA", "A A")] {
        let text = format!("[a]\nkey = \"{}\"\nscopes = [\"read\"]", hash(key));
        let principals = Principals::parse(&text).ok().unwrap();
        assert_eq!(principals.by_api_key(key), Err(Cause::UnknownApiKey), "{key}");
    }
}

#[test]
fn an_invalid_file_is_refused_with_the_line_and_the_principal() {
    let (a, b) = (hash(KEY), hash(OTHER));
    let read = r#"scopes = ["read"]"#;
    for (text, line, expected) in [
        (String::new(), None, "has no principals"),
        ("[a".to_owned(), Some(1), ""),
        ("a = 1".to_owned(), Some(1), "[a]: must be a table"),
        ("[\"a b\"]".to_owned(), Some(1), "[a b]: a name has 1 to 64 of"),
        (format!("[{}]", "a".repeat(65)), Some(1), "a name has 1 to 64 of"),
        (format!("[a]\n{read}"), Some(1), "[a]: needs a key or a certificate"),
        (format!("[a]\nkey = \"{a}\""), Some(1), "[a]: needs scopes"),
        (format!("[a]\nkey = \"{a}\"\nscopes = []"), Some(3), "[a]: scopes: is empty"),
        (format!("[a]\nkey = \"{a}\"\nscopes = \"read\""), Some(3), "[a]: scopes: must be a list of texts"),
        (format!("[a]\nkey = \"{a}\"\nscopes = [\"write\", \"all\"]"), Some(3), "unknown scope \"all\""),
        (format!("[a]\nkey = \"{a}\"\n{read}\nscope = 1"), Some(4), "[a]: scope: is unknown"),
        (format!("[a]\n{read}\nkey = 1"), Some(3), "[a]: key: must be text in quotes"),
        (format!("[a]\n{read}\nkeys = [1]"), Some(3), "[a]: keys: must be text in quotes"),
        (format!("[a]\n{read}\nkey = \"{KEY}\""), Some(3), "[a]: key: has an API key; write its hash"),
        (format!("[a]\n{read}\nkey = \"{}\"", &a[7..]), Some(3), "[a]: key: must be \"sha256:\" and"),
        (format!("[a]\n{read}\nkey = \"{}\"", &a[..70]), Some(3), "[a]: key: must be \"sha256:\" and"),
        (format!("[a]\n{read}\nkey = \"sha256:{}\"", "é".repeat(32)), Some(3), "[a]: key: must be \"sha256:\" and"),
        (format!("[a]\n{read}\nkey = \"sha256:{}\"", "+1".repeat(32)), Some(3), "[a]: key: must be \"sha256:\" and"),
        (format!("[a]\n{read}\nkeys = [\"{a}\", \"{a}\"]"), Some(3), "[a]: has a key that service:a has too"),
        (
            format!(
                "[a]\nkey = \"{a}\"\n{read}\n[b]\n{read}\nkeys = [\"{b}\", \"{}\"]",
                a.to_uppercase().replace("SHA", "sha")
            ),
            Some(6),
            "[b]: has a key that service:a has too",
        ),
        (
            format!("[a]\ncertificate = \"dns:a.b\"\n{read}\n[b]\n{read}\ncertificate = \"dns:A.b\""),
            Some(6),
            "[b]: has the certificate of service:a",
        ),
        (format!("[a]\n{read}\ncertificate = \"a.b\""), Some(3), "[a]: certificate: must be \"spiffe://"),
        (format!("[a]\n{read}\ncertificate = \"dns:*.a.b\""), Some(3), "[a]: certificate: must be \"spiffe://"),
        (format!("[a]\n{read}\ncertificate = \"spiffe://\""), Some(3), "[a]: certificate: must be \"spiffe://"),
        (format!("[a]\n{read}\ncertificate = \"spiffe:///a\""), Some(3), "[a]: certificate: must be \"spiffe://"),
        (format!("[a]\n{read}\ncertificate = \"spiffe://a b\""), Some(3), "[a]: certificate: must be \"spiffe://"),
    ] {
        let (at, error) = Principals::parse(&text).err().unwrap();
        assert_eq!(at, line, "{text}\n{error}");
        assert!(error.contains(expected), "{text}\n{error}");
        for secret in [KEY, &a[7..], &b[7..]] {
            assert!(!error.contains(&secret[..20]), "{error}");
        }
    }
}

#[test]
fn a_file_that_everybody_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = NamedFile { setting: "--principals".to_owned(), path: folder.path().join("principals.toml") };
    let missing = Principals::read(&file).err().unwrap();
    assert!(missing.starts_with(&format!("{file}: cannot be read")), "{missing}");
    fs::write(&file.path, format!("[a]\nkey = \"{}\"\nscopes = [\"read\"]", hash(KEY))).unwrap();
    for (mode, accepted) in [(0o600, true), (0o644, true), (0o664, true), (0o666, false), (0o602, false)] {
        fs::set_permissions(&file.path, fs::Permissions::from_mode(mode)).unwrap();
        let read = Principals::read(&file);
        assert_eq!(read.is_ok(), accepted, "{mode:o}");
        read.err().into_iter().for_each(|error| assert!(error.starts_with(&format!("{file}: every user")), "{error}"));
    }
    fs::write(&file.path, "[a]\nkey = 1").unwrap();
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o600)).unwrap();
    let invalid = Principals::read(&file).err().unwrap();
    assert!(invalid.starts_with(&format!("{file}:2: [a]: key: must be")), "{invalid}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(\\[a\\]|key|keys|certificate|scopes|=|\"|sha256:|[0-9a-f]{64}|dns:|read|,|\\[|\\]|é|\n| ){0,24}") {
        if let Err((line, error)) = Principals::parse(&text) {
            proptest::prop_assert!(line.is_none_or(|line| line <= text.lines().count() + 1), "{error}");
        }
    }
}
