//! `kith call`: any RPC, with JSON.

use std::fs;

use serde_json::json;
use tempfile::tempdir;

use super::{Client, parsed};
use crate::harness::Engine;
use crate::harness::printer::Printer;
use crate::harness::process::{command, run};
use crate::harness::tokens::{AUDIENCE, ISSUER, Signer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_responses_are_json() {
    let client = Client::start(Engine::Sqlite, &[]).await;
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("user.json");
    fs::write(&file, "{\n  \"user\": {\"username\": \"bob\"}\n}\n").expect("a file");
    let ann = r#"{"user": {"username": "ann", "status": "BLOCKED", "birthday": "2000-01-02"}}"#;
    let created = parsed(&client.prints(&["call", "CreateUser", ann]).await);
    let expected = json!({"user": {"id": 1, "username": "ann", "date_joined": created["user"]["date_joined"],
        "birthday": "2000-01-02", "status": "USER_STATUS_BLOCKED"}, "revision": 1, "epoch": created["epoch"]});
    assert_eq!(created, expected);
    client.prints(&["call", "UserService/CreateUser", &format!("@{}", file.display())]).await;
    let (code, output, log) =
        client.piped(&["call", "kith.v1.UserService.CreateUser", "-"], r#"{"user":{"username":"cy"}}"#);
    assert_eq!((code, parsed(&output)["user"]["id"].as_i64(), &*log), (Some(0), Some(3), ""));
    // What is printed is read again.
    let cy = parsed(&output)["user"].clone();
    let update = json!({"user": cy, "update_mask": "bio,realName"}).to_string();
    assert_eq!(parsed(&client.prints(&["call", "UpdateUser", &update]).await)["user"], cy);
    // Without a request it is empty.
    assert_eq!(client.prints(&["call", "listusers", "-o", "jsonl"]).await.lines().count(), 1);
    assert!(client.prints(&["call", "ListUsers", "-o", "table"]).await.starts_with("ID  USERNAME"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_lines_of_json() {
    let client = Client::start(Engine::Sqlite, &[]).await;
    let row = |id: i64, name: &str| format!("{{\"user\": {{\"id\": {id}, \"username\": \"{name}\"}}}}\n");
    let (code, output, log) = client.piped(&["call", "ImportUsers", "-"], &(row(1, "ann") + &row(2, "bob")));
    let expected = json!({"created": 2, "revision": 2, "epoch": parsed(&output)["epoch"]});
    assert_eq!((code, parsed(&output), &*log), (Some(0), expected, ""));
    // What was sent before an error of the input is carried out.
    for (number, wrong, words) in [
        (3, "{\"user\": ", "message 2 of the input: the JSON is not valid"),
        (4, "[]", "message 2 of the input: it is no JSON object"),
        (5, "{\"usr\": {}}", "message 2 of the input: ImportUsersRequest has no field \"usr\"; did you mean user?"),
    ] {
        let input = row(number, &format!("user-{number}")) + wrong;
        let (code, output, log) = client.piped(&["call", "ImportUsers", "-"], &input);
        assert_eq!((code, parsed(&output)["created"].as_i64()), (Some(2), Some(1)), "{log}");
        assert!(log.contains(words), "{log}");
        client.prints(&["user", "get", &number.to_string()]).await;
    }
    let export = client.prints(&["call", "ExportUser", r#"{"id": 1}"#]).await;
    let items: Vec<_> = export.lines().map(parsed).collect();
    assert_eq!(items[0]["user"]["username"], "ann");
    assert!(items.len() > 2 && items.iter().all(|item| item["revision"].is_i64()), "{export}");
    let server = &client.kith.address;
    let watch =
        command(&["call", "WatchEvents", r#"{"after_sequence": 1, "kinds": ["USER_CREATED"]}"#, "--server", server]);
    let mut watch = Printer::start(watch);
    // The first message has no events.
    assert_eq!(watch.line().await["revision"], 1);
    let event = watch.line().await["events"][0].clone();
    assert_eq!((&event["kind"], &event["user_id"]), (&json!("EVENT_KIND_USER_CREATED"), &json!(2)));
    // The same event, in the same form, by each command that prints it.
    let mut watch = Printer::start(command(&["watch", "--after=1", "--kind=USER_CREATED", "--server", server]));
    assert_eq!(watch.line().await, event);
    let listed = client.json(&["call", "ListEvents", r#"{"after_sequence": 1, "page_size": 1}"#]).await;
    assert_eq!(listed["events"][0], event);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_command_line_is_said_without_a_call() {
    let client = Client::start(Engine::Sqlite, &[]).await;
    for (args, words) in [
        (
            &["call", "SendConnectionRequst"][..],
            "there is no RPC \"SendConnectionRequst\"; did you mean SendConnectionRequest?",
        ),
        (&["call", "Nothing"], "`kith call` without arguments lists all"),
        (&["call", "GetUser", "{"], "the JSON is not valid"),
        (&["call", "GetUser", ""], "the JSON is empty"),
        (&["call", "GetUser", "7"], "the JSON is no object"),
        (&["call", "GetUser", "{} {}"], "more than one value"),
        (
            &["call", "GetUser", r#"{"usernam": "ann"}"#],
            "GetUserRequest has no field \"usernam\"; did you mean username?",
        ),
        (&["call", "GetUser", r#"{"id": "x"}"#], "the JSON is no GetUserRequest"),
        (&["call", "GetUser", "@/no/such/file"], "/no/such/file: cannot be read"),
        (&["call", "ImportUsers"], "ImportUsers takes a stream"),
        (&["call", "ImportUsers", "{}", "--retry"], "--retry: ImportUsers takes a stream"),
        (&["call", "ImportUsers", "{}", "--as=1"], "--as: ImportUsers takes a stream"),
        (&["call", "CreateUser", "{}", "--as=1"], "--as: CreateUser acts for no user"),
        (&["request", "send", "1", "2", "--as=3"], "--as: from_user_id is 1 in the request"),
        (&["status", "1", "1"], "the two users are the same"),
        (&["status", "1", "2", "--as=1"], "--as: `kith status` shows both sides"),
        (&["user", "get", "0"], "write @0 for the username"),
        (&["user", "create", "ann", "--profile=[]"], "the JSON is no object"),
        (&["user", "import", "/no/such/file"], "/no/such/file: cannot be read"),
        (&["user", "list", "--limit=0"], "--limit"),
        (&["user", "list", "--limit=1", "--all"], "--all"),
        (
            &["connection", "list", "1", "-o", "xml"],
            "--output: invalid value \"xml\": must be one of: table, json, jsonl",
        ),
        (&["request", "accept", "x"], "invalid value 'x' for '<ID>'"),
    ] {
        client.fails(args, 2, words).await;
    }
    // A wrong setting is named as it was given.
    let mut wrong = command(&["user", "list", "--server", &client.kith.address]);
    wrong.env("KITH_TOKEN_FILE", "/no/such/token");
    let ended = crate::harness::process::run_command(wrong).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.starts_with("kith: KITH_TOKEN_FILE /no/such/token: cannot be read"), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_server_have_their_details() {
    let client = Client::start(Engine::Sqlite, &["--max-sends-per-hour=1"]).await;
    for name in ["ann", "bob", "cy"] {
        client.prints(&["user", "create", name]).await;
    }
    let error = client.fails(&["call", "SendConnectionRequest", r#"{"from_user_id": -1}"#], 1, "INVALID_FIELDS").await;
    assert!(error.starts_with("kith: SendConnectionRequest failed: INVALID_ARGUMENT: the request has"), "{error}");
    assert!(error.contains("\n  from_user_id: must be ") && error.contains("\n  to_user_id: must be "), "{error}");
    client.fails(&["request", "accept", "4"], 1, "; --as USER fills it in").await;
    client.prints(&["request", "send", "1", "2"]).await;
    let error = client.fails(&["request", "send", "1", "2"], 1, "ALREADY_EXISTS").await;
    assert!(error.contains("\n  reason: REQUEST_PENDING (connection_request_id=4)"), "{error}");
    let error = client.fails(&["request", "send", "1", "3", "--retry"], 1, "RESOURCE_EXHAUSTED").await;
    assert!(error.contains("reason: LIMIT_REACHED (limit=") && error.contains("\n  retry after: "), "{error}");
    assert!(!error.contains("trying again"), "an hour is too long to wait: {error}");
    // In the proto's JSON form.
    for format in ["json", "jsonl"] {
        let error = client.fails(&["request", "send", "1", "2", "-o", format], 1, "").await;
        let error = parsed(&error);
        assert_eq!((&error["code"], error["details"].as_array().map(Vec::len)), (&json!(6), Some(1)), "{error}");
        let expected = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "REQUEST_PENDING",
            "domain": "kith", "metadata": {"connection_request_id": "4"}});
        assert_eq!(error["details"][0], expected);
    }
    let nobody = run(&["user", "list", "--server=127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(nobody.log.starts_with("kith: --server 127.0.0.1:1: cannot connect: "), "{nobody:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_acts_as_themself_by_their_token() {
    let folder = tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let signer = Signer::new("one");
    fs::write(path("keys.json"), signer.jwks()).expect("a file");
    for (name, subject, scopes) in
        [("service", "admin", "read write users events admin"), ("ann", "user:1", ""), ("bob", "user:2", "")]
    {
        fs::write(path(name), signer.token(subject, scopes)).expect("a file");
    }
    let keys = format!("--jwt-keys={}", path("keys.json"));
    let flags = [&*keys, &format!("--jwt-issuer={ISSUER}"), &format!("--jwt-audience={AUDIENCE}")];
    let client = Client::start(Engine::Sqlite, &flags).await;
    let token = |name: &str| format!("--token-file={}", path(name));
    let (service, ann, bob) = (token("service"), token("ann"), token("bob"));
    for name in ["ann", "bob"] {
        client.prints(&["user", "create", name, &service]).await;
    }
    client.fails(&["user", "list"], 1, "UNAUTHENTICATED").await;
    client.prints(&["request", "send", "1", "2", &ann]).await;
    client.fails(&["request", "send", "2", "1", &ann], 1, "ACTS_FOR_ANOTHER_USER").await;
    client.fails(&["request", "accept", "3", "--as=1", &bob], 1, "ACTS_FOR_ANOTHER_USER").await;
    // With their own token, a user may leave themself out.
    client.prints(&["request", "view", "3", &bob]).await;
    client.prints(&["request", "accept", "3", "--as=bob", &bob]).await;
    assert!(client.prints(&["connection", "list", "1", "--as=ann", &ann]).await.contains("2 bob"));
    // What a user may not read of the pair is left out, and said.
    let status = client.prints(&["status", "1", "2", &service]).await;
    assert!(status.contains("accepted") && !status.contains("not shown"), "{status}");
    fs::write(path("reader"), signer.token("reader", "read")).expect("a file");
    let status = client.prints(&["status", "1", "2", &token("reader")]).await;
    assert_eq!(status.matches("\nnot shown: ").count(), 3, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rpcs_are_listed_and_described_without_a_server() {
    let list = run(&["call"]).await;
    assert_eq!((list.status.code(), list.output.lines().next()), (Some(0), Some("RPC")));
    assert!(list.output.contains("\nSendConnectionRequest            "), "{}", list.output);
    let described = run(&["call", "ListConnectionRequests", "--describe"]).await.output;
    for words in [
        "kith.v1.ConnectionRequestService/ListConnectionRequests (ListConnectionRequestsRequest) returns (",
        "\nuser_id int64\n  Required. ",
        "\ndirection RECEIVED | SENT\n  Required. ",
    ] {
        assert!(described.contains(words), "no {words:?} in {described}");
    }
}
