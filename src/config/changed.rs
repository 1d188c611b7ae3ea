//! The settings that differ from their defaults, for the log.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory};

use super::Cli;
use crate::store::DatabaseUrl;

/// The setting whose value has a password.
const DATABASE_URL: &str = "database_url";

/// Returns the settings of this process that flags or environment variables set to other values than their defaults, as
/// `name=value`, separated by spaces. Secrets are masked.
///
/// Empty if there are none.
pub fn changed() -> String {
    let command = Cli::command();
    command.clone().try_get_matches().map_or_else(|_| String::new(), |matches| changed_in(&command, &matches))
}

fn changed_in(command: &Command, matches: &ArgMatches) -> String {
    let (command, matches) = match matches.subcommand() {
        Some((name, below)) => (command.find_subcommand(name).unwrap_or(command), below),
        None => (command, matches),
    };
    let changed = command.get_arguments().filter_map(|arg| {
        let id = arg.get_id().as_str();
        let source = matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id))?;
        let mut values = matches.get_raw(id)?;
        let is_default = source == ValueSource::DefaultValue
            || values.clone().eq(arg.get_default_values().iter().map(|value| &**value));
        let value = values.next()?.to_string_lossy();
        let value = if id == DATABASE_URL { masked(&value) } else { value.into_owned() };
        (!is_default).then(|| format!("{}={value}", arg.get_long().unwrap_or(id)))
    });
    changed.collect::<Vec<_>>().join(" ")
}

/// Returns the URL without what it has of secrets.
fn masked(url: &str) -> String {
    url.parse::<DatabaseUrl>().map_or_else(|_| "…".to_owned(), |url| url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed_by(args: &[&str]) -> String {
        let command = Cli::command();
        let args = std::iter::once("kith").chain(args.iter().copied());
        let matches = command.clone().try_get_matches_from(args).unwrap();
        changed_in(&command, &matches)
    }

    #[test]
    fn only_settings_that_differ_are_named() {
        for args in [&[][..], &["serve"], &["--max-watchers=10000"]] {
            assert_eq!(changed_by(args), "", "{args:?}");
        }
        let args = ["--max-watchers=5", "--listen=127.0.0.1:0", "--max-call-time=10s", "--reflection=false"];
        assert_eq!(changed_by(&args), "listen=127.0.0.1:0 max-watchers=5 reflection=false");
        assert_eq!(changed_by(&["serve", "--request-lifetime=0"]), "request-lifetime=0");
    }

    #[test]
    fn secrets_are_masked() {
        let changed = changed_by(&["--database-url=postgres://kith:secret@db.example:6432/kith"]);
        assert!(changed.contains("db.example") && !changed.contains("secret"), "{changed}");
    }
}
