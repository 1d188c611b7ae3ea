//! Do the PostgreSQL servers that replicate do what tests of failovers need?

use std::time::Duration;

use tokio::time::timeout;

use crate::harness::database::{connect, execute};
use crate::harness::replicated::{Node, urls};
use crate::harness::until;

const COUNT: &str = "(SELECT count(*) FROM marks)";

async fn mark(node: &Node) {
    execute(&node.url(), "INSERT INTO marks DEFAULT VALUES").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_a_standby_never_received_are_lost_with_the_primary() {
    let mut primary = Node::primary().await;
    let standby = primary.standby().await;
    execute(&primary.url(), "CREATE TABLE marks (id bigserial)").await;
    mark(&primary).await;
    primary.wait_for(&standby).await;
    assert!(standby.is_standby().await && standby.value(COUNT).await == "1");

    standby.pause_replay().await;
    mark(&primary).await;
    assert_eq!(standby.value(COUNT).await, "1");
    standby.resume_replay().await;
    primary.wait_for(&standby).await;

    standby.stop_streaming().await;
    until("the end", async || primary.value("(SELECT count(*) FROM pg_stat_replication)").await == "0").await;
    mark(&primary).await;
    primary.kill();
    standby.promote().await;
    assert_eq!((standby.value(COUNT).await.as_str(), standby.timeline().await), ("2", 2));

    // The old primary comes back without what only it had.
    standby.rejoin(&mut primary).await;
    standby.wait_for(&primary).await;
    assert!(primary.is_standby().await && primary.value(COUNT).await == "2");
    mark(&standby).await;
    standby.wait_for(&primary).await;
    assert_eq!(primary.value(COUNT).await, "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_commits_wait_for_the_standby_and_a_frozen_node_answers_nobody() {
    let primary = Node::primary().await;
    let standby = primary.standby().await;
    execute(&primary.url(), "CREATE TABLE marks (id bigserial)").await;
    primary.synchronous(true).await;
    mark(&primary).await;
    standby.freeze();
    let client = connect(&primary.url()).await;
    let waiting = client.batch_execute("INSERT INTO marks DEFAULT VALUES");
    let mut waiting = Box::pin(waiting);
    assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "it does not wait");
    // It accepts the connection, and nothing else.
    let url = standby.url();
    let silent = tokio_postgres::connect(&url, tokio_postgres::NoTls);
    assert!(timeout(Duration::from_millis(200), silent).await.is_err(), "it answers");
    standby.thaw();
    waiting.await.expect("a commit");
    primary.wait_for(&standby).await;
    assert_eq!(standby.value(COUNT).await, "2");
    primary.synchronous(false).await;
    standby.stop_streaming().await;
    mark(&primary).await;
    primary.stream_to(&standby).await;
    primary.wait_for(&standby).await;
    let hosts = urls(&[&standby, &primary], "&target_session_attrs=read-write");
    assert!(hosts.contains(&format!("{},127.0.0.1:{}", standby.port, primary.port)), "{hosts}");
    drop((primary, standby));
}
