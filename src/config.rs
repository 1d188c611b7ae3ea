//! The settings: each a flag and an environment variable, both shown by `--help`.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::domain::event::EventKind;
use crate::domain::policy::Policy;
use crate::store::{DatabaseUrl, Options};

/// Connection requests, connections and blocks between users, over gRPC.
#[derive(Debug, Parser)]
#[command(name = "kith", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings of `serve`, for when nothing is said.
    #[command(flatten)]
    pub serve: Serve,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve calls (the default)
    Serve(Serve),
    /// Bring the database's tables up to date, and end
    Migrate(Migrate),
    /// Print events as they are committed, one line of JSON each
    Watch(Watch),
    /// Prove that the database is in order, also while it is served; exit status 0 if so
    Check(Check),
    /// After a restore from a backup: refuse the cursors and page tokens of what was lost
    RestoreEpoch(RestoreEpoch),
    /// Ask a running service whether it can serve; exit status 0 if so
    Healthcheck(Healthcheck),
}

/// Settings of `kith serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(long, env = "KITH_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// The database and the log
    #[command(flatten)]
    pub common: Common,
    /// Bring the database's tables up to date at the start
    #[arg(long, env = "KITH_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,
    /// Connections that serve reads: two thirds for short reads, one third for long ones. The feed and the writer have
    /// one each beside them
    #[arg(long, env = "KITH_READ_CONNECTIONS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub read_connections: u32,
    /// PostgreSQL only: maximum number of concurrent look-ups that share a statement; 1 = no batches
    #[arg(long, env = "KITH_READ_BATCH_MAX", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub read_batch_max: u32,
    /// Memory for users that were read before, in MiB; 0 = none is kept
    #[arg(long, env = "KITH_USER_CACHE_MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub user_cache_mib: u32,
    /// The rules
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// How often what is due is expired for good; until then it only does not show
    #[arg(long, env = "KITH_SWEEP_INTERVAL", default_value = "60s", value_parser = interval)]
    pub sweep_interval: Duration,
    /// Changes that may wait for their batch before more are refused
    #[arg(long, env = "KITH_MAX_QUEUED_WRITES", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_queued_writes: u32,
    /// Streams of events at the same time before more are refused
    #[arg(long, env = "KITH_MAX_WATCHERS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_watchers: u32,
    /// The longest that a call may take, whatever its deadline; imports and watches have no such limit
    #[arg(long, env = "KITH_MAX_CALL_TIME", default_value = "10s", value_parser = interval)]
    pub max_call_time: Duration,
    /// How long calls under way may go on after the signal to end
    #[arg(long, env = "KITH_DRAIN_TIME", default_value = "10s", value_parser = interval)]
    pub drain_time: Duration,
    /// Tell callers the schema by server reflection
    #[arg(long, env = "KITH_REFLECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,
}

/// Settings of every subcommand that uses the database.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Database: sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME?sslmode=verify-full
    #[arg(long, env = "KITH_DATABASE_URL", default_value = "sqlite://kith.db", hide_env_values = true, value_parser = UrlParser)]
    pub database_url: DatabaseUrl,
    /// What to log: error, warn, info, debug, trace, or directives such as info,kith=debug
    #[arg(long, env = "KITH_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// How to log
    #[arg(long, env = "KITH_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Parses a database's URL. clap's own error would repeat it, with its password.
#[derive(Clone, Copy, Debug)]
struct UrlParser;

impl TypedValueParser for UrlParser {
    type Value = DatabaseUrl;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<DatabaseUrl, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "is not UTF-8".to_owned()).and_then(str::parse);
        parsed.map_err(|error| {
            let message = format!("invalid value for --database-url: {error}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The rules' settings; 0 switches a limit off.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// How long after a rejection a request that was cancelled still counts as rejected; 0 = off
    #[arg(long, env = "KITH_REJECTION_COOLDOWN", default_value = "30d")]
    pub rejection_cooldown: Lifetime,
    /// How long a request waits before it expires; 0 = for ever
    #[arg(long, env = "KITH_REQUEST_LIFETIME", default_value = "180d")]
    pub request_lifetime: Lifetime,
    /// Pending or rejected requests that a user may have sent; 0 = no limit
    #[arg(long, env = "KITH_MAX_SENT_REQUESTS", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sent_requests: i64,
    /// Connections that a user may have; 0 = no limit
    #[arg(long, env = "KITH_MAX_CONNECTIONS", default_value_t = 30_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_connections: i64,
    /// Requests that a user may send within an hour; 0 = no limit
    #[arg(long, env = "KITH_MAX_SENDS_PER_HOUR", default_value_t = 100, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sends_per_hour: i64,
    /// How long events are kept in the feed, at least 1h; 0 = for ever
    #[arg(long, env = "KITH_EVENT_RETENTION", default_value = "30d", value_parser = retention)]
    pub event_retention: Lifetime,
    /// Show a sender that a request was rejected
    #[arg(long, env = "KITH_DISCLOSE_REJECTIONS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disclose_rejections: bool,
    /// Show a sender that a request was viewed
    #[arg(long, env = "KITH_DISCLOSE_VIEWS", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disclose_views: bool,
}

/// Settings of `kith migrate`.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// The database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith watch`.
#[derive(Clone, Debug, Args)]
pub struct Watch {
    /// The service to ask
    #[arg(long, env = "KITH_SERVER", default_value = "http://127.0.0.1:50051")]
    pub server: String,
    /// Begin after this sequence; 0 = at the oldest event that is kept [default: now]
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(0..))]
    pub after: Option<i64>,
    /// The epoch that the sequence belongs to: that of another one is refused
    #[arg(long)]
    pub epoch: Option<String>,
    /// Only events about this user; may be given several times
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub user: Vec<i64>,
    /// Only events of this kind, such as CONNECTION_CREATED; may be given several times
    #[arg(long, value_name = "KIND", ignore_case = true, value_parser = kinds())]
    pub kind: Vec<String>,
    /// Only what this user may see; 0 = everything
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub viewer: i64,
    /// Print how far the feed was read too, when nothing happens
    #[arg(long)]
    pub heartbeats: bool,
}

