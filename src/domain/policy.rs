//! The settings that the rules depend on.

use chrono::TimeDelta;

use super::Time;

/// How long things last, how many there may be, and what a sender may learn. `None` is "no limit".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long after a rejection a request that was cancelled still counts as rejected. Default 30 days.
    pub cooldown: Option<TimeDelta>,
    /// How long a request waits before it expires. Default 180 days.
    pub lifetime: Option<TimeDelta>,
    /// How many requests that are pending or rejected a user may have sent. Default 1,000.
    pub max_sent_requests: Option<i64>,
    /// How many connections a user may have. Default 30,000.
    pub max_connections: Option<i64>,
    /// How many requests a user may send within an hour. Default 100.
    pub max_sends_per_hour: Option<i64>,
    /// How long events are kept in the feed. Default 30 days.
    pub event_retention: Option<TimeDelta>,
    /// Whether a sender sees that a request was rejected. Default no.
    pub disclose_rejections: bool,
    /// Whether a sender sees that a request was viewed. Default no.
    pub disclose_views: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            cooldown: Some(TimeDelta::days(30)),
            lifetime: Some(TimeDelta::days(180)),
            max_sent_requests: Some(1_000),
            max_connections: Some(30_000),
            max_sends_per_hour: Some(100),
            event_retention: Some(TimeDelta::days(30)),
            disclose_rejections: false,
            disclose_views: false,
        }
    }
}

impl Policy {
    /// A request that was created at this time or before has expired at `now`. `None`: none ever expires.
    pub fn expired_before(&self, now: Time) -> Option<Time> {
        self.lifetime.and_then(|lifetime| now.checked_sub_signed(lifetime))
    }

    /// A rejection at this time or before holds no cooldown at `now`. `None`: none ever does.
    pub fn cooled_before(&self, now: Time) -> Option<Time> {
        self.cooldown.and_then(|cooldown| now.checked_sub_signed(cooldown))
    }

    /// Events of this time or before are kept no longer at `now`. `None`: all are kept.
    pub fn events_until(&self, now: Time) -> Option<Time> {
        self.event_retention.and_then(|retention| now.checked_sub_signed(retention))
    }

    /// Whether a request that was created then has expired at `now`.
    pub fn has_expired(&self, created: Time, now: Time) -> bool {
        self.expired_before(now).is_some_and(|border| created <= border)
    }

    /// Whether a rejection at that time still keeps its sender waiting at `now`.
    pub fn in_cooldown(&self, rejected: Option<Time>, now: Time) -> bool {
        match (self.cooled_before(now), rejected) {
            (Some(border), Some(rejected)) => rejected > border,
            (None, _) | (_, None) => false,
        }
    }
}
