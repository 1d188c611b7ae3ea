//! Origins of web pages, as they are written in settings.

use std::fmt;
use std::str::FromStr;

/// The origins of pages whose browsers may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every origin.
    Any,
    /// These origins, written as browsers send them: `SCHEME://HOST` or `SCHEME://HOST:PORT`.
    Listed(Vec<String>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Origins {
    /// Whether a browser that sends this `Origin` may call.
    pub fn allow(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|listed| listed.as_bytes() == origin),
        }
    }
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Ok(Self::default()),
            "*" => Ok(Self::Any),
            list => list.split(',').map(|origin| check(origin.trim())).collect::<Result<_, _>>().map(Self::Listed),
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Listed(origins) => f.write_str(&origins.join(",")),
        }
    }
}

/// Returns an origin that a browser can send. One that is written otherwise would never match.
fn check(origin: &str) -> Result<String, String> {
    let refused = |reason: &str| Err(format!("{origin:?} {reason}"));
    let Some((scheme, host)) = origin.split_once("://") else {
        return refused("is not an origin such as https://example.com");
    };
    if host.contains('/') {
        return refused("has a path; an origin ends with its host or port");
    }
    if host.is_empty() || origin.contains(|c: char| !c.is_ascii_graphic()) {
        return refused("is not an origin such as https://example.com");
    }
    if origin.contains('*') {
        return refused("has a *; only * alone means any origin");
    }
    if origin.contains(|c: char| c.is_ascii_uppercase()) {
        return refused("has upper-case letters, which browsers do not send");
    }
    if matches!((scheme, host.rsplit_once(':')), ("https", Some((_, "443"))) | ("http", Some((_, "80")))) {
        return refused("has the port of its scheme, which browsers do not send");
    }
    Ok(origin.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_allows_its_origins_and_no_other() {
        let origins: Origins = "https://example.com, http://localhost:8080,app://kith".parse().expect("origins");
        for allowed in ["https://example.com", "http://localhost:8080", "app://kith"] {
            assert!(origins.allow(allowed.as_bytes()), "{allowed}");
        }
        for other in ["http://example.com", "https://example.com:8443", "https://a.example.com", "null", ""] {
            assert!(!origins.allow(other.as_bytes()), "{other}");
            assert!("*".parse::<Origins>().expect("any").allow(other.as_bytes()));
            assert!(!"".parse::<Origins>().expect("none").allow(other.as_bytes()));
        }
        assert_eq!(origins.to_string().parse(), Ok(origins));
    }

    #[test]
    fn what_no_browser_sends_is_refused_with_the_reason() {
        for (text, reason) in [
            ("example.com", "not an origin"),
            ("https://", "not an origin"),
            ("https://exam ple.com", "not an origin"),
            ("https://exämple.com", "not an origin"),
            ("https://example.com/", "has a path"),
            ("https://*.example.com", "has a *"),
            ("https://example.com,*", "not an origin"),
            ("https://Example.com", "upper-case"),
            ("https://example.com:443", "port of its scheme"),
            ("http://example.com:80", "port of its scheme"),
            ("https://example.com,", "not an origin"),
        ] {
            let refused = text.parse::<Origins>().expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
