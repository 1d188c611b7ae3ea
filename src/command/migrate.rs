//! `kith migrate`: applies pending schema migrations.

use super::{Failure, database, start_log};
use crate::config::Migrate;
use crate::store;

pub(super) async fn run(args: Migrate) -> Result<(), Failure> {
    let _log = start_log(&args.common)?;
    let url = &database::reachable(&args.common).await?;
    let applied = store::migrate(url).await.map_err(|error| database::failure(url, &error))?;
    tracing::info!(database = %url, migrations_applied = applied, "database schema is up to date");
    Ok(())
}
