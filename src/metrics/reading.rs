//! Values that other code has anyway, which are read when the metrics are written.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// A function that returns a value, as long as what it reads is there.
type Read<T> = Box<dyn Fn() -> Option<T> + Send + Sync>;

/// A value that whoever has it offers to read.
pub struct Reading<T>(Mutex<Option<Read<T>>>);

impl<T> Reading<T> {
    /// Says how the value is read from now on.
    ///
    /// The function must not wait for a lock that calls hold for long, and make no query. It holds what it reads weakly:
    /// the metrics may outlive it.
    pub fn set(&self, read: impl Fn() -> Option<T> + Send + Sync + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(read));
    }

    /// Returns the value, if there is one.
    pub(super) fn get(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|read| read())
    }
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> fmt::Debug for Reading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}
