//! The address of a server's metrics, as it is written in settings.

use std::fmt;
use std::str::FromStr;

use super::address::Address;

/// The path of the metrics if a URL has none.
const PATH: &str = "/metrics";

/// Where a server has its metrics: `http://HOST:PORT/PATH`, or an address, with the path `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    /// The address to connect to.
    pub address: Address,
    /// The path, with its query.
    pub path: String,
}

impl MetricsUrl {
    /// The host as an HTTP request names it.
    pub fn host(&self) -> String {
        match &self.address {
            Address::Everywhere(port) => format!("localhost:{port}"),
            Address::Host { .. } => self.address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl FromStr for MetricsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the port of metrics has no TLS; write http://HOST:PORT/metrics".to_owned());
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Ok(Self { address: text.parse()?, path: PATH.to_owned() });
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err("has no host; write http://HOST:PORT/metrics".to_owned());
        }
        let is_visible = path.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || path.contains('#') {
            return Err("has a path with characters that a URL does not have".to_owned());
        }
        let path = if matches!(path, "" | "/") { PATH } else { path };
        Ok(Self { address: format!("http://{authority}").parse()?, path: path.to_owned() })
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(_) => self.address.fmt(f),
            Address::Everywhere(_) | Address::Host { .. } => write!(f, "http://{}{}", self.address, self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_addresses_are_parsed_and_formatted() {
        for (text, host, formatted) in [
            ("http://127.0.0.1:9464/metrics", "127.0.0.1:9464", "http://127.0.0.1:9464/metrics"),
            ("127.0.0.1:9464", "127.0.0.1:9464", "http://127.0.0.1:9464/metrics"),
            ("http://[::1]:9464", "[::1]:9464", "http://[::1]:9464/metrics"),
            ("http://kith/", "kith:80", "http://kith:80/metrics"),
            ("http://kith:1/a/b?c=d", "kith:1", "http://kith:1/a/b?c=d"),
            (":9464", "localhost:9464", "http://:9464/metrics"),
            ("unix:/run/metrics.sock", "localhost", "unix:/run/metrics.sock"),
        ] {
            let url: MetricsUrl = text.parse().expect(text);
            assert_eq!((url.host().as_str(), url.to_string().as_str()), (host, formatted), "{text}");
            assert_eq!(formatted.parse(), Ok(url), "{formatted}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for text in
            ["", "kith", "https://kith:1/metrics", "http://", "http://kith:1/a b", "http://kith:1/#a", "ftp://kith:1"]
        {
            assert!(text.parse::<MetricsUrl>().is_err(), "{text}");
        }
    }
}
