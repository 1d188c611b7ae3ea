//! Runs one of the targets, which `KITH_FUZZ_TARGET` names, under libFuzzer.

#![no_main]
#![allow(unreachable_pub, reason = "a program has no public")]

mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("KITH_FUZZ_TARGET").unwrap_or_default();
    let found = targets::targets().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("KITH_FUZZ_TARGET is one of {:?}", targets::names())).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
