//! The database of a subcommand: which it is, and whether it is there.

use std::error::Error;
use std::time::Duration;

use super::Failure;
use crate::config::Common;
use crate::store::{self, DatabaseUrl, with_causes};

/// Returns the database that the settings name, once it can be reached.
pub(super) async fn reachable(common: &Common) -> Result<DatabaseUrl, Failure> {
    let url = common.database_url()?;
    wait(&url, common.database_wait).await?;
    Ok(url)
}

/// Waits until the database can be reached, and reports it once a second.
pub(super) async fn wait(url: &DatabaseUrl, limit: Duration) -> Result<(), Failure> {
    let mut has_waited = false;
    let report = |error: &store::ConnectError, left: Duration| {
        has_waited = true;
        let error = with_causes(error);
        tracing::warn!(database = %url, error, "the database is not there yet; waiting for {:.0}s more", left.as_secs_f64());
    };
    store::wait_for(url, limit, report).await.map_err(|error| {
        let waited = if has_waited { format!(" (waited {limit:?}, --database-wait)") } else { String::new() };
        format!("{}{waited}", failure(url, &error)).into()
    })
}

/// Adds the setting to an error of the database. The URL is printed without its password.
pub(super) fn failure(url: &DatabaseUrl, error: &dyn Error) -> Failure {
    format!("--database-url {url}: {}", with_causes(error)).into()
}
