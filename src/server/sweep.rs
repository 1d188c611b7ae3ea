//! The sweep: expires for good what time has ended, and deletes what nobody needs any more.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::committer::Committer;
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Reply, Submission};
use crate::domain::outcome::Outcome;
use crate::store::DUE_AT_ONCE;

/// Sweeps now and then, and again at once while there is more than one step's worth, until told to stop.
pub(super) async fn run(committer: Committer, interval: Duration, mut stopped: watch::Receiver<bool>) {
    loop {
        let submission = Submission { caller: Caller::System, command: Command::Sweep, idempotency: None };
        let reply = tokio::select! {
            reply = committer.submit(submission) => reply,
            // A database that does not answer does not keep the server from ending.
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        // The committer has logged what is wrong; the next round tries again.
        let rows = reply.map_or(0, swept);
        if rows > 0 {
            tracing::debug!(rows, "swept expired rows");
        }
        let pause = if rows >= DUE_AT_ONCE { Duration::ZERO } else { interval };
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

fn swept(reply: Reply) -> i64 {
    match reply {
        Reply::Fresh(executed) if let Outcome::Swept { rows } = executed.outcome => rows,
        Reply::Fresh(_) | Reply::Stored(_) => 0,
    }
}
