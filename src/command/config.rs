//! `kith config`: prints the settings in force.

use super::{Failure, print};
use crate::config::Sources;

pub(super) fn run(sources: &Sources) -> Result<(), Failure> {
    print(&sources.to_toml())
}
