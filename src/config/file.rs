//! The configuration file: TOML, with the settings by the names of their flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::builder::OsStr;
use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use super::setting::{Kind, is_setting, key};

/// A configuration file whose settings are known, and have values of the right type.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// A setting in the file.
#[derive(Debug)]
struct Entry {
    line: usize,
    /// The value as a flag would have it; several for a list.
    values: Vec<String>,
}

impl File {
    /// Reads a file with settings of any subcommand of `command`. `name` is the setting that has its path.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has an error. The text names the setting or the line.
    pub(super) fn read(path: &Path, name: &str, command: &Command) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{name} {}: cannot read the file: {error}", path.display()))?;
        Self::parse(path, &text, command)
    }

    fn parse(path: &Path, text: &str, command: &Command) -> Result<Self, String> {
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let place = |at: usize| format!("{}:{}", path.display(), line(at));
        let table = DeTable::parse(text)
            .map_err(|error| format!("{}: {}", place(error.span().map_or(0, |span| span.start)), error.message()))?;
        let mut entries = BTreeMap::new();
        for (name, value) in table.into_inner() {
            let at = name.span().start;
            let name = name.into_inner().into_owned();
            let values = kind(command, &name)
                .and_then(|kind| values(&name, kind, value.get_ref()))
                .map_err(|error| format!("{}: {error}", place(at)))?;
            entries.insert(name, Entry { line: line(at), values });
        }
        let file = Self { path: path.to_owned(), entries };
        match file.exclusion(command) {
            Some((line, words)) => Err(format!("{}:{line}: {words}", path.display())),
            None => Ok(file),
        }
    }

    /// Finds two settings in the file of which only one can be used.
    fn exclusion(&self, command: &Command) -> Option<(usize, String)> {
        let commands = std::iter::once(command).chain(command.get_subcommands());
        let pairs = commands.flat_map(|command| {
            let with = |arg| command.get_arg_conflicts_with(arg).into_iter().map(move |other| (arg, other));
            command.get_arguments().flat_map(with)
        });
        let mut entries = pairs.filter_map(|(arg, other)| {
            let (name, other) = (key(arg)?, key(other)?);
            let (line, first) = (self.line(&name)?, self.line(&other)?);
            Some((line, format!("{name} cannot be used with {other}, which line {first} has")))
        });
        entries.next()
    }

    /// The line of a setting, if the file has it.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        self.entries.get(key).map(|entry| entry.line)
    }

    /// Makes the file's values the defaults of a command and its subcommands: variables and flags override them.
    ///
    /// `given` says which arguments have a flag or a variable. They also override what cannot be used with them.
    pub(super) fn defaults(&self, mut command: Command, given: &dyn Fn(&str) -> bool) -> Command {
        for name in command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect::<Vec<_>>() {
            command = command.mut_subcommand(name, |sub| self.defaults(sub, given));
        }
        let is_given = |arg: &&Arg| given(arg.get_id().as_str());
        let excludes = |arg| command.get_arg_conflicts_with(arg).iter().any(is_given);
        let overridden: Vec<_> =
            command.get_arguments().filter(|arg| excludes(arg)).map(|arg| arg.get_id().clone()).collect();
        command.mut_args(|arg| match key(&arg).and_then(|key| self.entries.get(&key)) {
            Some(entry) if !overridden.contains(arg.get_id()) => {
                // `--help` shows defaults.
                let secret = arg.is_hide_env_values_set();
                arg.default_values(entry.values.iter().cloned().map(OsStr::from)).hide_default_value(secret)
            }
            _ => arg,
        })
    }
}

/// Returns how the values of a setting are written.
fn kind(command: &Command, name: &str) -> Result<Kind, String> {
    let commands = || std::iter::once(command).chain(command.get_subcommands());
    let args = || commands().flat_map(Command::get_arguments);
    if let Some(arg) = args().find(|arg| key(arg).as_deref() == Some(name)) {
        return Ok(Kind::of(arg));
    }
    if args().any(|arg| arg.get_long() == Some(name)) {
        return Err(format!("{name} can only be given on the command line, as --{name}"));
    }
    let keys: Vec<String> = args().filter(|arg| is_setting(arg)).filter_map(key).collect();
    Err(match nearest(name, keys.iter().map(String::as_str)) {
        Some(near) => format!("unknown setting {name:?}; did you mean {near}?"),
        None => format!("unknown setting {name:?}; `kith config` prints all settings"),
    })
}

