//! The tests of the whole: one binary, so that it is linked once.
//!
//! `rpc/` has a file for each RPC; `conformance` holds both engines to one behaviour; the other files each have one
//! question about the whole. `harness/` starts what they need.

#![allow(unreachable_pub, reason = "a test binary has no public")]

mod cancellation;
mod concurrency;
mod faults;
mod harness;
mod paging;
mod plans;
mod program;
mod rpc;
