//! Why a call has no principal.

use std::fmt;
use std::time::Duration;

/// Why a call has no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// It has no credentials.
    Missing,
    /// Its credentials are not valid.
    Invalid(Cause),
    /// Its token was not verified, since its client sent too many that are not valid. One is verified after this time.
    TooManyFailures(Duration),
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
    /// Neither an API key nor a well-formed token.
    NotAToken,
    /// A token of another type, such as an OpenID Connect logout token.
    TokenType,
    /// A token with header parameters that must be understood.
    CriticalHeader,
    /// A token that names no key.
    NoKeyId,
    /// A token that names a key that the server does not have.
    UnknownKeyId,
    /// A token with another algorithm than that of its key.
    Algorithm,
    /// A token that was changed, or signed with another key.
    Signature,
    /// A token without a claim that each one needs.
    MissingClaim(&'static str),
    /// A token of another issuer.
    Issuer,
    /// A token for other servers.
    Audience,
    /// A token that has expired.
    Expired,
    /// A token that is not valid yet, or was issued in the future.
    NotYetValid,
    /// A token whose subject can be no principal.
    Subject,
}

impl Cause {
    /// Whether a signature was verified to find it.
    pub(super) fn is_costly(self) -> bool {
        match self {
            Self::Signature
            | Self::MissingClaim(_)
            | Self::Issuer
            | Self::Audience
            | Self::Expired
            | Self::NotYetValid
            | Self::Subject => true,
            Self::SeveralHeaders
            | Self::NotBearer
            | Self::TooLong
            | Self::UnknownApiKey
            | Self::UnknownCertificate
            | Self::AmbiguousCertificate
            | Self::NoTokens
            | Self::NotAToken
            | Self::TokenType
            | Self::CriticalHeader
            | Self::NoKeyId
            | Self::UnknownKeyId
            | Self::Algorithm => false,
        }
    }
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
            Self::TooManyFailures(_) => f.write_str("the client has sent too many invalid tokens"),
        }
    }
}

/// A clause, without a full stop.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = match self {
            Self::MissingClaim(claim) => return write!(f, "the token has no claim {claim:?}"),
            Self::SeveralHeaders => "the call has more than one authorization header",
            Self::NotBearer => "the authorization header is not \"Bearer\" with an API key or a token",
            Self::TooLong => "the authorization header is too long",
            Self::UnknownApiKey => "the API key is unknown",
            Self::UnknownCertificate => "no name of the client's certificate is known",
            Self::AmbiguousCertificate => "the client's certificate has the names of several principals",
            Self::NoTokens => "the credential is no API key, and this server accepts no tokens",
            Self::NotAToken => "the credential is neither an API key nor a well-formed token",
            Self::TokenType => "the token has another type than \"JWT\" and \"at+jwt\"",
            Self::CriticalHeader => "the token has critical header parameters (crit)",
            Self::NoKeyId => "the token names no key (kid)",
            Self::UnknownKeyId => "the token names an unknown key (kid)",
            Self::Algorithm => "the token has another algorithm than its key",
            Self::Signature => "the token has an invalid signature",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Subject => {
                "the token has a subject that is neither \"user:ID\" nor a name of at most 255 visible characters"
            }
        };
        f.write_str(cause)
    }
}
