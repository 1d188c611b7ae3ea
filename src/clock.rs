//! The source of the current time.
//!
//! Code that depends on the time takes a [`Clock`], so that tests can set it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Time, to_micros};

/// A clock with microsecond resolution, and a stopwatch that is not affected when somebody sets the clock.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Time + Send + Sync>,
    elapsed: Arc<dyn Fn() -> Duration + Send + Sync>,
    is_system: bool,
}

impl Clock {
    /// Returns the system's clock.
    #[expect(clippy::disallowed_methods, reason = "the only use of the system clock")]
    pub fn system() -> Self {
        let start = Instant::now();
        Self { now: Arc::new(chrono::Utc::now), elapsed: Arc::new(move || start.elapsed()), is_system: true }
    }

    /// Creates a clock that calls `now` for the current time, and `elapsed` for the time since an arbitrary start.
    ///
    /// It also replaces the clock of a database.
    pub fn from_fn(
        now: impl Fn() -> Time + Send + Sync + 'static,
        elapsed: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), elapsed: Arc::new(elapsed), is_system: false }
    }

    /// Returns the current time, truncated to microseconds.
    pub fn now(&self) -> Time {
        to_micros((self.now)())
    }

    /// Returns the time since an arbitrary start. It never decreases.
    pub fn elapsed(&self) -> Duration {
        (self.elapsed)()
    }

    /// Whether this is the system's clock, and not one that a test sets.
    pub fn is_system(&self) -> bool {
        self.is_system
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now: _, elapsed: _, is_system } = self;
        f.debug_struct("Clock").field("now", &self.now()).field("is_system", is_system).finish()
    }
}
