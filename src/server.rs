//! Assembles the gRPC server and runs it until it is shut down.

mod accept;
mod admission;
mod answer;
mod call;
mod connection;
mod health;
mod held;
mod limited;
pub mod listener;
pub mod monitoring;
mod offenders;
pub mod peer;
mod receiving;
mod status_page;
mod streamed;
mod sweep;
pub mod tls;
pub mod waiting;
mod web;

use std::error::Error;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tower::Layer;

use self::admission::Admission;
pub use self::admission::ConnectionLimits;
use self::answer::Unsent;
use self::call::CallLayer;
use self::connection::{Times, Transport};
use self::health::{Health, Reporter};
use self::held::Held;
use self::listener::Listener;
use self::receiving::UNFINISHED_MAX;
use self::tls::Tls;
use crate::auth::limiter::Limiter;
use crate::auth::limits::LimitsByKind;
use crate::auth::{Authenticator, rights};
use crate::causes::Causes;
use crate::committer::Committer;
use crate::config::{AuditLog, Origins};
use crate::domain::policy::Policy;
use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::server::block_service_server::{BlockServiceServer, SERVICE_NAME as BLOCK};
use crate::proto::server::connection_request_service_server::{
    ConnectionRequestServiceServer, SERVICE_NAME as CONNECTION_REQUEST,
};
use crate::proto::server::connection_service_server::{ConnectionServiceServer, SERVICE_NAME as CONNECTION};
use crate::proto::server::event_service_server::{EventServiceServer, SERVICE_NAME as EVENT};
use crate::proto::server::import_service_server::{ImportServiceServer, SERVICE_NAME as IMPORT};
use crate::proto::server::user_service_server::{SERVICE_NAME as USER, UserServiceServer};
use crate::service::Core;
use crate::service::block::Blocks;
use crate::service::connection::Connections;
use crate::service::connection_request::ConnectionRequests;
use crate::service::event::Events;
use crate::service::export::Exports;
use crate::service::guard::Guarded;
use crate::service::import::Imports;
use crate::service::relations::Relations;
use crate::service::user::Users;
use crate::store::{Replicas, Store, StoreError};
use crate::task::persistent;
use crate::traces::Exporter;

/// Names of the gRPC services that depend on the database.
pub const SERVICES: [&str; 6] = [USER, CONNECTION_REQUEST, CONNECTION, BLOCK, EVENT, IMPORT];

/// Maximum size of a request, in bytes.
///
/// The largest valid one, a profile with every field filled with four-byte characters, has 30 kB.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// The error when no more writes can be served.
const COMMITTER_ENDED: &str =
    "the task that commits writes has ended, which is a bug; the server cannot go on without it";

/// The error that ends a server.
type Failure = Box<dyn Error + Send + Sync>;

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of the rules.
    pub policy: Policy,
    /// Whether to serve reads only. Writes are refused, and nothing is swept.
    pub read_only: bool,
    /// Maximum writes in the queue. Further ones are refused.
    pub max_queued_writes: usize,
    /// Maximum concurrent event streams. Further ones are refused.
    pub max_watchers: usize,
    /// Maximum concurrent imports. Further ones are refused.
    pub max_imports: usize,
    /// Interval between sweeps.
    pub sweep_interval: Duration,
    /// Maximum duration of a call, including the sending of its answer, and of the wait for the next row of an import.
    /// Watches are exempt.
    pub max_call_time: Duration,
    /// Maximum bytes of large answers that wait for their callers to read them. Further reads with one are refused. One
    /// connection may have a quarter of it.
    pub max_unsent: usize,
    /// Maximum open connections.
    pub connections: ConnectionLimits,
    /// Limits on the calls of each principal.
    pub limits: LimitsByKind,
    /// The calls that the audit trail in the log has.
    pub audit: AuditLog,
    /// Time for which the server still accepts connections and calls after health is NOT_SERVING.
    pub drain_delay: Duration,
    /// Time that open calls have to finish after that.
    pub drain_time: Duration,
    /// Time that a client has for the first bytes of its connection. Then it is closed.
    pub opening_time: Duration,
    /// Age at which a connection is closed, within 10 %. Its calls may finish; watches resume on another connection.
    pub max_connection_age: Option<Duration>,
    /// Origins of the pages that may call by gRPC-Web. `None` = no gRPC-Web.
    pub grpc_web: Option<Origins>,
    /// Who may call. By default everybody, who may then do everything.
    pub authenticator: Authenticator,
    /// TLS of every connection. `None` = no connection has TLS.
    pub tls: Option<Tls>,
    /// Whether to serve server reflection.
    pub reflection: bool,
    /// What the server counts.
    pub metrics: Metrics,
    /// Replicas that serve reads.
    pub replicas: Replicas,
    /// Where traces are sent. `None` = no call is traced.
    pub traces: Option<Exporter>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            read_only: false,
            max_queued_writes: 4_096,
            max_watchers: 10_000,
            max_imports: 16,
            sweep_interval: Duration::from_secs(60),
            max_call_time: Duration::from_secs(10),
            max_unsent: 256 << 20,
            connections: ConnectionLimits::default(),
            limits: LimitsByKind::default(),
            audit: AuditLog::Off,
            drain_delay: Duration::ZERO,
            drain_time: Duration::from_secs(10),
            opening_time: Duration::from_secs(10),
            max_connection_age: Some(Duration::from_secs(30 * 60)),
            grpc_web: None,
            authenticator: Authenticator::anonymous(),
            tls: None,
            reflection: true,
            metrics: Metrics::default(),
            replicas: Replicas::default(),
            traces: None,
        }
    }
}

