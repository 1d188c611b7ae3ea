//! Shows how far long work is: by a bar on a terminal, and by a line every ten seconds otherwise.
//!
//! Both go to standard error. What a command prints to standard output is for machines.

use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;

use crate::config::LogFormat;
use crate::progress::{Progress, Step};
use crate::telemetry::Log;

/// The time between two lines.
const LINES: Duration = Duration::from_secs(10);
/// The time until a bar appears: short work has none.
const QUIET: Duration = Duration::from_millis(500);
/// The time between two looks at the progress.
const TICK: Duration = Duration::from_millis(100);
/// The time from which on an estimate is shown.
const ESTIMATED: Duration = Duration::from_secs(2);
/// In the length of the bar, since totals may be unknown.
const BAR_PARTS: u64 = 1_000;
/// ASCII, which every terminal has.
const BAR: &str = "[{bar:16}] {wide_msg}";

/// Runs a job and shows its progress.
pub(super) async fn shown<T>(progress: &Progress, log: &Log, format: LogFormat, job: impl Future<Output = T>) -> T {
    let mut display = Display::on(log, format);
    let (begin, mut estimate) = (Instant::now(), Estimate::default());
    let mut ticker = tokio::time::interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut job = pin!(job);
    loop {
        tokio::select! {
            done = &mut job => {
                display.end();
                return done;
            }
            _ = ticker.tick() => {
                let at = begin.elapsed();
                estimate.take(at, progress.last());
                display.show(at, &estimate);
            }
        }
    }
}

/// Where the progress is shown.
enum Display {
    Bar(ProgressBar),
    Lines { format: LogFormat, schedule: Schedule },
}

