//! `kith migrate`: applies pending schema migrations, or lists them.

use std::process::ExitCode;

use super::database::Database;
use super::{Failure, print, progress, start_log};
use crate::config::{Migrate, Sources};
use crate::progress::Progress;
use crate::store::{self, Migrations};

/// The exit status of `--status` if migrations are pending. Not that of an error.
const PENDING: u8 = 3;

pub(super) async fn run(args: Migrate, sources: &Sources) -> Result<ExitCode, Failure> {
    let log = start_log(&args.common, false, sources)?;
    if args.print_roles {
        print(&store::roles_script())?;
        return Ok(ExitCode::SUCCESS);
    }
    let database = Database::reach(&args.common, sources).await?;
    let url = &database.url;
    let failure = |error| database.failure(&error);
    let (progress, format) = (Progress::default(), args.common.log_format);
    if args.status {
        let migrations = store::migrations(url).await.map_err(failure)?;
        print(&status(&migrations))?;
        return Ok(if migrations.pending.is_empty() { ExitCode::SUCCESS } else { PENDING.into() });
    } else if args.dry_run {
        let Migrations { applied: _, pending } =
            progress::shown(&progress, &log, format, store::try_migrations(url, &progress)).await.map_err(failure)?;
        let lines: String = pending.iter().map(|name| format!("would apply  {name}\n")).collect();
        print(if pending.is_empty() { "no pending migrations\n" } else { &lines })?;
    } else {
        let Migrations { applied: _, pending } =
            progress::shown(&progress, &log, format, store::migrate(url, &progress)).await.map_err(failure)?;
        tracing::info!(database = %url, migrations_applied = pending.len(), "database schema is up to date");
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each migration, in order.
fn status(Migrations { applied, pending }: &Migrations) -> String {
    let lines = |word: &str, names: &[String]| names.iter().map(|name| format!("{word}  {name}\n")).collect::<String>();
    lines("applied", applied) + &lines("pending", pending)
}
