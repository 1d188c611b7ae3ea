//! Each fault raises its alert and no other: a real Prometheus with the rules in deploy/ scrapes a real server.
//!
//! `make alerts-trial` runs these tests, which take minutes; scripts/check-alerts checks the rules without a server.

mod faults;
mod load;
mod prometheus;
mod trial;
