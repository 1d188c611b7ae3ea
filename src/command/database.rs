//! The database of a subcommand: which it is, and whether it is there.

use std::error::Error;
use std::time::Duration;

use super::Failure;
use crate::causes::with_causes;
use crate::config::{Common, Sources};
use crate::store::{self, DatabaseUrl};

/// The database that the settings name.
pub(super) struct Database {
    pub(super) url: DatabaseUrl,
    /// The setting that names it, for errors.
    setting: String,
    /// How long it may take until it is there, and the setting of that.
    limit: (Duration, String),
}

impl Database {
    /// Returns the database with its password.
    pub(super) fn of(common: &Common, sources: &Sources) -> Result<Self, Failure> {
        let key = if common.has_url_file() { "database-url-file" } else { "database-url" };
        Ok(Self {
            url: common.database_url(sources)?,
            setting: sources.name(key),
            limit: (common.database_wait, sources.name("database-wait")),
        })
    }

    /// The same, once it can be reached.
    pub(super) async fn reach(common: &Common, sources: &Sources) -> Result<Self, Failure> {
        let database = Self::of(common, sources)?;
        database.wait().await?;
        Ok(database)
    }

    /// Waits until it can be reached, and reports it once a second.
    pub(super) async fn wait(&self) -> Result<(), Failure> {
        let Self { url, setting: _, limit: (limit, setting) } = self;
        let mut has_waited = false;
        let report = |error: &store::ConnectError, left: Duration| {
            has_waited = true;
            let (error, left) = (with_causes(error), left.as_secs_f64());
            tracing::warn!(database = %url, error, "the database is not there yet; waiting for {left:.0}s more");
        };
        store::wait_for(url, *limit, report).await.map_err(|error| {
            let waited = if has_waited { format!(" (waited {limit:?}, {setting})") } else { String::new() };
            format!("{}{waited}", self.failure(&error)).into()
        })
    }

    /// Adds the setting to an error of the database. The URL is printed without its password.
    pub(super) fn failure(&self, error: &dyn Error) -> Failure {
        format!("{} {}: {}", self.setting, self.url, with_causes(error)).into()
    }
}
