//! The command line. Every setting is a flag and an environment variable, and `--help` shows both.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use chrono::TimeDelta;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::domain::event::EventKind;
use crate::domain::id::ID_MAX;
use crate::domain::policy::Policy;
use crate::domain::text::UsernameRule;
use crate::store::{DatabaseUrl, Options};

/// How durations are written, for `--help`.
const DURATIONS: &str = "A DURATION is a number with a unit, such as 500ms, 10s, 12h or 30d.";

/// Server for connection requests, connections and blocks between users, over gRPC
#[derive(Debug, Parser)]
#[command(name = "kith", version, args_conflicts_with_subcommands = true, after_help = DURATIONS)]
pub struct Cli {
    /// The subcommand. `serve` is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `serve`, if there is no subcommand.
    #[command(flatten)]
    pub serve: Serve,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve gRPC calls; this is the default
    #[command(after_help = DURATIONS)]
    Serve(Serve),
    /// Apply pending schema migrations to the database and exit
    Migrate(Migrate),
    /// Print events as they are committed, one JSON object per line
    Watch(Watch),
    /// Verify the contents of the database, also while servers use it; exit status 0 if all checks pass
    Check(Check),
    /// Start a new epoch after restoring a backup: older cursors and page tokens are then refused
    RestoreEpoch(RestoreEpoch),
    /// Query the health of a running server; exit status 0 if it is serving
    #[command(after_help = DURATIONS)]
    Healthcheck(Healthcheck),
}

/// Settings of `kith serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address and port to listen on; port 0 chooses a free one
    #[arg(long, env = "KITH_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
    /// Apply pending schema migrations at startup; if false, a database that lacks any is refused
    #[arg(long, env = "KITH_MIGRATE", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,
    /// Database connections for reads, 2 to 1000: two thirds for short reads, one third for long ones; the writer and the
    /// feed have one more each
    #[arg(long, env = "KITH_READ_CONNECTIONS", value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub read_connections: u32,
    /// PostgreSQL only: maximum number of concurrent look-ups that share a statement, 1 to 1000; 1 = no batches
    #[arg(long, env = "KITH_READ_BATCH_MAX", value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub read_batch_max: u32,
    /// Memory for cached users, in MiB, up to 1048576; 0 = no cache
    #[arg(long, env = "KITH_USER_CACHE_MIB", value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub user_cache_mib: u32,
    /// Settings of the rules
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Interval between sweeps, which delete expired data; expired requests are already hidden
    #[arg(long, env = "KITH_SWEEP_INTERVAL", value_name = "DURATION", default_value = "60s", value_parser = interval)]
    pub sweep_interval: Duration,
    /// Maximum writes waiting in the queue, 1 to 1000000; further writes are refused
    #[arg(long, env = "KITH_MAX_QUEUED_WRITES", value_name = "NUMBER", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_queued_writes: u32,
    /// Maximum concurrent event streams, 1 to 1000000; further streams are refused
    #[arg(long, env = "KITH_MAX_WATCHERS", value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_watchers: u32,
    /// Maximum duration of a call, regardless of its deadline; imports and watches are exempt
    #[arg(long, env = "KITH_MAX_CALL_TIME", value_name = "DURATION", default_value = "10s", value_parser = interval)]
    pub max_call_time: Duration,
    /// Time that open calls have to finish after a signal that ends the server
    #[arg(long, env = "KITH_DRAIN_TIME", value_name = "DURATION", default_value = "10s", value_parser = interval)]
    pub drain_time: Duration,
    /// Serve the API schema by gRPC server reflection
    #[arg(long, env = "KITH_REFLECTION", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,
}

/// Settings of every subcommand that uses the database.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Database URL: sqlite://PATH or postgres://USER:PASSWORD@HOST/NAME?sslmode=MODE, where MODE
    /// is disable, prefer, require or verify-full
    #[arg(long, env = "KITH_DATABASE_URL", value_name = "URL", default_value = "sqlite://kith.db", hide_env_values = true, value_parser = UrlParser)]
    pub database_url: DatabaseUrl,
    /// Log level: error, warn, info, debug, trace, or directives such as info,kith=debug
    #[arg(long, env = "KITH_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Format of the log, which goes to standard error
    #[arg(long, env = "KITH_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Parser of a database URL.
///
/// clap's own error would contain the URL with its password.
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

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines
    Text,
    /// One JSON object per line
    Json,
}

