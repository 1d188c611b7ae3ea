//! The sweep: records the expiry of requests, and deletes rows that are no longer needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::committer::{CommitError, Committer};
use crate::domain::caller::Caller;
use crate::domain::command::{Command, Reply, Submission};
use crate::domain::outcome::{Outcome, Swept};
use crate::metrics::writes::Writes;
use crate::store::SWEEP_LIMIT;

/// Submits a sweep at each `interval`, until `stopped` is true.
///
/// A sweep handles a limited number of rows. While it reaches that number, the next one follows immediately.
pub(super) async fn run(
    committer: Committer,
    interval: Duration,
    metrics: Arc<Writes>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let started = Instant::now();
        let submission = Submission { caller: Caller::System, command: Command::Sweep, idempotency: None };
        let reply = tokio::select! {
            reply = committer.submit(submission) => reply,
            // A shutdown does not wait for a sweep that the database does not respond to.
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let (swept, more) = match reply {
            Ok(reply) => {
                metrics.sweep(started.elapsed());
                swept(reply)
            }
            // The servers that write sweep.
            Err(CommitError::ReadOnly) => return,
            // The committer has logged the error. The next sweep is the retry.
            Err(_) => (Swept::default(), false),
        };
        count(&metrics, swept);
        let rows = swept.total();
        if rows > 0 {
            tracing::debug!(rows, "swept expired rows");
        }
        let delay = if more || rows >= SWEEP_LIMIT { Duration::ZERO } else { interval };
        tokio::select! {
            () = sleep(delay) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Counts the rows that a sweep handled.
fn count(metrics: &Writes, swept: Swept) {
    let Swept { requests, cooldowns, responses, events, forgotten } = swept;
    let counters = &metrics.swept;
    for (counter, rows) in [
        (&counters.requests, requests),
        (&counters.cooldowns, cooldowns),
        (&counters.responses, responses),
        (&counters.events, events),
        (&counters.forgotten, forgotten),
    ] {
        counter.inc_by(u64::try_from(rows).unwrap_or(0));
    }
}

/// Returns the rows that a sweep handled, and whether it ended before it was complete.
fn swept(reply: Reply) -> (Swept, bool) {
    match reply {
        Reply::Fresh(executed) if let Outcome::Swept { rows, more } = executed.outcome => (rows, more),
        Reply::Fresh(_) | Reply::Stored(_) => (Swept::default(), false),
    }
}
