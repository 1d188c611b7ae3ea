//! Limits as they are written in settings, such as `reads=100,writes=20`.

use std::num::NonZeroU32;

use super::nearest::nearest;
use crate::auth::limits::{LIMIT_MAX, Limit, Limits};

/// The text for no limits.
pub(super) const NONE: &str = "none";
/// The default limits of a user.
pub(super) const USER: &str = "reads=100,writes=20,in-flight=64,watches=8";

/// The name of a limit in a setting.
const fn name(limit: Limit) -> &'static str {
    match limit {
        Limit::Reads => "reads",
        Limit::Writes => "writes",
        Limit::InFlight => "in-flight",
        Limit::Watches => "watches",
        Limit::Imports => "imports",
    }
}

/// Parses limits. What is left out, or 0, is not limited.
pub(super) fn parse_limits(text: &str) -> Result<Limits, String> {
    let mut limits = Limits::NONE;
    if text.trim() == NONE {
        return Ok(limits);
    }
    let mut given = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (name, number) = part.split_once('=').map_or((part, None), |(name, number)| (name, Some(number)));
        let limit = find(name.trim())?;
        let name = self::name(limit);
        let number = number.ok_or_else(|| format!("{name} has no number, as in {name}=10"))?;
        if given.contains(&limit) {
            return Err(format!("{name} is there twice"));
        }
        given.push(limit);
        limits.set(limit, parse_maximum(name, number.trim())?);
    }
    Ok(limits)
}

fn find(name: &str) -> Result<Limit, String> {
    let names = || Limit::ALL.into_iter().map(self::name);
    if let Some(limit) = Limit::ALL.into_iter().find(|limit| self::name(*limit) == name) {
        return Ok(limit);
    }
    Err(match nearest(name, names()) {
        _ if name.is_empty() => format!("a limit is empty; write reads=10, or {NONE} for no limits"),
        Some(near) => format!("there is no limit {name:?}; did you mean {near}?"),
        None => format!("there is no limit {name:?}, only {}", names().collect::<Vec<_>>().join(", ")),
    })
}

fn parse_maximum(name: &str, text: &str) -> Result<Option<NonZeroU32>, String> {
    let maximum = text.parse().ok().filter(|maximum| *maximum <= LIMIT_MAX);
    let maximum =
        maximum.ok_or_else(|| format!("{name} must be a whole number from 0 to {LIMIT_MAX}, not {text:?}"))?;
    Ok(NonZeroU32::new(maximum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_with_their_names_in_any_order() {
        let number = NonZeroU32::new;
        for (text, expected) in [
            (NONE, Limits::NONE),
            (USER, Limits::USER),
            ("imports=1", Limits { imports: number(1), ..Limits::NONE }),
            (
                " in-flight = 5 , reads=1000000 ",
                Limits { in_flight: number(5), reads: number(1_000_000), ..Limits::NONE },
            ),
            ("writes=0,watches=2", Limits { watches: number(2), ..Limits::NONE }),
        ] {
            assert_eq!(parse_limits(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_with_which_limit() {
        for (text, error) in [
            ("", "a limit is empty; write reads=10, or none for no limits"),
            ("reads=1,", "a limit is empty; write reads=10, or none for no limits"),
            ("raeds=1", "there is no limit \"raeds\"; did you mean reads?"),
            ("in_flight=1", "there is no limit \"in_flight\"; did you mean in-flight?"),
            ("colour=1", "there is no limit \"colour\", only reads, writes, in-flight, watches, imports"),
            ("reads=1,none", "there is no limit \"none\", only reads, writes, in-flight, watches, imports"),
            ("reads", "reads has no number, as in reads=10"),
            ("reads=1,writes=2,reads=3", "reads is there twice"),
            ("writes=", "writes must be a whole number from 0 to 1000000, not \"\""),
            ("writes=-1", "writes must be a whole number from 0 to 1000000, not \"-1\""),
            ("writes=1.5", "writes must be a whole number from 0 to 1000000, not \"1.5\""),
            ("writes=1000001", "writes must be a whole number from 0 to 1000000, not \"1000001\""),
            (
                "writes=99999999999999999999",
                "writes must be a whole number from 0 to 1000000, not \"99999999999999999999\"",
            ),
        ] {
            assert_eq!(parse_limits(text), Err(error.to_owned()), "{text}");
        }
    }
}
