//! Counts of the requests and connections of a user.
//!
//! Counts are derived from requests: a change of a request changes them by the difference of [`Counts::of`]. The rules
//! never modify them directly.

use std::ops::{AddAssign, Sub};

use chrono::TimeDelta;

use super::Time;
use super::id::UserId;
use super::pair::{Request, RequestState};

/// The counts of a user, or the difference between two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open requests from the user: pending, silenced or rejected.
    pub requests_sent: i64,
    /// Pending requests to the user.
    pub requests_received: i64,
    /// Pending requests to the user that they have not viewed.
    pub requests_unviewed: i64,
    /// Connections.
    pub connections: i64,
}

impl Counts {
    /// Returns what a request contributes to the counts of its sender or receiver.
    pub fn of(request: Option<&Request>, user: UserId) -> Self {
        let Some(request) = request else { return Self::default() };
        let sent = request.from == user && request.state.is_open();
        let received = request.to == user && request.state == RequestState::Pending;
        Self {
            requests_sent: sent.into(),
            requests_received: received.into(),
            requests_unviewed: (received && request.viewed.is_none()).into(),
            connections: (request.state == RequestState::Connected).into(),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.requests_sent += other.requests_sent;
        self.requests_received += other.requests_received;
        self.requests_unviewed += other.requests_unviewed;
        self.connections += other.connections;
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            requests_sent: self.requests_sent - other.requests_sent,
            requests_received: self.requests_received - other.requests_received,
            requests_unviewed: self.requests_unviewed - other.requests_unviewed,
            connections: self.connections - other.connections,
        }
    }
}

/// The number of requests that a user sent in the current hour.
///
/// An hour starts with the first send after the previous hour ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendWindow {
    /// The start of the hour. `None` before the first send.
    pub since: Option<Time>,
    /// The number of requests sent in it.
    pub count: i64,
}

const HOUR: TimeDelta = TimeDelta::hours(1);

impl SendWindow {
    /// Returns the window at `now`: a new, empty one if the hour is over.
    pub fn at(self, now: Time) -> Self {
        match self.since {
            Some(since) if now < since + HOUR => self,
            Some(_) | None => Self { since: Some(now), count: 0 },
        }
    }

    /// Returns the window after another send at `now`.
    #[must_use]
    pub fn after_send(self, now: Time) -> Self {
        let window = self.at(now);
        Self { count: window.count + 1, ..window }
    }

    /// Returns the time until the hour is over.
    pub fn remaining(self, now: Time) -> TimeDelta {
        self.since.map_or(TimeDelta::zero(), |since| (since + HOUR - now).max(TimeDelta::zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_one_hour_after_its_first_send() {
        let start = Time::from_timestamp_micros(0).expect("a time");
        let window = SendWindow::default().after_send(start).after_send(start + TimeDelta::minutes(59));
        assert_eq!((window.count, window.remaining(start + TimeDelta::minutes(59))), (2, TimeDelta::minutes(1)));
        let later = start + TimeDelta::hours(1);
        assert_eq!(window.after_send(later), SendWindow { since: Some(later), count: 1 });
    }
}
