//! Puts the service together and runs it until it is told to end.

mod call;
mod health;
mod sweep;

use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;

use self::call::CallLayer;
use crate::clock::Clock;
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

/// The services that answer callers.
pub const SERVICES: [&str; 5] = [USER, CONNECTION_REQUEST, CONNECTION, BLOCK, EVENT];

/// The largest request. The largest honest one, a profile with every field full of four-byte characters, has 30 kB.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Calls at a time on one connection; more wait in the client.
const STREAMS_MAX: u32 = 1_024;
/// Calls that one connection may cancel faster than they are taken up, before it is taken for an attack (rapid
/// reset, CVE-2023-44487) and closed. HTTP/2's own 20 would cut off a busy gateway whose callers give up.
const RESETS_MAX: usize = 200;
/// What a client may send ahead on one call, and on one connection. h2 ends a connection that holds too many small
/// frames which nobody has read yet, for which it allows half of the connection's window; an import is read in steps,
/// and some clients send a frame for each of its rows. So a call's window is a small part of the connection's.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How the service runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The rules' settings.
    pub policy: Policy,
    /// The time.
    pub clock: Clock,
    /// Changes that may wait for their batch.
    pub max_queued_writes: usize,
    /// Streams of events at the same time; more are refused.
    pub max_watchers: usize,
    /// How often what is due is expired for good.
    pub sweep_interval: Duration,
    /// The longest that a call may take.
    pub max_call_time: Duration,
    /// How long calls may go on after the signal to end.
    pub drain_time: Duration,
    /// Whether to answer reflection.
    pub reflection: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            clock: Clock::system(),
            max_queued_writes: 4_096,
            max_watchers: 10_000,
            sweep_interval: Duration::from_secs(60),
            max_call_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(10),
            reflection: true,
        }
    }
}

/// Serves calls on the listener until `shutdown` is done, then lets those under way end.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn Store>,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let policy = Arc::new(settings.policy);
    let (committer, committing) =
        Committer::start(Arc::clone(&store), Arc::clone(&policy), settings.clock.clone(), settings.max_queued_writes);
    let (stop, stopped) = watch::channel(false);
    let (reporter, health) = tonic_health::server::health_reporter();
    let watching = tokio::spawn(health::follow(reporter.clone(), Arc::clone(&store), stopped.clone()));
    let sweeping = tokio::spawn(sweep::run(committer.clone(), settings.sweep_interval, stopped.clone()));

    let (feed, reading) = Feed::start(Arc::clone(&store), Arc::clone(&policy), settings.max_watchers, stopped.clone());

    let core = Core { store, committer: committer.clone(), policy, clock: settings.clock };
    let mut routes = routes(core, feed);
    routes = routes.add_service(health);
    if settings.reflection {
        routes = add_reflection(routes)?;
    }
    // An answer is not held back until the one before it is acknowledged: that costs 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).then(accepted);
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
    tokio::select! {
        ended = &mut serving => return ended.map_err(Into::into),
        () = shutdown => {}
    }
    tracing::info!("draining");
    close(&reporter).await;
    // An error means that nobody listens any more, which is what it is for.
    let _ended = stop.send(true);
    match timeout(settings.drain_time, &mut serving).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!("the time to drain is over; what is still under way is cut"),
    }
    // tonic's connections are tasks of their own. One that never said a word, or whose call goes on, would hold its
    // committer for ever: so the queue is closed for all, and what is in it is committed.
    drop(serving);
    let _tasks = tokio::join!(watching, sweeping, reading);
    committer.close();
    if timeout(settings.drain_time, committing).await.is_err() {
        tracing::warn!("the database does not answer; what was not committed is not acknowledged");
    }
    tracing::info!("ended");
    Ok(())
}

/// tonic asks for the next connection at once, also when there can be none: without descriptors, for example.
async fn accepted(connection: io::Result<TcpStream>) -> io::Result<TcpStream> {
    if let Err(error) = &connection {
        tracing::warn!(error = error as &dyn Error, "a connection could not be accepted");
        sleep(ACCEPT_PAUSE).await;
    }
    connection
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

/// Both versions of reflection, since clients ask for either; with the descriptors of error details, so that
/// clients can print them.
fn add_reflection(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

/// Tells callers to go elsewhere.
async fn close(reporter: &HealthReporter) {
    for service in SERVICES.iter().chain([&""]) {
        reporter.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
    }
}

/// Done when the value turns true, or nobody is left to turn it.
async fn wait(mut stopped: watch::Receiver<bool>) {
    let _closed = stopped.wait_for(|stopped| *stopped).await;
}
