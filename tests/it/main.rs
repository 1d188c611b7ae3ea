//! Tests of the whole program, in one binary, so that it is linked once.
//!
//! `rpc/` has a file for each RPC; `conformance` checks that both engines behave the same; each other file answers one
//! question about the whole. `harness/` starts what they need.

#![allow(unreachable_pub, reason = "a test binary has no public")]
#![allow(clippy::unwrap_used, reason = "what cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it looks for")]

mod alerts;
mod audit;
mod authorization;
mod backup;
mod bad_input;
mod canaries;
mod cancellation;
mod check;
mod citus;
mod client;
mod clocks;
mod commits;
mod concurrency;
mod conformance;
mod connections;
mod coverage;
mod crashes;
mod credentials;
mod demo;
mod dependencies;
mod deploy;
mod devices;
mod epochs;
mod erasure;
mod export;
mod external_ids;
mod failover;
mod faults;
mod feed;
mod files;
mod foreign_clients;
mod forgetting;
mod freshness;
mod fuzz;
mod gzip;
mod harness;
mod history;
mod hostile;
mod import;
mod large_pages;
mod layers;
mod limits;
mod links;
mod load;
mod log;
mod lost_commits;
mod metrics;
mod migrations;
mod model;
mod moving_in;
mod overload;
mod packets;
mod paging;
mod partitions;
mod plans;
mod poolers;
mod postgres_urls;
mod principals;
mod privacy;
mod program;
mod read_only;
mod readers;
mod replicas;
mod retention;
mod revisions;
mod rights;
mod rolling;
mod rpc;
mod semantics;
mod settings;
mod standby;
mod status_page;
mod story;
mod surroundings;
mod timing;
mod tls;
mod top;
mod totals;
mod traces;
mod two_postgres;
mod unread;
mod user_views;
mod usernames;
mod waiting;
mod watchers;
mod worlds;
