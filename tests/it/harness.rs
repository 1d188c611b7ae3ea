//! What the tests build on: databases, servers, clients, and a clock that a test sets.

pub mod app;
pub mod as_user;
pub mod certificates;
pub mod clients;
pub mod daemon;
pub mod database;
pub mod disk;
pub mod faulty;
pub mod fold;
pub mod frames;
pub mod invariants;
pub mod openmetrics;
mod overdue;
pub mod own_postgres;
pub mod pgbouncer;
pub mod postgres;
pub mod printer;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod replicated;
pub mod secured;
pub mod story;
pub mod switch;
pub mod terminal;
pub mod tokens;
pub mod watching;

pub use self::app::{App, refused};
pub use self::database::{Database, Engine};

use std::time::{Duration, Instant};

use tonic::{Code, Status};

/// Polls until the condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Repeats a call while the database is unavailable to it.
pub async fn available<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match call().await {
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

/// Declares cases that run on each engine, each as two tests: `name::sqlite` and `name::postgres`.
///
/// A case takes an [`App`]. With `with = |settings| …` its settings are changed first.
#[macro_export]
macro_rules! cases {
    ($($(#[with($change:expr)])? async fn $name:ident($app:ident: App) $body:block)+) => {$(
        async fn $name($app: $crate::harness::App) $body

        mod $name {
            #[allow(unused_imports)]
            use super::*;

            async fn run(engine: $crate::harness::Engine) {
                #[allow(unused_mut, unused_assignments)]
                let mut change: fn(&mut kith::server::Settings) = |_| {};
                $(change = $change;)?
                super::$name($crate::harness::App::with(engine, change).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run($crate::harness::Engine::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                run($crate::harness::Engine::Postgres).await;
            }
        }
    )+};
}

/// Declares cases that need something other than a service in this process. Each runs on each engine, as two tests.
#[macro_export]
macro_rules! on_each_engine {
    ($(async fn $name:ident($engine:ident: Engine) $body:block)+) => {$(
        async fn $name($engine: $crate::harness::Engine) $body

        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name($crate::harness::Engine::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name($crate::harness::Engine::Postgres).await;
            }
        }
    )+};
}
