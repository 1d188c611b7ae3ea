//! `kith restore-epoch`: starts a new epoch after a restore from a backup.

use super::{Failure, print, serve, start_log};
use crate::config::{RestoreEpoch, Sources};
use crate::store;

pub(super) async fn run(args: RestoreEpoch, sources: &Sources) -> Result<(), Failure> {
    let _log = start_log(&args.common, sources)?;
    let url = &args.common.database_url;
    let epochs = store::restore_epoch(url).await.map_err(|error| serve::database_failure(sources, url, error))?;
    tracing::info!(database = %url, "started a new epoch");
    print(&format!("old epoch {}\nnew epoch {}\n", epochs.old, epochs.new))
}