/// Adds a service with the limit on requests and with gzip. A compressed request is limited before and after it is
/// decompressed.
macro_rules! add {
    ($routes:expr, $service:expr) => {
        $routes.add_service(
            $service
                .max_decoding_message_size(REQUEST_BYTES_MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Gzip),
        )
    };
}

/// Serves calls on the listener until there is an item of `signals`, then drains the open calls.
///
/// First, health is NOT_SERVING for [`Settings::drain_delay`], so that clients and load balancers choose other servers
/// while this one still accepts calls. Then open calls have [`Settings::drain_time`] to finish. Then the queued writes
/// have the same time to be committed. Each further signal ends the delay, or the time of the open calls.
///
/// Tasks that panic begin anew. Without the one that commits no write can be served, so its end is that of the server:
/// whoever supervises the process can start it again.
///
/// # Errors
///
/// If the services cannot be assembled, if the database is lost ([`Store::lost`]), or if the task that commits ends.
pub async fn serve(
    listener: impl Into<Listener> + Send,
    store: Arc<dyn Store>,
    settings: Settings,
    signals: impl Stream<Item = ()> + Send,
) -> Result<(), Failure> {
    let policy = Arc::new(settings.policy.clone());
    let commits = if settings.read_only {
        Committer::read_only()
    } else {
        Committer::start(Arc::clone(&store), policy, settings.max_queued_writes, &settings.metrics)
    };
    serve_with(commits, listener.into(), store, settings, signals).await
}

/// The same with a committer and its task.
async fn serve_with(
    (committer, mut committing): (Committer, JoinHandle<()>),
    listener: Listener,
    store: Arc<dyn Store>,
    settings: Settings,
    signals: impl Stream<Item = ()> + Send,
) -> Result<(), Failure> {
    let mut signals = pin!(signals);
    let metrics = settings.metrics;
    let known = Arc::downgrade(&store);
    metrics.totals.newest.set(move || Some(known.upgrade()?.seen().totals));
    let policy = Arc::new(settings.policy);
    let (drain, draining) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporter = Reporter { reporter, metrics: Arc::clone(&metrics.server) };
    // Before the first call: until the database was read, the services exist and do not serve.
    reporter.report(&SERVICES, false).await;
    let watching = {
        let (store, committer) = (Arc::clone(&store), committer.clone());
        let health = Health { reporter: reporter.clone(), store, committer, database: Arc::clone(&metrics.database) };
        tokio::spawn(persistent("health", move || health.clone().follow(draining.clone())))
    };
    let sweeping = {
        let (committer, interval, stopped) = (committer.clone(), settings.sweep_interval, stopped.clone());
        let writes = Arc::clone(&metrics.writes);
        let run = move || sweep::run(committer.clone(), interval, Arc::clone(&writes), stopped.clone());
        tokio::spawn(persistent("sweep", run))
    };

    let (feed, reading) =
        Feed::start(Arc::clone(&store), Arc::clone(&policy), settings.max_watchers, &metrics, stopped.clone());

    let database = Arc::clone(&store);
    let core = Core { store, replicas: settings.replicas, committer: committer.clone(), policy };
    let imports = Imports::new(settings.max_imports, settings.max_call_time);
    let exports = [Exports::of_users, Exports::of_relations].map(|exports| exports(settings.max_call_time));
    check_rights()?;
    let mut routes = routes(core, feed, imports, exports);
    routes = add!(routes, health);
    if settings.reflection {
        routes = add_reflection(routes)?;
    }
    let layer = CallLayer {
        authenticator: settings.authenticator,
        limiter: Arc::new(Limiter::new(settings.limits)),
        max_time: settings.max_call_time,
        unsent: Unsent::new(settings.max_unsent),
        unfinished: Held::new(UNFINISHED_MAX),
        audit: settings.audit,
        metrics: metrics.clone(),
        tracer: settings.traces.as_ref().map(Exporter::tracer),
    };
    let service = layer.layer(routes.prepare());
    let times = Times { opening: settings.opening_time, age: settings.max_connection_age };
    let (tls, admission) = (settings.tls, Admission::new(settings.connections, &metrics));
    let mut serving: Pin<Box<dyn Future<Output = ()> + Send>> = match settings.grpc_web {
        None => {
            let transport = Transport::new(service, times, &metrics).with_tls(tls);
            Box::pin(accept::serve(listener, transport, admission, stopped))
        }
        Some(origins) => {
            let service = web::web(service, &origins);
            let transport = Transport::new(service, times, &metrics).with_web(origins).with_tls(tls);
            Box::pin(accept::serve(listener, transport, admission, stopped))
        }
    };
    let mut ended = tokio::select! {
        () = &mut serving => Ok(()),
        failure = &mut committing => Err(committer_ended(&failure)),
        error = database.lost() => Err(database_lost(error)),
        () = next(signals.as_mut()) => Ok(()),
    };
    reporter.report(&SERVICES, false).await;
    reporter.report(&[""], false).await;
    // Fails if all receivers have already stopped. The same below.
    _ = drain.send(true);
    if ended.is_ok() && !settings.drain_delay.is_zero() {
        tracing::info!(drain_delay = ?settings.drain_delay, "health is NOT_SERVING; still accepting calls");
        tokio::select! {
            () = &mut serving => {}
            failure = &mut committing => ended = Err(committer_ended(&failure)),
            () = sleep(settings.drain_delay) => {}
            () = next(signals.as_mut()) => {}
        }
    }
    tracing::info!(drain_time = ?settings.drain_time, "shutting down; draining open calls");
    _ = stop.send(true);
    let until = Instant::now() + settings.drain_time;
    tokio::select! {
        drained = timeout(settings.drain_time, &mut serving) => if drained.is_err() {
            tracing::warn!("drain time is over; aborting open calls");
        },
        () = next(signals.as_mut()) => tracing::warn!("another signal; aborting open calls"),
    }
    // Each connection has a service with a committer. So the queue is closed explicitly, and the writes in it are
    // committed.
    drop(serving);
    let _tasks = tokio::join!(watching, sweeping, reading);
    committer.close();
    if ended.is_ok() && timeout(settings.drain_time, committing).await.is_err() {
        tracing::warn!("database did not respond within the drain time; dropping unacknowledged writes");
    }
    if let Some(traces) = settings.traces {
        traces.end(until.saturating_duration_since(Instant::now())).await;
    }
    tracing::info!("server stopped");
    ended
}

