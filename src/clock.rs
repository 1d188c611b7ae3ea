//! The source of the current time.
//!
//! Code that depends on the time takes a [`Clock`], so that tests can set it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::{Time, to_micros};

/// What a clock and its stopwatch showed at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The current time, in UTC.
    pub time: Time,
    /// The time since an arbitrary start. It never decreases.
    pub elapsed: Duration,
}

/// A clock with microsecond resolution, and a stopwatch that is not affected when somebody sets the clock.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> Reading + Send + Sync>,
    is_system: bool,
}

impl Clock {
    /// Returns the system's clock.
    #[expect(clippy::disallowed_methods, reason = "the only use of the system clock")]
    pub fn system() -> Self {
        let start = Instant::now();
        let read = move || Reading { time: chrono::Utc::now(), elapsed: start.elapsed() };
        Self { read: Arc::new(read), is_system: true }
    }

    /// Creates a clock that calls `read` for its time.
    ///
    /// It also replaces the clock of a database.
    pub fn from_fn(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), is_system: false }
    }

    /// Returns the current time, truncated to microseconds, and the stopwatch at the same moment.
    pub fn read(&self) -> Reading {
        let Reading { time, elapsed } = (self.read)();
        Reading { time: to_micros(time), elapsed }
    }

    /// Returns the current time, truncated to microseconds.
    pub fn now(&self) -> Time {
        self.read().time
    }

    /// Returns the time since an arbitrary start. It never decreases.
    pub fn elapsed(&self) -> Duration {
        self.read().elapsed
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
        let Self { read: _, is_system } = self;
        f.debug_struct("Clock").field("now", &self.now()).field("is_system", is_system).finish()
    }
}
