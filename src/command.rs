//! The subcommands, a file each.

mod check;
mod healthcheck;
mod migrate;
mod restore_epoch;
mod serve;
mod watch;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use crate::config::{Cli, Command, Common};
use crate::telemetry;

/// What ends the program when it cannot go on: shown to a person.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Does what the command line says. Answers the exit status, which is a failure's also when a check was carried out and
/// found something: that was told already.
///
/// # Errors
///
/// When it cannot be done; the error says what is wrong and with which setting.
pub async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let done = match cli.command {
        None => serve::run(cli.serve).await,
        Some(Command::Serve(settings)) => serve::run(settings).await,
        Some(Command::Migrate(settings)) => migrate::run(settings).await,
        Some(Command::Watch(settings)) => watch::run(settings).await,
        Some(Command::Check(settings)) => return check::run(settings).await,
        Some(Command::RestoreEpoch(settings)) => restore_epoch::run(settings).await,
        Some(Command::Healthcheck(settings)) => healthcheck::run(settings).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Writes what was asked for to standard output; the log goes elsewhere.
fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn start_log(common: &Common) -> Result<(), Failure> {
    telemetry::init(&common.log_level, common.log_format)
        .map_err(|error| format!("--log-level {:?}: {error}", common.log_level).into())
}
