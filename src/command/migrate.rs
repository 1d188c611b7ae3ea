//! `kith migrate`.

use super::{Failure, serve, start_log};
use crate::config::Migrate;
use crate::store;

pub(super) async fn run(args: Migrate) -> Result<(), Failure> {
    start_log(&args.common)?;
    let url = &args.common.database_url;
    let applied = store::migrate(url).await.map_err(|error| serve::database_failure(url, error))?;
    tracing::info!("database {url}");
    tracing::info!("{applied} migration(s) applied; the tables are up to date");
    Ok(())
}
