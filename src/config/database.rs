//! Settings of the database and the log, which most subcommands have.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, ValueEnum};

use super::duration::parse_duration;
use crate::store::DatabaseUrl;

/// Settings of every subcommand that uses the database.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Database URL: sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME?sslmode=MODE, where MODE
    /// is disable, prefer, require, verify-ca or verify-full
    #[arg(long, help_heading = "Database", env = "KITH_DATABASE_URL", value_name = "URL", default_value = "sqlite://kith.db", hide_env_values = true, value_parser = UrlParser)]
    pub(super) database_url: DatabaseUrl,
    /// File with the database URL, instead of --database-url
    #[arg(
        long,
        help_heading = "Database",
        env = "KITH_DATABASE_URL_FILE",
        value_name = "PATH",
        conflicts_with = "database_url"
    )]
    pub(super) database_url_file: Option<PathBuf>,
    /// File with the password of PostgreSQL's user; without it and a password in the URL, PGPASSWORD and PGPASSFILE
    /// count
    #[arg(long, help_heading = "Database", env = "KITH_DATABASE_PASSWORD_FILE", value_name = "PATH")]
    pub(super) database_password_file: Option<PathBuf>,
    /// Time to wait at the start for a PostgreSQL that is not there yet; 0 = do not wait
    #[arg(long, help_heading = "Database", env = "KITH_DATABASE_WAIT", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub database_wait: Duration,
    /// Log level: off, error, warn, info, debug or trace; libraries log at most at info, unless directives such as
    /// debug,h2=trace name them
    #[arg(long, help_heading = "Log", env = "KITH_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Format of the log, which goes to standard error
    #[arg(long, help_heading = "Log", env = "KITH_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Parser of a database URL.
///
/// clap's own error would contain the URL with its password.
#[derive(Clone, Copy, Debug)]
pub(super) struct UrlParser;

impl TypedValueParser for UrlParser {
    type Value = DatabaseUrl;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<DatabaseUrl, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "is not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|error| {
            let flag = arg.and_then(|arg| arg.get_long()).unwrap_or("database-url");
            let message = format!("invalid value for --{flag}: {error}\n");
            let mut failed = clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command);
            failed.insert(
                ContextKind::InvalidArg,
                ContextValue::String(arg.map(ToString::to_string).unwrap_or_default()),
            );
            failed.insert(ContextKind::Custom, ContextValue::String(error));
            failed
        })
    }
}

/// Calls that the audit trail has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AuditLog {
    /// None
    #[default]
    Off,
    /// Calls that write, and all that are denied
    Writes,
    /// All calls
    All,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines
    Text,
    /// One JSON object per line
    Json,
}
