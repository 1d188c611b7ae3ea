//! `kith migrate`: applies pending schema migrations.

use super::{Failure, serve, start_log};
use crate::config::{Migrate, Sources};
use crate::store;

pub(super) async fn run(args: Migrate, sources: &Sources) -> Result<(), Failure> {
    let _log = start_log(&args.common, sources)?;
    let url = &args.common.database_url;
    let applied = store::migrate(url).await.map_err(|error| serve::database_failure(sources, url, error))?;
    tracing::info!(database = %url, migrations_applied = applied, "database schema is up to date");
    Ok(())
}
