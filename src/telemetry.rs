//! The log, written to standard error.
//!
//! It never contains data of callers: messages, e-mail addresses, tokens.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::LogFormat;

/// Starts the log. `filter` is a level or a list of directives, such as `info,kith=debug`.
///
/// # Errors
///
/// If `filter` cannot be parsed.
pub fn init(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter: EnvFilter = filter.parse()?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails if a log is already running, as in tests that share a process. The first one stays in use.
    let _already_started = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    Ok(())
}
