//! Settings of `kith load`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::client::ServerArgs;
use super::database::LogFormat;
use super::import::{ConflictRule, CsvFile, PendingAge, parse_time, sources};
use crate::domain::Time;
use crate::import::Source;
use crate::proto::v1 as pb;

/// Settings of `kith load`.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Files in the format kith.export.v1
    #[arg(value_name = "FILE", required_unless_present = "csv")]
    pub files: Vec<PathBuf>,
    /// CSV file with rows of one type: users, connections, requests or blocks; its first row names the fields; repeatable
    #[arg(long, value_name = "TYPE=FILE")]
    pub csv: Vec<CsvFile>,
    /// Store nothing, and report what would be stored
    #[arg(long)]
    pub dry_run: bool,
    /// What to do with a row about two users who are in another state in the database: skip keeps their state, replace
    /// takes that of the row, fail ends the load before the row; a block in the database always stays
    #[arg(long, value_name = "RULE", default_value = "skip")]
    pub on_conflict: ConflictRule,
    /// What becomes of two pending requests that cross: connect connects the two users, older keeps the older one
    #[arg(long, value_name = "RULE", default_value = "connect")]
    pub crossing: Crossing,
    /// What to do with pending requests that are older than the server's --request-lifetime: keep leaves them out, now
    /// lets them begin with the load
    #[arg(long, value_name = "WHICH", default_value = "keep")]
    pub pending_since: PendingAge,
    /// Date of requests, connections and blocks without one, such as 2020-01-01T00:00:00Z [default: when the later of the
    /// two users joined]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub default_date: Option<Time>,
    /// Create users who are named and not there, with the status UNREGISTERED
    #[arg(long)]
    pub create_missing_users: bool,
    /// File to write the refused rows to, with the reason of each, to be mended and loaded; it must not exist
    #[arg(long, value_name = "FILE")]
    pub refused: Option<PathBuf>,
    /// The server
    #[command(flatten)]
    pub server: ServerArgs,
    /// Format of the log, which goes to standard error
    #[arg(long, env = "KITH_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// What becomes of two pending requests that cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Crossing {
    /// They connect the two users
    Connect,
    /// The older one remains
    Older,
}

impl Load {
    /// Returns the files.
    pub fn sources(&self) -> Vec<Source> {
        sources(&self.files, &self.csv)
    }

    /// Returns what the server is to do with the rows.
    pub fn options(&self) -> pb::ImportOptions {
        let on_conflict = match self.on_conflict {
            ConflictRule::Skip => pb::ConflictRule::Skip,
            ConflictRule::Replace => pb::ConflictRule::Replace,
            ConflictRule::Fail => pb::ConflictRule::Fail,
        };
        let crossing = match self.crossing {
            Crossing::Connect => pb::CrossingRule::Connect,
            Crossing::Older => pb::CrossingRule::Older,
        };
        let pending_age = match self.pending_since {
            PendingAge::Keep => pb::PendingAge::Keep,
            PendingAge::Now => pb::PendingAge::Now,
        };
        let default_date = self.default_date.map(|date| prost_types::Timestamp {
            seconds: date.timestamp(),
            nanos: date.timestamp_subsec_nanos().try_into().unwrap_or_default(),
        });
        pb::ImportOptions {
            dry_run: self.dry_run,
            on_conflict: on_conflict.into(),
            crossing: crossing.into(),
            pending_age: pending_age.into(),
            default_date,
            create_missing_users: self.create_missing_users,
        }
    }
}
