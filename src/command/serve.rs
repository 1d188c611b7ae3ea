//! `kith serve`: runs the server until a signal ends it.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};

use super::database::Database;
use super::{Failure, access, monitoring, start_log};
use crate::auth::Authenticator;
use crate::config::{AuditLog, Serve, Sources};
use crate::domain::caller::Caller;
use crate::domain::command::{Batch, Command, Submission};
use crate::domain::epoch::Position;
use crate::follow::NamedFile;
use crate::metrics::Metrics;
use crate::server::listener::Listener;
use crate::server::monitoring::Pages;
use crate::server::tls::{Files, Tls};
use crate::server::{self, ConnectionLimits, Settings, waiting};
use crate::store::{self, Observed, ReplicaOptions, Replicas, Store, StoreError};
use crate::traces::Exporter;

pub(super) async fn run(args: Serve, sources: &Sources) -> Result<(), Failure> {
    let _log = start_log(&args.common, args.audit_log != AuditLog::Off, sources)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = sources.changed(), "starting");
    let database = Database::of(&args.common, sources)?;
    let metrics = Metrics::default();
    let traces = start_traces(&args, &database, sources)?;
    let tls = start_tls(&args, sources, &metrics)?;
    let authenticator = access::start(&args.access, sources, &metrics).await?;
    let listener = Listener::bind(&args.listen).await.map_err(|error| {
        format!("{} {}: cannot listen on this address: {error}", sources.name("listen"), args.listen)
    })?;
    access::check(&authenticator, &args.access, &listener, tls.is_some())?;
    let pages = Pages { metrics: metrics.clone(), settings: sources.changed_settings().into() };
    // Until the end: it answers while the database is not there yet, and while calls are drained.
    let _monitoring = monitoring::start(args.metrics_listen.clone(), sources, &listener, pages).await?;
    let mut signals = pin!(ending_signals(tls.clone(), authenticator.clone())?);
    let (store, replicas) = tokio::select! {
        opened = waiting::serve_until(&listener, tls.as_ref(), &metrics, open(&database, &args, sources, &metrics)) => opened?,
        _ = signals.next() => {
            tracing::info!("server stopped before it had opened the database");
            return Ok(());
        }
    };
    tracing::info!("listening on {}", listener.local_address()?);
    let per_address = usize::try_from(args.max_client_connections_per_address)?;
    let connections = ConnectionLimits {
        total: usize::try_from(args.max_client_connections)?,
        per_address: (per_address > 0).then_some(per_address),
    };
    let settings = Settings {
        policy: args.policy.policy(),
        read_only: args.read_only,
        max_queued_writes: usize::try_from(args.max_queued_writes)?,
        max_watchers: usize::try_from(args.max_watchers)?,
        max_imports: usize::try_from(args.max_imports)?,
        sweep_interval: args.sweep_interval,
        max_call_time: args.max_call_time,
        max_unsent: usize::try_from(u64::from(args.max_unsent_mib) << 20)?,
        connections,
        limits: args.limits(),
        audit: args.audit_log,
        drain_delay: args.drain_delay.unwrap_or_else(|| default_drain_delay(&listener)),
        drain_time: args.drain_time,
        max_connection_age: Some(args.max_connection_age).filter(|age| !age.is_zero()),
        grpc_web: args.grpc_web.then_some(args.grpc_web_origins),
        tls,
        authenticator,
        reflection: args.reflection,
        metrics,
        replicas,
        traces,
        ..Settings::default()
    };
    server::serve(listener, store, settings, signals).await
}

/// Reads the certificate, if there is one. Then every connection has TLS.
///
/// clap cannot demand the settings together: it does not count those of a configuration file.
fn start_tls(args: &Serve, sources: &Sources, metrics: &Metrics) -> Result<Option<Tls>, Failure> {
    let file =
        |key: &str, path: &Option<PathBuf>| path.clone().map(|path| NamedFile { setting: sources.name(key), path });
    let certificate = file("tls-certificate", &args.tls_certificate);
    let key = file("tls-key", &args.tls_key);
    let client_ca = file("tls-client-ca", &args.tls_client_ca);
    match (certificate, key, client_ca) {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), client_ca) => {
            let client_certificates = client_ca.is_some();
            let tls = Tls::start(Files { certificate, key, client_ca }, args.grpc_web, metrics)?;
            tracing::info!(client_certificates, "clients need TLS");
            Ok(Some(tls))
        }
        (Some(certificate), None, _) => Err(format!("{certificate}: needs --tls-key too").into()),
        (None, Some(key), _) => Err(format!("{key}: needs --tls-certificate too").into()),
        (None, None, Some(client_ca)) => Err(format!("{client_ca}: needs --tls-certificate and --tls-key too").into()),
    }
}

