//! `kith restore-epoch`: starts a new epoch after a restore from a backup.

use super::database::Database;
use super::{Failure, print, start_log};
use crate::config::{RestoreEpoch, Sources};
use crate::store::{self, Servers};

pub(super) async fn run(args: RestoreEpoch, sources: &Sources) -> Result<(), Failure> {
    let _log = start_log(&args.common, false, sources)?;
    let database = Database::reach(&args.common, sources).await?;
    let url = &database.url;
    let servers = if args.force { Servers::Ignored } else { Servers::Refused };
    let epochs = store::restore_epoch(url, servers).await.map_err(|error| database.failure(&error))?;
    tracing::info!(database = %url, "started a new epoch");
    print(&format!("old epoch {}\nnew epoch {}\n", epochs.old, epochs.new))
}
