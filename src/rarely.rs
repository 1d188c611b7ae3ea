//! A limit on a line of the log that others can cause as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Minimum interval between two lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// Limits a line of the log to one a minute, and counts the ones that were left out.
#[derive(Debug, Default)]
pub struct Rarely(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The time of the last line.
    last: Option<Instant>,
    /// Lines left out since.
    left_out: u64,
}

impl Rarely {
    /// Returns the number of lines left out since the last one, or `None` if this one is to be left out too.
    pub fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_leaves_one_line_a_minute_with_the_number_of_the_others() {
        let line = Rarely::default();
        assert_eq!(line.due(), Some(0));
        for _ in 0..3_500 {
            assert_eq!(line.due(), None);
        }
        advance(INTERVAL).await;
        assert_eq!(line.due(), Some(3_500));
        assert_eq!(line.due(), None);
        advance(INTERVAL).await;
        assert_eq!(line.due(), Some(1));
    }
}
