//! The log of calls: nothing for those that succeed, and one line with the cause for each that fails.

use kith::proto::v1::{self as pb, ErrorReason};
use tonic::Code;

use crate::faults::reveals_nothing;
use crate::harness::process::Kith;
use crate::harness::{Database, Engine};

/// The log lines of these calls.
fn lines<'a>(log: &'a str, call: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(call)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_call_logs_one_line_with_its_cause_which_its_caller_does_not_receive() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let ann = kith.clients().user("ann").await;
    database.execute("ALTER TABLE blocks RENAME TO canary").await;
    let list = pb::ListBlockedUsersRequest { user_id: ann, ..Default::default() };
    let failed = kith.clients().blocks().list_blocked_users(list.clone()).await;
    reveals_nothing(failed, Code::Unavailable, ErrorReason::DatabaseUnavailable);
    let invalid = pb::ListBlockedUsersRequest { user_id: 0, ..list };
    assert!(kith.clients().blocks().list_blocked_users(invalid).await.is_err());
    kith.signal("TERM");
    let log = kith.wait().await.log;
    assert_eq!(lines(&log, "/kith.v1.UserService/").len(), 0, "{log}");
    let [line] = lines(&log, "/kith.v1.BlockService/ListBlockedUsers")[..] else { panic!("not one line in {log}") };
    for words in ["WARN", "call failed", "code=Unavailable", "ms=", "the database is unavailable", "no such table"] {
        assert!(line.contains(words), "no {words:?} in {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_that_ends_a_stream_is_logged_in_one_line_too() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--log-level=kith=debug"]).await;
    kith.clients().user("ann").await;
    let request = pb::WatchEventsRequest::default();
    let mut watch = kith.clients().events().watch_events(request).await.expect("a stream").into_inner();
    watch.message().await.expect("a heartbeat");
    database.execute("UPDATE feed SET epoch = 'another'").await;
    let ended = loop {
        match watch.message().await {
            Ok(message) => assert!(message.is_some(), "it ended without an error"),
            Err(status) => break status,
        }
    };
    reveals_nothing(Err::<(), _>(ended), Code::FailedPrecondition, ErrorReason::WrongEpoch);
    kith.signal("TERM");
    let log = kith.wait().await.log;
    assert!(lines(&log, "/kith.v1.UserService/CreateUser")[..].iter().all(|line| line.contains("call done")), "{log}");
    // The call itself succeeded.
    let [done, failed] = lines(&log, "/kith.v1.EventService/WatchEvents")[..] else { panic!("not two lines in {log}") };
    assert!(done.contains("call done"), "{done}");
    assert!(failed.contains("DEBUG") && failed.contains("call failed"), "{failed}");
    assert!(failed.contains("code=FailedPrecondition"), "{failed}");
}
