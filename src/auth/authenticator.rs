//! Finds the principal of a call by its credentials.

use std::fs;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use rustls::RootCertStore;

use super::api_key::is_api_key;
use super::failures::{Client, Failures};
use super::fetch::Document;
use super::names::Names;
use super::principal::Principal;
use super::principals::Principals;
use super::remote::{self, Remote};
use super::token::{Expected, Verifier};
use super::unauthenticated::{Cause, Unauthenticated};
use crate::follow::{Followed, NamedFile};
use crate::metrics::Metrics;

/// Maximum length of a credential, in bytes.
const MAX_CREDENTIAL: usize = 8 << 10;
/// The scheme of the authorization header.
const SCHEME: &str = "bearer";

/// Which credentials callers may have. With none, every caller is [`Principal::Anonymous`].
#[derive(Clone, Debug, Default)]
pub struct CredentialSettings {
    /// Tokens.
    pub jwt: Option<Jwt>,
    /// The file of principals, for API keys and certificates.
    pub principals: Option<NamedFile>,
}

/// The tokens that are accepted: JSON Web Tokens.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// The keys that verify them.
    pub keys: KeySource,
    /// The issuer that they must have.
    pub issuer: String,
    /// The audiences of which they must have one.
    pub audiences: Vec<String>,
}

/// Where a JSON Web Key Set is.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In a file. It is read again when it changes.
    File(NamedFile),
    /// At an https URL. It is read again from time to time, and when a token names an unknown key.
    Url {
        /// The setting, as it was given.
        setting: String,
        /// The URL.
        url: String,
        /// The authorities that the server's certificate may be from.
        authorities: RootCertStore,
    },
}

/// Finds the principal of a call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator(Option<Arc<Credentials>>);

/// The credentials that are accepted.
#[derive(Debug)]
struct Credentials {
    tokens: Option<Tokens>,
    principals: Option<Followed<Principals>>,
    failures: Failures,
}

/// What verifies tokens.
#[derive(Debug)]
enum Tokens {
    File(Followed<Verifier>),
    Url(Remote),
}

impl Authenticator {
    /// Takes everybody for [`Principal::Anonymous`], whatever credentials a call has.
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// Reads the files, and follows them from now on. It needs the runtime.
    ///
    /// Keys at a URL are read in the background: see [`Self::ready`].
    ///
    /// # Errors
    ///
    /// If a file or a URL cannot be used. The text names the setting and the file, and has no secret.
    pub fn start(settings: CredentialSettings, metrics: &Metrics) -> Result<Self, String> {
        let CredentialSettings { jwt, principals } = settings;
        if jwt.is_none() && principals.is_none() {
            return Ok(Self::anonymous());
        }
        let tokens = jwt.map(|jwt| Tokens::start(jwt, metrics)).transpose()?;
        let principals = principals
            .map(|file| {
                let failures = metrics.server.reload_failures.principals.clone();
                Followed::start("principals", vec![file.clone()], failures, move || Principals::read(&file))
            })
            .transpose()?;
        Ok(Self(Some(Arc::new(Credentials { tokens, principals, failures: Failures::new() }))))
    }

    /// Waits until keys at a URL have been read, for 30 seconds at most.
    ///
    /// # Errors
    ///
    /// If they cannot be read. The text names the setting and the URL.
    pub async fn ready(&self) -> Result<(), String> {
        match self.0.as_ref().and_then(|credentials| credentials.tokens.as_ref()) {
            Some(Tokens::Url(remote)) => remote.ready().await,
            Some(Tokens::File(_)) | None => Ok(()),
        }
    }

    /// Whether everybody is [`Principal::Anonymous`].
    pub fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }

    /// Finds the principal of a call, by its headers and the certificate of its connection.
    ///
    /// With an authorization header, the header alone decides: a bad one is refused even if the certificate is good.
    /// `client` is `None` over a Unix socket, where invalid tokens have no limit.
    ///
    /// # Errors
    ///
    /// If the call has no credentials, or credentials that are not valid, or if its client sent too many of these.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Names>,
        client: Option<Client>,
    ) -> Result<Principal, Unauthenticated> {
        let Some(credentials) = &self.0 else { return Ok(Principal::Anonymous) };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Cause::SeveralHeaders.into()),
            (Some(value), None) => credentials.by_credential(credential(value)?, client).await,
            (None, _) => credentials.by_certificate(certificate),
        }
    }

    /// Reads the files and the keys again soon, even if they have not changed.
    pub fn read_again(&self) {
        let Some(credentials) = &self.0 else { return };
        let Credentials { tokens, principals, failures: _ } = &**credentials;
        principals.iter().for_each(Followed::read_again);
        match tokens {
            Some(Tokens::File(file)) => file.read_again(),
            Some(Tokens::Url(remote)) => remote.read_again(),
            None => {}
        }
    }
}

