//! `kith status` and `kith history`: what support needs to know of two users.

use serde_json::{Value, json};

use super::{Client, parsed};
use crate::harness::Engine;
use crate::on_each_engine;

on_each_engine! {
    async fn the_status_of_two_users_has_all_that_is_known_of_them(engine: Engine) {
        let client = Client::start(engine, &[]).await;
        for name in ["ann", "bob", "cy"] {
            client.prints(&["user", "create", name, "--email=secret@example.com"]).await;
        }
        let nothing = client.shows(&["status", "ann", "bob"]).await;
        let expected = "\
times in UTC       1 ann             2 bob
user status        APPROVED          APPROVED
status to other    NONE              NONE
blocks other       no                no
requests sent      0 of 1000         0 of 1000
requests received  0                 0
requests unviewed  0                 0
connections        0 of 30000        0 of 30000
sends in an hour   0 of 100          0 of 100

revision 3
";
        assert_eq!(nothing.replace("  ", ""), expected.replace("  ", ""), "{nothing}");
        // Bob rejects a request, and blocks Ann, whose next request is silenced.
        client.prints(&["request", "send", "ann", "cy"]).await;
        client.prints(&["request", "send", "ann", "bob"]).await;
        client.prints(&["request", "reject", "5", "--as=bob"]).await;
        client.prints(&["request", "cancel", "5", "--as=ann"]).await;
        client.prints(&["block", "add", "bob", "ann"]).await;
        client.prints(&["request", "send", "ann", "bob", "--message=please"]).await;
        let status = client.shows(&["status", "ann", "bob"]).await;
        let expected = "\
times in UTC       1 ann                      2 bob
user status        APPROVED                   APPROVED
status to other    REQUEST_SENT               BLOCKED
blocks other       no                         since 0000-00-00 00:00
cooldown           since 0000-00-00 00:00
ended requests     1, since 0000-00-00 00:00
requests sent      2 of 1000                  0 of 1000
requests received  0                          0
requests unviewed  0                          0
connections        0 of 30000                 0 of 30000
sends in an hour   3 of 100                   0 of 100
  from             0000-00-00 00:00

request    10
  from     1 ann
  to       2 bob
  state    SILENCED
  created  0000-00-00 00:00:00 UTC

events: 5 of 6; kith history prints all
SEQUENCE  TIME (UTC)        KIND               USERS  BY      CAUSE
6         0000-00-00 00:00  REQUEST_VIEWED     1 → 2  USER 2
7         0000-00-00 00:00  REQUEST_REJECTED   1 → 2  USER 2
8         0000-00-00 00:00  REQUEST_CANCELLED  1 → 2  USER 1
9         0000-00-00 00:00  USER_BLOCKED       2 → 1  USER 2
10        0000-00-00 00:00  REQUEST_CREATED    1 → 2  USER 1  BLOCKED silenced

revision 10
";
        assert_eq!(status, expected, "{status}");
        assert!(status.lines().all(|line| line.chars().count() <= 80));
        // The same from the other side, and with the message if it is asked for.
        let reverse = client.json(&["status", "2", "1"]).await;
        let mut sides = client.json(&["status", "ann", "bob"]).await["sides"].take();
        sides.as_array_mut().expect("sides").reverse();
        assert_eq!(reverse["sides"], sides);
        assert_eq!(reverse["connection_request"].get("message"), None);
        assert!(!reverse.to_string().contains("secret"), "{reverse}");
        assert_eq!(reverse["sides"][1]["cooldown"]["from_user_id"], 1);
        assert!(client.shows(&["status", "2", "1", "--messages"]).await.contains("  message  please\n"));
        client.fails(&["status", "1", "9"], 1, "reason: USER_NOT_FOUND (user_id=9)").await;
        client.fails(&["status", "1", "nobody"], 1, "USER_NOT_FOUND").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_two_users_has_their_events() {
    let client = Client::start(Engine::Sqlite, &[]).await;
    for name in ["ann", "bob", "cy"] {
        client.prints(&["user", "create", name]).await;
    }
    client.prints(&["request", "send", "ann", "bob"]).await;
    client.prints(&["request", "send", "ann", "cy"]).await;
    client.prints(&["request", "reject", "4", "--as=bob"]).await;
    let expected = "SEQUENCE  TIME (UTC)        KIND              USERS  BY      CAUSE\n\
                    4         0000-00-00 00:00  REQUEST_CREATED   1 → 2  USER 1\n\
                    6         0000-00-00 00:00  REQUEST_VIEWED    1 → 2  USER 2\n\
                    7         0000-00-00 00:00  REQUEST_REJECTED  1 → 2  USER 2\n";
    assert_eq!(client.shows(&["history", "bob", "ann"]).await, expected);
    let lines = client.prints(&["history", "ann", "bob", "-o", "jsonl"]).await;
    let sequences: Vec<Value> = lines.lines().map(|line| parsed(line)["sequence"].clone()).collect();
    assert_eq!(sequences, [json!(4), json!(6), json!(7)]);
    // As the sender may see it.
    let anns = client.json(&["history", "ann", "bob", "--as=ann"]).await;
    assert_eq!(anns["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(client.shows(&["history", "bob", "cy"]).await.lines().count(), 1);
}