/// Settings of the rules. 0 disables a limit.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// Time after a rejection during which a new request from the same sender does not reach the receiver; 0 = off
    #[arg(long, env = "KITH_REJECTION_COOLDOWN", value_name = "DURATION", default_value = "30d")]
    pub rejection_cooldown: Lifetime,
    /// Time after which a request that was not accepted expires; 0 = never
    #[arg(long, env = "KITH_REQUEST_LIFETIME", value_name = "DURATION", default_value = "180d")]
    pub request_lifetime: Lifetime,
    /// Maximum open requests of a sender: pending, silenced or rejected; 0 = no limit
    #[arg(long, env = "KITH_MAX_SENT_REQUESTS", value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sent_requests: i64,
    /// Maximum connections per user; 0 = no limit
    #[arg(long, env = "KITH_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 30_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_connections: i64,
    /// Maximum requests that a user can send within an hour; 0 = no limit
    #[arg(long, env = "KITH_MAX_SENDS_PER_HOUR", value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sends_per_hour: i64,
    /// Maximum requests that a user can send to the same other user within the cooldown's time; 0 = no limit
    #[arg(long, env = "KITH_MAX_SENDS_PER_PAIR", value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_sends_per_pair: i64,
    /// Time for which events are retained in the feed, at least 1h; 0 = forever
    #[arg(long, env = "KITH_EVENT_RETENTION", value_name = "DURATION", default_value = "30d", value_parser = retention)]
    pub event_retention: Lifetime,
    /// Characters of usernames: ascii = A-Z a-z 0-9 - _; open = letters and digits of all scripts, and - _ . @ + '
    #[arg(long, env = "KITH_USERNAMES", value_name = "RULE", default_value = "ascii")]
    pub usernames: Usernames,
    /// Show senders that their request was rejected
    #[arg(long, env = "KITH_DISCLOSE_REJECTIONS", value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disclose_rejections: bool,
    /// Show senders that their request was viewed
    #[arg(long, env = "KITH_DISCLOSE_VIEWS", value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disclose_views: bool,
}

/// The characters of usernames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Usernames {
    /// A-Z a-z 0-9 - _
    Ascii,
    /// Letters and digits of all scripts, and - _ . @ + '
    Open,
}

/// Settings of `kith migrate`.
#[derive(Clone, Debug, Args)]
pub struct Migrate {
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith watch`.
#[derive(Clone, Debug, Args)]
pub struct Watch {
    /// URL of the server to watch
    #[arg(long, env = "KITH_SERVER", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub server: String,
    /// Sequence to start after; 0 = at the oldest retained event [default: new events only]
    #[arg(long, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(0..))]
    pub after: Option<i64>,
    /// Epoch that the sequence belongs to; the watch is refused if the server's epoch differs
    #[arg(long)]
    pub epoch: Option<String>,
    /// Print only events about this user; repeatable
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..=ID_MAX))]
    pub user: Vec<i64>,
    /// Print only events of this kind, such as CONNECTION_CREATED; repeatable
    #[arg(long, value_name = "KIND", ignore_case = true, value_parser = kinds())]
    pub kind: Vec<String>,
    /// Print only events that this user can see; 0 = all events
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=ID_MAX))]
    pub viewer: i64,
    /// Print the current revision when there are no events
    #[arg(long)]
    pub heartbeats: bool,
}

/// Settings of `kith check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
    /// Correct wrong counts of users; other violations are only reported
    #[arg(long)]
    pub repair: bool,
}

/// Settings of `kith restore-epoch`.
#[derive(Clone, Debug, Args)]
pub struct RestoreEpoch {
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
}

/// Settings of `kith healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct Healthcheck {
    /// Address and port of the server; an unspecified address such as 0.0.0.0 means this machine
    #[arg(long, env = "KITH_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub address: SocketAddr,
    /// Name of the gRPC service to query; an empty name queries only the process
    #[arg(long, value_name = "NAME", default_value = "kith.v1.ConnectionRequestService")]
    pub service: String,
    /// Time to wait for the response
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = interval)]
    pub timeout: Duration,
}

impl Serve {
    /// Returns the options for the database.
    pub fn options(&self) -> Options {
        let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Options {
            readers: number(self.read_connections),
            read_batch_max: number(self.read_batch_max),
            user_cache: u64::from(self.user_cache_mib) << 20,
            migrate: self.migrate,
            ..Options::default()
        }
    }
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

/// The parser of an event kind, by name.
fn kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.name()))
}

/// Parses the retention of events: unlimited, or at least an hour, so that consumers find recent events.
fn retention(text: &str) -> Result<Lifetime, String> {
    let retention: Lifetime = text.parse()?;
    if retention.0.is_some_and(|time| time < TimeDelta::hours(1)) {
        return Err("must be at least 1h".to_owned());
    }
    Ok(retention)
}

/// Parses a duration.
fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("not a duration such as 10s or 30d ({error})"))
}

/// Parses a duration of at least a millisecond.
fn interval(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
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
    fn usernames_can_be_open() {
        let cli = parse(&["--usernames=open"]).unwrap();
        assert_eq!(cli.serve.policy.policy().usernames, UsernameRule::Open);
        assert!(parse(&["--usernames=any"]).is_err());
    }

    #[test]
    fn zero_disables_a_limit() {
        let args = ["serve", "--rejection-cooldown=0", "--request-lifetime=0", "--max-connections=0"];
        let Some(Command::Serve(serve)) = parse(&args).unwrap().command else { panic!("serve") };
        let policy = serve.policy.policy();
        assert_eq!((policy.cooldown, policy.lifetime, policy.max_connections), (None, None, None));
        assert_eq!(policy.max_sent_requests, Some(1_000));
    }

    #[test]
    fn an_error_names_the_invalid_setting() {
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
