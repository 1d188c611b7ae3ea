//! How many users, requests and blocks the database has.

use std::fmt;

use super::families::Families;
use super::{Area, Reading};
use crate::domain::pair::RequestState;
use crate::domain::totals::Totals as Numbers;

/// The totals in the newest head of the feed that this server has seen.
#[derive(Debug, Default)]
pub struct Totals {
    /// The totals, once the database is open.
    pub newest: Reading<Numbers>,
}

/// The label of a state.
fn label(state: RequestState) -> &'static str {
    match state {
        RequestState::Pending => "pending",
        RequestState::Silenced => "silenced",
        RequestState::Rejected => "rejected",
        RequestState::Connected => "connected",
    }
}

impl Area for Totals {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(totals) = self.newest.get() else { return Ok(()) };
        families.gauge("kith_users", "Users in the database.")?.value(&[], totals.users)?;
        let mut requests = families.gauge("kith_requests", "Requests in the database, by their state as stored.")?;
        for state in RequestState::ALL {
            requests.value(&[("state", label(*state))], totals.requests(*state))?;
        }
        families
            .gauge("kith_blocks", "Blocks in the database. Two users who block each other have two.")?
            .value(&[], totals.blocks)
    }
}
