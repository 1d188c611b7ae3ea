//! Dates of rows: which can be used, and which stand for no date.

use chrono::{DateTime, SecondsFormat};

use crate::domain::{Time, to_micros};

/// 2000-01-01T00:00:00Z. Earlier dates come from defaults and errors of the systems that stored them.
const EARLIEST: Time = DateTime::from_timestamp(946_684_800, 0).expect("a time");

/// The rule for what is no date.
pub(super) const NOT_A_DATE: &str = "must be a time with its zone, such as 2026-11-25T12:00:00Z";

/// A date of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Date {
    /// It can be right.
    Known(Time),
    /// There is none, or one that cannot be right.
    Missing(Missing),
}

/// Why a date counts as missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It is unset or empty.
    Absent,
    /// `0000-00-00`, with or without a time: how MySQL stores no date.
    Zero,
    /// 1970-01-01T00:00:00Z: a number that was never set.
    Epoch,
    /// Before the year 2000.
    TooEarly(Time),
    /// After the time of the import.
    Future(Time),
}

impl Default for Date {
    fn default() -> Self {
        Self::Missing(Missing::Absent)
    }
}

impl Date {
    /// Decides whether a date can be right at `now`. Truncates it to the microsecond, the precision that is stored.
    pub fn of(time: Option<Time>, now: Time) -> Self {
        let Some(time) = time.map(to_micros) else { return Self::default() };
        if time == Time::UNIX_EPOCH {
            Self::Missing(Missing::Epoch)
        } else if time < EARLIEST {
            Self::Missing(Missing::TooEarly(time))
        } else if time > now {
            Self::Missing(Missing::Future(time))
        } else {
            Self::Known(time)
        }
    }

    /// A date as Kith stores it, whatever it is.
    pub fn stored(time: Option<Time>) -> Self {
        time.map_or_else(Self::default, Self::Known)
    }

    /// Reads a date: RFC 3339, or with a space in place of the `T` and a zone such as `+00`, as PostgreSQL writes it.
    ///
    /// # Errors
    ///
    /// The rule that the text violates.
    pub fn parse(text: &str, now: Time) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.starts_with("0000-00-00") {
            return Ok(Self::Missing(Missing::Zero));
        }
        let time = DateTime::parse_from_rfc3339(text)
            .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
            .map_err(|_| NOT_A_DATE)?;
        Ok(Self::of(Some(time.to_utc()), now))
    }

    /// Returns the date if it can be right.
    pub fn known(self) -> Option<Time> {
        match self {
            Self::Known(time) => Some(time),
            Self::Missing(_) => None,
        }
    }

    /// Returns the date that the row has, even if it cannot be right. `None` if it has none.
    pub fn given(self) -> Option<Time> {
        match self {
            Self::Known(time) | Self::Missing(Missing::TooEarly(time) | Missing::Future(time)) => Some(time),
            Self::Missing(Missing::Epoch) => Some(Time::UNIX_EPOCH),
            Self::Missing(Missing::Absent | Missing::Zero) => None,
        }
    }
}

/// Formats a time as in the JSON form of protobuf: UTC, with as many digits as it needs of 0, 3 or 6.
pub fn format_time(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
    }

    #[test]
    fn a_date_that_cannot_be_right_is_missing() {
        let now = time("2026-11-25T12:00:00Z");
        let known = |text| Ok(Date::Known(time(text)));
        let missing = |why| Ok(Date::Missing(why));
        for (text, expected) in [
            ("", missing(Missing::Absent)),
            ("0000-00-00", missing(Missing::Zero)),
            ("0000-00-00 00:00:00", missing(Missing::Zero)),
            ("0000-00-00T00:00:00Z", missing(Missing::Zero)),
            ("1970-01-01T00:00:00Z", missing(Missing::Epoch)),
            ("1970-01-01T01:00:00+01:00", missing(Missing::Epoch)),
            ("1970-01-01 00:00:00+00", missing(Missing::Epoch)),
            ("0001-01-01T00:00:00Z", missing(Missing::TooEarly(time("0001-01-01T00:00:00Z")))),
            ("1999-12-31T23:59:59Z", missing(Missing::TooEarly(time("1999-12-31T23:59:59Z")))),
            ("2000-01-01T00:00:00Z", known("2000-01-01T00:00:00Z")),
            ("2026-11-25T12:00:00Z", known("2026-11-25T12:00:00Z")),
            ("2026-11-25T13:00:00+01:00", known("2026-11-25T12:00:00Z")),
            ("2026-11-25T12:00:00.000001Z", missing(Missing::Future(time("2026-11-25T12:00:00.000001Z")))),
            ("9999-12-31T23:59:59Z", missing(Missing::Future(time("9999-12-31T23:59:59Z")))),
            // As others write it.
            ("2021-03-01 10:00:00+00", known("2021-03-01T10:00:00Z")),
            ("2021-03-01 10:00:00.123456+05:30", known("2021-03-01T04:30:00.123456Z")),
            ("2021-03-01 10:00:00.5-0330", known("2021-03-01T13:30:00.500Z")),
            ("2021-03-01t10:00:00z", known("2021-03-01T10:00:00Z")),
            ("2021-03-01T10:00:00.123456789Z", known("2021-03-01T10:00:00.123456Z")),
        ] {
            assert_eq!(Date::parse(text, now), expected, "{text}");
        }
        for invalid in
            ["2021-03-01", "2021-03-01 10:00:00", "2021-03-01T10:00:00", "2021-02-30T10:00:00Z", "1614592800", " "]
        {
            assert!(Date::parse(invalid, now).is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_date_is_known_or_at_least_given() {
        let (now, early) = (time("2026-11-25T12:00:00Z"), time("1980-01-01T00:00:00Z"));
        for (date, known, given) in [
            (Date::Known(now), Some(now), Some(now)),
            (Date::Missing(Missing::Absent), None, None),
            (Date::Missing(Missing::Zero), None, None),
            (Date::Missing(Missing::Epoch), None, Some(Time::UNIX_EPOCH)),
            (Date::Missing(Missing::TooEarly(early)), None, Some(early)),
            (Date::Missing(Missing::Future(now)), None, Some(now)),
        ] {
            assert_eq!((date.known(), date.given()), (known, given), "{date:?}");
        }
    }

    #[test]
    fn times_have_as_many_digits_as_they_need() {
        for text in ["2021-03-01T10:00:00Z", "2021-03-01T10:00:00.500Z", "2021-03-01T10:00:00.000001Z"] {
            assert_eq!(format_time(time(text)), text);
        }
    }
}
