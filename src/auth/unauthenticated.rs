//! Why a call has no principal.

use std::fmt;

/// Why a call has no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// It has no credentials.
    Missing,
    /// Its credentials are not valid.
    Invalid(Cause),
}

/// What is wrong with credentials. It has nothing of the credentials themselves, so that callers and logs may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// More than one header.
    SeveralHeaders,
    /// A header of another form or scheme.
    NotBearer,
    /// A credential that is longer than any valid one.
    TooLong,
    /// An API key that no principal has.
    UnknownApiKey,
    /// A certificate with no name of a principal.
    UnknownCertificate,
    /// A certificate with the names of several principals.
    AmbiguousCertificate,
    /// A token, where the server has no keys for tokens.
    NoTokens,
}

impl From<Cause> for Unauthenticated {
    fn from(cause: Cause) -> Self {
        Self::Invalid(cause)
    }
}

impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the call has no credentials"),
            Self::Invalid(cause) => cause.fmt(f),
        }
    }
}

/// A clause, without a full stop.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SeveralHeaders => "the call has more than one authorization header",
            Self::NotBearer => "the authorization header is not \"Bearer\" with an API key or a token",
            Self::TooLong => "the authorization header is too long",
            Self::UnknownApiKey => "the API key is unknown",
            Self::UnknownCertificate => "no name of the client's certificate is known",
            Self::AmbiguousCertificate => "the client's certificate has the names of several principals",
            Self::NoTokens => "the credential is no API key, and this server accepts no tokens",
        })
    }
}
