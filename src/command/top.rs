//! `kith top`: shows what a running server does, from its metrics.

mod draw;
mod figures;
mod interval;
mod lines;
mod screen;
mod source;
mod state;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::state::State;
use super::{Failure, print};
use crate::config::{MetricsUrl, Sources, Top};

/// The width of the plain text, in columns.
const WIDTH: usize = 80;

pub(super) async fn run(args: &Top, sources: &Sources) -> Result<ExitCode, Failure> {
    let Top { metrics, interval, once } = args;
    if *once || !can_draw() {
        return self::once(metrics, *interval, sources).await;
    }
    screen::run(metrics, *interval).await
}

/// Prints the figures of one interval as plain text.
async fn once(url: &MetricsUrl, interval: Duration, sources: &Sources) -> Result<ExitCode, Failure> {
    let mut state = State::default();
    for is_last in [false, true] {
        let read = source::read(url).await;
        let read = read.map_err(|error| format!("{} {url}: {error}", sources.name("metrics")))?;
        state.take(Ok(read), Instant::now(), unix_time());
        if !is_last {
            tokio::time::sleep(interval).await;
        }
    }
    print(&lines::text(&state.figures, WIDTH))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether standard output is a terminal that has more than lines.
fn can_draw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// The time in seconds. The metrics have times by the clock of the server's host.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
