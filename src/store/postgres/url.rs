//! The URL of a PostgreSQL database, as libpq defines it (PostgreSQL manual, "Connection URIs").
//!
//! It is parsed here, and not by the driver, so that no error contains a part of a password, and parameters that the
//! driver does not have are refused by name.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// A parsed URL. What it does not set is `None`, or has the default.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct PostgresUrl {
    /// At least one, in the order in which they are tried.
    pub(super) hosts: Vec<HostPort>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Password>,
    pub(super) database: Option<String>,
    pub(super) application_name: Option<String>,
    /// Settings of the session, such as `-c geqo=off`.
    pub(super) options: Option<String>,
    pub(super) ssl_mode: SslMode,
    /// A file of certificates to trust instead of the system's. `system` stands for those.
    pub(super) ssl_root_cert: Option<PathBuf>,
    pub(super) channel_binding: ChannelBinding,
    pub(super) session: SessionAttributes,
    /// The time that one host has for a connection. Zero is no limit.
    pub(super) connect_timeout: Option<Duration>,
    /// Zero is the operating system's limit.
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) keepalives: Option<bool>,
    pub(super) keepalives_idle: Option<Duration>,
    pub(super) keepalives_interval: Option<Duration>,
    pub(super) keepalives_count: Option<u32>,
    /// A file of passwords to read instead of the default one.
    pub(super) password_file: Option<PathBuf>,
}

/// A password. It has no `Debug` that shows it, and is overwritten when it is dropped.
#[derive(Clone)]
pub(super) struct Password(SecretString);

impl Password {
    /// Returns the password. An empty one is none.
    fn new(text: String) -> Option<Self> {
        non_empty(text).map(|text| Self(text.into()))
    }

    pub(super) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Password {}

/// One of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    /// The name. With a slash at its start, the directory of a Unix socket.
    pub(super) name: String,
    /// The address, if the name is not to be looked up.
    pub(super) address: Option<std::net::IpAddr>,
    pub(super) port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = Some(self.port).filter(|port| *port != PORT).map(|port| format!(":{port}")).unwrap_or_default();
        if self.name.contains(':') { write!(f, "[{}]{port}", self.name) } else { write!(f, "{}{port}", self.name) }
    }
}

impl HostPort {
    /// Whether it is the directory of a Unix socket.
    pub(super) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// What a server must be like, `target_session_attrs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SessionAttributes {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// The port if none is given.
const PORT: u16 = 5432;
/// The host if none is given.
const HOST: &str = "localhost";

/// Parameters of libpq that Kith does not have.
const NOT_SUPPORTED: [&str; 24] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslnegotiation",
    "sslsni",
];

/// The error of a URL with an `@` where none can be. Both sides of it may be parts of a password.
const MISPLACED: &str = "there is an @ after the host: in a user or password, write / as %2F, ? as %3F and % as %25; in a \
                         name or parameter, write @ as %40";

impl PostgresUrl {
    /// Parses a URL. The error contains no part of the user or the password.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if rest.contains('@') {
            return Err(MISPLACED.to_owned());
        }
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        let decode_secret = |text| decode(text).map_err(|error| format!("in the user or the password, {error}"));

        let mut parsed = Self {
            user: non_empty(decode_secret(user)?),
            password: password.map(decode_secret).transpose()?.and_then(Password::new),
            database: non_empty(decode(path.strip_prefix('/').unwrap_or(path))?),
            ..Self::default()
        };
        let mut hosts = Hosts::parse(hosts)?;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            // Not named in the error: it could be the rest of a password that contains a question mark.
            let (name, value) = parameter.split_once('=').ok_or("a parameter after the question mark has no value")?;
            let (name, value) = (decode(name)?, decode(value)?);
            match name.as_str() {
                "host" => hosts.names = list(&value),
                "hostaddr" => hosts.addresses = list(&value),
                "port" => hosts.ports = list(&value),
                _ => parsed.set(&name, value)?,
            }
        }
        parsed.hosts = hosts.pairs()?;
        parsed.check_roots()?;
        Ok(parsed)
    }

    /// Refuses roots that would be ignored, and verification that anybody would pass.
    fn check_roots(&mut self) -> Result<(), String> {
        let (is_given, is_system) = (self.ssl_root_cert.is_some(), self.trusts_system());
        match self.ssl_mode {
            SslMode::VerifyFull => Ok(()),
            _ if is_given && is_system => Err("sslrootcert=system needs sslmode=verify-full".to_owned()),
            SslMode::VerifyCa if !is_given => {
                Err("sslmode=verify-ca needs sslrootcert, since anybody can have a certificate that the system trusts"
                    .to_owned())
            }
            SslMode::VerifyCa => Ok(()),
            // As libpq does.
            SslMode::Require if is_given => {
                self.ssl_mode = SslMode::VerifyCa;
                Ok(())
            }
            SslMode::Disable | SslMode::Prefer if is_given => {
                Err("sslrootcert needs sslmode=verify-full, or verify-ca".to_owned())
            }
            SslMode::Disable | SslMode::Prefer | SslMode::Require => Ok(()),
        }
    }

    /// Whether servers are verified by the certificates that the system trusts.
    pub(super) fn trusts_system(&self) -> bool {
        self.ssl_root_cert.as_deref().is_none_or(|path| path == "system")
    }

    /// Sets one parameter that does not concern the hosts.
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "user" => self.user = non_empty(value),
            "password" => self.password = Password::new(value),
            "dbname" => self.database = non_empty(value),
            "passfile" => self.password_file = non_empty(value).map(PathBuf::from),
            "application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            "sslmode" => self.ssl_mode = ssl_mode(&value)?,
            // JDBC's way to write it, which libpq takes too.
            "ssl" if value == "true" => self.ssl_mode = SslMode::Require,
            "sslrootcert" => self.ssl_root_cert = non_empty(value).map(PathBuf::from),
            "channel_binding" => self.channel_binding = channel_binding(&value)?,
            "target_session_attrs" => self.session = session_attributes(&value)?,
            "connect_timeout" => self.connect_timeout = Some(Duration::from_secs(number(name, &value)?)),
            "tcp_user_timeout" => self.tcp_user_timeout = Some(Duration::from_millis(number(name, &value)?)),
            "keepalives" => self.keepalives = Some(number(name, &value)? != 0),
            "keepalives_idle" => self.keepalives_idle = positive(name, &value)?.map(Duration::from_secs),
            "keepalives_interval" => self.keepalives_interval = positive(name, &value)?.map(Duration::from_secs),
            "keepalives_count" => {
                self.keepalives_count = positive(name, &value)?.and_then(|count| u32::try_from(count).ok());
            }
            name if NOT_SUPPORTED.contains(&name) => return Err(format!("the parameter {name} is not supported")),
            name => return Err(format!("unknown parameter {name:?}")),
        }
        Ok(())
    }
}

