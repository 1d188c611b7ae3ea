//! Which build of Kith it is.

use std::fmt;

use super::Area;
use super::families::Families;

/// The version, and the commit that it was built from.
#[derive(Debug)]
pub(super) struct Build;

/// The commit, if the build was told. `make dist` tells it.
const REVISION: Option<&str> = option_env!("KITH_BUILD_REVISION");

impl Area for Build {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION.unwrap_or("unknown"))];
        families.info("kith_build_info", "The version of Kith, and the commit that it was built from.", &labels)
    }
}
