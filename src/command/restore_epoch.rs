//! `kith restore-epoch`: starts a new epoch after a restore from a backup.

use super::{Failure, database, print, start_log};
use crate::config::RestoreEpoch;
use crate::store::{self, Servers};

pub(super) async fn run(args: RestoreEpoch) -> Result<(), Failure> {
    let _log = start_log(&args.common)?;
    let url = &database::reachable(&args.common).await?;
    let servers = if args.force { Servers::Ignored } else { Servers::Refused };
    let epochs = store::restore_epoch(url, servers).await.map_err(|error| database::failure(url, &error))?;
    tracing::info!(database = %url, "started a new epoch");
    print(&format!("old epoch {}\nnew epoch {}\n", epochs.old, epochs.new))
}
