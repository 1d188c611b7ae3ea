//! The `kith` program: parses the command line and runs it.

use std::process::ExitCode;

use clap::Parser;
use kith::command;
use kith::config::Cli;

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
