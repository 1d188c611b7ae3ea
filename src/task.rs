//! Long-lived tasks, which begin anew after a panic.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// The pause before a task begins anew. It keeps a task that always panics from using a processor.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a task until it returns, and begins it anew whenever it panics.
///
/// A panic is logged with the name of the task. Dropping the future ends the task.
pub async fn persistent<F>(name: &'static str, mut task: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let mut running = JoinSet::new();
        running.spawn(task());
        match running.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                // The panic itself was logged where it happened.
                tracing::error!(task = name, "a task panicked, which is a bug; restarting it");
            }
            Some(_) | None => return,
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_begins_anew_until_it_returns() {
        let begun = Arc::new(AtomicU32::new(0));
        let counts = Arc::clone(&begun);
        persistent("a test", move || {
            let counts = Arc::clone(&counts);
            async move { assert!(counts.fetch_add(1, Ordering::SeqCst) >= 2, "this is a test") }
        })
        .await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}
