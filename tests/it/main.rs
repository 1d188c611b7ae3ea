//! The tests of the whole: one binary, so that it is linked once.
//!
//! `rpc/` has a file for each RPC; `conformance` holds both engines to one behaviour; the other files each have one
//! question about the whole. `harness/` starts what they need.

#![allow(unreachable_pub, reason = "a test binary has no public")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that fails tells its line; clippy.toml allows it in the test functions only"
)]

mod cancellation;
mod concurrency;
mod faults;
mod harness;
mod paging;
mod plans;
mod program;
mod rpc;
