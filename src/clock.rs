//! The one clock. Everything that depends on the time gets it from here, so that tests can turn it.

use std::fmt;
use std::sync::Arc;

use crate::domain::{Time, to_micros};

/// Tells the time, to the microsecond.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system")]
    pub fn system() -> Self {
        Self(Arc::new(chrono::Utc::now))
    }

    /// A clock that is told what to say.
    pub fn from_fn(tell: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The time now.
    pub fn now(&self) -> Time {
        to_micros((self.0)())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
