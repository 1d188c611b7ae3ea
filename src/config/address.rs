//! The address of a server, as it is written in settings.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The port of a URL that names none.
const HTTP_PORT: u16 = 80;
/// The same with TLS.
const HTTPS_PORT: u16 = 443;
/// What the URL of a server with TLS begins with.
const HTTPS: &str = "https://";

/// An address to listen on or to connect to.
///
/// It is written `HOST:PORT`, `[IPV6]:PORT`, `:PORT` or `unix:PATH`. A URL `http://HOST:PORT` means the same as its
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of every interface, IPv6 and IPv4. To a client, it means this machine.
    Everywhere(u16),
    /// A port of a host: a name or an IP address.
    Host {
        /// The name, or the IP address without brackets.
        name: String,
        /// The port. A server that listens on port 0 chooses a free one.
        port: u16,
    },
    /// A Unix socket, by the path of its file.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC's libraries also write unix:///path.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err("unix: needs the path of a socket, as in unix:/run/kith.sock".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(authority) = text.strip_prefix("http://") {
            return host_and_port(authority.strip_suffix('/').unwrap_or(authority), Some(HTTP_PORT));
        }
        if text.starts_with(HTTPS) {
            return Err("https:// is for clients; write HOST:PORT, and set --tls-certificate for TLS".to_owned());
        }
        host_and_port(text, None)
    }
}

/// The address of a server to connect to: one to listen on, or a URL `https://HOST:PORT` for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// The address.
    pub address: Address,
    /// Whether it was a URL that needs TLS, with a certificate for the name of the host.
    pub https: bool,
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(authority) = text.strip_prefix(HTTPS) else {
            return Ok(Self { address: text.parse()?, https: false });
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        Ok(Self { address: host_and_port(authority, Some(HTTPS_PORT))?, https: true })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.https { HTTPS } else { "" })?;
        self.address.fmt(f)
    }
}

/// Parses `HOST:PORT`, `[IPV6]:PORT` or `:PORT`.
fn host_and_port(text: &str, default: Option<u16>) -> Result<Address, String> {
    let (name, rest) = match text.strip_prefix('[') {
        Some(text) => {
            let (name, rest) = text.split_once(']').ok_or("has no ] after its IPv6 address")?;
            if name.parse::<std::net::Ipv6Addr>().is_err() && !name.contains('%') {
                return Err(format!("has {name:?} in brackets, which is not an IPv6 address"));
            }
            (name, rest)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match (rest.strip_prefix(':'), default) {
        (Some(port), _) if port.contains(':') && !text.starts_with('[') => {
            return Err("has an IPv6 address without brackets; write [ADDRESS]:PORT".to_owned());
        }
        (Some(port), _) => port.parse().map_err(|_| format!("has no port from 0 to 65535 but {port:?}"))?,
        (None, Some(default)) if rest.is_empty() => default,
        (None, _) => return Err("has no port; write HOST:PORT".to_owned()),
    };
    if name.is_empty() {
        return Ok(Address::Everywhere(port));
    }
    let in_names = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !text.starts_with('[') && !name.chars().all(in_names) {
        return Err(format!("has {name:?}, which is neither a host's name nor an IP address"));
    }
    Ok(Address::Host { name: name.to_owned(), port })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::Host { name, port } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Address {
        Address::Host { name: name.to_owned(), port }
    }

    #[test]
    fn addresses_are_parsed_and_formatted() {
        for (text, address, formatted) in [
            ("127.0.0.1:50051", host("127.0.0.1", 50051), "127.0.0.1:50051"),
            ("0.0.0.0:0", host("0.0.0.0", 0), "0.0.0.0:0"),
            ("[::1]:50051", host("::1", 50051), "[::1]:50051"),
            ("[fe80::1%eth0]:1", host("fe80::1%eth0", 1), "[fe80::1%eth0]:1"),
            ("localhost:50051", host("localhost", 50051), "localhost:50051"),
            ("kith_a.example-1.com:65535", host("kith_a.example-1.com", 65535), "kith_a.example-1.com:65535"),
            (":50051", Address::Everywhere(50051), ":50051"),
            ("unix:/run/kith.sock", Address::Unix("/run/kith.sock".into()), "unix:/run/kith.sock"),
            ("unix:///run/kith.sock", Address::Unix("/run/kith.sock".into()), "unix:/run/kith.sock"),
            ("unix:kith.sock", Address::Unix("kith.sock".into()), "unix:kith.sock"),
            ("http://127.0.0.1:50051", host("127.0.0.1", 50051), "127.0.0.1:50051"),
            ("http://[::1]:50051/", host("::1", 50051), "[::1]:50051"),
            ("http://kith", host("kith", 80), "kith:80"),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), formatted);
            assert_eq!(formatted.parse(), Ok(address), "{formatted}");
        }
    }

    #[test]
    fn the_address_of_a_server_can_be_a_url_with_tls() {
        for (text, address, https, formatted) in [
            ("kith:1", host("kith", 1), false, "kith:1"),
            ("http://kith:1", host("kith", 1), false, "kith:1"),
            ("https://kith:1", host("kith", 1), true, "https://kith:1"),
            ("https://kith.example.com/", host("kith.example.com", 443), true, "https://kith.example.com:443"),
            ("https://[::1]:1", host("::1", 1), true, "https://[::1]:1"),
        ] {
            let server: ServerAddress = text.parse().expect(text);
            assert_eq!((&server.address, server.https), (&address, https));
            assert_eq!(server.to_string(), formatted);
        }
        for text in ["https://kith:1/path", "https://unix:/run/kith.sock", "ftp://kith:1"] {
            text.parse::<ServerAddress>().expect_err(text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "has no port"),
            ("nowhere", "has no port"),
            ("50051", "has no port"),
            ("[::1]", "has no port"),
            ("[::1]50051", "has no port"),
            ("::1:50051", "without brackets"),
            ("[::1:50051", "has no ]"),
            ("[localhost]:50051", "not an IPv6 address"),
            ("localhost:", "no port from 0"),
            ("localhost:65536", "65536"),
            ("localhost:grpc", "grpc"),
            ("ann@localhost:1", "neither a host's name"),
            ("local host:1", "neither a host's name"),
            ("http://localhost:1/path", "1/path"),
            ("http://localhost/path", "neither a host's name"),
            ("https://localhost:1", "TLS"),
            ("tcp://localhost:1", "IPv6 address without brackets"),
            ("unix:", "path of a socket"),
            ("unix://", "path of a socket"),
        ] {
            let refused = text.parse::<Address>().expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }
}
