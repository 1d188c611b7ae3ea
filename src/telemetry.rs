//! The log, written to standard error.
//!
//! It never contains data of callers: messages, e-mail addresses, tokens.
//!
//! The log never holds up or fails what it reports. A separate thread writes it. A line is dropped if it cannot be
//! written, as on a full disk or into a closed pipe, or if too many lines wait, as when nobody reads the pipe. Once lines
//! can be written again, one of them has the number of those that were dropped.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::LogFormat;

/// The maximum number of lines that wait to be written.
const LINES_MAX: usize = 8_192;

/// Directives before those of the setting, which may replace them.
///
/// h2 warns of each frame that a client should not have sent. A client could fill the log by them; of the connections that
/// are closed therefore, the server has a line of its own.
const QUIET: &str = "h2::proto::ping_pong=error,h2::proto::streams=error";

/// The running log. Dropping it writes the lines that wait, for at most a second.
#[derive(Debug)]
#[must_use = "without it, lines are lost"]
pub struct Log {
    _writer: WorkerGuard,
}

/// Starts the log. `filter` is a level or a list of directives, such as `info,kith=debug`.
///
/// # Errors
///
/// If `filter` cannot be parsed.
pub fn init(filter: &str, format: LogFormat) -> Result<Log, ParseError> {
    let filter: EnvFilter = format!("{QUIET},{filter}").parse()?;
    let not_queued = Arc::new(OnceLock::new());
    let lossy = Lossy { inner: io::stderr(), not_written: 0, not_queued: Arc::clone(&not_queued), reported: 0 };
    let queue = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).thread_name("kith-log");
    let (writer, guard) = queue.finish(lossy);
    // Empty until here.
    let _first = not_queued.set(writer.error_counter());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(io::stderr().is_terminal());
    // A panic is a line of the log like any other. The default would write it to standard error, and wait for a reader.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    // Fails if a log is already running, as in tests that share a process. The first one stays in use.
    let _already_started = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    Ok(Log { _writer: guard })
}

/// A writer that drops and counts the lines that cannot be written.
struct Lossy<W> {
    inner: W,
    /// The number of lines that could not be written.
    not_written: usize,
    /// Counts the lines that found no room among those that wait.
    not_queued: Arc<OnceLock<ErrorCounter>>,
    /// The number of dropped lines that the log reports.
    reported: usize,
}

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.inner.write_all(line) {
            Ok(()) => {
                let dropped = self.not_written + self.not_queued.get().map_or(0, ErrorCounter::dropped_lines);
                if dropped > self.reported {
                    tracing::warn!(lines = dropped - self.reported, "lines of the log were dropped");
                    self.reported = dropped;
                }
            }
            Err(_) => self.not_written += 1,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
