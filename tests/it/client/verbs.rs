//! The everyday verbs.

use serde_json::json;
use tempfile::NamedTempFile;

use super::Client;
use crate::harness::Engine;
use crate::on_each_engine;

on_each_engine! {
    async fn every_verb_does_what_it_says(engine: Engine) {
        let client = Client::start(engine, &[]).await;
        // Users.
        let created = client.shows(&["user", "create", "ann", "--real-name=Ann A", "--email=ann@example.com"]).await;
        assert_eq!(created, "user      1 ann\nrevision  1\n");
        let bob = client.json(&["user", "create", "bob", "--id=2", "--profile", r#"{"bio": "Hi", "gender": "MALE"}"#]).await;
        assert_eq!((&bob["user"]["bio"], &bob["user"]["gender"]), (&json!("Hi"), &json!("GENDER_MALE")));
        client.prints(&["user", "create", "cy"]).await;
        let list = "ID  USERNAME  STATUS\n3   cy        APPROVED\n2   bob       APPROVED\n1   ann       APPROVED\n";
        assert_eq!(client.shows(&["user", "list"]).await, list);
        let full = client.shows(&["user", "list", "--full", "--limit=3"]).await;
        let expected = "ID  USERNAME  STATUS    JOINED (UTC)      REAL NAME  EMAIL\n\
                        3   cy        APPROVED  0000-00-00 00:00\n2   bob       APPROVED  0000-00-00 00:00\n\
                        1   ann       APPROVED  0000-00-00 00:00  Ann A      ann@example.com\n";
        assert_eq!(full, expected);
        let get = "user\n  id         1\n  username   ann\n  real_name  Ann A\n  status     APPROVED\nrevision     3\n";
        assert_eq!(client.shows(&["user", "get", "ann"]).await, get);
        assert_eq!(client.shows(&["user", "get", "1"]).await, get);
        assert!(client.shows(&["user", "get", "@ann", "--full"]).await.contains("ann@example.com\n"));
        client.prints(&["user", "update", "bob", r#"{"bio": null, "real_name": "Bob B", "status": "APPROVED"}"#]).await;
        let bob = client.json(&["user", "get", "bob", "--full"]).await;
        assert_eq!((bob["user"].get("bio"), &bob["user"]["real_name"]), (None, &json!("Bob B")));

        // A request, until both are connected.
        let sent = client.shows(&["request", "send", "ann", "bob", "--message=Hi Bob"]).await;
        let expected = "connection_request\n  id                5\n  from_user         1 ann\n  to_user           2 bob\n  \
                        created           0000-00-00 00:00:00 UTC\n  message           Hi Bob\n  state             PENDING\n\
                        status              REQUEST_SENT\nrevision            5\n";
        assert_eq!(sent, expected);
        let pending = "ID  FROM   TO     STATE    CREATED (UTC)     VIEWED (UTC)\n\
                       5   1 ann  2 bob  PENDING  0000-00-00 00:00\n";
        assert_eq!(client.shows(&["request", "list", "bob"]).await, pending);
        assert_eq!(client.shows(&["request", "list", "ann", "--sent"]).await, pending);
        assert_eq!(client.shows(&["request", "list", "2", "--unviewed"]).await, pending);
        assert!(client.shows(&["request", "list", "bob", "--full"]).await.ends_with("00:00  Hi Bob\n"));
        client.prints(&["request", "view", "5", "--as=bob"]).await;
        client.prints(&["request", "reject", "5", "--as=2"]).await;
        assert_eq!(client.json(&["request", "list", "2", "--rejected"]).await["connection_requests"][0]["id"], 5);
        // As its sender sees it, and as it is.
        let state = async |args: &[&str]| client.json(args).await["connection_request"]["state"].take();
        assert_eq!(state(&["request", "get", "5", "--as=ann"]).await, "CONNECTION_REQUEST_STATE_PENDING");
        assert_eq!(state(&["request", "get", "5"]).await, "CONNECTION_REQUEST_STATE_REJECTED");
        client.prints(&["request", "restore", "5", "--as=bob"]).await;
        assert_eq!(state(&["request", "accept", "5", "--as=bob", "--reply=Hi"]).await, "CONNECTION_REQUEST_STATE_CONNECTED");
        client.prints(&["request", "send", "cy", "ann"]).await;
        client.prints(&["request", "cancel", "10", "--as=cy"]).await;

        // Connections.
        client.prints(&["request", "send", "cy", "ann"]).await;
        client.prints(&["request", "send", "ann", "cy"]).await;
        let connections = "USER   CONNECTED (UTC)   REQUEST\n3 cy   0000-00-00 00:00  12\n2 bob  0000-00-00 00:00  5\n";
        assert_eq!(client.shows(&["connection", "list", "ann"]).await, connections);
        assert_eq!(client.shows(&["connection", "list", "ann", "--as=bob"]).await, connections);
        assert!(client.shows(&["connection", "counts", "ann"]).await.starts_with("connections"));
        let mutual = client.shows(&["connection", "mutual", "bob", "cy"]).await;
        assert_eq!(mutual, "ID  USERNAME  STATUS\n1   ann       APPROVED\ntotal  1\n");
        assert_eq!(client.shows(&["connection", "remove", "ann", "cy"]).await, "status    NONE\nrevision  14\n");

        // Blocks.
        let block = client.shows(&["block", "add", "ann", "bob"]).await;
        assert_eq!(block, "block\n  user     2 bob\n  created  0000-00-00 00:00:00 UTC\nstatus     BLOCKED\nrevision   16\n");
        assert_eq!(client.shows(&["block", "list", "ann"]).await, "USER   CREATED (UTC)\n2 bob  0000-00-00 00:00\n");
        client.prints(&["block", "remove", "ann", "bob"]).await;
        assert_eq!(client.shows(&["block", "list", "ann"]).await, "USER  CREATED (UTC)\n");

        // By the keys of another system.
        client.prints(&["user", "create", "--external-id=0b1e"]).await;
        client.prints(&["request", "send", "ann", "ext:0b1e"]).await;
        assert!(client.shows(&["request", "list", "ext:0b1e"]).await.contains("  1 ann  4 0b1e  PENDING"));
        let list = client.shows(&["user", "list", "--limit=2"]).await;
        let expected = "ID  USERNAME  STATUS    EXTERNAL ID\n4             APPROVED  0b1e\n3   cy        APPROVED\n";
        assert_eq!(list, expected);

        client.prints(&["user", "delete", "cy"]).await;
        client.fails(&["user", "get", "3"], 1, "reason: USER_NOT_FOUND (user_id=3)").await;
    }

    async fn users_are_imported_from_lines_of_json(engine: Engine) {
        let client = Client::start(engine, &[]).await;
        let lines = "{\"id\": 7, \"username\": \"ann\"}\n{\"id\": 8, \"username\": \"bob\", \"status\": \"BLOCKED\"}\n";
        let (code, output, log) = client.piped(&["user", "import"], lines);
        assert_eq!((code, &*output, &*log), (Some(0), "created  2\n", ""));
        let file = NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{lines}{{\"id\": 9, \"username\": \"a b\"}}\n")).expect("a file");
        let ended = client.run(&["user", "import", &file.path().display().to_string()]).await;
        assert_eq!(ended.status.code(), Some(3), "{ended:#?}");
        assert!(ended.output.starts_with("POSITION  REASON          FIELDS\n2         INVALID_FIELDS  user.username "), "{ended:#?}");
        assert!(ended.output.contains("\nunchanged  2\nrefused    1\n"), "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_have_as_many_rows_as_are_asked_for() {
    let client = Client::start(Engine::Sqlite, &[]).await;
    let users: String = (1..=1_050).map(|id| format!("{{\"id\": {id}, \"username\": \"user-{id}\"}}\n")).collect();
    assert_eq!(client.piped(&["user", "import", "-"], &users).0, Some(0));
    let lines = async |args: &[&str]| {
        let ended = client.run(&[&["user", "list"], args].concat()).await;
        (ended.output.lines().count(), ended.log.contains("there are more rows"))
    };
    assert_eq!(lines(&[]).await, (21, true));
    assert_eq!(lines(&["--limit=1"]).await, (2, true));
    assert_eq!(lines(&["--limit=1050"]).await, (1_051, false));
    assert_eq!(lines(&["--all"]).await, (1_051, false));
    // Each line is a row, and an object is a response: its revision is that of the first page.
    assert_eq!(lines(&["--all", "-o", "jsonl"]).await, (1_050, false));
    let whole = client.json(&["user", "list", "--all"]).await;
    assert_eq!(whole["users"].as_array().expect("users").len(), 1_050);
    assert_eq!((whole.get("next_page_token"), &whole["revision"]), (None, &json!(1_050)));
    let line = client.prints(&["user", "list", "--limit=1", "-o", "jsonl"]).await;
    assert_eq!(super::parsed(&line), json!({"id": 1050, "username": "user-1050", "status": "USER_STATUS_APPROVED"}));
    let part = client.json(&["user", "list", "--limit=1001"]).await;
    assert_eq!(part["users"].as_array().map(Vec::len), Some(1_001));
    let next = part["next_page_token"].as_str().expect("a token");
    let rest = client
        .json(&[
            "call",
            "ListUsers",
            &json!({"page_token": next, "page_size": 1_000, "user_view": "BASIC"}).to_string(),
        ])
        .await;
    assert_eq!(rest["users"].as_array().map(Vec::len), Some(49));
}
