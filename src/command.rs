//! The subcommands, one file each.

mod check;
mod database;
mod healthcheck;
mod migrate;
mod restore_epoch;
mod serve;
mod watch;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use crate::config::{Cli, Command, Common};
use crate::telemetry::{self, Log};

/// An error that ends the program. It is printed to standard error.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Runs the subcommand and returns the exit status.
///
/// A check that finds violations returns a failure status, and no error: its report is already printed. So does a list
/// with pending migrations.
///
/// # Errors
///
/// If the subcommand fails. The error names the setting that caused it.
pub async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let done = match cli.command {
        None => serve::run(cli.serve).await,
        Some(Command::Serve(settings)) => serve::run(*settings).await,
        Some(Command::Migrate(settings)) => return migrate::run(settings).await,
        Some(Command::Watch(settings)) => watch::run(settings).await,
        Some(Command::Check(settings)) => return check::run(settings).await,
        Some(Command::RestoreEpoch(settings)) => restore_epoch::run(settings).await,
        Some(Command::Healthcheck(settings)) => healthcheck::run(settings).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Writes a result to standard output. The log goes to standard error.
fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn start_log(common: &Common) -> Result<Log, Failure> {
    telemetry::init(&common.log_level, common.log_format)
        .map_err(|error| format!("--log-level {:?}: {error}", common.log_level).into())
}
