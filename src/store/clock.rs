//! The clock that the times of a database come from.
//!
//! On PostgreSQL it is the clock of the database, read when the head is locked: servers whose own clocks differ agree on
//! the time. Between commits it is the last reading plus the time that has passed since. A server that only reads takes
//! a reading now and then. On SQLite it is the system's clock.
//!
//! Somebody may set a clock, or start a server while it is wrong. Commands are decided at the time that it shows, and a
//! later, right time is not held up by an earlier, wrong one. But what the sweep deletes is lost for good, so after a
//! [`Leap`] it is held back until people have had time to notice.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;

use crate::clock::{Clock, Reading};
use crate::domain::Time;
use crate::domain::ledger::Head;

/// How far a clock may move otherwise than time passes, and how far an event may lie in the future, before it is a leap.
///
/// Clocks that are kept right over a network differ by less.
pub(super) const TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// How old the newest event may be when a server starts. An older one may mean that the clock is ahead.
const SILENCE_MAX: TimeDelta = TimeDelta::days(1);
/// How long the sweep is held back after a leap.
const HELD_BACK: Duration = Duration::from_secs(3_600);
/// How far the system's clock may differ from the database's before the log has a warning.
const OFFSET_MAX: TimeDelta = TimeDelta::seconds(1);

/// The time at which a batch is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) time: Time,
    /// Whether a sweep may delete what has expired at this time.
    pub(super) may_sweep: bool,
}

/// A sign that the clock is wrong, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leap {
    /// The clock moved by this much more, or less, than time has passed.
    OfClock(TimeDelta),
    /// The newest event lies this far in the future.
    EventAhead(TimeDelta),
    /// At the start of the server, the newest event lies this far in the past.
    Silence(TimeDelta),
}

/// The clock of one database, with what is known of its errors.
pub(super) struct DatabaseClock {
    clock: Clock,
    /// Whether the time is that of a database server.
    is_remote: bool,
    state: Mutex<State>,
}

struct State {
    last: Reading,
    /// Whether a head was locked since the start.
    has_started: bool,
    /// The time of the newest event, if it was found in the future.
    ahead: Option<Time>,
    /// The time of the stopwatch until which the sweep is held back.
    held_until: Duration,
    leaps: u64,
    is_offset: bool,
}

impl DatabaseClock {
    /// The system's clock, for a database in a file.
    pub(super) fn of_file(clock: Clock) -> Self {
        let time = clock.now();
        Self::new(clock, false, time)
    }

    /// The clock of a database server, which showed `time` just now.
    pub(super) fn of_server(clock: Clock, time: Time) -> Self {
        Self::new(clock, true, time)
    }

    fn new(clock: Clock, is_remote: bool, time: Time) -> Self {
        // A clock that a test sets replaces that of the database.
        let is_remote = is_remote && clock.is_system();
        let own = clock.read();
        let last = if is_remote { Reading { time, ..own } } else { own };
        let held_until = Duration::ZERO;
        let state = State { last, has_started: false, ahead: None, held_until, leaps: 0, is_offset: false };
        Self { clock, is_remote, state: Mutex::new(state) }
    }

    /// Returns the current time.
    pub(super) fn now(&self) -> Time {
        if !self.is_remote {
            return self.clock.now();
        }
        let Reading { time, elapsed } = self.state().last;
        let passed = self.clock.elapsed().saturating_sub(elapsed);
        TimeDelta::from_std(passed).ok().and_then(|passed| time.checked_add_signed(passed)).unwrap_or(time)
    }

    /// Takes over what the clock of a database server showed just now, without a lock of the head.
    pub(super) fn read(&self, time: Time) {
        if self.is_remote {
            let own = self.clock.read();
            let mut state = self.state();
            state.compare(own.time - time);
            state.last = Reading { time, ..own };
        }
    }

