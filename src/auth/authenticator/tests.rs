use std::fs;
use std::path::Path;

use super::*;

const KEY: &str = "kith_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const PRINCIPALS: &str = r#"
    [billing]
    key = "sha256:b945bd6cb3c6f26f5e2ad1bbb06b1f5b4d1fd8bbb4fdbbdd7a4e0a84ed0f2d5c"
    certificate = "dns:billing.example.com"
    scopes = ["read"]
"#;

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())).collect()
}

fn start(folder: &Path) -> Authenticator {
    let file = NamedFile { setting: "--principals".to_owned(), path: folder.join("principals.toml") };
    let hash = ring::digest::digest(&ring::digest::SHA256, KEY.as_bytes());
    let digits: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let (before, rest) = PRINCIPALS.split_once("sha256:").unwrap();
    fs::write(&file.path, format!("{before}sha256:{digits}{}", &rest[64..])).unwrap();
    Authenticator::start(CredentialSettings { principals: Some(file) }).unwrap()
}

#[tokio::test]
async fn the_header_alone_decides_and_the_certificate_only_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let authenticator = start(folder.path());
    let known = Names { dns: vec!["billing.example.com".to_owned()], ..Names::default() };
    let unknown = Names::default();
    let billing = Ok("service:billing".to_owned());
    let invalid = |cause| Err(Unauthenticated::Invalid(cause));
    for (values, certificate, expected) in [
        (vec![], None, Err(Unauthenticated::Missing)),
        (vec![], Some(&known), billing.clone()),
        (vec![], Some(&unknown), invalid(Cause::UnknownCertificate)),
        (vec![format!("Bearer {KEY}")], None, billing.clone()),
        (vec![format!("bEARER  {KEY} ")], Some(&unknown), billing.clone()),
        (vec![format!("Bearer {KEY}"); 2], Some(&known), invalid(Cause::SeveralHeaders)),
        (vec![KEY.to_owned()], Some(&known), invalid(Cause::NotBearer)),
        (vec![format!("Basic {KEY}")], Some(&known), invalid(Cause::NotBearer)),
        (vec![format!("Bearer {KEY} {KEY}")], Some(&known), invalid(Cause::NotBearer)),
        (vec![format!("Bearer {KEY}é")], Some(&known), invalid(Cause::NotBearer)),
        (vec!["Bearer ".to_owned()], Some(&known), invalid(Cause::NotBearer)),
        (vec![String::new()], Some(&known), invalid(Cause::NotBearer)),
        (vec![format!("Bearer {}", "a".repeat(8193))], Some(&known), invalid(Cause::TooLong)),
        (vec![format!("Bearer {}", KEY.to_lowercase())], Some(&known), invalid(Cause::UnknownApiKey)),
        (vec!["Bearer a.b.c".to_owned()], Some(&known), invalid(Cause::NoTokens)),
    ] {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let found = authenticator.authenticate(&headers(&values), certificate).await;
        assert_eq!(found.map(|principal| principal.to_string()), expected, "{values:?} {certificate:?}");
    }
}

#[tokio::test]
async fn without_settings_everybody_is_anonymous() {
    for authenticator in [Authenticator::anonymous(), Authenticator::start(CredentialSettings::default()).unwrap()] {
        assert!(authenticator.is_anonymous());
        for values in [vec![], vec!["nonsense"], vec!["Bearer a", "Bearer b"]] {
            let found = authenticator.authenticate(&headers(&values), None).await;
            assert_eq!(found, Ok(Principal::Anonymous));
        }
    }
}

#[tokio::test]
async fn nothing_of_a_key_is_in_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let authenticator = start(folder.path());
    let shown = format!("{authenticator:?}");
    assert!(!authenticator.is_anonymous() && shown.contains("principals.toml"), "{shown}");
    assert!(!shown.contains("sha256") && !shown.contains("billing"), "{shown}");
}
