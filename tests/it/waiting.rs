//! What Kith does while its database is not there yet.

use std::time::Duration;

use kith::proto::v1::ErrorReason;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::daemon::free_port;
use crate::harness::own_postgres::{OwnPostgres, PASSWORD};
use crate::harness::process::{Kith, command, run};
use crate::harness::{Database, Engine, refused, until};

pub const SERVICE: &str = "kith.v1.ConnectionRequestService";

/// The health of a service, or of the process.
pub async fn health(channel: Channel, service: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel).check(request).await.ok().map(|answer| answer.into_inner().status())
}

/// Starts a server for a database that is not there.
fn serve(server: u16, args: &[&str]) -> Kith {
    let address = format!("127.0.0.1:{}", free_port());
    let mut serve = command(&[&["serve", "--listen", &address], args].concat());
    serve.env("PGPASSWORD", PASSWORD);
    serve.env("KITH_DATABASE_URL", format!("postgres://postgres@localhost:{server}/postgres"));
    Kith::start_early(serve, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_serves_as_soon_as_its_database_is_there() {
    let mut server = OwnPostgres::prepare();
    let kith = serve(server.port, &["--database-wait=10m"]);
    until("health", async || health(kith.channel(), SERVICE).await == Some(ServingStatus::NotServing)).await;
    assert_eq!(health(kith.channel(), "").await, Some(ServingStatus::NotServing));
    refused(kith.clients().create(1).await, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let mut changes = HealthClient::new(kith.channel()).watch(request).await.expect("a watch").into_inner();
    assert_eq!(changes.message().await.unwrap().map(|change| change.status()), Some(ServingStatus::NotServing));
    until("two reports", async || kith.log().matches("the database is not there yet").count() >= 2).await;

    server.start();
    // Nobody goes on to watch a server that has ended.
    let ended = timeout(Duration::from_secs(60), changes.message()).await.expect("the watch ends");
    assert_eq!(ended.unwrap(), None);
    until("health", async || health(kith.channel(), SERVICE).await == Some(ServingStatus::Serving)).await;
    let clients = kith.clients();
    let (ann, bob) = (clients.user("ann").await, clients.user("bob").await);
    clients.send(ann, bob).await;
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success(), "{ended:#?}");
    let first = ended.log.lines().find(|line| line.contains("not there yet")).expect("a report");
    assert!(first.contains("refused") && first.contains("s more") && !ended.log.contains("hunter2"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_the_waiting() {
    for signal in ["TERM", "INT"] {
        let kith = serve(free_port(), &["--database-wait=10m"]);
        until("a report", async || kith.log().contains("not there yet")).await;
        kith.signal(signal);
        let ended = kith.wait().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_waiting_ends_in_the_cause() {
    let url = format!("--database-url=postgres://postgres@localhost:{}/postgres", free_port());
    for command in ["serve", "migrate", "check", "export", "restore-epoch"] {
        let listen: &[&str] = if command == "serve" { &["--listen=127.0.0.1:0"] } else { &[] };
        let ended = run(&[&[command, "--database-wait=1s", &url], listen].concat()).await;
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        let last = ended.log.lines().last().expect("a line");
        for words in ["--database-url", "refused", "waited 1s"] {
            assert!(last.contains(words), "no {words:?} in {ended:#?}");
        }
        let ended = run(&[&[command, "--database-wait=0", &url], listen].concat()).await;
        assert!(ended.status.code() == Some(1) && !ended.log.contains("waited"), "{ended:#?}");
    }
    // A database that does not exist is none that starts.
    let database = Database::empty(Engine::Postgres).await;
    let url = format!("--database-url={}_of_another_name", database.url);
    let ended = run(&["check", &url]).await;
    assert!(ended.status.code() == Some(1) && !ended.log.contains("not there yet"), "{ended:#?}");
}
