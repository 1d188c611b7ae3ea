//! Settings of `kith serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::access::AccessArgs;
use super::address::Address;
use super::database::{AuditLog, Common};
use super::duration::{interval, parse_duration};
use super::limits::{NONE, USER, parse_limits};
use super::metrics::MetricsListen;
use super::origins::Origins;
use super::policy::PolicyArgs;
use super::replicas::ReplicaArgs;
use super::traces::TraceArgs;
use crate::auth::limits::{Limits, LimitsByKind};
use crate::store::Options;

/// Settings of `kith serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address that clients connect to: HOST:PORT, with an IPv6 address in brackets, :PORT for every interface, or
    /// unix:PATH; port 0 chooses a free one
    #[arg(
        long,
        help_heading = "Listen",
        env = "KITH_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    pub listen: Address,
    /// File with the certificate of the server and those between it and its authority, in PEM: clients then need TLS; the
    /// files are read again when they change, and at SIGHUP
    #[arg(long, help_heading = "Listen", env = "KITH_TLS_CERTIFICATE", value_name = "PATH")]
    pub tls_certificate: Option<PathBuf>,
    /// File with the private key of the certificate, in PEM
    #[arg(long, help_heading = "Listen", env = "KITH_TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
    /// File with the certificates of the authorities of clients, in PEM: a client then needs a certificate of theirs
    #[arg(long, help_heading = "Listen", env = "KITH_TLS_CLIENT_CA", value_name = "PATH")]
    pub tls_client_ca: Option<PathBuf>,
    /// Address of the metrics, without TLS or authentication: an address as above, at which they are at /metrics, or off;
    /// by default 127.0.0.1:9464 if clients connect to a loopback address or a Unix socket, and off otherwise
    #[arg(long, help_heading = "Listen", env = "KITH_METRICS_LISTEN", value_name = "ADDRESS|off")]
    pub metrics_listen: Option<MetricsListen>,
    /// Settings of who may call
    #[command(flatten)]
    pub access: AccessArgs,
    /// Settings of the database and the log
    #[command(flatten)]
    pub common: Common,
    /// Settings of traces
    #[command(flatten)]
    pub traces: TraceArgs,
    /// Create or update the tables of the database at startup; if false, a database that needs it is refused
    #[arg(long, help_heading = "Database", env = "KITH_MIGRATE", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub migrate: bool,
    /// Serve reads only, also from a standby, a file that cannot be written or a role that may only read; writes are
    /// refused, and migrations are never applied
    #[arg(long, help_heading = "Database", env = "KITH_READ_ONLY", value_name = "BOOL", default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub read_only: bool,
    /// Settings of replicas
    #[command(flatten)]
    pub replicas: ReplicaArgs,
    /// Settings of the rules
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Database connections for reads, 2 to 1000: two thirds for short reads, one third for long ones; the writer and the
    /// feed have one more each
    #[arg(long, help_heading = "Tuning", env = "KITH_READ_CONNECTIONS", value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub read_connections: u32,
    /// PostgreSQL only: maximum number of concurrent look-ups that share a statement, 1 to 1000; 1 = no batches
    #[arg(long, help_heading = "Tuning", env = "KITH_READ_BATCH_MAX", value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub read_batch_max: u32,
    /// Memory for users that were read before, in MiB, up to 1048576; 0 = no cache
    #[arg(long, help_heading = "Tuning", env = "KITH_USER_CACHE_MIB", value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub user_cache_mib: u32,
    /// Interval between sweeps, which delete expired data; expired requests are already hidden
    #[arg(long, help_heading = "Tuning", env = "KITH_SWEEP_INTERVAL", value_name = "DURATION", default_value = "60s", value_parser = interval)]
    pub sweep_interval: Duration,
    /// Maximum writes waiting in the queue, 1 to 1000000; further writes are refused
    #[arg(long, help_heading = "Tuning", env = "KITH_MAX_QUEUED_WRITES", value_name = "NUMBER", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_queued_writes: u32,
    /// Maximum concurrent event streams, 1 to 1000000; further streams are refused
    #[arg(long, help_heading = "Feed", env = "KITH_MAX_WATCHERS", value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_watchers: u32,
    /// Maximum concurrent imports of users, 1 to 10000; further imports are refused
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_IMPORTS", value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_imports: u32,
    /// Maximum duration of a call with the sending of its answer, regardless of its deadline, and of the wait for the next
    /// row of an import; watches are exempt
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_CALL_TIME", value_name = "DURATION", default_value = "10s", value_parser = interval)]
    pub max_call_time: Duration,
    /// Maximum memory for large answers that their callers have not read yet, in MiB, 16 to 1048576; further reads are
    /// refused; one connection may have a quarter of it
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_UNSENT_MIB", value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub max_unsent_mib: u32,
    /// Maximum open connections of clients, 1 to 1000000; further ones are closed at once
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_CLIENT_CONNECTIONS", value_name = "NUMBER", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_client_connections: u32,
    /// The same for each client address, or each /64 of IPv6; 0 = no limit of its own, and no wait after
    /// an attack, as behind one load balancer, whose address all clients have
    #[arg(long, help_heading = "Limits", env = "KITH_MAX_CLIENT_CONNECTIONS_PER_ADDRESS", value_name = "NUMBER", default_value_t = 8_192, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_client_connections_per_address: u32,
    /// Limits on the calls of each user who is a principal, such as reads=100,writes=20,in-flight=64,watches=8,imports=1:
    /// reads and writes are calls a second, the others are concurrent; 0 or left out = no limit; none = no limits
    #[arg(long, help_heading = "Limits", env = "KITH_LIMIT_EACH_USER", value_name = "LIMITS", default_value = USER, value_parser = parse_limits)]
    pub limit_each_user: Limits,
    /// The same for each service; without authentication, for each client address, or each /64 of IPv6
    #[arg(long, help_heading = "Limits", env = "KITH_LIMIT_EACH_SERVICE", value_name = "LIMITS", default_value = NONE, value_parser = parse_limits)]
    pub limit_each_service: Limits,
    /// Time for which the server still accepts calls after a signal that ends it, while health is NOT_SERVING; by default
    /// 0s on a loopback address and 5s on others
    #[arg(long, help_heading = "Listen", env = "KITH_DRAIN_DELAY", value_name = "DURATION", value_parser = parse_duration)]
    pub drain_delay: Option<Duration>,
    /// Time that calls in progress have to finish after that
    #[arg(long, help_heading = "Listen", env = "KITH_DRAIN_TIME", value_name = "DURATION", default_value = "10s", value_parser = interval)]
    pub drain_time: Duration,
    /// Age at which a connection is closed, so that clients spread over new servers: within 10 %, after its calls have
    /// finished; 0 = never
    #[arg(long, help_heading = "Listen", env = "KITH_MAX_CONNECTION_AGE", value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    pub max_connection_age: Duration,
    /// Serve gRPC-Web too, for browsers, over HTTP/1.1 and HTTP/2
    #[arg(long, help_heading = "Listen", env = "KITH_GRPC_WEB", value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub grpc_web: bool,
    /// Origins of the pages that may call by gRPC-Web, such as `https://example.com`, separated by commas; * = any origin
    #[arg(long, help_heading = "Listen", env = "KITH_GRPC_WEB_ORIGINS", value_name = "ORIGINS", default_value_t)]
    pub grpc_web_origins: Origins,
    /// Audit trail in the log, as lines of JSON: who did what, as whom, with what outcome; writes has all denied calls too
    #[arg(long, help_heading = "Log", env = "KITH_AUDIT_LOG", value_name = "CALLS", default_value = "off")]
    pub audit_log: AuditLog,
    /// Describe the API to tools such as grpcurl, by gRPC server reflection
    #[arg(long, help_heading = "Listen", env = "KITH_REFLECTION", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub reflection: bool,
}

impl Serve {
    /// Returns the limits on calls.
    pub fn limits(&self) -> LimitsByKind {
        LimitsByKind { user: self.limit_each_user, service: self.limit_each_service }
    }

    /// Returns the options for the database.
    pub fn options(&self) -> Options {
        let number = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        Options {
            readers: number(self.read_connections),
            read_batch_max: number(self.read_batch_max),
            user_cache: u64::from(self.user_cache_mib) << 20,
            migrate: self.migrate,
            read_only: self.read_only,
            ..Options::default()
        }
    }
}
