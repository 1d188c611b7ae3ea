//! The source of the current time.
//!
//! Code that depends on the time takes a [`Clock`], so that tests can set it.

use std::fmt;
use std::sync::Arc;

use crate::domain::{Time, to_micros};

/// A clock with microsecond resolution.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    /// Returns the system clock.
    #[expect(clippy::disallowed_methods, reason = "the only use of the system clock")]
    pub fn system() -> Self {
        Self(Arc::new(chrono::Utc::now))
    }

    /// Creates a clock that calls `now` for the current time.
    pub fn from_fn(now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Returns the current time, truncated to microseconds.
    pub fn now(&self) -> Time {
        to_micros((self.0)())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
