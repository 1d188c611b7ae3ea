//! What `kith top` knows of the server: the last readings, or since when it is away.

use std::time::Instant;

use super::figures::Figures;
use super::interval::Interval;
use crate::metrics::exposition::Exposition;

/// The start of the process. Counters of two processes have no rate between them.
const START: &str = "process_start_time_seconds";

/// The state after some readings.
#[derive(Debug, Default)]
pub(super) struct State {
    last: Option<(Instant, Exposition)>,
    /// The figures of the last reading that succeeded.
    pub(super) figures: Figures,
    /// Since when readings fail, and why the last one did.
    pub(super) away: Option<(Instant, String)>,
}

impl State {
    /// Takes the outcome of a reading. `unix_time` is the time in seconds.
    pub(super) fn take(&mut self, read: Result<Exposition, String>, at: Instant, unix_time: f64) {
        let now = match read {
            Ok(now) => now,
            Err(error) => {
                let since = self.away.take().map_or(at, |(since, _)| since);
                self.away = Some((since, error));
                return;
            }
        };
        let interval = self.last.as_ref().and_then(|(before_at, before)| {
            let seconds = at.saturating_duration_since(*before_at).as_secs_f64();
            let is_same = before.value(START) == now.value(START) && seconds > 0.0;
            is_same.then_some(Interval { before, now: &now, seconds })
        });
        self.figures = Figures::of(&now, interval, unix_time);
        self.away = None;
        self.last = Some((at, now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reading(start: u32, events: u32) -> Result<Exposition, String> {
        let text = format!("{START} {start}\nkith_feed_events_sent_total {events}\n# EOF\n");
        Ok(Exposition::parse(&text).unwrap())
    }

    #[test]
    fn a_server_that_was_away_or_restarted_is_shown_again() {
        let begin = Instant::now();
        let mut state = State::default();
        let failed = |words: &str| Err(words.to_owned());
        for (second, read, away, sent) in [
            (0, failed("one"), Some((0, "one")), None),
            (2, failed("two"), Some((0, "two")), None),
            (3, reading(1, 100), None, Some("sent -/s")),
            (5, reading(1, 120), None, Some("sent 10.0/s")),
            // The last figures remain.
            (6, failed("three"), Some((6, "three")), Some("sent 10.0/s")),
            (9, reading(1, 120), None, Some("sent 0.0/s")),
            // Another process.
            (10, reading(2, 500), None, Some("sent -/s")),
            (11, reading(2, 501), None, Some("sent 1.0/s")),
            // Within no time.
            (11, reading(2, 502), None, Some("sent -/s")),
        ] {
            state.take(read, begin + Duration::from_secs(second), 1e9);
            let found = state.away.as_ref().map(|(since, error)| ((*since - begin).as_secs(), error.as_str()));
            assert_eq!(found, away, "at {second}");
            let cells = state.figures.groups.iter().filter(|group| group.name == "FEED").flat_map(|group| &group.cells);
            let cells: Vec<_> = cells.map(|cell| cell.text.as_str()).collect();
            assert_eq!(cells, sent.into_iter().collect::<Vec<_>>(), "at {second}");
        }
    }
}