/// Converts a value to the text that a flag would have.
fn values(name: &str, kind: Kind, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let text = |value: &DeValue<'_>| match (kind, value) {
        (Kind::Bool, DeValue::Boolean(value)) => Some(value.to_string()),
        (Kind::Number, DeValue::Integer(number)) => integer(number.as_str(), number.radix()),
        (Kind::Text | Kind::List(_), DeValue::String(text)) => Some(text.clone().into_owned()),
        _ => None,
    };
    let values = match (kind, value) {
        (Kind::List(_), DeValue::Array(list)) => list.iter().map(|value| text(value.get_ref())).collect(),
        (Kind::List(Some(delimiter)), value) => {
            text(value).map(|text| text.split(delimiter).map(str::to_owned).collect())
        }
        _ => text(value).map(|text| vec![text]),
    };
    values.ok_or_else(|| {
        if value.is_table() {
            return format!("{name} is a table; a file has settings without tables");
        }
        format!("{name} must be {}; it is of the type {}", kind.described(), value.type_str())
    })
}

/// Writes an integer in decimal digits. None if it has more than 64 bits.
fn integer(digits: &str, radix: u32) -> Option<String> {
    i64::from_str_radix(&digits.replace('_', ""), radix).ok().map(|number| number.to_string())
}

/// Whether an argument takes several values.
pub(super) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Cli;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("kith.toml"), text, &Cli::command())
    }

    #[test]
    fn a_file_has_settings_of_any_subcommand_with_their_lines() {
        let text = "# The server.\nlisten = \":1\"\nmax-watchers = 1_000\n\n'server' = 'localhost:1'\nmigrate = false\n\
                    max-connections = 0x10\n";
        let file = parse(text).expect("a file");
        for (key, line, value) in [
            ("listen", 2, ":1"),
            ("max-watchers", 3, "1000"),
            ("server", 5, "localhost:1"),
            ("migrate", 6, "false"),
            ("max-connections", 7, "16"),
        ] {
            assert_eq!((file.line(key), &*file.entries[key].values), (Some(line), &[value.to_owned()][..]), "{key}");
        }
        assert_eq!(file.line("log-level"), None);
        assert!(parse("").expect("an empty file").entries.is_empty());
    }

    /// A command with a setting in a file and the same directly.
    fn exclusive() -> Command {
        let arg = |id: &'static str, variable: &'static str| Arg::new(id).long(id).env(variable);
        Command::new("kith")
            .arg(arg("url", "KITH_URL").default_value("none"))
            .arg(arg("url-file", "KITH_URL_FILE").conflicts_with("url"))
    }

    #[test]
    fn a_flag_overrides_what_cannot_be_used_with_it() {
        let file = File::parse(Path::new("kith.toml"), "url-file = 'a'\n", &exclusive()).expect("a file");
        for (given, expected) in [("", Some("a")), ("url", None)] {
            let command = file.defaults(exclusive(), &|id| id == given);
            let matches = command.get_matches_from(["kith"]);
            assert_eq!(matches.get_one::<String>("url-file").map(String::as_str), expected, "{given}");
        }
        let both = "url = 'b'\n\nurl-file = 'a'\n";
        let error = File::parse(Path::new("kith.toml"), both, &exclusive()).expect_err("an error");
        assert_eq!(error, "kith.toml:3: url-file cannot be used with url, which line 1 has");
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_setting() {
        for (text, words) in [
            ("\nmax-watcher = 1", "kith.toml:2: unknown setting \"max-watcher\"; did you mean max-watchers?"),
            ("max_watchers = 1", "kith.toml:1: unknown setting \"max_watchers\"; did you mean max-watchers?"),
            ("colour = 'red'", "kith.toml:1: unknown setting \"colour\"; `kith config` prints all settings"),
            ("[serve]\nlisten = ':1'", "kith.toml:1: unknown setting \"serve\""),
            ("[listen]\nport = 1", "kith.toml:1: listen is a table; a file has settings without tables"),
            ("repair = true", "kith.toml:1: repair can only be given on the command line, as --repair"),
            ("config = 'x'", "kith.toml:1: config can only be given on the command line, as --config"),
            ("max-watchers = '1'", "kith.toml:1: max-watchers must be a number; it is of the type string"),
            ("max-watchers = 1.5", "kith.toml:1: max-watchers must be a number; it is of the type float"),
            ("max-watchers = 99999999999999999999", "kith.toml:1: max-watchers must be a number"),
            ("migrate = 'true'", "kith.toml:1: migrate must be true or false; it is of the type string"),
            ("listen = 50051", "kith.toml:1: listen must be text in quotes; it is of the type integer"),
            ("rejection-cooldown = 0", "kith.toml:1: rejection-cooldown must be text in quotes"),
            ("listen = [':1']", "kith.toml:1: listen must be text in quotes; it is of the type array"),
            ("\n\nlisten :1", "kith.toml:3: "),
            ("listen = ':1'\nlisten = ':2'", "kith.toml:2: duplicate key"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(words), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }
}
