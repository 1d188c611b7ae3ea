use std::fs;
use std::path::Path;

use super::super::api_key::KeyHash;
use super::super::failures::FAILURES_MAX;
use super::super::testing::{AUDIENCE, ISSUER, Issuer, claims, key_set};
use super::*;

const KEY: &str = "kith_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())).collect()
}

fn file(folder: &Path, name: &str) -> NamedFile {
    NamedFile { setting: format!("--{name}"), path: folder.join(name) }
}

/// Writes the file of principals with one that has the key and a certificate.
fn principals(folder: &Path) -> NamedFile {
    let file = file(folder, "principals");
    let hash = KeyHash::of(KEY);
    let text = format!("[billing]\nkey = \"{hash}\"\ncertificate = \"dns:billing.example.com\"\nscopes = [\"read\"]");
    fs::write(&file.path, text).unwrap();
    file
}

fn start(folder: &Path) -> Authenticator {
    Authenticator::start(CredentialSettings { jwt: None, principals: Some(principals(folder)) }, &Metrics::default())
        .unwrap()
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
        let found = authenticator.authenticate(&headers(&values), certificate, None).await;
        assert_eq!(found.map(|principal| principal.to_string()), expected, "{values:?} {certificate:?}");
    }
}

#[tokio::test]
async fn without_settings_everybody_is_anonymous() {
    for authenticator in
        [Authenticator::anonymous(), Authenticator::start(CredentialSettings::default(), &Metrics::default()).unwrap()]
    {
        assert!(authenticator.is_anonymous());
        for values in [vec![], vec!["nonsense"], vec!["Bearer a", "Bearer b"]] {
            let found = authenticator.authenticate(&headers(&values), None, None).await;
            assert_eq!(found, Ok(Principal::Anonymous));
        }
    }
}

#[tokio::test]
async fn nothing_of_a_key_is_in_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let authenticator = start(folder.path());
    let shown = format!("{authenticator:?}");
    assert!(!authenticator.is_anonymous() && shown.contains("--principals"), "{shown}");
    assert!(!shown.contains("sha256") && !shown.contains("billing.example.com"), "{shown}");
}

/// Where the tokens of an issuer are verified by a file.
fn jwt(keys: NamedFile) -> Option<Jwt> {
    Some(Jwt { keys: KeySource::File(keys), issuer: ISSUER.to_owned(), audiences: vec![AUDIENCE.to_owned()] })
}

/// A token that is valid for an hour from now.
fn token(issuer: &Issuer) -> String {
    let mut claims = claims();
    claims["exp"] = (now() + 3600.0).into();
    issuer.sign(issuer.header(), claims)
}

async fn is_verified(authenticator: &Authenticator, token: &str) -> Result<String, Unauthenticated> {
    let headers = headers(&[&format!("Bearer {token}")]);
    authenticator.authenticate(&headers, None, None).await.map(|principal| principal.to_string())
}

