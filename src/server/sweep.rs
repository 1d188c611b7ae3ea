//! The sweep: expires for good what time has ended, and deletes what nobody needs any more.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::committer::Committer;
use crate::domain::command::{Command, Reply, Submission};
use crate::store::DUE_AT_ONCE;

/// Sweeps now and then, and again at once while there is more than one step's worth, until told to stop.
pub(super) async fn run(committer: Committer, interval: Duration, mut stopped: watch::Receiver<bool>) {
    loop {
        let reply = tokio::select! {
            reply = committer.submit(Submission { command: Command::Sweep, idempotency: None }) => reply,
            // A database that does not answer does not keep the server from ending.
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let due = match reply {
            Ok(Reply::Fresh(outcome)) => outcome.marked,
            // The committer has logged what is wrong; the next round tries again.
            Ok(Reply::Stored(_)) | Err(_) => 0,
        };
        if due > 0 {
            tracing::debug!(due, "swept");
        }
        let pause = if due >= DUE_AT_ONCE { Duration::ZERO } else { interval };
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}
