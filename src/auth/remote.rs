//! Keys of tokens at a URL, which are read again from time to time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::keys::Keys;
use super::token::{Expected, Verifier};
use crate::task::persistent;

/// Interval between two reads of the keys.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Pause after the first read that fails. It doubles with each, up to the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Minimum interval between two reads that tokens with unknown keys cause.
const ASKED_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum time that a call waits for such a read.
const ASKED_WAIT: Duration = Duration::from_secs(3);
/// Maximum time that the start waits for the first read that succeeds.
const START_WAIT: Duration = Duration::from_secs(30);

/// Reads the keys. Its error follows the name of the source.
type Read = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// Keys at a URL. A task reads them again. It ends with the last clone.
#[derive(Clone)]
pub(super) struct Remote {
    shared: Arc<Shared>,
    _reading: Arc<JoinSet<()>>,
}

struct Shared {
    /// The setting and the URL.
    name: String,
    read: Read,
    expected: Expected,
    /// Counts the reads that fail.
    failures: Counter,
    state: watch::Sender<State>,
    /// The last read that a token caused.
    asked: Mutex<Option<Asked>>,
    /// Notified when the keys are to be read now.
    again: Notify,
}

#[derive(Default)]
struct State {
    /// None before the first read that succeeds.
    verifier: Option<Arc<Verifier>>,
    /// What the keys were parsed from.
    text: Vec<u8>,
    /// The number of reads, also of those that failed.
    reads: u64,
    /// Why the last read failed.
    failure: Option<String>,
}

/// A read that a token caused.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    /// The number of reads before it.
    reads: u64,
}

impl Remote {
    /// Begins to read the keys. `name` is the setting and the URL, for errors.
    pub(super) fn start(
        name: String,
        expected: Expected,
        failures: Counter,
        read: impl Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync + 'static,
    ) -> Self {
        let (state, asked, again) = (watch::Sender::default(), Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { name, read: Box::new(read), expected, failures, state, asked, again });
        let reader = Arc::clone(&shared);
        let mut reading = JoinSet::new();
        reading.spawn(persistent("keys of tokens", move || Arc::clone(&reader).follow()));
        Self { shared, _reading: Arc::new(reading) }
    }

    /// Waits until the keys have been read.
    ///
    /// # Errors
    ///
    /// If no read succeeds for a time. The text names the setting and the URL.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let mut state = self.shared.state.subscribe();
        let ready = timeout(START_WAIT, state.wait_for(|state| state.verifier.is_some())).await;
        if ready.is_ok() {
            return Ok(());
        }
        let failure = self.shared.state.borrow().failure.clone();
        Err(format!("{} {}", self.shared.name, failure.as_deref().unwrap_or("has not been read yet")))
    }

    /// Returns what verifies by the keys in force, if they have been read.
    pub(super) fn get(&self) -> Option<Arc<Verifier>> {
        self.shared.state.borrow().verifier.clone()
    }

    /// Reads the keys again soon.
    pub(super) fn read_again(&self) {
        self.shared.again.notify_one();
    }

    /// Reads the keys now, for a token with an unknown one, and returns them.
    ///
    /// Returns nothing if that was done a short time ago: callers can make up as many unknown keys as they like.
    pub(super) async fn newer(&self) -> Option<Arc<Verifier>> {
        let Shared { state, asked, again, .. } = &*self.shared;
        let mut state = state.subscribe();
        let reads = state.borrow_and_update().reads;
        {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            match *asked {
                // It is not finished yet.
                Some(last) if last.reads == reads => {}
                Some(last) if now.duration_since(last.at) < ASKED_INTERVAL => return None,
                Some(_) | None => {
                    *asked = Some(Asked { at: now, reads });
                    again.notify_one();
                }
            }
        }
        timeout(ASKED_WAIT, state.changed()).await.ok()?.ok()?;
        state.borrow().verifier.clone()
    }
}

impl Shared {
    /// Reads the keys, again and again.
    async fn follow(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            match self.read_now().await {
                Ok(()) => failures = 0,
                Err(failure) => {
                    let name = &self.name;
                    tracing::warn!(%failure, "cannot read the keys of tokens {name}; trying again later");
                    self.failures.inc();
                    failures += 1;
                    self.state.send_modify(|state| {
                        state.reads += 1;
                        state.failure = Some(failure);
                    });
                }
            }
            let _asked = timeout(pause(failures, Uuid::new_v4().as_fields().0), self.again.notified()).await;
        }
    }

    async fn read_now(&self) -> Result<(), String> {
        let text = (self.read)().await?;
        // Without a change, verified tokens remain remembered.
        let verifier = if self.state.borrow().text == text {
            None
        } else {
            Some(Arc::new(Verifier::new(parse(&self.name, &text)?, &self.expected)))
        };
        self.state.send_modify(|state| {
            state.reads += 1;
            state.failure = None;
            if let Some(verifier) = verifier {
                (state.verifier, state.text) = (Some(verifier), text);
            }
        });
        Ok(())
    }
}

/// Parses keys, and logs those that are ignored.
pub(super) fn parse(name: &str, text: &[u8]) -> Result<Keys, String> {
    let keys = Keys::parse(text)?;
    for ignored in &keys.ignored {
        tracing::info!("{name}: a key for tokens is ignored: {ignored}");
    }
    tracing::info!(keys = keys.by_id.len(), "read the keys of tokens {name}");
    Ok(keys)
}

/// Returns the pause after a read: within 20 % of the exact one, so that servers do not read all at the same time.
fn pause(failures: u32, random: u32) -> Duration {
    let exact = match failures.checked_sub(1) {
        None => INTERVAL,
        Some(doubled) => FIRST_PAUSE.saturating_mul(1 << doubled.min(16)).min(INTERVAL),
    };
    exact.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
