//! The settings of the rules.

use chrono::TimeDelta;

use super::Time;
use super::pair::Ended;
use super::text::UsernameRule;

/// Durations, limits and disclosures. `None` switches a duration or a limit off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long after a rejection a new request is silenced. Default 30 days.
    ///
    /// It applies to requests of the same sender to the same receiver.
    pub cooldown: Option<TimeDelta>,
    /// How long after its creation an open request expires. Default 180 days.
    pub lifetime: Option<TimeDelta>,
    /// The maximum number of open requests from a user: pending, silenced and rejected. Default 1,000.
    pub max_sent_requests: Option<i64>,
    /// The maximum number of connections of a user. Default 30,000.
    pub max_connections: Option<i64>,
    /// The maximum number of requests that a user may send within an hour. Default 100.
    pub max_sends_per_hour: Option<i64>,
    /// The maximum number of requests that a user may send to the same other user within the time of a cooldown, whatever
    /// became of them. Default 5. Without a cooldown there is no such limit.
    pub max_sends_per_pair: Option<i64>,
    /// How long events are retained. Default 30 days.
    pub event_retention: Option<TimeDelta>,
    /// How long after the deletion of a user the events name them. Default: as long as the events are retained.
    pub forget_after: Option<TimeDelta>,
    /// The characters that usernames may have. Default ASCII letters, digits, `-` and `_`.
    pub usernames: UsernameRule,
    /// Whether senders see that a request was rejected. Default false.
    pub disclose_rejections: bool,
    /// Whether senders see that a request was viewed. Default false.
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
            max_sends_per_pair: Some(5),
            event_retention: Some(TimeDelta::days(30)),
            forget_after: None,
            usernames: UsernameRule::Ascii,
            disclose_rejections: false,
            disclose_views: false,
        }
    }
}

impl Policy {
    /// Returns the latest creation time of open requests that have expired at `now`.
    ///
    /// `None`: requests never expire.
    pub fn expired_before(&self, now: Time) -> Option<Time> {
        self.lifetime.and_then(|lifetime| now.checked_sub_signed(lifetime))
    }

    /// Returns the latest time of rejections whose cooldown has ended at `now`.
    ///
    /// `None`: there is no cooldown.
    pub fn cooled_before(&self, now: Time) -> Option<Time> {
        self.cooldown.and_then(|cooldown| now.checked_sub_signed(cooldown))
    }

    /// Returns the latest time of events whose retention has ended at `now`.
    ///
    /// `None`: events are retained forever.
    pub fn events_until(&self, now: Time) -> Option<Time> {
        self.event_retention.and_then(|retention| now.checked_sub_signed(retention))
    }

    /// Returns the latest time of deletions of users whom the events must not name any longer at `now`.
    ///
    /// `None`: the events name deleted users as long as they are retained.
    pub fn forget_until(&self, now: Time) -> Option<Time> {
        self.forget_after.and_then(|delay| now.checked_sub_signed(delay))
    }

    /// Returns whether an open request that was created at `created` has expired at `now`.
    pub fn has_expired(&self, created: Time, now: Time) -> bool {
        self.expired_before(now).is_some_and(|cutoff| created <= cutoff)
    }

    /// Returns the requests of one user to another that have ended and still count at `now`.
    ///
    /// Those that began later by an error of the clock count from now on.
    pub fn still_counted(&self, ended: Option<Ended>, now: Time) -> Option<Ended> {
        let ended = ended.filter(|ended| self.cooled_before(now).is_some_and(|cutoff| ended.since > cutoff));
        ended.map(|Ended { since, count }| Ended { since: since.min(now), count })
    }

    /// Returns whether a rejection at `rejected` still causes a cooldown at `now`.
    pub fn in_cooldown(&self, rejected: Option<Time>, now: Time) -> bool {
        match (self.cooled_before(now), rejected) {
            (Some(cutoff), Some(rejected)) => rejected > cutoff,
            (None, _) | (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> Time {
        Time::UNIX_EPOCH + TimeDelta::days(day)
    }

    #[test]
    fn the_cutoffs_lie_a_duration_before_now() {
        let policy = Policy {
            cooldown: Some(TimeDelta::days(3)),
            lifetime: Some(TimeDelta::days(5)),
            event_retention: Some(TimeDelta::days(7)),
            forget_after: Some(TimeDelta::days(2)),
            ..Policy::default()
        };
        assert_eq!(policy.cooled_before(day(10)), Some(day(7)));
        assert_eq!(policy.expired_before(day(10)), Some(day(5)));
        assert_eq!(policy.events_until(day(10)), Some(day(3)));
        assert_eq!(policy.forget_until(day(10)), Some(day(8)));
        assert_eq!(Policy::default().forget_until(day(10)), None, "off by default");
        let off = Policy { cooldown: None, lifetime: None, event_retention: None, ..Policy::default() };
        assert_eq!(
            (off.cooled_before(day(10)), off.expired_before(day(10)), off.events_until(day(10))),
            (None, None, None)
        );
        let far = Policy { lifetime: Some(TimeDelta::MAX), ..Policy::default() };
        assert_eq!(far.expired_before(day(10)), None, "before the first time");
    }

    #[test]
    fn a_duration_ends_exactly_after_its_length() {
        let five = Some(TimeDelta::days(5));
        let policy = Policy { cooldown: five, lifetime: five, ..Policy::default() };
        let microsecond = TimeDelta::microseconds(1);
        for (now, is_over) in [(day(5) - microsecond, false), (day(5), true), (day(6), true)] {
            assert_eq!(policy.has_expired(day(0), now), is_over, "{now}");
            assert_eq!(policy.in_cooldown(Some(day(0)), now), !is_over, "{now}");
        }
        assert!(!policy.in_cooldown(None, day(1)));
        let ended = |day_number| Some(Ended { since: day(day_number), count: 3 });
        for (since, counted) in [(0, None), (1, ended(1)), (5, ended(5)), (200, ended(5))] {
            assert_eq!(policy.still_counted(ended(since), day(5)), counted, "{since}");
        }
        let off = Policy { cooldown: None, lifetime: None, ..Policy::default() };
        assert!(!off.has_expired(day(0), day(1_000)) && !off.in_cooldown(Some(day(0)), day(0)));
    }
}
