//! Rolling restarts under load: with one retry no call fails, and watchers miss and double nothing.
//!
//! `make rolling` is the long version, with clients in another language, behind HAProxy and behind a client-side
//! balancer.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use kith::proto::v1::{self as pb, ConnectionStatus};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use crate::harness::clients::Clients;
use crate::harness::fold::Fold;
use crate::harness::process::{Kith, command};
use crate::harness::watching::from;
use crate::harness::{Database, Engine, invariants, until};

const CALLERS: i64 = 4;
/// Longer than the test: a second signal ends it.
const NEVER: &str = "1h";

/// A port that nothing else gets while a server of the test is down.
struct Reserved {
    address: String,
    /// Bound, and never listening: a server may bind it too, and the operating system gives it to nobody.
    _socket: TcpSocket,
}

impl Reserved {
    fn port() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        Self { address: socket.local_addr().expect("an address").to_string(), _socket: socket }
    }

    async fn serve(&self, database: &Database) -> Kith {
        let (listen, url) = (format!("--listen={}", self.address), format!("--database-url={}", database.url));
        let (delay, limits) = (format!("--drain-delay={NEVER}"), ["--max-sends-per-hour=0", "--max-sends-per-pair=0"]);
        Kith::start(command(&[&[listen.as_str(), &url, &delay], &limits[..]].concat())).await
    }
}

/// What a client-side balancer knows of a server.
struct Endpoint {
    clients: Clients,
    is_serving: Arc<AtomicBool>,
}

/// A client that sends its calls in turn to the servers that are SERVING, and each at most twice.
#[derive(Clone)]
struct Balancer {
    endpoints: Arc<Vec<Endpoint>>,
    next: Arc<AtomicUsize>,
}

impl Balancer {
    /// Follows the health of these servers until the set is dropped.
    fn start(servers: &[Kith], following: &mut JoinSet<()>) -> Self {
        let mut endpoints = Vec::new();
        for server in servers {
            let is_serving = Arc::new(AtomicBool::new(false));
            following.spawn(follow(server.fresh_clients(), Arc::clone(&is_serving)));
            endpoints.push(Endpoint { clients: server.fresh_clients(), is_serving });
        }
        Self { endpoints: Arc::new(endpoints), next: Arc::default() }
    }

    fn sees(&self, number: usize) -> bool {
        self.endpoints[number].is_serving.load(Ordering::SeqCst)
    }

    /// The next server that is SERVING, other than this one.
    fn pick(&self, other_than: Option<usize>) -> usize {
        let number = self.endpoints.len();
        let first = self.next.fetch_add(1, Ordering::SeqCst);
        let mut following = (first..first + number).map(|next| next % number);
        following.find(|next| Some(*next) != other_than && self.sees(*next)).expect("a server that is SERVING")
    }

    /// Makes a call, and once more if no server has carried it out.
    async fn call<M: Clone, T, F>(&self, message: M, call: impl Fn(Clients, M) -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        let first = self.pick(None);
        match call(self.endpoints[first].clients.clone(), message.clone()).await {
            Ok(response) => response,
            Err(status) if status.code() == Code::Unavailable || was_never_sent(&status) => {
                let second = call(self.endpoints[self.pick(Some(first))].clients.clone(), message).await;
                second.unwrap_or_else(|again| panic!("failed twice: {status:?}, {again:?}"))
            }
            Err(status) => panic!("failed: {status:?}"),
        }
    }
}

/// Whether the connection was closed before it took the call. Other clients than tonic retry that by themselves.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Follows the health of a server, also through its restarts.
async fn follow(clients: Clients, is_serving: Arc<AtomicBool>) {
    let request = HealthCheckRequest { service: "kith.v1.ConnectionService".to_owned() };
    loop {
        if let Ok(stream) = HealthClient::new(clients.0.clone()).watch(request.clone()).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(response)) = stream.message().await {
                is_serving.store(response.status == ServingStatus::Serving as i32, Ordering::SeqCst);
            }
        }
        is_serving.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A caller connects two users and parts them, again and again. Returns how often.