impl Display {
    fn on(log: &Log, format: LogFormat) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let style = ProgressStyle::with_template(BAR).map(|style| style.progress_chars("=> "));
        match style {
            Ok(style) if io::stderr().is_terminal() && !is_dumb => {
                let bar =
                    ProgressBar::with_draw_target(Some(BAR_PARTS), ProgressDrawTarget::hidden()).with_style(style);
                log.make_room_for(bar.clone());
                Self::Bar(bar)
            }
            Ok(_) | Err(_) => Self::Lines { format, schedule: Schedule::default() },
        }
    }

    fn show(&mut self, at: Duration, estimate: &Estimate) {
        match self {
            Self::Bar(bar) if at >= QUIET => {
                bar.set_position(estimate.parts(BAR_PARTS));
                bar.set_message(estimate.text(at));
                if bar.is_hidden() {
                    bar.set_draw_target(ProgressDrawTarget::stderr());
                }
            }
            Self::Bar(_) => {}
            Self::Lines { format, schedule } => match (schedule.is_due(at), format) {
                (true, LogFormat::Text) => {
                    // Nobody may be there to read it.
                    let _closed = writeln!(io::stderr(), "kith: {}", estimate.text(at));
                }
                (true, LogFormat::Json) => tracing::info!("{}", estimate.text(at)),
                (false, _) => {}
            },
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// When lines are printed: every ten seconds after the start.
#[derive(Debug, Default)]
struct Schedule {
    printed: Duration,
}

impl Schedule {
    /// Whether a line is to be printed now, at this time since the start.
    fn is_due(&mut self, at: Duration) -> bool {
        let is_due = at.saturating_sub(self.printed) >= LINES;
        if is_due {
            self.printed = at;
        }
        is_due
    }
}

/// The last report of a job, and the times that an estimate needs. All times are since the start.
#[derive(Debug, Default)]
struct Estimate {
    step: Step,
    /// The start of the phase.
    phase_at: Duration,
    /// The last report.
    step_at: Duration,
}

impl Estimate {
    /// Takes a report. The same one again says nothing new.
    fn take(&mut self, at: Duration, step: Step) {
        if step == self.step {
            return;
        }
        if step.phase != self.step.phase {
            self.phase_at = at;
        }
        (self.step, self.step_at) = (step, at);
    }

    /// The part that is done, of `parts`.
    fn parts(&self, parts: u64) -> u64 {
        match self.step.total {
            Some(total) if total > 0 => scaled(self.step.done.min(total), parts, total),
            Some(_) | None => 0,
        }
    }

    /// The time that is left of the phase. None if it cannot be estimated yet.
    ///
    /// What is being done now takes as long as the rest took, for each unit. If it takes longer, at least what comes after
    /// it is left.
    fn left(&self, at: Duration) -> Option<Duration> {
        let Step { done, current, total, .. } = self.step;
        let took = self.step_at.saturating_sub(self.phase_at);
        if done == 0 || at.saturating_sub(self.phase_at) < ESTIMATED || took.is_zero() {
            return None;
        }
        let current = current.min(total?.saturating_sub(done));
        let after = total?.saturating_sub(done).saturating_sub(current);
        let time_of = |number: u64| took.mul_f64(number as f64 / done as f64);
        let now = time_of(current).saturating_sub(at.saturating_sub(self.step_at));
        Some(now + time_of(after))
    }

    /// The progress in words, in one line.
    fn text(&self, at: Duration) -> String {
        let Step { phase, unit, done, total, ref doing, .. } = self.step;
        if phase.is_empty() {
            return format!("starting, {} so far", whole(at));
        }
        let amount = match total {
            Some(total) => format!("{}% of {total} {unit}", self.parts(100)),
            None => format!("{done} {unit}"),
        };
        let left = self.left(at).map(|left| format!(", about {} left", whole(left))).unwrap_or_default();
        let doing = if doing.is_empty() { String::new() } else { format!(": {doing}") };
        format!("{phase}: {amount}, {} so far{left}{doing}", whole(at))
    }
}

/// `number * parts / total`, for numbers of any size.
fn scaled(number: u64, parts: u64, total: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(parts) / u128::from(total).max(1);
    scaled.try_into().unwrap_or(parts)
}

/// A time in whole seconds, such as `1m 20s`.
fn whole(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn step(phase: &'static str, done: u64, current: u64, total: Option<u64>) -> Step {
        Step { phase, unit: "rows", done, current, total, doing: "a check".into() }
    }

    #[test]
    fn a_line_is_printed_every_ten_seconds() {
        let mut schedule = Schedule::default();
        let due: Vec<u64> = (0..=450).filter(|tenth| schedule.is_due(Duration::from_millis(tenth * 100))).collect();
        assert_eq!(due, [100, 200, 300, 400]);
        // Late ones are not made up for.
        assert!(schedule.is_due(seconds(95)) && !schedule.is_due(seconds(104)) && schedule.is_due(seconds(105)));
    }

    #[test]
    fn what_is_left_follows_from_what_was_done() {
        let mut estimate = Estimate::default();
        // The time, a report, and the text of that time.
        for (at, report, expected) in [
            (0, None, "starting, 0s so far"),
            (1, Some(step("counting", 0, 1, Some(2))), "counting: 0% of 2 rows, 1s so far: a check"),
            (4, None, "counting: 0% of 2 rows, 4s so far: a check"),
            (5, Some(step("counting", 1, 1, Some(2))), "counting: 50% of 2 rows, 5s so far, about 4s left: a check"),
            // Another phase has another pace.
            (10, Some(step("checking", 0, 100, Some(1_000))), "checking: 0% of 1000 rows, 10s so far: a check"),
            (11, Some(step("checking", 100, 100, Some(1_000))), "checking: 10% of 1000 rows, 11s so far: a check"),
            (12, None, "checking: 10% of 1000 rows, 12s so far, about 8s left: a check"),
            (
                14,
                Some(step("checking", 200, 400, Some(1_000))),
                "checking: 20% of 1000 rows, 14s so far, about 16s left: a check",
            ),
            (20, None, "checking: 20% of 1000 rows, 20s so far, about 10s left: a check"),
            // It should have taken 8 s, and what comes after it takes another 8 s.
            (60, None, "checking: 20% of 1000 rows, 1m so far, about 8s left: a check"),
            (
                70,
                Some(step("checking", 1_000, 0, Some(1_000))),
                "checking: 100% of 1000 rows, 1m 10s so far, about 0s left: a check",
            ),
            // More than there were.
            (
                71,
                Some(step("checking", 1_100, 7, Some(1_000))),
                "checking: 100% of 1000 rows, 1m 11s so far, about 0s left: a check",
            ),
            (72, Some(step("loading", 500, 0, None)), "loading: 500 rows, 1m 12s so far: a check"),
            (99, Some(step("nothing", 0, 0, Some(0))), "nothing: 0% of 0 rows, 1m 39s so far: a check"),
        ] {
            let report = report.unwrap_or_else(|| estimate.step.clone());
            estimate.take(seconds(at), report);
            assert_eq!(estimate.text(seconds(at)), expected);
        }
    }

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        for (done, total, expected) in [
            (0, Some(7), 0),
            (7, Some(7), 1_000),
            (8, Some(7), 1_000),
            (1, Some(3), 333),
            (5, None, 0),
            (0, Some(0), 0),
            (u64::MAX - 1, Some(u64::MAX), 999),
        ] {
            let mut estimate = Estimate::default();
            estimate.take(Duration::ZERO, step("checking", done, 0, total));
            assert_eq!(estimate.parts(1_000), expected, "{done} of {total:?}");
        }
    }
}
