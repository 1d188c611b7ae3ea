//! The log, written to standard error, and the audit trail in it.
//!
//! A level alone is that of Kith's own lines. The libraries below it (HTTP/2, TLS, the drivers) log at most at `info`,
//! unless a directive names them.
//!
//! It never contains data of callers (profiles, messages, `request_id`s) or secrets (tokens, passwords), at no level.
//! `tests/it/canaries.rs` shows it.
//!
//! The log never holds up or fails what it reports. A separate thread writes it. A line is dropped if it cannot be
//! written, as on a full disk or into a closed pipe, or if too many lines wait, as when nobody reads the pipe. Once lines
//! can be written again, one of them has the number of those that were dropped.

pub mod audit;
pub mod call;

use std::any::Any;
use std::io::{self, IsTerminal, Write};
use std::panic::Location;
use std::sync::{Arc, OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::config::LogFormat;

/// The maximum number of lines that wait to be written.
const LINES_MAX: usize = 8_192;
/// The same for the audit trail: some 30 MiB.
const AUDIT_LINES_MAX: usize = 65_536;

/// Directives before those of the setting, which may replace them.
///
/// h2 warns of each frame that a client should not have sent. A client could fill the log by them; of the connections that
/// are closed therefore, the server has a line of its own.
/// OpenTelemetry's crates warn of each request to the receiver that fails. What is lost is in one line a minute.
const QUIET: &str = "h2::proto::ping_pong=error,h2::proto::streams=error,opentelemetry=warn,opentelemetry-otlp=error";

/// The running log. Dropping it writes the lines that wait, for at most a second.
#[derive(Debug)]
#[must_use = "without it, lines are lost"]
pub struct Log {
    _writer: WorkerGuard,
    _audit_writer: Option<WorkerGuard>,
}

/// Starts the log. `filter` is a level or a list of directives, such as `debug,h2=trace`. It does not apply to the audit
/// trail, which is written if `has_audit` says so.
///
/// # Errors
///
/// If `filter` cannot be parsed.
pub fn init(filter: &str, format: LogFormat, has_audit: bool) -> Result<Log, ParseError> {
    // The last directive for a target holds.
    let filter: EnvFilter = format!("{QUIET},{},{}=off", directives(filter), audit::TARGET).parse()?;
    let (writer, guard) = queue("kith-log", LINES_MAX, |lines| tracing::warn!(lines, "lines of the log were dropped"));
    let lines = fmt::layer().with_writer(writer).with_ansi(io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    };
    let (trail, audit_guard) = has_audit.then(trail).unzip();
    // A panic is a line of the log like any other. The default would write it to standard error, and wait for a reader.
    std::panic::set_hook(Box::new(|panic| log_panic(panic.location(), panic.payload())));
    // Fails if a log is already running, as in tests that share a process. The first one stays in use.
    let _already_started = registry().with(lines).with(trail).try_init();
    Ok(Log { _writer: guard, _audit_writer: audit_guard })
}

/// The layer that writes the audit trail.
fn trail<S>() -> (impl Layer<S>, WorkerGuard)
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let (writer, guard) = queue("kith-audit", AUDIT_LINES_MAX, audit::lost);
    let only = Targets::new().with_target(audit::TARGET, LevelFilter::INFO);
    (fmt::layer().json().with_writer(writer).with_filter(only), guard)
}

/// Starts a thread that writes lines. `report` is called with the number of lines that were dropped.
fn queue(thread: &str, lines_max: usize, report: fn(usize)) -> (NonBlocking, WorkerGuard) {
    let not_queued = Arc::new(OnceLock::new());
    let lossy = Lossy { inner: io::stderr(), not_written: 0, not_queued: Arc::clone(&not_queued), reported: 0, report };
    let queue = NonBlockingBuilder::default().buffered_lines_limit(lines_max).thread_name(thread);
    let (writer, guard) = queue.finish(lossy);
    // Empty until here.
    let _first = not_queued.set(writer.error_counter());
    (writer, guard)
}

/// Logs where a panic happened, and its message if it is a part of the program.
///
/// A message with values, such as that of a text that was cut within a character, may have data of callers.
fn log_panic(location: Option<&Location<'_>>, payload: &(dyn Any + Send)) {
    let location = location.map(ToString::to_string);
    let words = payload.downcast_ref::<&'static str>();
    tracing::error!(location, "panicked: {}", words.unwrap_or(&"its message has values, and is not logged"));
}

