//! Settings of the other subcommands.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use super::address::ServerAddress;
use super::database::Common;
use super::duration::interval;
use crate::domain::event::EventKind;
use crate::domain::id::ID_MAX;

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
    /// Address of the server: HOST:PORT, with an IPv6 address in brackets, :PORT on this machine, or unix:PATH;
    /// https://HOST:PORT for TLS
    #[arg(long, env = "KITH_SERVER", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub server: ServerAddress,
    /// File with the certificates of the authorities to trust, in PEM, for https:// [default: the system's]
    #[arg(long, env = "KITH_TLS_CA", value_name = "PATH")]
    pub tls_ca: Option<PathBuf>,
    /// Sequence to start after; 0 = at the oldest retained event [default: new events only]
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(0..))]
    pub after: Option<i64>,
    /// Epoch that the sequence belongs to; the watch is refused if the server's epoch differs
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

/// Settings of `kith check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
    /// Correct wrong counts of users; other violations are only reported
    #[arg(long)]
    pub repair: bool,
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

/// Settings of `kith completion`.
#[derive(Clone, Debug, Args)]
pub struct Completion {
    /// The shell
    pub shell: Shell,
}

/// Settings of `kith man`.
#[derive(Clone, Debug, Args)]
pub struct Man {
    /// The subcommand that the page describes [default: all of kith]
    pub subcommand: Option<String>,
}

/// The parser of an event kind, by name.
fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.name()))
}
