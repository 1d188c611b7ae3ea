//! How far a long job is. The job reports it, and whoever started the job may show it.
//!
//! A report costs no more than a lock, so a job may report after each batch of rows.

use std::borrow::Cow;

use tokio::sync::watch;

/// The state of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The part of the job, such as `checking`. Each has numbers of its own.
    pub phase: &'static str,
    /// What is counted, such as `rows`.
    pub unit: &'static str,
    /// How many are done.
    pub done: u64,
    /// How many more will be done when the next report comes; zero if that is not known.
    pub current: u64,
    /// How many there are; `None` if that is not known.
    pub total: Option<u64>,
    /// What is being done now, such as the name of a check; may be empty.
    pub doing: Cow<'static, str>,
}

/// Takes the reports of a job. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Progress(watch::Sender<Step>);

impl Progress {
    /// Reports the state of the job.
    pub fn report(&self, step: Step) {
        self.0.send_replace(step);
    }

    /// Changes the last report.
    pub fn update(&self, change: impl FnOnce(&mut Step)) {
        self.0.send_modify(change);
    }

    /// Returns the last report; an empty one before the first.
    pub fn last(&self) -> Step {
        self.0.borrow().clone()
    }
}
