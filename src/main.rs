//! The `kith` program: parses the command line and runs it.

use std::io::Write;
use std::process::ExitCode;

use kith::command;
use kith::config::{Cli, Refused};

/// The global allocator. mimalloc is faster for many small allocations on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status for a wrong setting. clap has the same for a wrong flag.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let (cli, sources) = match Cli::read(std::env::args_os()) {
        Ok(read) => read,
        Err(Refused::Usage(error)) => error.exit(),
        Err(Refused::Setting(error)) => return failed(&error, ExitCode::from(USAGE)),
    };
    match command::run(cli, &sources).await {
        Ok(code) => code,
        Err(error) => failed(&error.to_string(), ExitCode::FAILURE),
    }
}

/// Prints an error, and returns the exit status.
fn failed(error: &str, code: ExitCode) -> ExitCode {
    // Nobody may be there to read it. The exit status says it too.
    let _closed = writeln!(std::io::stderr(), "kith: {error}");
    code
}
