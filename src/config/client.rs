//! Settings of the subcommands that call a server.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::address::ServerAddress;
use super::duration::interval;
use crate::domain::id::ID_MAX;

/// Which server to call, and with which credentials.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// Address of the server: HOST:PORT, with an IPv6 address in brackets, :PORT on this machine, or unix:PATH;
    /// https://HOST:PORT for TLS
    #[arg(
        long,
        help_heading = "Server",
        env = "KITH_SERVER",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    pub server: ServerAddress,
    /// File with the certificates of the authorities to trust, in PEM, for https:// [default: the system's]
    #[arg(long, help_heading = "Server", env = "KITH_TLS_CA", value_name = "PATH")]
    pub tls_ca: Option<PathBuf>,
    /// File with an API key or a token for the server; it is read again for each connection
    #[arg(long, help_heading = "Server", env = "KITH_TOKEN_FILE", value_name = "PATH")]
    pub token_file: Option<PathBuf>,
}

/// How to call it, and how to print what it responds.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// The server
    #[command(flatten)]
    pub server: ServerArgs,
    /// User on whose behalf to write or to read: an id, a username, or ext: and an external id
    #[arg(long = "as", help_heading = "Calls", value_name = "USER")]
    pub acting: Option<UserRef>,
    /// Try again if the server is unavailable or says when to retry, and give writes a request_id, so that they are
    /// made once
    #[arg(long, help_heading = "Calls")]
    pub retry: bool,
    /// Time to wait for a response [default: 30s, without a limit for streams]
    #[arg(long, help_heading = "Calls", value_name = "DURATION", value_parser = interval)]
    pub timeout: Option<Duration>,
    /// Format of the output: a table for people, JSON, or a JSON object per line [default: table; for `call`, json, or
    /// jsonl for a stream]
    #[arg(long, short, help_heading = "Calls", value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// Format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns
    Table,
    /// The response as an indented JSON object
    Json,
    /// One JSON object per line: each row of a list, or each message
    Jsonl,
}

/// A user on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef {
    /// By id.
    Id(i64),
    /// By username.
    Name(String),
    /// By external id.
    External(String),
}

impl FromStr for UserRef {
    type Err = String;

    /// Parses an id, a username or, after `ext:`, an external id. A leading `@` says that what follows is a username, even
    /// if it is a number. No username has a colon.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(id) = text.strip_prefix("ext:").filter(|id| !id.is_empty()) {
            return Ok(Self::External(id.to_owned()));
        }
        if let Some(name) = text.strip_prefix('@').filter(|name| !name.is_empty()) {
            return Ok(Self::Name(name.to_owned()));
        }
        if text.is_empty() || text == "@" {
            return Err("is empty; write an id or a username".to_owned());
        }
        if !text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Name(text.to_owned()));
        }
        match text.parse::<i64>() {
            Ok(id) if (1..=ID_MAX).contains(&id) => Ok(Self::Id(id)),
            _ => Err(format!("is not an id from 1 to {ID_MAX}; write @{text} for the username")),
        }
    }
}

/// How many rows of a list to print.
#[derive(Clone, Debug, Args)]
pub struct Rows {
    /// Maximum number of rows
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Print all rows
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// How much of each user to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct View {
    /// Read every field of the users, not only id, username, real name, avatar and status
    #[arg(long)]
    pub full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_an_id_or_a_username() {
        let name = |name: &str| Ok(UserRef::Name(name.to_owned()));
        for (text, expected) in [
            ("17", Ok(UserRef::Id(17))),
            ("9007199254740991", Ok(UserRef::Id(ID_MAX))),
            ("ann", name("ann")),
            ("@ann", name("ann")),
            ("@17", name("17")),
            ("17a", name("17a")),
            ("@@ann", name("@ann")),
            ("ext:17:a", Ok(UserRef::External("17:a".to_owned()))),
            ("ext", name("ext")),
        ] {
            assert_eq!(text.parse::<UserRef>(), expected, "{text}");
        }
        for (text, words) in [("", "empty"), ("@", "empty"), ("0", "write @0"), ("9007199254740992", "not an id")] {
            let error = text.parse::<UserRef>().expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