/// Settings of `kith check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// The database and the log
    #[command(flatten)]
    pub common: Common,
    /// Write users' counts anew where they are wrong; all else is left as it is
    #[arg(long)]
    pub repair: bool,
}

/// Settings of `kith restore-epoch`.
#[derive(Clone, Debug, Args)]
pub struct RestoreEpoch {
    /// The database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct Healthcheck {
    /// Where the service listens
    #[arg(long, env = "KITH_LISTEN", default_value = "127.0.0.1:50051")]
    pub address: SocketAddr,
    /// The service to ask about; an empty name asks only whether the process answers
    #[arg(long, default_value = "kith.v1.ConnectionRequestService")]
    pub service: String,
    /// How long to wait for the answer
    #[arg(long, default_value = "3s", value_parser = interval)]
    pub timeout: Duration,
}

impl Serve {
    /// How to use the database.
    pub fn options(&self) -> Options {
        let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Options {
            readers: number(self.read_connections),
            read_batch_max: number(self.read_batch_max),
            user_cache: u64::from(self.user_cache_mib) << 20,
            migrate: self.migrate,
        }
    }
}

impl PolicyArgs {
    /// The rules' settings.
    pub fn policy(&self) -> Policy {
        let limit = |value: i64| (value > 0).then_some(value);
        Policy {
            cooldown: self.rejection_cooldown.0,
            lifetime: self.request_lifetime.0,
            max_sent_requests: limit(self.max_sent_requests),
            max_connections: limit(self.max_connections),
            max_sends_per_hour: limit(self.max_sends_per_hour),
            event_retention: self.event_retention.0,
            disclose_rejections: self.disclose_rejections,
            disclose_views: self.disclose_views,
        }
    }
}

/// How long something lasts, such as `30d` or `12h 30m`; `0` is "no limit".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(Option<TimeDelta>);

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(None));
        }
        let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        let delta = TimeDelta::from_std(duration).map_err(|_| "is too long".to_owned())?;
        Ok(Self((!delta.is_zero()).then_some(delta)))
    }
}

/// The kinds of events, by their names.
fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.name()))
}

/// A time of at least an hour, or none: what was just committed must be there to be asked for.
fn retention(text: &str) -> Result<Lifetime, String> {
    let retention: Lifetime = text.parse()?;
    if retention.0.is_some_and(|time| time < TimeDelta::hours(1)) {
        return Err("must be at least 1h".to_owned());
    }
    Ok(retention)
}

/// A time of at least a millisecond.
fn interval(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < Duration::from_millis(1) { Err("must be at least 1ms".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("kith").chain(args.iter().copied()))
    }

    #[test]
    fn the_defaults_are_those_of_the_policy() {
        let cli = parse(&[]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.policy.policy(), Policy::default());
        assert_eq!(cli.serve.listen.to_string(), "127.0.0.1:50051");
        assert_eq!(cli.serve.common.database_url.to_string(), "sqlite://kith.db");
    }

    #[test]
    fn zero_switches_a_rule_off() {
        let args = ["serve", "--rejection-cooldown=0", "--request-lifetime=0", "--max-connections=0"];
        let Some(Command::Serve(serve)) = parse(&args).unwrap().command else { panic!("serve") };
        let policy = serve.policy.policy();
        assert_eq!((policy.cooldown, policy.lifetime, policy.max_connections), (None, None, None));
        assert_eq!(policy.max_sent_requests, Some(1_000));
    }

    #[test]
    fn wrong_settings_name_themselves() {
        for (args, named) in [
            (["--listen=nowhere"], "--listen"),
            (["--database-url=mysql://db"], "--database-url"),
            (["--rejection-cooldown=soon"], "--rejection-cooldown"),
            (["--max-connections=-1"], "--max-connections"),
            (["--max-call-time=0s"], "--max-call-time"),
            (["--log-format=xml"], "--log-format"),
        ] {
            let error = parse(&args).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
