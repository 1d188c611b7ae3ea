//! The `kith` program: parses the command line and runs it.

use std::process::ExitCode;

use clap::Parser;
use kith::command;
use kith::config::Cli;

/// Answering takes many small pieces of memory, on several threads.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match command::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kith: {error}");
            ExitCode::FAILURE
        }
    }
}
