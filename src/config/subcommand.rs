//! Settings of the other subcommands.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::address::ServerAddress;
use super::client::ServerArgs;
use super::database::Common;
use super::duration::interval;
use super::metrics_url::MetricsUrl;
use crate::auth::Scope;
use crate::domain::event::EventKind;
use crate::domain::id::ID_MAX;
use crate::transfer::Kind;

/// Settings of `kith migrate`.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// List the applied and the pending migrations and change nothing; exit status 3 if any is pending
    #[arg(long, conflicts_with_all = ["dry_run", "print_roles"])]
    pub status: bool,
    /// Apply the pending migrations in a transaction that is rolled back, and list them
    #[arg(long, conflicts_with = "print_roles")]
    pub dry_run: bool,
    /// Print an SQL script for psql that creates roles with the least rights on PostgreSQL
    #[arg(long)]
    pub print_roles: bool,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith watch`.
#[derive(Clone, Debug, Args)]
pub struct Watch {
    /// The server
    #[command(flatten)]
    pub server: ServerArgs,
    /// Sequence to start after; 0 = at the oldest retained event [default: new events only]
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(0..))]
    pub after: Option<i64>,
    /// Epoch that the sequence belongs to; the watch is refused if events up to it were lost since
    #[arg(long)]
    pub epoch: Option<String>,
    /// Print only events about this user; repeatable
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..=ID_MAX))]
    pub user: Vec<i64>,
    /// Print only events of this kind, such as CONNECTION_CREATED; repeatable
    #[arg(long, value_name = "KIND", ignore_case = true, value_parser = kinds())]
    pub kind: Vec<String>,
    /// Print only events that this user can see; 0 = all events
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=ID_MAX))]
    pub viewer: i64,
    /// Print the current revision when there are no events
    #[arg(long)]
    pub heartbeats: bool,
}

/// Settings of `kith demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// Where the server has its metrics: http://HOST:PORT/PATH, or an address such as :9464, with the path /metrics
    #[arg(long, env = "KITH_METRICS", value_name = "URL", default_value = "http://127.0.0.1:9464/metrics")]
    pub metrics: MetricsUrl,
    /// Time between two readings
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print the figures of one interval as plain text and exit, as without a terminal
    #[arg(long)]
    pub once: bool,
}

/// Settings of `kith check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
    /// Correct wrong counts of users and wrong totals; other violations are only reported
    #[arg(long)]
    pub repair: bool,
}

/// Settings of `kith backup`.
#[derive(Clone, Debug, Args)]
pub struct Backup {
    /// File to write the copy to; it must not exist
    #[arg(value_name = "DESTINATION")]
    pub destination: PathBuf,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith export`.
#[derive(Clone, Debug, Args)]
pub struct Export {
    /// File to write to, in NDJSON (kith.export.v1); it must not exist; - = standard output
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    /// Write the rows of one type, in CSV: users, connections, requests or blocks
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::plural)))]
    pub csv: Option<String>,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith restore-epoch`.
#[derive(Clone, Debug, Args)]
pub struct RestoreEpoch {
    /// Do it even though a server seems to use the database
    #[arg(long)]
    pub force: bool,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct Healthcheck {
    /// Address of the server, as it listens: one such as :50051 or 0.0.0.0:50051 means this machine; https://HOST:PORT for
    /// TLS with a certificate that is verified
    #[arg(long, env = "KITH_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub address: ServerAddress,
    /// File with the certificates of the authorities to trust, in PEM, for https:// [default: the system's]
    #[arg(long, env = "KITH_TLS_CA", value_name = "PATH")]
    pub tls_ca: Option<PathBuf>,
    /// The server's own setting: the check then uses TLS too, and without https:// it does not verify the certificate
    #[arg(long, env = "KITH_TLS_CERTIFICATE", value_name = "PATH")]
    pub tls_certificate: Option<PathBuf>,
    /// The server's own setting: if the server demands a certificate, the check shows the server's own
    #[arg(long, env = "KITH_TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
    /// Name of the gRPC service to query; an empty name queries only the process
    #[arg(long, value_name = "NAME", default_value = "kith.v1.ConnectionRequestService")]
    pub service: String,
    /// Time to wait for the response
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = interval)]
    pub timeout: Duration,
}

/// Settings of `kith key`.
#[derive(Clone, Debug, Args)]
pub struct Key {
    /// What to do
    #[command(subcommand)]
    pub command: KeyCommand,
}

/// What `kith key` does.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key: print the secret on the first line, and then the entry for the file of --principals
    New(NewKey),
}

/// Settings of `kith key new`.
#[derive(Clone, Debug, Args)]
pub struct NewKey {
    /// Name of the service: 1 to 64 of the characters A-Z a-z 0-9 - _ .
    pub name: String,
    /// What the service may do, separated by commas
    #[arg(long, value_name = "SCOPES", required = true, value_delimiter = ',', value_parser = scopes())]
    pub scopes: Vec<String>,
}

/// Settings of `kith token`.
#[derive(Clone, Debug, Args)]
pub struct Token {
    /// File with the private key: Ed25519 or P-256, in PEM (PKCS#8)
    #[arg(long, value_name = "PATH", required_unless_present = "new_key")]
    pub key: Option<PathBuf>,
    /// Create an Ed25519 key in this file, and print the key set for the --jwt-keys of a server
    #[arg(long, value_name = "PATH", conflicts_with_all = ["key", "jwks", "sub", "scopes"])]
    pub new_key: Option<PathBuf>,
    /// Print the key set for the --jwt-keys of a server, and no token
    #[arg(long, conflicts_with_all = ["sub", "scopes"])]
    pub jwks: bool,
    /// Subject: user:ID for a user, any other for a service
    #[arg(long, value_name = "SUBJECT", required_unless_present_any = ["jwks", "new_key"])]
    pub sub: Option<String>,
    /// What the service may do, separated by commas
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', value_parser = scopes())]
    pub scopes: Vec<String>,
    /// Issuer: the --jwt-issuer of the server
    #[arg(long, env = "KITH_JWT_ISSUER", value_name = "ISSUER", value_parser = NonEmptyStringValueParser::new())]
    pub issuer: Option<String>,
    /// Audiences: one or all of the --jwt-audience of the server
    #[arg(long, env = "KITH_JWT_AUDIENCE", value_name = "AUDIENCES", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub audience: Vec<String>,
    /// Time for which the token is valid
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = interval)]
    pub expires_in: Duration,
}

/// Settings of `kith proto`.
#[derive(Clone, Debug, Args)]
pub struct Proto {
    /// File to write to; an existing one is replaced [default: standard output]
    pub file: Option<PathBuf>,
}

/// Settings of `kith completion`.
#[derive(Clone, Debug, Args)]
pub struct Completion {
    /// The shell
    pub shell: Shell,
}

/// Settings of `kith man`.
#[derive(Clone, Debug, Args)]
pub struct Man {
    /// The subcommand that the page describes, such as `watch` or `user list` [default: all of kith]
    pub subcommand: Vec<String>,
}

/// The parser of a scope, by name.
fn scopes() -> PossibleValuesParser {
    PossibleValuesParser::new(Scope::ALL.map(Scope::name))
}

/// The parser of an event kind, by name.
fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.name()))
}
