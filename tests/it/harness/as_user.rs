//! The services of an app as a user finds them who calls with a credential of their own.

use std::ops::Deref;
use std::sync::Arc;

use kith::auth::Principal;
use kith::committer::Committer;
use kith::domain::id::UserId;
use kith::domain::policy::Policy;
use kith::feed::Feed;
use kith::metrics::Metrics;
use kith::proto::server::block_service_server::BlockServiceServer;
use kith::proto::server::connection_request_service_server::ConnectionRequestServiceServer;
use kith::proto::server::connection_service_server::ConnectionServiceServer;
use kith::proto::server::event_service_server::EventServiceServer;
use kith::proto::server::user_service_server::UserServiceServer;
use kith::service::Core;
use kith::service::block::Blocks;
use kith::service::connection::Connections;
use kith::service::connection_request::ConnectionRequests;
use kith::service::event::Events;
use kith::service::export::Exports;
use kith::service::guard::Guarded;
use kith::service::import::Imports;
use kith::service::user::Users;
use kith::store::Replicas;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};

use super::app::App;
use super::clients::Clients;

/// A server over the app's store on which everybody is one user. It ends when this is dropped.
pub struct AsUser {
    clients: Clients,
    serving: JoinHandle<()>,
    /// The feed ends with it.
    _feed: watch::Sender<bool>,
}

impl Deref for AsUser {
    type Target = Clients;

    fn deref(&self) -> &Clients {
        &self.clients
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl App {
    /// The services for this user, by this policy.
    pub async fn as_user(&self, user: i64, policy: Policy) -> AsUser {
        let policy = Arc::new(policy);
        let metrics = Metrics::default();
        let (feed_end, stopped) = watch::channel(false);
        let (committer, _) = Committer::start(Arc::clone(&self.store), Arc::clone(&policy), 100, &metrics);
        let (feed, _) = Feed::start(Arc::clone(&self.store), Arc::clone(&policy), 10, &metrics, stopped);
        let core = Core { store: Arc::clone(&self.store), replicas: Replicas::default(), committer, policy };
        let imports = Imports::new(1, std::time::Duration::from_secs(60));
        let exports = Exports::of_users(std::time::Duration::from_secs(60));
        let principal = Principal::User(UserId::new(user));
        let identify = move |mut request: Request<()>| {
            request.extensions_mut().insert(principal.caller());
            request.extensions_mut().insert(principal.clone());
            Ok::<_, Status>(request)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let users = Guarded(Users { core: core.clone(), imports, exports });
        let events = Guarded(Events { core: core.clone(), feed });
        let (requests, connections) = (Guarded(ConnectionRequests(core.clone())), Guarded(Connections(core.clone())));
        let serving = Server::builder()
            .add_service(UserServiceServer::with_interceptor(users, identify.clone()))
            .add_service(ConnectionRequestServiceServer::with_interceptor(requests, identify.clone()))
            .add_service(ConnectionServiceServer::with_interceptor(connections, identify.clone()))
            .add_service(BlockServiceServer::with_interceptor(Guarded(Blocks(core)), identify.clone()))
            .add_service(EventServiceServer::with_interceptor(events, identify))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(async { serving.await.expect("a server") });
        let channel = Channel::from_shared(address).expect("an address").connect().await.expect("a connection");
        AsUser { clients: Clients(channel), serving, _feed: feed_end }
    }
}
