//! The subcommands, a file each.

mod healthcheck;
mod migrate;
mod serve;
mod watch;

use std::error::Error;

use crate::config::{Cli, Command, Common};
use crate::telemetry;

/// What ends the program when it cannot go on: shown to a person.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Does what the command line says.
///
/// # Errors
///
/// When it cannot be done; the error says what is wrong and with which setting.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        None => serve::run(cli.serve).await,
        Some(Command::Serve(settings)) => serve::run(settings).await,
        Some(Command::Migrate(settings)) => migrate::run(settings).await,
        Some(Command::Watch(settings)) => watch::run(settings).await,
        Some(Command::Healthcheck(settings)) => healthcheck::run(settings).await,
    }
}

fn start_log(common: &Common) -> Result<(), Failure> {
    telemetry::init(&common.log_level, common.log_format)
        .map_err(|error| format!("--log-level {:?}: {error}", common.log_level).into())
}
