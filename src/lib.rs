//! Kith stores connection requests, connections and blocks between users, and serves them over gRPC.
//!
//! A call passes through the modules in one direction and visits none of them twice:
//!
//! ```text
//! request → service → mapping → a valid command or query, or all violations
//!    write: → committer (queue, batches) → Store::commit: lock and load, decide, save and commit
//!    read:  → Store::<query> → rows → domain
//! → mapping → response                     every error becomes a status in one module: error
//! ```
//!
//! `docs/architecture.md` explains the design.

pub mod auth;
pub mod causes;
pub mod clock;
pub mod command;
pub mod committer;
pub mod config;
pub mod domain;
pub mod error;
pub mod feed;
pub mod follow;
pub mod import;
pub mod mapping;
pub mod metrics;
pub mod progress;
pub mod proto;
pub mod rarely;
pub mod server;
pub mod service;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod tls;
pub mod traces;
pub mod transfer;
