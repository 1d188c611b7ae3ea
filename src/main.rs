//! The `kith` program: parses the command line and runs it.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use kith::command;
use kith::config::Cli;

/// The global allocator. mimalloc is faster for many small allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match command::run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be there to read it. The exit status says it too.
            let _closed = writeln!(std::io::stderr(), "kith: {error}");
            ExitCode::FAILURE
        }
    }
}
