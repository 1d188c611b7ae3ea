//! Verifies tokens: JSON Web Tokens, as of RFC 7519 and RFC 9068.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{DecodingKey, Header, Validation, decode, decode_header};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, UnitWeighter};
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::crypto;
use super::keys::{Key, Keys};
use super::principal::{Principal, Scope, Service, Source};
use super::unauthenticated::Cause;
use crate::domain::id::{ID_MAX, UserId};
use crate::metrics::caches::{Cache as CacheMetrics, Counting, Size};

/// How far the clocks of the issuer and of this server may differ, in seconds. Counts for `exp`, `nbf` and `iat`.
pub(super) const LEEWAY: u32 = 30;
/// Maximum number of verified tokens that are remembered.
const MAX_REMEMBERED: usize = 10_000;
/// The claims that every token needs.
const REQUIRED: [&str; 4] = ["iss", "aud", "exp", "sub"];
/// What the subject of a user begins with.
const USER: &str = "user:";
/// Maximum length of a subject.
const MAX_SUBJECT: usize = 255;

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) issuer: String,
    /// A token needs one of them.
    pub(super) audiences: Vec<String>,
    /// Counts how often a token was remembered.
    pub(super) cache: Arc<CacheMetrics>,
}

/// Verifies tokens by a set of keys. Other keys make another one, which remembers no tokens of this one.
pub(super) struct Verifier {
    keys: HashMap<String, Trusted>,
    /// Verified tokens by their SHA-256.
    remembered: Arc<Remembered>,
    cache: Arc<CacheMetrics>,
}

type Remembered =
    Cache<[u8; 32], Verified, UnitWeighter, DefaultHashBuilder, Counting<DefaultLifecycle<[u8; 32], Verified>>>;

/// A key, and what its tokens must have.
struct Trusted {
    public: DecodingKey,
    validation: Validation,
}

/// A token that was verified.
#[derive(Clone)]
struct Verified {
    principal: Principal,
    times: Times,
}

/// When a token is valid, in seconds since 1970, without the leeway.
#[derive(Clone, Copy, Deserialize)]
struct Times {
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
}

#[derive(Deserialize)]
struct Claims {
    /// Here to refuse a list, which the library accepts.
    #[serde(rename = "iss")]
    _issuer: Option<String>,
    sub: Option<String>,
    scope: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
}

/// Creates a cache for so many tokens, which the metrics show from now on.
fn remember(max: usize, metrics: &CacheMetrics) -> Arc<Remembered> {
    let hasher = DefaultHashBuilder::default();
    let remembered = Arc::new(Cache::with(max, max as u64, UnitWeighter, hasher, metrics.counting()));
    let measured = Arc::downgrade(&remembered);
    metrics.size.set(move || Some(Size { entries: measured.upgrade()?.len() as u64, bytes: None }));
    remembered
}

impl Verifier {
    pub(super) fn new(keys: Keys, expected: &Expected) -> Self {
        crypto::install();
        let trusted = |(id, Key { algorithm, public })| {
            let mut validation = Validation::new(algorithm);
            validation.set_required_spec_claims(&REQUIRED);
            validation.set_issuer(&[&expected.issuer]);
            validation.set_audience(&expected.audiences);
            // By `Times`, which must check tokens that are remembered too.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            (id, Trusted { public, validation })
        };
        let cache = Arc::clone(&expected.cache);
        let remembered = remember(MAX_REMEMBERED, &cache);
        Self { keys: keys.by_id.into_iter().map(trusted).collect(), remembered, cache }
    }

    /// Returns the principal of a token that was verified before and is still valid. `now` is as in [`Self::verify`].
    pub(super) fn remembered(&self, token: &str, now: f64) -> Option<Principal> {
        let Verified { principal, times } = self.remembered.get(&hash(token)?)?;
        times.check(now).ok()?;
        self.cache.looked_up(1, 0);
        Some(principal)
    }

