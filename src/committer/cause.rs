//! Why a batch failed.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::causes::with_causes;
use crate::store::StoreError;

/// Why a batch failed. Each failed call logs it. The committer logs it only if no call received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(Arc<str>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}

impl Cause {
    pub(super) fn shutting_down() -> Self {
        Self("the server is shutting down".into())
    }

    /// The error of the last attempt.
    pub(super) fn of(error: &StoreError, attempt: u32, commands: usize) -> Self {
        let error = with_causes(error);
        Self(format!("commit of {commands} command(s) failed at attempt {attempt}: {error}").into())
    }
}
