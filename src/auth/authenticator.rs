//! Finds the principal of a call by its credentials.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::names::Names;
use super::principal::Principal;
use super::principals::{API_KEY_PREFIX, Principals};
use super::unauthenticated::{Cause, Unauthenticated};
use crate::follow::{Followed, NamedFile};

/// Maximum length of a credential, in bytes.
const MAX_CREDENTIAL: usize = 8 << 10;
/// The scheme of the authorization header.
const SCHEME: &str = "bearer";

/// Where the credentials are that callers may have. With none, every caller is [`Principal::Anonymous`].
#[derive(Clone, Debug, Default)]
pub struct CredentialSettings {
    /// The file of principals, for API keys and certificates.
    pub principals: Option<NamedFile>,
}

/// Finds the principal of a call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator(Option<Arc<Credentials>>);

/// The credentials that are accepted.
#[derive(Debug)]
struct Credentials {
    principals: Option<Followed<Principals>>,
}

impl Authenticator {
    /// Takes everybody for [`Principal::Anonymous`], whatever credentials a call has.
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// Reads the files, and follows them from now on. It needs the runtime.
    ///
    /// # Errors
    ///
    /// If a file cannot be used. The text names the setting and the file, and has no secret.
    pub fn start(settings: CredentialSettings) -> Result<Self, String> {
        let CredentialSettings { principals } = settings;
        let Some(file) = principals else { return Ok(Self::anonymous()) };
        let principals = Followed::start("principals", vec![file.clone()], move || Principals::read(&file))?;
        Ok(Self(Some(Arc::new(Credentials { principals: Some(principals) }))))
    }

    /// Whether everybody is [`Principal::Anonymous`].
    pub fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }

    /// Finds the principal of a call, by its headers and the certificate of its connection.
    ///
    /// With an authorization header, the header alone decides: a bad one is refused even if the certificate is good.
    ///
    /// # Errors
    ///
    /// If the call has no credentials, or credentials that are not valid.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Names>,
    ) -> Result<Principal, Unauthenticated> {
        let Some(credentials) = &self.0 else { return Ok(Principal::Anonymous) };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Cause::SeveralHeaders.into()),
            (Some(value), None) => Ok(credentials.by_credential(credential(value)?).await?),
            (None, _) => credentials.by_certificate(certificate),
        }
    }

    /// Reads the files again soon, even if they have not changed.
    pub fn read_again(&self) {
        let Some(credentials) = &self.0 else { return };
        let Credentials { principals } = &**credentials;
        principals.iter().for_each(Followed::read_again);
    }
}

impl Credentials {
    /// Finds the principal by an API key or a token.
    #[expect(clippy::unused_async, reason = "tokens will wait for their keys")]
    async fn by_credential(&self, credential: &str) -> Result<Principal, Cause> {
        if credential.starts_with(API_KEY_PREFIX) {
            let principals = self.principals.as_ref().ok_or(Cause::UnknownApiKey)?;
            return principals.get().by_api_key(credential);
        }
        Err(Cause::NoTokens)
    }

    /// Finds the principal by the names of a certificate, if there is one.
    fn by_certificate(&self, certificate: Option<&Names>) -> Result<Principal, Unauthenticated> {
        match (certificate, &self.principals) {
            (Some(names), Some(principals)) => Ok(principals.get().by_certificate(names)?),
            (None, _) | (_, None) => Err(Unauthenticated::Missing),
        }
    }
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
