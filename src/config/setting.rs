//! Settings as flags, variables and keys of a file, and where the values in force are from.

use std::any::TypeId;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::file::{File, is_list};

/// The flag of the configuration file. It is no setting: a file cannot name another.
pub(super) const CONFIG: &str = "config";
/// The prefix of the variables.
const PREFIX: &str = "KITH_";

/// How the values of a setting are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
    /// A list of texts, or one text with this delimiter between them.
    List(Option<char>),
}

impl Kind {
    pub(super) fn of(arg: &Arg) -> Self {
        let value = arg.get_value_parser().type_id();
        let is = |types: &[TypeId]| types.iter().any(|id| value == *id);
        if is_list(arg) {
            Self::List(arg.get_value_delimiter())
        } else if is(&[TypeId::of::<bool>()]) {
            Self::Bool
        } else if is(&[TypeId::of::<i64>(), TypeId::of::<u64>(), TypeId::of::<u32>(), TypeId::of::<usize>()]) {
            Self::Number
        } else {
            Self::Text
        }
    }

    /// What a value must be, in words.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text in quotes",
            Self::List(_) => "a list of texts in quotes",
        }
    }
}

/// Whether a flag is a setting: one that a variable and a file can have too.
///
/// The others, such as `--repair` and `--after`, say what one run of a subcommand is to do.
pub(super) fn is_setting(arg: &Arg) -> bool {
    arg.get_id() != CONFIG && arg.get_env().is_some()
}

/// The name of a setting in a file: that of its variable, written as a flag.
///
/// It is the name of the flag, except that `kith healthcheck --address` is what `kith serve --listen` is.
pub(super) fn key(arg: &Arg) -> Option<String> {
    let variable = arg.get_env().filter(|_| is_setting(arg))?.to_str()?;
    Some(variable.strip_prefix(PREFIX)?.to_ascii_lowercase().replace('_', "-"))
}

/// The variables of all subcommands.
pub(super) fn variables(command: &Command) -> Vec<String> {
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let names = commands.flat_map(Command::get_arguments).filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
    names.collect()
}

/// Where the value of a setting is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// None was given.
    Default,
    /// The configuration file.
    File {
        /// Its path, as it was given.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A setting that is in force.
#[derive(Clone)]
pub(super) struct Setting {
    /// Its name in a file.
    pub(super) key: String,
    /// Its flag, without the dashes.
    flag: String,
    pub(super) heading: Option<String>,
    pub(super) kind: Kind,
    /// Its values as they were given. None if there is no default.
    pub(super) values: Option<Vec<String>>,
    /// The values that it has if none are given.
    pub(super) default: Vec<String>,
    /// Whether its value must not be shown.
    pub(super) secret: bool,
    pub(super) source: Source,
}

impl Setting {
    /// Names it as it was given: by its flag, its variable, or its line in the file.
    fn named(&self) -> String {
        named(&self.source, &self.flag, &self.key)
    }
}

/// Names a setting as it was given.
pub(super) fn named(source: &Source, flag: &str, key: &str) -> String {
    match source {
        Source::Default | Source::Flag => format!("--{flag}"),
        Source::Variable(name) => name.clone(),
        Source::File { .. } => format!("{source}: {key}"),
    }
}

/// The settings of a subcommand that are in force, each with where it is from.
#[derive(Clone)]
pub struct Sources(pub(super) Vec<Setting>);

impl Sources {
    /// Reads the result of a command line, of which `file` replaced the defaults of `command`.
    pub(super) fn of(command: &Command, matches: &ArgMatches, file: Option<&File>) -> Self {
        let setting = |arg: &Arg| {
            let key = key(arg)?;
            let id = arg.get_id().as_str();
            let line = file.and_then(|file| Some((file, file.line(&key)?)));
            let source = match (matches.value_source(id), line) {
                (Some(ValueSource::CommandLine), _) => Source::Flag,
                (Some(ValueSource::EnvVariable), _) => Source::Variable(arg.get_env()?.to_str()?.to_owned()),
                (_, Some((file, line))) => Source::File { path: file.path.clone(), line },
                (_, None) => Source::Default,
            };
            Some(Setting {
                flag: arg.get_long()?.to_owned(),
                heading: arg.get_help_heading().map(str::to_owned),
                kind: Kind::of(arg),
                default: texts(arg.get_default_values().iter().map(|value| &**value)),
                values: matches.get_raw(id).map(texts),
                secret: arg.is_hide_env_values_set(),
                source,
                key,
            })
        };
        Self(command.get_arguments().filter_map(setting).collect())
    }

    /// Names a setting, by its name in a file, as it was given: `--listen`, `KITH_LISTEN` or `kith.toml:3: listen`.
    pub fn name(&self, key: &str) -> String {
        self.0.iter().find(|setting| setting.key == key).map_or_else(|| format!("--{key}"), Setting::named)
    }
}

fn texts<'a>(values: impl Iterator<Item = &'a OsStr>) -> Vec<String> {
    values.map(|value| value.to_string_lossy().into_owned()).collect()
}

/// Without the values: one may be a password.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|setting| (&setting.key, &setting.source))).finish()
    }
}