async fn connect_and_part(balancer: Balancer, user: i64, steps: Arc<AtomicI64>, stopped: watch::Receiver<bool>) -> i64 {
    let (other, mut times) = (user + CALLERS, 0);
    let request_id = || Uuid::new_v4().to_string();
    while !*stopped.borrow() {
        let send = pb::SendConnectionRequestRequest {
            from_user_id: user,
            to_user_id: other,
            request_id: request_id(),
            ..Default::default()
        };
        let sent = balancer.call(send, |to, send| async move { to.requests().send_connection_request(send).await });
        let id = sent.await.into_inner().connection_request.expect("a request").id;
        let accept =
            pb::AcceptConnectionRequestRequest { id, user_id: other, request_id: request_id(), ..Default::default() };
        let accepted =
            balancer.call(accept, |to, accept| async move { to.requests().accept_connection_request(accept).await });
        let min_revision = accepted.await.into_inner().revision;
        let read =
            pb::GetConnectionStatusRequest { user_id: user, other_user_id: other, min_revision, ..Default::default() };
        let read = balancer.call(read, |to, read| async move { to.connections().get_connection_status(read).await });
        assert_eq!(read.await.into_inner().status(), ConnectionStatus::Connected);
        let remove = pb::RemoveConnectionRequest { user_id: user, other_user_id: other, request_id: request_id() };
        balancer.call(remove, |to, remove| async move { to.connections().remove_connection(remove).await }).await;
        times += 1;
        steps.fetch_add(1, Ordering::SeqCst);
    }
    times
}

/// A consumer of the feed that resumes on another server, until it has the event at the end.
async fn consume(balancer: Balancer, end: watch::Receiver<i64>) -> Fold {
    let mut known = Fold::default();
    while known.sequence < *end.borrow() {
        let watch = from(known.sequence, 100);
        let mut watching = balancer.call(watch, |to, watch| async move { to.try_watch(watch).await }).await;
        while known.sequence < *end.borrow() {
            match watching.message().await {
                Ok(message) => message.events.iter().for_each(|event| known.add(event).expect("the next event")),
                Err(status) if status.code() == Code::Unavailable => break,
                Err(status) => panic!("a watch ended: {status:?}"),
            }
        }
    }
    known
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_and_no_event_is_missed_while_servers_restart_one_after_the_other() {
    let database = Database::migrated(Engine::Postgres).await;
    let ports: Vec<_> = std::iter::repeat_with(Reserved::port).take(3).collect();
    let mut servers = Vec::new();
    for port in &ports {
        servers.push(port.serve(&database).await);
    }
    for user in 1..=2 * CALLERS {
        servers[0].clients().create(user).await.expect("a user");
    }
    let mut following = JoinSet::new();
    let balancer = Balancer::start(&servers, &mut following);
    let all_serve = async || until("all serve", async || (0..ports.len()).all(|number| balancer.sees(number))).await;
    all_serve().await;

    let (steps, (stop, stopped), (end, ended)) =
        (Arc::new(AtomicI64::new(0)), watch::channel(false), watch::channel(i64::MAX));
    let (mut callers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for user in 1..=CALLERS {
        callers.spawn(connect_and_part(balancer.clone(), user, Arc::clone(&steps), stopped.clone()));
    }
    for _ in 0..3 {
        consumers.spawn(consume(balancer.clone(), ended.clone()));
    }
    for (number, port) in ports.iter().enumerate() {
        let before = steps.load(Ordering::SeqCst);
        until("calls go on", async || steps.load(Ordering::SeqCst) >= before + 2 * CALLERS).await;
        let server = servers.remove(0);
        server.signal("TERM");
        // The balancer knows before the first server refuses connections. At the end of the others, calls are on their
        // way.
        if number == 0 {
            until("it is NOT_SERVING", async || !balancer.sees(number)).await;
        } else {
            until("it drains", async || server.log().contains("still accepting calls")).await;
        }
        server.signal("TERM");
        let ended = server.wait().await;
        assert!(ended.status.success() && !ended.log.contains("aborting"), "{ended:#?}");
        servers.push(port.serve(&database).await);
        all_serve().await;
    }
    stop.send_replace(true);
    let times: i64 = callers.join_all().await.into_iter().sum();
    end.send_replace(database.number("SELECT last_sequence AS value FROM feed").await);
    for known in consumers.join_all().await {
        assert_eq!(known.differences(&database).await, Vec::<String>::new());
    }
    for kind in ["REQUEST_CREATED", "CONNECTION_CREATED", "CONNECTION_REMOVED"] {
        let events = database.number(&format!("SELECT count(*) AS value FROM events WHERE kind = '{kind}'")).await;
        assert_eq!(events, times, "{kind}");
    }
    invariants::check(&database).await;
}
