//! Parses the command line together with the environment and the configuration file.

use std::error::Error;
use std::ffi::OsString;
use std::num::ParseIntError;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::Cli;
use super::file::File;
use super::setting::{CONFIG, Source, Sources, key, named};

/// Why a command line is not run.
#[derive(Debug)]
pub enum Refused {
    /// clap's own words: an error of the command line itself, or the text of `--help` or `--version`.
    Usage(Box<clap::Error>),
    /// A setting is wrong. The text names where it is from, in one line.
    Setting(String),
}

impl From<clap::Error> for Refused {
    fn from(error: clap::Error) -> Self {
        Self::Usage(Box::new(error))
    }
}

impl Cli {
    /// Parses a command line, whose first argument is the program's name.
    ///
    /// A flag precedes a variable, a variable precedes the configuration file, and that precedes the default.
    ///
    /// # Errors
    ///
    /// If a setting is wrong, or if nothing is to be run.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<(Self, Sources), Refused> {
        let args = config_after_subcommand(args.into_iter().collect());
        let command = Self::command();
        let (given, found) = given(&args);
        let file = match found {
            Some((name, path)) => Some(File::read(&path, &name, &command).map_err(Refused::Setting)?),
            None => None,
        };
        let mut command = match &file {
            Some(file) => file.defaults(command, &|id| given.iter().any(|given| given == id)),
            None => command,
        };
        let matches = match command.try_get_matches_from_mut(&args) {
            Ok(matches) => matches,
            Err(error) => {
                let reworded = reworded(&error, &command, &args, file.as_ref());
                return Err(reworded.map_or_else(|| error.into(), Refused::Setting));
            }
        };
        let cli = Self::from_arg_matches(&matches)?;
        let command = Self::command();
        let (command, matches) = last(&command, &matches);
        Ok((cli, Sources::of(command, matches, file.as_ref())))
    }
}

/// Moves a leading `--config` behind the subcommand, where clap expects it.
fn config_after_subcommand(mut args: Vec<OsString>) -> Vec<OsString> {
    let text = |at: usize| args.get(at).and_then(|arg| arg.to_str()).unwrap_or_default();
    let flag = format!("--{CONFIG}");
    let length = if text(1) == flag {
        2
    } else if text(1).starts_with(&(flag + "=")) {
        1
    } else {
        return args;
    };
    if Cli::command().find_subcommand(text(1 + length)).is_some() {
        let subcommand = args.remove(1 + length);
        args.insert(1, subcommand);
    }
    args
}

/// Returns the ids of the arguments that have a flag or a variable, and the configuration file with the name of its
/// setting.
///
/// An error is ignored: it is found when the arguments are parsed again.
fn given(args: &[OsString]) -> (Vec<String>, Option<(String, PathBuf)>) {
    let command = Cli::command().ignore_errors(true);
    let Ok(matches) = command.clone().try_get_matches_from(args) else { return (Vec::new(), None) };
    let (command, matches) = last(&command, &matches);
    let source = |id: &str| matches.value_source(id).filter(|source| *source != ValueSource::DefaultValue);
    let ids = matches.ids().map(|id| id.as_str().to_owned()).filter(|id| source(id).is_some()).collect();
    let path = matches.try_get_one::<PathBuf>(CONFIG).ok().flatten().map(|path| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == CONFIG);
        let variable = arg.and_then(Arg::get_env).filter(|_| source(CONFIG) == Some(ValueSource::EnvVariable));
        let given = variable.map_or(Source::Flag, |name| Source::Variable(name.to_string_lossy().into_owned()));
        (named(&given, CONFIG, CONFIG), path.clone())
    });
    (ids, path)
}

/// The innermost subcommand that was given with its arguments, or the command itself.
fn last<'a>(command: &'a Command, matches: &'a ArgMatches) -> (&'a Command, &'a ArgMatches) {
    match matches.subcommand().and_then(|(name, matches)| Some((command.find_subcommand(name)?, matches))) {
        Some((command, matches)) => last(command, matches),
        None => (command, matches),
    }
}

/// Returns an error of a value in one line that names where the value is from. None for other errors.
fn reworded(error: &clap::Error, command: &Command, args: &[OsString], file: Option<&File>) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // As in `--listen <ADDRESS>`.
    let flag = context(ContextKind::InvalidArg)?.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let arg = commands.flat_map(Command::get_arguments).find(|arg| arg.get_long() == Some(flag))?;
    let source = source(arg, flag, args, file);
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    if source == Source::Flag && value.is_empty() && context(ContextKind::Custom).is_none() {
        // No value was given at all.
        return None;
    }
    let reason = match (context(ContextKind::Custom), error.source(), error.get(ContextKind::ValidValue)) {
        (Some(reason), ..) => reason.to_owned(),
        (None, Some(source), _) if source.is::<ParseIntError>() => "must be a whole number".to_owned(),
        (None, Some(source), _) => source.to_string(),
        (None, None, Some(ContextValue::Strings(valid))) => format!("must be one of: {}", valid.join(", ")),
        (None, None, _) => return None,
    };
    let name = named(&source, flag, &key(arg).unwrap_or_default());
    let value = if arg.is_hide_env_values_set() { String::new() } else { format!(" {value:?}") };
    Some(format!("{name}: invalid value{value}: {reason}"))
}

/// Where the value is from that clap used. It does not say so for a wrong one.
fn source(arg: &Arg, flag: &str, args: &[OsString], file: Option<&File>) -> Source {
    let mut given = args.iter().skip(1).take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
    if given.any(|given| given.strip_prefix("--").and_then(|given| given.split('=').next()) == Some(flag)) {
        return Source::Flag;
    }
    match (arg.get_env().filter(|name| std::env::var_os(name).is_some()), file, key(arg)) {
        (Some(name), ..) => Source::Variable(name.to_string_lossy().into_owned()),
        (None, Some(file), Some(key)) if let Some(line) = file.line(&key) => {
            Source::File { path: file.path.clone(), line }
        }
        _ => Source::Default,
    }
}