impl Credentials {
    /// Finds the principal by an API key or a token.
    async fn by_credential(&self, credential: &str, client: Option<Client>) -> Result<Principal, Unauthenticated> {
        if is_api_key(credential) {
            let principals = self.principals.as_ref().ok_or(Cause::UnknownApiKey)?;
            return Ok(principals.get().by_api_key(credential)?);
        }
        let tokens = self.tokens.as_ref().ok_or(Cause::NoTokens)?;
        if let Some(principal) = tokens.remembered(credential) {
            return Ok(principal);
        }
        if let Some(client) = client {
            self.failures.admit(client).map_err(Unauthenticated::TooManyFailures)?;
        }
        let principal = tokens.principal(credential).await;
        if let (Err(cause), Some(client)) = (&principal, client)
            && cause.is_costly()
        {
            self.failures.failed(client);
        }
        Ok(principal?)
    }

    /// Finds the principal by the names of a certificate, if there is one.
    fn by_certificate(&self, certificate: Option<&Names>) -> Result<Principal, Unauthenticated> {
        match (certificate, &self.principals) {
            (Some(names), Some(principals)) => Ok(principals.get().by_certificate(names)?),
            (None, _) | (_, None) => Err(Unauthenticated::Missing),
        }
    }
}

impl Tokens {
    fn start(jwt: Jwt, metrics: &Metrics) -> Result<Self, String> {
        let Jwt { keys, issuer, audiences } = jwt;
        let expected = Expected { issuer, audiences, cache: Arc::clone(&metrics.caches.tokens) };
        let failures = metrics.server.reload_failures.jwt_keys.clone();
        match keys {
            KeySource::File(file) => {
                let files = vec![file.clone()];
                let load = move || read_keys(&file, &expected);
                Followed::start("keys of tokens", files, failures, load).map(Self::File)
            }
            KeySource::Url { setting, url, authorities } => {
                let name = format!("{setting} {url}");
                let document = Document::new(&url, authorities).map_err(|error| format!("{name} {error}"))?;
                let document = Arc::new(document);
                let read = move || {
                    let document = Arc::clone(&document);
                    Box::pin(async move { document.read().await }) as _
                };
                Ok(Self::Url(Remote::start(name, expected, failures, read)))
            }
        }
    }

    /// Returns the principal of a token that was verified before.
    fn remembered(&self, token: &str) -> Option<Principal> {
        match self {
            Self::File(file) => file.get().remembered(token, now()),
            Self::Url(remote) => remote.get()?.remembered(token, now()),
        }
    }

    /// Returns the principal that a token names.
    async fn principal(&self, token: &str) -> Result<Principal, Cause> {
        match self {
            Self::File(file) => file.get().verify(token, now()),
            Self::Url(remote) => {
                let verified = remote.get().ok_or(Cause::UnknownKeyId)?.verify(token, now());
                if verified != Err(Cause::UnknownKeyId) {
                    return verified;
                }
                remote.newer().await.ok_or(Cause::UnknownKeyId)?.verify(token, now())
            }
        }
    }
}

/// Reads the keys of a file.
fn read_keys(file: &NamedFile, expected: &Expected) -> Result<Verifier, String> {
    let text = fs::read(&file.path).map_err(|error| format!("{file}: cannot be read: {error}"))?;
    let keys = remote::parse(&file.to_string(), &text).map_err(|error| format!("{file}: {error}"))?;
    Ok(Verifier::new(keys, expected))
}

/// The time in seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Returns the credential in the value of an authorization header.
fn credential(value: &HeaderValue) -> Result<&str, Cause> {
    if value.len() > MAX_CREDENTIAL + SCHEME.len() + 1 {
        return Err(Cause::TooLong);
    }
    let (scheme, credential) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Cause::NotBearer)?;
    let credential = credential.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case(SCHEME) || credential.is_empty() || credential.contains(' ') {
        return Err(Cause::NotBearer);
    }
    Ok(credential)
}

#[cfg(test)]
mod tests;
