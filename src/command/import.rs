//! `kith import`: imports users and their relations from files into a database that no server uses.

use std::process::ExitCode;

use super::database::Database;
use super::{Failure, print, progress, start_log};
use crate::causes::with_causes;
use crate::clock::Clock;
use crate::config::{Import, Sources};
use crate::import::{ImportError, Options, Report, import};
use crate::progress::Progress;
use crate::store::{self, ConnectError};

/// The exit status of an import that refused rows. All others are in the database.
const REFUSED: u8 = 3;

pub(super) async fn run(args: Import, sources: &Sources) -> Result<ExitCode, Failure> {
    let log = start_log(&args.common, false, sources)?;
    let options = args.options()?;
    let database = Database::reach(&args.common, sources).await?;
    let (progress, clock, format) = (Progress::default(), Clock::system(), args.common.log_format);
    tracing::info!(database = %database.url, files = options.sources.len(), dry_run = options.dry_run, "importing");
    let importing = async {
        // A dry run changes nothing, and so it needs a database.
        if !options.dry_run {
            store::migrate(&database.url, &progress).await?;
        }
        import(&database.url, Options::clone(&options), &clock, &progress).await
    };
    let report = progress::shown(&progress, &log, format, importing).await;
    let report = report.map_err(|error| failure(&database, &error))?;
    print(&report.to_string())?;
    Ok(if report.has_refusals() { REFUSED.into() } else { ExitCode::SUCCESS })
}

/// Says what went wrong. A report of conflicts is printed.
fn failure(database: &Database, error: &ImportError) -> Failure {
    let nothing = "nothing was imported";
    match error {
        ImportError::Database(ConnectError::InUse(users)) => {
            let stop = format!("{users}; stop all servers first. {nothing}");
            database.failure(&ConnectError::Store(store::StoreError::Unavailable(stop.into())))
        }
        ImportError::Database(ConnectError::Store(error @ store::StoreError::OutcomeUnknown(_))) => {
            let unknown =
                format!("{}; run the import again: what is there already changes nothing", with_causes(error));
            unknown.into()
        }
        ImportError::Database(error) => {
            let failure = database.failure(error);
            format!("{failure}; {nothing}").into()
        }
        ImportError::Conflicts(report) => conflicts(report, &error.to_string()),
        ImportError::File { .. }
        | ImportError::Refused { .. }
        | ImportError::Temporary(_)
        | ImportError::NotEmpty(_)
        | ImportError::NoIdLeft => format!("{}; {nothing}", with_causes(error)).into(),
    }
}

fn conflicts(report: &Report, error: &str) -> Failure {
    match print(&report.to_string()) {
        Ok(()) => format!("{error}; nothing was imported").into(),
        Err(error) => error,
    }
}