    /// Returns the time at which to decide a batch, under the lock of the head.
    ///
    /// `read` is what the clock of a database server showed just now. Logs a leap once.
    pub(super) fn locked(&self, head: &Head, read: Option<Time>) -> Now {
        let own = self.clock.read();
        let time = read.filter(|_| self.is_remote).unwrap_or(own.time);
        let now = Reading { time, ..own };
        let mut state = self.state();
        if self.is_remote {
            state.compare(own.time - time);
        }
        if let Some(leap) = state.leap(now, newest(head)) {
            state.leaps += 1;
            state.held_until = now.elapsed + HELD_BACK;
            log(leap, state.leaps);
        }
        (state.last, state.has_started) = (now, true);
        Now { time, may_sweep: now.elapsed >= state.held_until }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the leap that this reading shows, unless it is already known.
    fn leap(&mut self, now: Reading, newest: Option<Time>) -> Option<Leap> {
        let moved = (now.time - self.last.time) - passed(self.last.elapsed, now.elapsed);
        let age = newest.map(|newest| now.time - newest).unwrap_or_default();
        let is_known = self.ahead == newest;
        self.ahead = newest.filter(|_| age < -TOLERANCE);
        if moved.abs() > TOLERANCE {
            Some(Leap::OfClock(moved))
        } else if self.ahead.is_some() && !is_known {
            Some(Leap::EventAhead(-age))
        } else if !self.has_started && age > SILENCE_MAX {
            Some(Leap::Silence(age))
        } else {
            None
        }
    }

    /// Logs once that the system's clock differs from the database's, and once that it no longer does.
    fn compare(&mut self, offset: TimeDelta) {
        let is_offset = offset.abs() > OFFSET_MAX;
        let milliseconds = offset.num_milliseconds();
        match (self.is_offset, is_offset) {
            (false, true) => tracing::warn!(
                milliseconds,
                "the clock of this host is not that of the database, which Kith uses; set one of them right"
            ),
            (true, false) => tracing::info!(milliseconds, "the clock of this host is that of the database again"),
            (false, false) | (true, true) => {}
        }
        self.is_offset = is_offset;
    }
}

/// The time of the newest event. `None` before the first.
fn newest(head: &Head) -> Option<Time> {
    (head.sequence.get() > 0).then_some(head.time)
}

fn passed(from: Duration, until: Duration) -> TimeDelta {
    TimeDelta::from_std(until.saturating_sub(from)).unwrap_or(TimeDelta::MAX)
}

fn log(leap: Leap, leaps: u64) {
    match leap {
        Leap::OfClock(by) => tracing::warn!(
            seconds = by.num_seconds(),
            leaps,
            "the clock leapt; nothing that has expired is deleted for an hour"
        ),
        Leap::EventAhead(by) => tracing::warn!(
            seconds = by.num_seconds(),
            leaps,
            "the newest event lies in the future, so a clock is or was wrong; nothing that has expired is deleted for \
             an hour"
        ),
        Leap::Silence(by) => tracing::info!(
            seconds = by.num_seconds(),
            "the newest event is old; in case the clock is wrong, nothing that has expired is deleted for an hour"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    use super::*;
    use crate::domain::id::Sequence;

    fn minute(minute: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::minutes(30_000_000 + minute)
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_leap_is_not_the_time_that_has_passed() {
        let by = TimeDelta::minutes;
        let day = 24 * 60;
        // The minutes that passed since minute 0, the minute that the clock shows, the minute of the newest event.
        for (passed, shown, newest, has_started, leap) in [
            (0, 0, None, false, None),
            (0, 0, Some(0), false, None),
            (5, 5, Some(0), true, None),
            (5, 6, Some(0), true, None),
            (5, 7, Some(0), true, Some(Leap::OfClock(by(2)))),
            (5, 4, Some(0), true, None),
            (5, 3, Some(0), true, Some(Leap::OfClock(by(-2)))),
            (0, 2 * day, Some(0), true, Some(Leap::OfClock(by(2 * day)))),
            (0, 0, Some(1), true, None),
            (0, 0, Some(2), true, Some(Leap::EventAhead(by(2)))),
            (0, 0, Some(2), false, Some(Leap::EventAhead(by(2)))),
            (0, 0, Some(-day), false, None),
            (0, 0, Some(-day - 1), false, Some(Leap::Silence(by(day + 1)))),
            (0, 0, Some(-day - 1), true, None),
        ] {
            let last = Reading { time: minute(0), elapsed: minutes(100) };
            let held_until = Duration::ZERO;
            let mut state = State { last, has_started, ahead: None, held_until, leaps: 0, is_offset: false };
            let now = Reading { time: minute(shown), elapsed: minutes(100 + passed) };
            assert_eq!(state.leap(now, newest.map(minute)), leap, "{passed} {shown} {newest:?} {has_started}");
            state.last = now;
            assert_eq!(state.leap(now, newest.map(minute)).filter(|_| has_started), None, "it is a leap once");
        }
    }

    /// A clock whose two hands a test sets, in minutes.
    struct Hands(Arc<(AtomicI64, AtomicU64)>);

    impl Hands {
        fn clock(&self) -> Clock {
            let hands = Arc::clone(&self.0);
            Clock::from_fn(move || Reading {
                time: minute(hands.0.load(Ordering::SeqCst)),
                elapsed: minutes(hands.1.load(Ordering::SeqCst)),
            })
        }

        fn pass(&self, minutes: u64) {
            self.0.1.fetch_add(minutes, Ordering::SeqCst);
            self.set_by(i64::try_from(minutes).expect("few"));
        }

        fn set_by(&self, minutes: i64) {
            self.0.0.fetch_add(minutes, Ordering::SeqCst);
        }
    }

    fn head(time: Time) -> Head {
        Head { sequence: Sequence::new(7), time, ..Head::default() }
    }

    #[test]
    fn after_a_leap_the_sweep_is_held_back_for_an_hour() {
        let hands = Hands(Arc::default());
        let clock = DatabaseClock::of_file(hands.clock());
        let sweeps = || clock.locked(&head(minute(0)), None).may_sweep;
        assert!(sweeps());
        hands.set_by(200 * 24 * 60);
        assert!(!sweeps());
        hands.pass(59);
        assert!(!sweeps());
        hands.pass(1);
        assert!(sweeps());
    }

    #[test]
    fn a_clock_that_a_test_sets_replaces_that_of_a_server() {
        let hands = Hands(Arc::default());
        let clock = DatabaseClock::of_server(hands.clock(), minute(500));
        hands.pass(3);
        assert_eq!(clock.now(), minute(3));
        assert_eq!(clock.locked(&head(minute(0)), Some(minute(500))).time, minute(3));
    }

    #[test]
    fn the_time_of_a_server_is_its_last_reading_and_what_has_passed_since() {
        let clock = DatabaseClock::of_server(Clock::system(), minute(500));
        let passed = |since: i64| clock.now() - minute(since);
        assert!((TimeDelta::zero()..TimeDelta::minutes(1)).contains(&passed(500)));
        assert_eq!(clock.locked(&head(minute(700)), Some(minute(700))).time, minute(700));
        assert!((TimeDelta::zero()..TimeDelta::minutes(1)).contains(&passed(700)));
        clock.read(minute(300));
        assert!((TimeDelta::zero()..TimeDelta::minutes(1)).contains(&passed(300)), "also without a commit");
    }
}
