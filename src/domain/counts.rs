//! How many requests and connections a user has. Counts follow from requests; no rule counts by hand.

use std::ops::{AddAssign, Sub};

use chrono::TimeDelta;

use super::Time;
use super::id::UserId;
use super::pair::{Request, RequestState};

/// The counts of one user, or a difference between two such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that the user sent and that are pending or rejected.
    pub requests_sent: i64,
    /// Pending requests to the user.
    pub requests_received: i64,
    /// Those of them that the user has not viewed.
    pub requests_unviewed: i64,
    /// Connections.
    pub connections: i64,
}

impl Counts {
    /// What a request adds to the counts of one of its two users.
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

/// How many requests a user sent in the running hour. An hour begins with the first send after the one before ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendWindow {
    /// When the hour began; `None` before the first send.
    pub since: Option<Time>,
    /// How many were sent in it.
    pub count: i64,
}

const HOUR: TimeDelta = TimeDelta::hours(1);

impl SendWindow {
    /// The window as it stands at `now`: a new and empty one when the hour is over.
    pub fn at(self, now: Time) -> Self {
        match self.since {
            Some(since) if now < since + HOUR => self,
            Some(_) | None => Self { since: Some(now), count: 0 },
        }
    }

    /// The window after one more send at `now`.
    #[must_use]
    pub fn after_send(self, now: Time) -> Self {
        let window = self.at(now);
        Self { count: window.count + 1, ..window }
    }

    /// How long until the hour is over.
    pub fn remaining(self, now: Time) -> TimeDelta {
        self.since.map_or(TimeDelta::zero(), |since| (since + HOUR - now).max(TimeDelta::zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_sends_ends_an_hour_after_its_first() {
        let start = Time::from_timestamp_micros(0).expect("a time");
        let window = SendWindow::default().after_send(start).after_send(start + TimeDelta::minutes(59));
        assert_eq!((window.count, window.remaining(start + TimeDelta::minutes(59))), (2, TimeDelta::minutes(1)));
        let later = start + TimeDelta::hours(1);
        assert_eq!(window.after_send(later), SendWindow { since: Some(later), count: 1 });
    }
}