/// Logs and returns the error of a server whose task that commits has ended.
fn committer_ended(ended: &Result<(), JoinError>) -> Failure {
    // A panic itself was logged where it happened.
    tracing::error!(panicked = ended.as_ref().is_err_and(JoinError::is_panic), "{COMMITTER_ENDED}");
    COMMITTER_ENDED.into()
}

/// Logs and returns the error of a server whose database is no longer the one that it opened.
fn database_lost(error: StoreError) -> Failure {
    tracing::error!(error = %Causes(&error), "the database is gone; it needs to be opened again");
    error.into()
}

/// Completes at the next signal. Never, if there are no more.
async fn next(mut signals: Pin<&mut (impl Stream<Item = ()> + Send)>) {
    if signals.next().await.is_none() {
        pending().await
    }
}

fn routes(core: Core, feed: Feed, imports: Imports, [of_users, of_relations]: [Exports; 2]) -> Routes {
    let mut routes = Routes::default();
    let relations = Relations { core: core.clone(), imports: imports.clone(), exports: of_relations };
    routes = add!(routes, UserServiceServer::new(Guarded(Users { core: core.clone(), imports, exports: of_users })));
    routes = add!(routes, ConnectionRequestServiceServer::new(Guarded(ConnectionRequests(core.clone()))));
    routes = add!(routes, ConnectionServiceServer::new(Guarded(Connections(core.clone()))));
    routes = add!(routes, BlockServiceServer::new(Guarded(Blocks(core.clone()))));
    routes = add!(routes, ImportServiceServer::new(Guarded(relations)));
    add!(routes, EventServiceServer::new(Guarded(Events { core, feed })))
}

/// Checks that the table of rights has a row for each method. A server without one is not started.
fn check_rights() -> Result<(), Failure> {
    let missing = rights::missing(&FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?, rights::RIGHTS);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("the table of rights does not cover the API, which is a bug: {}", missing.join(", ")).into())
}

/// Adds both versions of reflection, since clients use either.
///
/// The descriptors include those of error details, so that clients can print them.
fn add_reflection(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = add!(routes, builder().build_v1()?);
    Ok(add!(routes, builder().build_v1alpha()?))
}

/// Completes when the value is true, or its sender was dropped.
async fn wait(stopped: &mut watch::Receiver<bool>) {
    let _closed = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests;
