//! Settings of `kith import`.

use std::path::PathBuf;
use std::str::FromStr;

use chrono::DateTime;
use clap::{Args, ValueEnum};

use super::database::Common;
use super::policy::PolicyArgs;
use crate::domain::Time;
use crate::import::{Conflicts, Events, Format, Options, PendingSince, Source};
use crate::transfer::Kind;

/// Settings of `kith import`.
#[derive(Clone, Debug, Args)]
pub struct Import {
    /// Files in the format kith.export.v1
    #[arg(value_name = "FILE", required_unless_present = "csv")]
    pub files: Vec<PathBuf>,
    /// CSV file with rows of one type: users, connections, requests or blocks; its first row names the fields; repeatable
    #[arg(long, value_name = "TYPE=FILE")]
    pub csv: Vec<CsvFile>,
    /// Do everything but the commit, and report what would be imported
    #[arg(long)]
    pub dry_run: bool,
    /// What to do with a row about two users who are in another state in the database: skip keeps their state, replace
    /// takes that of the row, fail imports nothing; a block in the database always stays
    #[arg(long, value_name = "RULE", default_value = "skip")]
    pub on_conflict: ConflictRule,
    /// What to do with pending requests that are older than --request-lifetime: keep leaves them out, now lets them begin
    /// with the import
    #[arg(long, value_name = "WHICH", default_value = "keep")]
    pub pending_since: PendingAge,
    /// Date of requests, connections and blocks without one, such as 2020-01-01T00:00:00Z [default: when the later of the
    /// two users joined]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub default_date: Option<Time>,
    /// Create users who are named and not in the files or the database, with the status UNREGISTERED
    #[arg(long)]
    pub create_missing_users: bool,
    /// Whether events are stored: skip counts them as past their retention, which only an empty database can [default:
    /// skip into an empty database, else keep]
    #[arg(long, value_name = "WHICH")]
    pub events: Option<EventRule>,
    /// File to write the refused rows to, with the reason of each, to be mended and imported; it must not exist
    #[arg(long, value_name = "FILE")]
    pub refused: Option<PathBuf>,
    /// Keep the ids of requests, and the order of all lists; only into an empty database, and without events
    #[arg(long)]
    pub keep_ids: bool,
    /// The server's settings of the rules: lifetimes, the limit of connections, and usernames count
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// What to do with two users who are in another state in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConflictRule {
    /// Keep it
    Skip,
    /// Replace it
    Replace,
    /// Import nothing
    Fail,
}

/// What to do with pending requests that would expire at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PendingAge {
    /// Leave them out
    Keep,
    /// Let them begin now
    Now,
}

/// Whether the events of an import are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventRule {
    /// Store them
    Keep,
    /// Let them count as past their retention
    Skip,
}

/// A CSV file with the type of its rows, such as `connections=friends.csv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvFile {
    kind: Kind,
    path: PathBuf,
}

impl FromStr for CsvFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let types = "users, connections, requests or blocks";
        let (kind, path) = text.split_once('=').ok_or_else(|| format!("must be TYPE=FILE, where TYPE is {types}"))?;
        let named = Kind::ALL.into_iter().find(|known| known.plural() == kind);
        let kind = named.ok_or_else(|| format!("{kind:?} is no type of rows; it can be {types}"))?;
        if path.is_empty() { Err("names no file".to_owned()) } else { Ok(Self { kind, path: path.into() }) }
    }
}

pub(super) fn parse_time(text: &str) -> Result<Time, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc()).map_err(|_| "must be a time with its zone, such as 2020-01-01T00:00:00Z".to_owned())
}

/// Returns the files of an import.
pub(super) fn sources(files: &[PathBuf], csv: &[CsvFile]) -> Vec<Source> {
    let ndjson = files.iter().map(|path| Source { path: path.clone(), format: Format::Ndjson });
    let csv = csv.iter().map(|CsvFile { kind, path }| Source { path: path.clone(), format: Format::Csv(*kind) });
    ndjson.chain(csv).collect()
}

impl Import {
    /// Returns what is to be imported, and how.
    ///
    /// # Errors
    ///
    /// If two settings contradict each other.
    pub fn options(&self) -> Result<Options, String> {
        let events = self.events.map(|events| match events {
            EventRule::Keep => Events::Keep,
            EventRule::Skip => Events::Skip,
        });
        if self.keep_ids && events == Some(Events::Keep) {
            return Err(
                "--keep-ids and --events=keep: the ids of requests are those of events that are not imported; \
                        leave one of them out"
                    .to_owned(),
            );
        }
        Ok(Options {
            sources: sources(&self.files, &self.csv),
            dry_run: self.dry_run,
            conflicts: match self.on_conflict {
                ConflictRule::Skip => Conflicts::Skip,
                ConflictRule::Replace => Conflicts::Replace,
                ConflictRule::Fail => Conflicts::Fail,
            },
            pending_since: match self.pending_since {
                PendingAge::Keep => PendingSince::Keep,
                PendingAge::Now => PendingSince::Now,
            },
            default_date: self.default_date,
            create_missing_users: self.create_missing_users,
            events,
            refused: self.refused.clone(),
            keep_ids: self.keep_ids,
            policy: self.policy.policy(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_file_has_a_type() {
        for (text, expected) in [
            ("connections=friends.csv", Some((Kind::Connection, "friends.csv"))),
            ("users=a=b.csv", Some((Kind::User, "a=b.csv"))),
            ("blocks=/tmp/blocks.csv", Some((Kind::Block, "/tmp/blocks.csv"))),
            ("requests=", None),
            ("friends.csv", None),
            ("friends=friends.csv", None),
            ("connection=friends.csv", None),
        ] {
            let expected = expected.map(|(kind, path)| CsvFile { kind, path: path.into() });
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}
