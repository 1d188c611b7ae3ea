//! Kith keeps who asked whom to connect, who is connected, and who is blocked; other services call it over gRPC.
//!
//! A call goes one way, and no module is visited twice:
//!
//! ```text
//! request → mapping → valid command or query, or all that is wrong at once
//!    write: service → committer (queue, batches) → Store::commit → load, ledger decides, save where the head did not move
//!    read:  service → Store::<query> → rows → domain
//! → mapping → reply                         errors leave through one door: error
//! ```
//!
//! `docs/architecture.md` tells why.

pub mod clock;
pub mod command;
pub mod committer;
pub mod config;
pub mod domain;
pub mod error;
pub mod feed;
pub mod mapping;
pub mod proto;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
