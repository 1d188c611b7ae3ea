//! `kith serve`: runs the server until a signal ends it.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, start_log};
use crate::config::{Serve, Sources};
use crate::domain::caller::Caller;
use crate::domain::command::{Batch, Command, Submission};
use crate::server::listener::Listener;
use crate::server::{self, Settings};
use crate::store::{self, Observed, Store, StoreError};

pub(super) async fn run(args: Serve, sources: &Sources) -> Result<(), Failure> {
    let _log = start_log(&args.common, sources)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = sources.changed(), "starting");
    let url = &args.common.database_url;
    let store = store::connect(url, args.options()).await.map_err(|error| database_failure(sources, url, error))?;
    let store: Arc<dyn Store> = Arc::new(Observed::new(store));
    let revision = store.revision().await.map_err(|error| database_failure(sources, url, error))?;
    check_writable(&*store).await.map_err(|error| database_failure(sources, url, error))?;
    let listener = Listener::bind(&args.listen).await.map_err(|error| {
        format!("{} {}: cannot listen on this address: {error}", sources.name("listen"), args.listen)
    })?;
    // Before the log reports that the server listens: a script that waits for that may send a signal.
    let signals = ending_signals()?;
    tracing::info!(database = %url, %revision, "opened the database");
    tracing::info!("listening on {}", listener.local_address()?);
    let settings = Settings {
        policy: args.policy.policy(),
        max_queued_writes: usize::try_from(args.max_queued_writes)?,
        max_watchers: usize::try_from(args.max_watchers)?,
        max_imports: usize::try_from(args.max_imports)?,
        sweep_interval: args.sweep_interval,
        max_call_time: args.max_call_time,
        drain_delay: args.drain_delay.unwrap_or_else(|| default_drain_delay(&listener)),
        drain_time: args.drain_time,
        max_connection_age: Some(args.max_connection_age).filter(|age| !age.is_zero()),
        grpc_web: args.grpc_web.then_some(args.grpc_web_origins),
        reflection: args.reflection,
        ..Settings::default()
    };
    server::serve(listener, store, settings, signals).await
}

/// Returns the signals that end the server: SIGTERM, SIGINT, SIGQUIT and SIGUSR1.
///
/// SIGHUP, which a closed terminal or a rotated log sends, does not end it.
fn ending_signals() -> io::Result<impl Stream<Item = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut user = signal(SignalKind::user_defined1())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(stream::poll_fn(move |cx| {
        while hangup.poll_recv(cx).is_ready() {
            tracing::info!("SIGHUP: settings are read only at the start");
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

/// Adds the setting to an error of the database. The URL is printed without its password.
pub(super) fn database_failure(sources: &Sources, url: &store::DatabaseUrl, error: impl std::error::Error) -> Failure {
    format!("{} {url}: {}", sources.name("database-url"), with_causes(&error)).into()
}

/// Formats an error and its causes in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some errors already contain their cause.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}
