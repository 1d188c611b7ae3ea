//! The subcommands, one file each.

mod access;
mod backup;
mod check;
mod client;
mod completion;
mod config;
mod connect;
mod database;
mod demo;
mod export;
mod healthcheck;
mod import;
mod key;
mod load;
mod man;
mod migrate;
mod monitoring;
mod progress;
mod proto;
mod restore_epoch;
mod serve;
mod token;
mod top;
mod watch;

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::config::{Cli, Command, Common, Sources, unknown_variables};
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
pub async fn run(cli: Cli, sources: &Sources) -> Result<ExitCode, Failure> {
    let done = match cli.command {
        None => serve::run(cli.serve, sources).await,
        Some(Command::Serve(settings)) => serve::run(*settings, sources).await,
        Some(Command::Config(_)) => config::run(sources),
        Some(Command::Migrate(settings)) => return migrate::run(settings, sources).await,
        Some(Command::Watch(settings)) => watch::run(settings, sources).await,
        Some(Command::Call(settings)) => return Ok(client::call(settings, sources).await),
        Some(Command::User(settings)) => return Ok(client::user(settings, sources).await),
        Some(Command::Request(settings)) => return Ok(client::request(settings, sources).await),
        Some(Command::Connection(settings)) => return Ok(client::connection(settings, sources).await),
        Some(Command::Block(settings)) => return Ok(client::block(settings, sources).await),
        Some(Command::Status(settings)) => return Ok(client::status(settings, sources).await),
        Some(Command::History(settings)) => return Ok(client::history(settings, sources).await),
        Some(Command::Top(settings)) => return top::run(&settings, sources).await,
        Some(Command::Check(settings)) => return check::run(settings, sources).await,
        Some(Command::Import(settings)) => return import::run(*settings, sources).await,
        Some(Command::Load(settings)) => return load::run(*settings, sources).await,
        Some(Command::Backup(settings)) => backup::run(settings, sources).await,
        Some(Command::Demo(settings)) => demo::run(settings, sources).await,
        Some(Command::Export(settings)) => export::run(settings, sources).await,
        Some(Command::RestoreEpoch(settings)) => restore_epoch::run(settings, sources).await,
        Some(Command::Healthcheck(settings)) => healthcheck::run(settings, sources).await,
        Some(Command::Key(settings)) => key::run(settings),
        Some(Command::Token(settings)) => token::run(&settings),
        Some(Command::Proto(settings)) => proto::run(&settings),
        Some(Command::Completion(settings)) => completion::run(&settings),
        Some(Command::Man(settings)) => man::run(&settings),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Writes a result to standard output. The log goes to standard error.
///
/// A reader that has seen enough, such as `head`, is no error.
fn print(text: &(impl AsRef<[u8]> + ?Sized)) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Starts the log. Its first lines warn of variables that are named like settings, and are none.
fn start_log(common: &Common, has_audit: bool, sources: &Sources) -> Result<Log, Failure> {
    let log = telemetry::init(&common.log_level, common.log_format, has_audit)
        .map_err(|error| format!("{} {:?}: {error}", sources.name("log-level"), common.log_level))?;
    for unknown in unknown_variables(std::env::vars_os()) {
        tracing::warn!("{unknown}");
    }
    Ok(log)
}
