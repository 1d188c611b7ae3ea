use futures_util::stream;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::store::{Options, connect};

/// Without the task that commits, a server would say that it serves and serve no writes.
#[tokio::test]
async fn the_end_of_the_committing_task_is_the_end_of_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite://{}", directory.path().join("kith.db").display());
    let store = connect(&url.parse().expect("a URL"), Options::default()).await.expect("a store");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let commits = Committer::start(Arc::clone(&store), Arc::default(), 8, &Metrics::default());
    let end = commits.1.abort_handle();
    let server = tokio::spawn(serve_with(commits, listener.into(), store, Settings::default(), stream::pending()));

    let channel = Channel::from_shared(address).expect("an address").connect().await.expect("a connection");
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: USER.to_owned() };
    let mut changes = health.watch(request).await.expect("a watch").into_inner();
    let mut status = async || changes.message().await.expect("a status").map(|changed| changed.status());
    use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
    while status().await != Some(Serving) {}
    end.abort();
    assert_eq!(status().await, Some(NotServing));
    let failure = server.await.expect("no panic").expect_err("a failure");
    assert_eq!(failure.to_string(), COMMITTER_ENDED);
}
