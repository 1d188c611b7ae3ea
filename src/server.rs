//! Assembles the gRPC server and runs it until it is shut down.

mod call;
mod health;
pub mod listener;
pub mod peer;
mod sweep;

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use self::call::CallLayer;
use self::health::Health;
use self::listener::{Listener, Stream};
use crate::committer::Committer;
use crate::domain::policy::Policy;
use crate::feed::Feed;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::server::block_service_server::{BlockServiceServer, SERVICE_NAME as BLOCK};
use crate::proto::server::connection_request_service_server::{
    ConnectionRequestServiceServer, SERVICE_NAME as CONNECTION_REQUEST,
};
use crate::proto::server::connection_service_server::{ConnectionServiceServer, SERVICE_NAME as CONNECTION};
use crate::proto::server::event_service_server::{EventServiceServer, SERVICE_NAME as EVENT};
use crate::proto::server::user_service_server::{SERVICE_NAME as USER, UserServiceServer};
use crate::service::Core;
use crate::service::block::Blocks;
use crate::service::connection::Connections;
use crate::service::connection_request::ConnectionRequests;
use crate::service::event::Events;
use crate::service::user::Users;
use crate::store::Store;
use crate::task::persistent;

/// Names of the gRPC services that depend on the database.
pub const SERVICES: [&str; 5] = [USER, CONNECTION_REQUEST, CONNECTION, BLOCK, EVENT];

/// Maximum size of a request, in bytes.
///
/// The largest valid one, a profile with every field filled with four-byte characters, has 30 kB.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Maximum concurrent calls on one connection. A client queues further calls.
const STREAMS_MAX: u32 = 1_024;
/// Maximum streams that a connection may reset before the server accepts them.
///
/// A connection with more is closed, as a rapid reset attack (CVE-2023-44487). The default of 20 would close the
/// connection of a busy gateway whose callers cancel.
const RESETS_MAX: usize = 200;
/// HTTP/2 flow-control window of one call, in bytes.
///
/// h2 closes a connection whose unread small frames exceed half of its window. An import is read in chunks,
/// and some clients send a frame for each row. So the window of a call is a small part of the connection's.
const STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 flow-control window of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Delay after a connection could not be accepted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Interval between HTTP/2 pings on an idle connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time that a client has to respond to a ping. Then the connection is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Maximum writes in the queue. Further ones are refused.
    pub max_queued_writes: usize,
    /// Maximum concurrent event streams. Further ones are refused.
    pub max_watchers: usize,
    /// Interval between sweeps.
    pub sweep_interval: Duration,
    /// Maximum duration of a call. Imports and watches are exempt.
    pub max_call_time: Duration,
    /// Time that open calls have to finish after the shutdown begins.
    pub drain_time: Duration,
    /// Whether to serve server reflection.
    pub reflection: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            max_queued_writes: 4_096,
            max_watchers: 10_000,
            sweep_interval: Duration::from_secs(60),
            max_call_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(10),
            reflection: true,
        }
    }
}

