//! The settings. Each is a flag, an environment variable and a key of the configuration file, and `--help` shows them.

mod access;
mod address;
mod client;
mod database;
mod duration;
mod file;
mod import;
mod limits;
mod load;
mod metrics;
mod metrics_url;
mod nearest;
mod origins;
mod parse;
mod policy;
mod print;
mod replicas;
mod secrets;
mod serve;
mod setting;
mod subcommand;
mod traces;
mod verbs;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::access::AccessArgs;
pub use self::address::{Address, ServerAddress};
pub use self::client::{ClientArgs, Output, Rows, ServerArgs, UserRef, View};
pub use self::database::{AuditLog, Common, LogFormat};
use self::duration::DURATIONS;
pub use self::import::Import;
pub use self::load::Load;
pub use self::metrics::MetricsListen;
pub use self::metrics_url::MetricsUrl;
pub use self::nearest::{nearest, unknown_variables};
pub use self::origins::Origins;
pub use self::parse::Refused;
pub use self::policy::{Lifetime, PolicyArgs, Usernames};
pub use self::print::ChangedSetting;
pub use self::replicas::{ReplicaArgs, ReplicaReads};
pub use self::serve::Serve;
pub use self::setting::{Source, Sources};
pub use self::subcommand::{
    Backup, Check, Completion, Demo, Export, Healthcheck, Key, KeyCommand, Man, Migrate, Proto, RestoreEpoch, Token,
    Top, Watch,
};
pub use self::verbs::{
    BlockArgs, BlockVerb, Call, ConnectionArgs, ConnectionVerb, HistoryArgs, MutualRows, OneRequest, OneUser,
    RequestAccept, RequestArgs, RequestGet, RequestList, RequestSend, RequestVerb, StatusArgs, TwoUsers, UserArgs,
    UserCreate, UserGet, UserImport, UserList, UserRows, UserUpdate, UserVerb,
};

/// The maximum width of `--help`, in columns.
const WIDTH: usize = 100;

/// Server for connection requests, connections and blocks between users, over gRPC
#[derive(Debug, Parser)]
#[command(name = "kith", version, args_conflicts_with_subcommands = true, max_term_width = WIDTH, after_help = DURATIONS)]
pub struct Cli {
    /// The subcommand. `serve` is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `serve`, if there is no subcommand.
    #[command(flatten)]
    pub serve: Serve,
    /// Configuration file, in TOML, with a line such as listen = ":50051" for each setting; variables and flags override
    /// it, and `kith config` prints one
    #[arg(long, env = "KITH_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve gRPC calls; this is the default
    #[command(after_help = DURATIONS)]
    Serve(Box<Serve>),
    /// Apply pending schema migrations to the database and exit
    Migrate(Migrate),
    /// Print the settings that are in force, as a configuration file that says where each is from
    #[command(after_help = DURATIONS)]
    Config(Box<Serve>),
    /// Print events as they are committed, one JSON object per line
    Watch(Watch),
    /// Call an RPC of a server, with JSON; without arguments, list all RPCs
    #[command(after_help = DURATIONS)]
    Call(Call),
    /// Get, list, create, update, import or delete users
    User(UserArgs),
    /// Send, answer, cancel, get or list connection requests
    Request(RequestArgs),
    /// List or remove connections
    Connection(ConnectionArgs),
    /// Block users, end blocks, or list them
    Block(BlockArgs),
    /// Show all that a server knows about two users: statuses, blocks, request, cooldowns, counts and limits
    Status(StatusArgs),
    /// Print the events between two users
    History(HistoryArgs),
    /// Fill an empty database with a small community, to try Kith with
    Demo(Demo),
    /// Show what a running server does, from its metrics: rates, latencies, batches, queues, watchers, caches
    #[command(after_help = DURATIONS)]
    Top(Top),
    /// Verify the contents of the database, also while servers use it; exit status 0 if all checks pass
    Check(Check),
    /// Import users, connections, requests and blocks from files, into a database that no server uses
    #[command(after_help = DURATIONS)]
    Import(Box<Import>),
    /// Import users, connections, requests and blocks from files, by a running server
    Load(Box<Load>),
    /// Copy a SQLite database, also while servers use it, and check the copy
    Backup(Backup),
    /// Write all users, connections, requests and blocks to a file, also while servers use the database
    Export(Export),
    /// Start a new epoch after restoring a backup: older cursors and page tokens are then refused
    RestoreEpoch(RestoreEpoch),
    /// Query the health of a running server; exit status 0 if it is serving
    #[command(after_help = DURATIONS)]
    Healthcheck(Healthcheck),
    /// Create API keys for services
    Key(Key),
    /// Print a token for development, signed with a local key
    #[command(after_help = DURATIONS)]
    Token(Token),
    /// Print the descriptors of the API (FileDescriptorSet, binary), as in: kith proto kith.binpb
    Proto(Proto),
    /// Print a script that completes commands and flags in a shell
    Completion(Completion),
    /// Print a manual page, as in: kith man | man -l -
    Man(Man),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use crate::domain::policy::Policy;
    use crate::domain::text::UsernameRule;

    /// The groups of `--help`, the everyday ones first.
    const HEADINGS: [&str; 10] =
        ["Listen", "Access", "Database", "Log", "Traces", "Replicas", "Limits", "Privacy", "Feed", "Tuning"];

    #[test]
    fn every_setting_of_the_server_is_in_a_group_of_the_help() {
        let mut kith = Cli::command();
        let help = kith.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        let headings: Vec<_> =
            help.lines().filter(|line| !line.starts_with(' ')).filter_map(|line| line.strip_suffix(':')).collect();
        assert_eq!(headings, ["Options"].into_iter().chain(HEADINGS).collect::<Vec<_>>());
        let serve = kith.find_subcommand("serve").unwrap();
        for arg in serve.get_arguments().filter(|arg| arg.get_id() != "help") {
            assert!(arg.get_help_heading().is_some(), "{} has no help_heading", arg.get_id());
        }
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|columns| columns <= WIDTH), "{help}");
    }

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
    fn connections_have_a_maximum_age_or_none() {
        let age = |args: &[&str]| parse(args).unwrap().serve.max_connection_age;
        assert_eq!(age(&[]), Duration::from_secs(30 * 60));
        assert_eq!(age(&["--max-connection-age=0"]), Duration::ZERO);
    }

    #[test]
    fn an_error_names_the_invalid_setting() {
        for (args, named) in [
            (["--listen=nowhere"], "--listen"),
            (["--database-url=mysql://db"], "--database-url"),
            (["--rejection-cooldown=soon"], "--rejection-cooldown"),
            (["--max-connections=-1"], "--max-connections"),
            (["--max-call-time=0s"], "--max-call-time"),
            (["--max-connection-age=soon"], "--max-connection-age"),
            (["--grpc-web-origins=example.com"], "--grpc-web-origins"),
            (["--log-format=xml"], "--log-format"),
            (["--trace-ratio=2"], "--trace-ratio"),
        ] {
            let error = parse(&args).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