#[tokio::test]
async fn tokens_and_api_keys_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let issuers = [Issuer::ed25519()];
    let keys = file(folder.path(), "jwt-keys");
    fs::write(&keys.path, key_set(&issuers)).unwrap();
    let token = token(&issuers[0]);
    for (principals, with_key) in [
        (None, Err(Unauthenticated::Invalid(Cause::UnknownApiKey))),
        (Some(principals(folder.path())), Ok("service:billing".to_owned())),
    ] {
        let settings = CredentialSettings { jwt: jwt(keys.clone()), principals };
        let authenticator = Authenticator::start(settings, &Metrics::default()).unwrap();
        authenticator.ready().await.unwrap();
        assert_eq!(is_verified(&authenticator, &token).await, Ok("token:billing".to_owned()));
        assert_eq!(is_verified(&authenticator, KEY).await, with_key);
        let names = Names { dns: vec!["other.example.com".to_owned()], ..Names::default() };
        let by_certificate = authenticator.authenticate(&headers(&[]), Some(&names), None).await;
        // Without the file no certificate can be known, and the call has nothing else.
        let expected = if with_key.is_ok() { Cause::UnknownCertificate.into() } else { Unauthenticated::Missing };
        assert_eq!(by_certificate, Err(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_invalid_tokens_hinders_only_new_tokens_of_its_own_connections() {
    let folder = tempfile::tempdir().unwrap();
    let issuers = [Issuer::ed25519()];
    let (issuer, another) = (&issuers[0], Issuer::ed25519());
    let keys = file(folder.path(), "jwt-keys");
    fs::write(&keys.path, key_set(&issuers)).unwrap();
    let settings = CredentialSettings { jwt: jwt(keys), principals: Some(principals(folder.path())) };
    let authenticator = Authenticator::start(settings, &Metrics::default()).unwrap();
    let client = |port| Client { connection: ([192, 0, 2, 7], port).into(), network: [192, 0, 2, 7].into() };
    let call = async |credential: &str, port| {
        let headers = headers(&[&format!("Bearer {credential}")]);
        authenticator.authenticate(&headers, None, Some(client(port))).await.map(|principal| principal.to_string())
    };
    let billing = || Ok("token:billing".to_owned());
    let (known, invalid) = (token(issuer), token(&another));
    let mut claims = claims();
    claims["exp"] = u64::MAX.into();
    let new = issuer.sign(issuer.header(), claims);
    assert_eq!(call(&known, 1).await, billing());
    // What costs no verification is not counted.
    for _ in 0..=FAILURES_MAX.get() {
        assert_eq!(call("a.b.c", 1).await, Err(Cause::NotAToken.into()));
    }
    for _ in 0..=FAILURES_MAX.get() {
        assert_eq!(call(&invalid, 1).await, Err(Cause::Signature.into()));
    }
    for refused in [&invalid, &new] {
        let refused = call(refused, 1).await;
        assert!(matches!(refused, Err(Unauthenticated::TooManyFailures(_))), "{refused:?}");
    }
    assert_eq!(call(&known, 1).await, billing());
    assert_eq!(call(KEY, 1).await, Ok("service:billing".to_owned()));
    assert_eq!(call(&new, 2).await, billing());
    tokio::time::advance(std::time::Duration::from_millis(2)).await;
    assert_eq!(call(&invalid, 1).await, Err(Cause::Signature.into()));
}

#[tokio::test]
async fn a_remembered_token_is_refused_when_its_key_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Issuer::ed25519(), Issuer::p256());
    let keys = file(folder.path(), "jwt-keys");
    let replace = |issuers: &[Issuer]| {
        fs::write(folder.path().join("new"), key_set(issuers)).unwrap();
        fs::rename(folder.path().join("new"), &keys.path).unwrap();
    };
    replace(std::slice::from_ref(&old));
    let authenticator =
        Authenticator::start(CredentialSettings { jwt: jwt(keys.clone()), principals: None }, &Metrics::default())
            .unwrap();
    let (first, second) = (token(&old), token(&new));
    assert!(is_verified(&authenticator, &first).await.is_ok());
    assert_eq!(is_verified(&authenticator, &second).await, Err(Cause::UnknownKeyId.into()));
    replace(&[new]);
    authenticator.read_again();
    while is_verified(&authenticator, &second).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(is_verified(&authenticator, &first).await, Err(Cause::UnknownKeyId.into()));
    // A file that cannot be used changes nothing.
    fs::write(&keys.path, "{}").unwrap();
    authenticator.read_again();
    assert!(is_verified(&authenticator, &second).await.is_ok());
}

#[tokio::test]
async fn errors_at_the_start_name_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let missing = file(folder.path(), "jwt-keys");
    let start = |jwt, principals| {
        Authenticator::start(CredentialSettings { jwt, principals }, &Metrics::default()).unwrap_err()
    };
    let error = start(jwt(missing.clone()), None);
    assert!(error.starts_with(&format!("{missing}: cannot be read")), "{error}");
    fs::write(&missing.path, "{}").unwrap();
    let error = start(jwt(missing.clone()), None);
    assert!(error.starts_with(&format!("{missing}: is no JSON Web Key Set")), "{error}");
    let error = start(None, Some(file(folder.path(), "principals")));
    assert!(error.starts_with("--principals "), "{error}");
    let url = KeySource::Url {
        setting: "--jwt-keys".to_owned(),
        url: "https://example.com/".to_owned(),
        authorities: RootCertStore::empty(),
    };
    let error = start(Some(Jwt { keys: url, issuer: String::new(), audiences: Vec::new() }), None);
    assert!(error.starts_with("--jwt-keys https://example.com/ cannot be verified"), "{error}");
}