/// The three lists that name the hosts, as written.
struct Hosts {
    names: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
}

impl Hosts {
    /// Parses `name:port,[address]:port,…`.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in text.split(',').filter(|_| !text.is_empty()) {
            let (name, port) = match host.strip_prefix('[') {
                Some(host) => host.split_once(']').ok_or("a [ in the host has no ]")?,
                None => host.split_at(host.find(':').unwrap_or(host.len())),
            };
            names.push(decode(name)?);
            ports.push(match port.strip_prefix(':') {
                Some(port) => decode(port)?,
                None if port.is_empty() => String::new(),
                None => return Err("after the ] of a host there can be only a port".to_owned()),
            });
        }
        Ok(Self { names, addresses: Vec::new(), ports })
    }

    fn pairs(self) -> Result<Vec<HostPort>, String> {
        let count = self.names.len().max(self.addresses.len()).max(1);
        let fits = |list: &Vec<String>| list.is_empty() || list.len() == count;
        if !fits(&self.names) || !fits(&self.addresses) || !(fits(&self.ports) || self.ports.len() == 1) {
            return Err("there must be as many hosts as ports and addresses (or one port for all)".to_owned());
        }
        let of = |list: &[String], index: usize| list.get(index).filter(|text| !text.is_empty()).cloned();
        (0..count)
            .map(|index| {
                let address = of(&self.addresses, index);
                let port = if self.ports.len() == 1 { of(&self.ports, 0) } else { of(&self.ports, index) };
                Ok(HostPort {
                    name: of(&self.names, index).or_else(|| address.clone()).unwrap_or_else(|| HOST.to_owned()),
                    address: address.map(|text| text.parse()).transpose().map_err(|_| "hostaddr is no IP address")?,
                    port: port
                        .map_or(Ok(PORT), |text| text.parse())
                        .map_err(|_| "the port is not a number to 65535")?,
                })
            })
            .collect()
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, String> {
    match value {
        "disable" => Ok(SslMode::Disable),
        "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-ca" => Ok(SslMode::VerifyCa),
        "verify-full" => Ok(SslMode::VerifyFull),
        _ => Err("sslmode can be disable, prefer, require, verify-ca or verify-full".to_owned()),
    }
}

fn channel_binding(value: &str) -> Result<ChannelBinding, String> {
    match value {
        "disable" => Ok(ChannelBinding::Disable),
        "prefer" => Ok(ChannelBinding::Prefer),
        "require" => Ok(ChannelBinding::Require),
        _ => Err("channel_binding can be disable, prefer or require".to_owned()),
    }
}

fn session_attributes(value: &str) -> Result<SessionAttributes, String> {
    match value {
        "any" => Ok(SessionAttributes::Any),
        "read-write" => Ok(SessionAttributes::ReadWrite),
        "read-only" => Ok(SessionAttributes::ReadOnly),
        "primary" => Ok(SessionAttributes::Primary),
        "standby" => Ok(SessionAttributes::Standby),
        "prefer-standby" => Ok(SessionAttributes::PreferStandby),
        _ => {
            Err("target_session_attrs can be any, read-write, read-only, primary, standby or prefer-standby".to_owned())
        }
    }
}

/// Parses a number. libpq takes negative ones for zero.
fn number(name: &str, value: &str) -> Result<u64, String> {
    let number: i32 = value.trim().parse().map_err(|_| format!("{name} is not a whole number"))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

/// Parses a number for which zero is the default.
fn positive(name: &str, value: &str) -> Result<Option<u64>, String> {
    Ok(Some(number(name, value)?).filter(|number| *number > 0))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Decodes percent-encoded characters.
fn decode(text: &str) -> Result<String, String> {
    const NOT_ENCODED: &str = "a % is not followed by two hexadecimal digits: write it as %25";
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(NOT_ENCODED)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NOT_ENCODED.to_owned());
        }
        match u8::from_str_radix(digits, 16) {
            Ok(0) | Err(_) => return Err("%00 stands for no character".to_owned()),
            Ok(byte) => bytes.push(byte),
        }
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| "percent-encoded characters are not UTF-8".to_owned())
}

#[cfg(test)]
mod tests;
