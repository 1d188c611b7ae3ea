//! Targets for what says who calls: tokens, API keys, and the files that they are checked by.

use std::fs;
use std::sync::{LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use kith::auth::{Authenticator, CredentialSettings, Jwt, KeySource, Principal};
use kith::follow::NamedFile;
use kith::metrics::Metrics;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::runtime::{Builder, Runtime};

use super::Target;

/// The targets.
pub const CREDENTIALS: &[Target] = &[
    ("Jwt", |bytes| assert!(Issuer::with(|issuer| issuer.accepts(bytes)).is_none(), "nobody signed it")),
    ("SignedJwt", signed),
    ("Jwks", |bytes| parse_file(bytes, |file| jwt(file).into())),
    ("Principals", |bytes| parse_file(bytes, |file| CredentialSettings { principals: Some(file), jwt: None })),
];

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "kith";
/// Seconds by which the clock of an issuer may differ, and some for the time between two readings of it.
const LEEWAY: f64 = 40.0;

/// An issuer of tokens, and a server that accepts them.
struct Issuer {
    runtime: Runtime,
    authenticator: Authenticator,
    key: KeyPair,
    _file: NamedTempFile,
}

impl Issuer {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(key.der_bytes());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "one", "x": x}]});
        let file = NamedTempFile::new().expect("a file");
        fs::write(file.path(), keys.to_string()).expect("written");
        let settings = jwt(named(&file)).into();
        let authenticator =
            runtime.block_on(async { Authenticator::start(settings, &Metrics::default()) }).expect("a key");
        Self { runtime, authenticator, key, _file: file }
    }

    fn with<T>(run: impl FnOnce(&Self) -> T) -> T {
        static ISSUER: LazyLock<Mutex<Issuer>> = LazyLock::new(|| Mutex::new(Issuer::new()));
        // A target that failed changed nothing.
        run(&ISSUER.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Who calls by this token.
    fn accepts(&self, token: &[u8]) -> Option<Principal> {
        let value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        self.runtime.block_on(self.authenticator.authenticate(&headers, None, None)).ok()
    }
}

struct Settings(Jwt);

impl From<Settings> for CredentialSettings {
    fn from(Settings(jwt): Settings) -> Self {
        Self { jwt: Some(jwt), principals: None }
    }
}

fn jwt(file: NamedFile) -> Settings {
    let keys = KeySource::File(file);
    Settings(Jwt { keys, issuer: ISSUER.to_owned(), audiences: vec![AUDIENCE.to_owned()] })
}

fn named(file: &NamedTempFile) -> NamedFile {
    NamedFile { setting: "--file".to_owned(), path: file.path().to_owned() }
}

/// A token with any header and any claims, one on each line, and a valid signature.
fn signed(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, claims) = bytes.split_at(at);
    let claims = claims.get(1..).unwrap_or_default();
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let accepted = Issuer::with(|issuer| {
        let signature = issuer.key.sign(signed.as_bytes()).expect("a signature");
        issuer.accepts(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).as_bytes())
    });
    if accepted.is_none() {
        return;
    }
    // What a claim contains that nobody reads is not decoded.
    let claims: Value =
        serde_json::from_str(&String::from_utf8_lossy(claims)).expect("claims that were accepted are JSON");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert_eq!(claims["iss"], ISSUER);
    assert!(claims["aud"] == AUDIENCE || claims["aud"].as_array().is_some_and(|all| all.contains(&json!(AUDIENCE))));
    assert!(claims["exp"].as_f64().is_some_and(|expiry| expiry > now - LEEWAY), "it has expired");
    assert!(claims["nbf"].as_f64().is_none_or(|begin| begin < now + LEEWAY), "it is not valid yet");
}

/// Reads a file with these bytes.
fn parse_file(bytes: &[u8], settings: impl FnOnce(NamedFile) -> CredentialSettings) {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("written");
    let started = Issuer::with(|issuer| {
        let settings = settings(named(&file));
        issuer.runtime.block_on(async { Authenticator::start(settings, &Metrics::default()).map(drop) })
    });
    if let Err(error) = started {
        assert!(error.contains("--file"), "{error} does not say where");
    }
}