/// Serves calls on the listener until `shutdown` completes, then drains the open calls.
///
/// Open calls have [`Settings::drain_time`] to finish. Then the queued writes have the same time to be committed.
///
/// Tasks that panic begin anew. Without the one that commits no write can be served, so its end is that of the server:
/// whoever supervises the process can start it again.
///
/// # Errors
///
/// If the transport fails, or if the task that commits ends.
pub async fn serve(
    listener: impl Into<Listener> + Send,
    store: Arc<dyn Store>,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Failure> {
    let policy = Arc::new(settings.policy.clone());
    let commits = Committer::start(Arc::clone(&store), policy, settings.max_queued_writes);
    serve_with(commits, listener.into(), store, settings, shutdown).await
}

/// The same with a committer and its task.
async fn serve_with(
    (committer, mut committing): (Committer, JoinHandle<()>),
    listener: Listener,
    store: Arc<dyn Store>,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Failure> {
    let policy = Arc::new(settings.policy);
    let (stop, stopped) = watch::channel(false);
    let (reporter, health) = tonic_health::server::health_reporter();
    // Before the first call: until the database was read, the services exist and do not serve.
    report_not_serving(&reporter, &SERVICES).await;
    let watching = {
        let health = Health { reporter: reporter.clone(), store: Arc::clone(&store), committer: committer.clone() };
        let stopped = stopped.clone();
        tokio::spawn(persistent("health", move || health.clone().follow(stopped.clone())))
    };
    let sweeping = {
        let (committer, interval, stopped) = (committer.clone(), settings.sweep_interval, stopped.clone());
        tokio::spawn(persistent("sweep", move || sweep::run(committer.clone(), interval, stopped.clone())))
    };

    let (feed, reading) = Feed::start(Arc::clone(&store), Arc::clone(&policy), settings.max_watchers, stopped.clone());

    let core = Core { store, committer: committer.clone(), policy };
    let mut routes = routes(core, feed);
    routes = routes.add_service(health);
    if settings.reflection {
        routes = add_reflection(routes)?;
    }
    let incoming = stream::unfold(listener, async |listener| Some((accept(&listener).await, listener)));
    let mut serving = Box::pin(
        Server::builder()
            .layer(CallLayer::new(settings.max_call_time))
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, wait(stopped)),
    );
    let ended = tokio::select! {
        result = &mut serving => return result.map_err(Into::into),
        failure = &mut committing => Err(COMMITTER_ENDED.into()).inspect_err(|error: &Failure| {
            tracing::error!(failure = failure.err().map(|error| error.to_string()), "{error}");
        }),
        () = shutdown => Ok(()),
    };
    tracing::info!(drain_time = ?settings.drain_time, "shutting down; draining open calls");
    report_not_serving(&reporter, &SERVICES).await;
    report_not_serving(&reporter, &[""]).await;
    // Fails if all receivers have already stopped.
    let _stopped = stop.send(true);
    match timeout(settings.drain_time, &mut serving).await {
        Ok(result) => result?,
        Err(_) => tracing::warn!("drain time is over; aborting open calls"),
    }
    // tonic runs each connection in its own task. An idle connection, or one with an open call, would hold its committer
    // forever. So the queue is closed explicitly, and the writes in it are committed.
    drop(serving);
    let _tasks = tokio::join!(watching, sweeping, reading);
    committer.close();
    if ended.is_ok() && timeout(settings.drain_time, committing).await.is_err() {
        tracing::warn!("database did not respond within the drain time; dropping unacknowledged writes");
    }
    tracing::info!("server stopped");
    ended
}

/// Accepts a connection. Delays the next accept after a failed one.
///
/// tonic would retry immediately, also while it cannot succeed, for example without free file descriptors.
async fn accept(listener: &Listener) -> io::Result<Stream> {
    let accepted = listener.accept().await;
    if let Err(error) = &accepted {
        tracing::warn!(error = error as &dyn Error, "failed to accept a connection");
        sleep(ACCEPT_RETRY_DELAY).await;
    }
    accepted.map(|(stream, _peer)| stream)
}

fn routes(core: Core, feed: Feed) -> Routes {
    let limit = REQUEST_BYTES_MAX;
    let mut routes = Routes::default();
    routes = routes.add_service(UserServiceServer::new(Users(core.clone())).max_decoding_message_size(limit));
    routes = routes.add_service(
        ConnectionRequestServiceServer::new(ConnectionRequests(core.clone())).max_decoding_message_size(limit),
    );
    routes =
        routes.add_service(ConnectionServiceServer::new(Connections(core.clone())).max_decoding_message_size(limit));
    routes = routes.add_service(BlockServiceServer::new(Blocks(core.clone())).max_decoding_message_size(limit));
    routes.add_service(EventServiceServer::new(Events { core, feed }).max_decoding_message_size(limit))
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
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

/// Reports services as NOT_SERVING, so that clients use another server.
async fn report_not_serving(reporter: &HealthReporter, services: &[&str]) {
    for service in services {
        reporter.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
    }
}

/// Completes when the value is true, or its sender was dropped.
async fn wait(mut stopped: watch::Receiver<bool>) {
    let _closed = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests;
