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
        let Self { requests_sent, requests_received, requests_unviewed, connections } = other;
        self.requests_sent += requests_sent;
        self.requests_received += requests_received;
        self.requests_unviewed += requests_unviewed;
        self.connections += connections;
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
    /// Returns the window at `now`: a new, empty one if the hour is over, or begins later by an error of the clock.
    pub fn at(self, now: Time) -> Self {
        match self.since {
            Some(since) if since <= now && now < since + HOUR => self,
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
    use crate::domain::id::{RequestId, Sequence};
    use crate::domain::pair::Message;

    #[test]
    fn a_window_ends_one_hour_after_its_first_send() {
        let start = Time::from_timestamp_micros(0).expect("a time");
        let window = SendWindow::default().after_send(start).after_send(start + TimeDelta::minutes(59));
        assert_eq!((window.count, window.remaining(start + TimeDelta::minutes(59))), (2, TimeDelta::minutes(1)));
        let later = start + TimeDelta::hours(1);
        assert_eq!(window.after_send(later), SendWindow { since: Some(later), count: 1 });
        // The clock was ahead.
        let earlier = start - TimeDelta::microseconds(1);
        assert_eq!(window.after_send(earlier), SendWindow { since: Some(earlier), count: 1 });
    }

    #[test]
    fn a_request_counts_for_its_sender_and_its_receiver() {
        let (from, to, third) = (UserId::new(1), UserId::new(2), UserId::new(3));
        let time = Time::UNIX_EPOCH;
        let request = |state, viewed| Request {
            id: RequestId::new(7),
            from,
            to,
            state,
            position: Sequence::new(7),
            message: Message::default(),
            created: time,
            viewed,
            rejected: None,
            accepted: None,
            reply: Message::default(),
        };
        let counts = |[requests_sent, requests_received, requests_unviewed, connections]: [i64; 4]| Counts {
            requests_sent,
            requests_received,
            requests_unviewed,
            connections,
        };
        for (state, viewed, to_sender, to_receiver) in [
            (RequestState::Pending, None, [1, 0, 0, 0], [0, 1, 1, 0]),
            (RequestState::Pending, Some(time), [1, 0, 0, 0], [0, 1, 0, 0]),
            (RequestState::Rejected, Some(time), [1, 0, 0, 0], [0, 0, 0, 0]),
            (RequestState::Silenced, None, [1, 0, 0, 0], [0, 0, 0, 0]),
            (RequestState::Connected, Some(time), [0, 0, 0, 1], [0, 0, 0, 1]),
        ] {
            let request = request(state, viewed);
            assert_eq!(Counts::of(Some(&request), from), counts(to_sender), "the sender, {state:?}");
            assert_eq!(Counts::of(Some(&request), to), counts(to_receiver), "the receiver, {state:?}");
        }
        let pending = request(RequestState::Pending, None);
        assert_eq!(Counts::of(Some(&pending), third), Counts::default());
        assert_eq!(Counts::of(None, from), Counts::default());
    }

    #[test]
    fn counts_add_and_subtract_each_number() {
        let counts = |n: i64| Counts {
            requests_sent: n,
            requests_received: n * 2,
            requests_unviewed: n * 3,
            connections: n * 5,
        };
        assert_eq!(counts(7) - counts(3), counts(4));
        let mut sum = counts(7);
        sum += counts(3);
        assert_eq!(sum, counts(10));
    }

    #[test]
    fn the_remaining_time_of_a_window_is_never_negative() {
        let start = Time::UNIX_EPOCH;
        let window = SendWindow { since: Some(start), count: 1 };
        for (minutes, remaining) in [(0, 60), (59, 1), (60, 0), (90, 0)] {
            assert_eq!(window.remaining(start + TimeDelta::minutes(minutes)), TimeDelta::minutes(remaining));
        }
        assert_eq!(SendWindow::default().remaining(start), TimeDelta::zero());
    }
}
