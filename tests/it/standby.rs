//! Does a server with `--read-only` work on a hot standby, before and after its promotion?

use kith::proto::v1::{self as pb, ErrorReason};
use tonic::Code;

use crate::harness::process::{Kith, run};
use crate::harness::{database, postgres, refused, until};
use crate::read_only::{prepare, refuses_writes, serves_reads};

/// A list that reflects a revision.
fn users(min_revision: i64) -> pb::ListUsersRequest {
    pb::ListUsersRequest { min_revision, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_serves_reads_and_watches_and_refuses_writes() {
    let primary = postgres::Own::start();
    database::execute(&primary.server.url("postgres"), "CREATE DATABASE kith").await;
    let writer = Kith::serve(&primary.server.url("kith"), &[]).await;
    let prepared = prepare(&writer.clients()).await;
    let standby = primary.standby();
    let url = standby.server.url("kith");
    let database = format!("--database-url={url}");

    let ended = run(&["serve", "--listen=127.0.0.1:0", &database]).await;
    let words = ["the database is a standby (in recovery)", "`kith serve --read-only`"];
    assert!(!ended.status.success() && words.iter().all(|word| ended.log.contains(word)), "{ended:#?}");

    let reader = Kith::serve(&url, &["--read-only"]).await;
    let clients = reader.clients();
    until("it serves", async || run(&["healthcheck", &format!("--address={}", reader.address)]).await.status.success())
        .await;
    refuses_writes(&clients, &prepared).await;
    let mut watching = clients.watch(pb::WatchEventsRequest::default()).await;
    writer.clients().update(1, "new").await;
    let event = watching.next_events().await.events.remove(0);
    assert_eq!((event.kind(), event.user_id), (pb::EventKind::UserUpdated, 1));
    serves_reads(&clients, event.sequence).await;

    // While it is behind, a read says so.
    database::execute(&url, "SELECT pg_wal_replay_pause()").await;
    writer.clients().create(20).await.expect("a user");
    let behind = clients.users().list_users(users(event.sequence + 1)).await;
    refused(behind, Code::Unavailable, ErrorReason::RevisionNotReached);
    database::execute(&url, "SELECT pg_wal_replay_resume()").await;
    assert_eq!(watching.next_events().await.events[0].user_id, 20);
    let listed = clients.users().list_users(users(event.sequence + 1)).await.expect("a list").into_inner();
    assert_eq!(listed.users[0].id, 20);

    for args in [&["check"][..], &["migrate", "--status"]] {
        let ended = run(&[args, &[&database]].concat()).await;
        assert!(ended.status.success(), "{ended:#?}");
    }

    // After a failover the same server goes on reading, now notified of commits, and another one writes.
    drop((writer, primary));
    database::execute(&url, "SELECT pg_promote()").await;
    let writer = Kith::serve(&url, &[]).await;
    writer.clients().create(21).await.expect("a user");
    assert_eq!(watching.next_events().await.events[0].user_id, 21);
    reader.signal("TERM");
    let ended = reader.wait().await;
    assert!(ended.status.success(), "{ended:#?}");
    // Nothing but the read that was refused.
    let warnings = ended.log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    assert!(warnings.eq(ended.log.lines().filter(|line| line.contains("UserService/ListUsers"))), "{ended:#?}");
}