/// Starts to send traces, if a setting names a receiver.
fn start_traces(args: &Serve, database: &Database, sources: &Sources) -> Result<Option<Exporter>, Failure> {
    let Some((setting, receiver)) = args.traces.receiver(sources)? else { return Ok(None) };
    let system = if database.url.is_postgres() { "postgresql" } else { "sqlite" };
    let exporter = Exporter::start(&receiver, system).map_err(|error| format!("{setting} {error}"))?;
    tracing::info!(receiver = receiver.url, ratio = receiver.ratio, "calls are traced");
    Ok(Some(exporter))
}

/// Opens the database, once it is there.
async fn open(
    database: &Database,
    args: &Serve,
    sources: &Sources,
    metrics: &Metrics,
) -> Result<(Arc<dyn Store>, Replicas), Failure> {
    let replicas = replicas(database, args, sources)?;
    database.wait().await?;
    let url = &database.url;
    let failed = |error: &dyn std::error::Error| database.failure(error);
    let options = store::Options { replicas, metrics: metrics.clone(), ..args.options() };
    let (store, replicas) = store::connect_with_replicas(url, options).await.map_err(|error| failed(&error))?;
    let store: Arc<dyn Store> = Arc::new(Observed::new(store));
    let Position { sequence: revision, epoch } = store.position().await.map_err(|error| failed(&error))?;
    if !args.read_only {
        check_writable(&*store).await.map_err(|error| failed(&error))?;
    }
    tracing::info!(database = %url, %revision, %epoch, read_only = args.read_only, "opened the database");
    Ok((store, replicas))
}

/// Returns the settings of replicas, with their passwords.
fn replicas(database: &Database, args: &Serve, sources: &Sources) -> Result<ReplicaOptions, Failure> {
    let urls = args.replicas.urls(&args.common, sources)?;
    if !urls.is_empty() && !database.url.is_postgres() {
        return Err(format!("{}: {} has no replicas", sources.name("replica-url"), database.url).into());
    }
    Ok(ReplicaOptions { urls, ..args.replicas.options() })
}

/// Returns the signals that end the server: SIGTERM, SIGINT, SIGQUIT and SIGUSR1.
///
/// SIGHUP, which a closed terminal or a rotated log sends, does not end it. It reads the files of TLS and of credentials
/// again.
fn ending_signals(tls: Option<Tls>, authenticator: Authenticator) -> io::Result<impl Stream<Item = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut user = signal(SignalKind::user_defined1())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(stream::poll_fn(move |cx| {
        while hangup.poll_recv(cx).is_ready() {
            tracing::info!(
                "SIGHUP: reading the files of TLS and of credentials again; settings are read only at the start"
            );
            tls.iter().for_each(Tls::read_again);
            authenticator.read_again();
        }
        let ending = [&mut terminate, &mut interrupt, &mut quit, &mut user];
        // All of them: each wakes the task only if it was polled.
        let received = ending.into_iter().filter_map(|signal| signal.poll_recv(cx).is_ready().then_some(())).count();
        if received > 0 { Poll::Ready(Some(())) } else { Poll::Pending }
    }))
}

/// Returns how long a server still accepts calls after a signal, unless a setting says so.
///
/// Other machines need the time to learn of its health. On this machine clients only see connections refused, and a
/// developer does not wait.
fn default_drain_delay(listener: &Listener) -> Duration {
    if listener.is_local() { Duration::ZERO } else { Duration::from_secs(5) }
}

/// Writes the head of the feed as it is: a server that cannot write is not started.
async fn check_writable(store: &dyn Store) -> Result<(), StoreError> {
    let submissions = vec![Submission { caller: Caller::System, command: Command::Probe, idempotency: None }];
    store.commit(Arc::new(Batch { submissions, policy: Arc::default() })).await.map(drop)
}
