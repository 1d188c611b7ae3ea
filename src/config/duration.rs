//! Durations as they are written in settings.

use std::time::Duration;

/// How durations are written, for `--help`.
pub(super) const DURATIONS: &str = "A DURATION is a number with a unit, such as 500ms, 10s, 12h or 30d.";

/// Parses a duration.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("not a duration such as 10s or 30d ({error})"))
}

/// Parses a duration of at least a millisecond.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_millis(1) { Err("must be at least 1ms".to_owned()) } else { Ok(duration) }
}