    /// Returns the principal that a token names. `now` is the time in seconds since 1970.
    pub(super) fn verify(&self, token: &str, now: f64) -> Result<Principal, Cause> {
        let hash = hash(token).ok_or(Cause::NotAToken)?;
        if let Some(Verified { principal, times }) = self.remembered.get(&hash) {
            self.cache.looked_up(1, 0);
            times.check(now).inspect_err(|_| drop(self.remembered.remove(&hash)))?;
            return Ok(principal);
        }
        self.cache.looked_up(0, 1);
        let header = decode_header(token).map_err(|_| refused_header(token))?;
        let Trusted { public, validation } = self.key(&header)?;
        let claims = decode::<Claims>(token, public, validation).map_err(|error| cause(&error))?.claims;
        let times = Times { exp: claims.exp.ok_or(Cause::MissingClaim("exp"))?, nbf: claims.nbf, iat: claims.iat };
        times.check(now)?;
        let principal = principal(claims)?;
        self.remembered.insert(hash, Verified { principal: principal.clone(), times });
        Ok(principal)
    }

    /// Returns the key that a token names.
    fn key(&self, header: &Header) -> Result<&Trusted, Cause> {
        // As media types, they are the same in any case.
        let is_type = |typ: &String| {
            let accepted = ["JWT", "at+jwt", "application/at+jwt"];
            accepted.into_iter().any(|accepted| typ.eq_ignore_ascii_case(accepted))
        };
        if !header.typ.as_ref().is_none_or(is_type) {
            return Err(Cause::TokenType);
        }
        if header.crit.is_some() {
            return Err(Cause::CriticalHeader);
        }
        let id = header.kid.as_ref().ok_or(Cause::NoKeyId)?;
        let trusted = self.keys.get(id).ok_or(Cause::UnknownKeyId)?;
        if trusted.validation.algorithms.contains(&header.alg) { Ok(trusted) } else { Err(Cause::Algorithm) }
    }
}

/// Returns the SHA-256 of a token.
fn hash(token: &str) -> Option<[u8; 32]> {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()
}

impl Times {
    fn check(self, now: f64) -> Result<(), Cause> {
        let Self { exp, nbf, iat } = self;
        let leeway = f64::from(LEEWAY);
        if exp + leeway <= now {
            return Err(Cause::Expired);
        }
        let begins = [nbf, iat].into_iter().flatten();
        if begins.into_iter().any(|begin| begin > now + leeway) { Err(Cause::NotYetValid) } else { Ok(()) }
    }
}

/// Returns the principal that verified claims name.
fn principal(claims: Claims) -> Result<Principal, Cause> {
    let subject = claims.sub.ok_or(Cause::MissingClaim("sub"))?;
    let is_visible = subject.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_visible || !(1..=MAX_SUBJECT).contains(&subject.len()) {
        return Err(Cause::Subject);
    }
    if let Some(id) = subject.strip_prefix(USER) {
        return user_id(id).map(Principal::User).ok_or(Cause::Subject);
    }
    let scopes = claims.scope.iter().flat_map(|scope| scope.split(' ')).filter_map(Scope::from_name).collect();
    Ok(Principal::Service(Arc::new(Service::new(Source::Token, &subject, scopes))))
}

/// Parses an id in its only form: without sign and leading zeros.
fn user_id(text: &str) -> Option<UserId> {
    let id: i64 = text.parse().ok()?;
    ((1..=ID_MAX).contains(&id) && id.to_string() == text).then_some(UserId::new(id))
}

/// Says why the header of a token cannot be parsed. The library knows only real algorithms.
fn refused_header(token: &str) -> Cause {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    let header = header.and_then(|header| serde_json::from_slice::<serde_json::Value>(&header).ok());
    match header.as_ref().and_then(|header| header.get("alg")?.as_str()) {
        Some(algorithm) if algorithm.parse::<jsonwebtoken::Algorithm>().is_err() => Cause::Algorithm,
        Some(_) | None => Cause::NotAToken,
    }
}

/// Converts an error of the library.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library has many more, and may add some")]
fn cause(error: &Error) -> Cause {
    match error.kind() {
        ErrorKind::InvalidSignature => Cause::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Cause::Algorithm,
        ErrorKind::InvalidIssuer => Cause::Issuer,
        ErrorKind::InvalidAudience => Cause::Audience,
        ErrorKind::MissingRequiredClaim(missing) => {
            let name = REQUIRED.into_iter().find(|name| name == missing);
            name.map_or(Cause::NotAToken, Cause::MissingClaim)
        }
        _ => Cause::NotAToken,
    }
}

#[cfg(test)]
mod tests;
