//! Settings of the rules.

use std::str::FromStr;

use chrono::TimeDelta;
use clap::{Args, ValueEnum};

use super::duration::parse_duration;
use crate::domain::policy::Policy;
use crate::domain::text::UsernameRule;

/// Settings of the rules. 0 disables a limit.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// Time after a rejection during which a new request from the same sender does not reach the receiver; 0 = off
    #[arg(
        long,
        help_heading = "Limits",
        env = "KITH_REJECTION_COOLDOWN",
        value_name = "DURATION",
        default_value = "30d"
    )]
    pub rejection_cooldown: Lifetime,
    /// Time after which a request that was not accepted expires; 0 = never
    #[arg(
        long,
        help_heading = "Limits",
        env = "KITH_REQUEST_LIFETIME",
        value_name = "DURATION",
        default_value = "180d"
    )]
    pub request_lifetime: Lifetime,
    /// Maximum open requests of a sender: those neither accepted, cancelled nor expired; 0 = no limit
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_SENT_REQUESTS", value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sent_requests: i64,
    /// Maximum connections per user; 0 = no limit
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 30_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_connections: i64,
    /// Maximum requests that a user can send within an hour; 0 = no limit
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_SENDS_PER_HOUR", value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sends_per_hour: i64,
    /// Maximum requests that a user can send to the same other user within the cooldown's time; 0 = no limit
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_SENDS_PER_PAIR", value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sends_per_pair: i64,
    /// Characters of usernames: ascii = A-Z a-z 0-9 - _; open = letters and digits of all scripts, and - _ . @ + '
    #[arg(long, help_heading = "Privacy", env = "KITH_USERNAMES", value_name = "RULE", default_value = "ascii")]
    pub usernames: Usernames,
    /// Show senders that their request was rejected
    #[arg(long, help_heading = "Privacy", env = "KITH_DISCLOSE_REJECTIONS", value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disclose_rejections: bool,
    /// Show senders that their request was viewed
    #[arg(long, help_heading = "Privacy", env = "KITH_DISCLOSE_VIEWS", value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disclose_views: bool,
    /// Time after which the events no longer name a deleted user, at least 1h; 0 = they do as long as they are retained
    #[arg(long, help_heading = "Privacy", env = "KITH_FORGET_AFTER", value_name = "DURATION", default_value = "0", value_parser = never_or_an_hour)]
    pub forget_after: Lifetime,
    /// Time for which events are retained in the feed, at least 1h; 0 = forever
    #[arg(long, help_heading = "Feed", env = "KITH_EVENT_RETENTION", value_name = "DURATION", default_value = "30d", value_parser = never_or_an_hour)]
    pub event_retention: Lifetime,
}

/// The characters of usernames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Usernames {
    /// A-Z a-z 0-9 - _
    Ascii,
    /// Letters and digits of all scripts, and - _ . @ + '
    Open,
}

impl PolicyArgs {
    /// Returns the settings of the rules.
    pub fn policy(&self) -> Policy {
        let limit = |value: i64| (value > 0).then_some(value);
        Policy {
            cooldown: self.rejection_cooldown.0,
            lifetime: self.request_lifetime.0,
            max_sent_requests: limit(self.max_sent_requests),
            max_connections: limit(self.max_connections),
            max_sends_per_hour: limit(self.max_sends_per_hour),
            max_sends_per_pair: limit(self.max_sends_per_pair),
            event_retention: self.event_retention.0,
            forget_after: self.forget_after.0,
            usernames: match self.usernames {
                Usernames::Ascii => UsernameRule::Ascii,
                Usernames::Open => UsernameRule::Open,
            },
            disclose_rejections: self.disclose_rejections,
            disclose_views: self.disclose_views,
        }
    }
}

/// A duration such as `30d` or `12h 30m`. `0` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(Option<TimeDelta>);

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(None));
        }
        let duration = parse_duration(text)?;
        let delta = TimeDelta::from_std(duration).map_err(|_| "is too long".to_owned())?;
        Ok(Self((!delta.is_zero()).then_some(delta)))
    }
}

/// Parses a duration after which events or their users are gone: never, or at least an hour.
///
/// So consumers of the feed find recent events, and learn who was deleted.
fn never_or_an_hour(text: &str) -> Result<Lifetime, String> {
    let duration: Lifetime = text.parse()?;
    if duration.0.is_some_and(|time| time < TimeDelta::hours(1)) {
        return Err("must be at least 1h".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consumers_of_the_feed_need_stays_for_an_hour() {
        let least = || Ok(Lifetime(Some(TimeDelta::hours(1))));
        for (text, expected) in [
            ("0", Ok(Lifetime(None))),
            ("1h", least()),
            ("60m", least()),
            ("59m 59s", Err("must be at least 1h".to_owned())),
        ] {
            assert_eq!(never_or_an_hour(text), expected, "{text}");
        }
    }
}