/// Returns the directives in which each level alone is that of Kith, and at most `info` for all others.
fn directives(filter: &str) -> String {
    let directive = |part: &str| match part.trim().parse::<LevelFilter>() {
        // An empty part is a level too.
        Ok(level) if !part.trim().is_empty() => format!("{},kith={level}", level.min(LevelFilter::INFO)),
        _ => part.to_owned(),
    };
    filter.split(',').map(directive).collect::<Vec<_>>().join(",")
}

/// A writer that drops and counts the lines that cannot be written.
struct Lossy<W> {
    inner: W,
    /// The number of lines that could not be written.
    not_written: usize,
    /// Counts the lines that found no room among those that wait.
    not_queued: Arc<OnceLock<ErrorCounter>>,
    /// The number of dropped lines that were reported.
    reported: usize,
    report: fn(usize),
}

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.inner.write_all(line) {
            Ok(()) => {
                let dropped = self.not_written + self.not_queued.get().map_or(0, ErrorCounter::dropped_lines);
                if dropped > self.reported {
                    (self.report)(dropped - self.reported);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Takes lines only while it is not full.
    struct Disk {
        is_full: bool,
        lines: usize,
    }

    impl Write for Disk {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if self.is_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.lines += 1;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_reported_once_others_can() {
        static REPORTED: AtomicUsize = AtomicUsize::new(0);
        let report = |lines| _ = REPORTED.fetch_add(lines, Ordering::Relaxed);
        let inner = Disk { is_full: false, lines: 0 };
        let mut lossy = Lossy { inner, not_written: 0, not_queued: Arc::default(), reported: 0, report };
        let mut lines = |is_full, count: usize| {
            lossy.inner.is_full = is_full;
            (0..count).for_each(|_| lossy.write_all(b"a line").unwrap());
            (lossy.inner.lines, REPORTED.load(Ordering::Relaxed))
        };
        assert_eq!(lines(false, 2), (2, 0));
        assert_eq!(lines(true, 3), (2, 0));
        assert_eq!(lines(false, 1), (3, 3));
        assert_eq!(lines(false, 1), (4, 3), "reported once");
        assert_eq!(lines(true, 1), (4, 3));
        assert_eq!(lines(false, 1), (5, 4));
    }

    #[test]
    fn a_level_alone_is_that_of_kith() {
        for (filter, expected) in [
            ("debug", "info,kith=debug"),
            ("TRACE", "info,kith=trace"),
            ("info", "info,kith=info"),
            ("warn", "warn,kith=warn"),
            ("off", "off,kith=off"),
            ("5", "info,kith=trace"),
            ("debug,h2=trace", "info,kith=debug,h2=trace"),
            ("h2=trace, debug", "h2=trace,info,kith=debug"),
            ("kith=debug", "kith=debug"),
            ("kith::store=debug,warn", "kith::store=debug,warn,kith=warn"),
            ("", ""),
        ] {
            assert_eq!(directives(filter), expected, "{filter:?}");
            assert!(directives(filter).parse::<EnvFilter>().is_ok(), "{filter:?}");
        }
        assert!(directives("kith=loud").parse::<EnvFilter>().is_err());
    }

    #[test]
    fn a_panic_is_logged_with_its_place_and_without_the_values_of_its_message() {
        #[derive(Clone, Default)]
        struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (name, lines) = ("Zoë".to_owned(), Lines::default());
        let shared = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || shared.clone()).finish();
        let cut: Box<dyn Any + Send> = std::panic::catch_unwind(|| _ = &name[..3]).unwrap_err();
        assert!(cut.downcast_ref::<String>().is_some_and(|message| message.contains("Zoë")));
        tracing::subscriber::with_default(subscriber, || {
            log_panic(Some(Location::caller()), cut.as_ref());
            log_panic(None, &"a bug");
        });
        let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let [cut, bug] = log.lines().collect::<Vec<_>>()[..] else { panic!("{log}") };
        assert!(
            !cut.contains("Zo") && cut.contains("telemetry.rs:") && cut.contains("its message has values"),
            "{cut}"
        );
        assert!(bug.contains("panicked: a bug"), "{bug}");
    }

    /// A level that comes with a directive for Kith itself leaves that one as it is, in either order.
    #[test]
    fn the_directive_of_a_part_wins_over_the_level() {
        let filter: EnvFilter = directives("kith::store=debug,warn").parse().unwrap();
        assert_eq!(filter.max_level_hint(), Some(LevelFilter::DEBUG));
    }
}
