//! Does the program do what an operator expects: start, report errors, migrate, drain, end?

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kith::proto::v1 as pb;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use uuid::Uuid;

use crate::harness::clients::Clients;
use crate::harness::printer::Printer;
use crate::harness::process::{Ended, Kith, command, run, run_command};
use crate::harness::{Database, Engine, database, invariants, postgres, until};
use crate::on_each_engine;

const PASSWORD: &str = "hunter2-canary";

fn create(username: &str) -> pb::CreateUserRequest {
    let user = pb::User { username: username.to_owned(), ..Default::default() };
    pb::CreateUserRequest { user: Some(user), ..Default::default() }
}

type Import = JoinHandle<Result<Response<pb::ImportUsersResponse>, Status>>;

/// An import of three rows that continues until its sender is dropped. The service has received it when this returns.
async fn import_under_way(
    clients: &Clients,
    sender: &Sender<pb::ImportUsersRequest>,
    rows: Receiver<pb::ImportUsersRequest>,
) -> Import {
    let mut users = clients.users();
    let import = tokio::spawn(async move { users.import_users(ReceiverStream::new(rows)).await });
    for (id, name) in [(11, "bob"), (12, "cy"), (13, "dee")] {
        let user = pb::User { id, username: name.to_owned(), ..Default::default() };
        sender.send(pb::ImportUsersRequest { user: Some(user), ..Default::default() }).await.expect("a listener");
    }
    // On the same connection: its response follows the start of the import.
    clients.users().create_user(create("ann")).await.expect("a user");
    import
}

/// Asserts that it ended before it served, with one line that names the setting.
#[track_caller]
fn failed(ended: &Ended, words: &[&str]) {
    assert!(ended.status.code().is_some_and(|code| code != 0), "{ended:#?}");
    assert!(!ended.log.contains("listening"), "{ended:#?}");
    assert!(!ended.log.contains("panicked"), "{ended:#?}");
    assert!(!ended.log.contains(PASSWORD), "{ended:#?}");
    for word in words {
        assert!(ended.log.contains(word), "no {word:?} in {ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_arguments_it_serves_from_a_file_beside_it() {
    let directory = TempDir::with_prefix("kith-test-").unwrap();
    let mut alone = command(&[]);
    // Not the default port, which another program may use.
    alone.current_dir(directory.path()).env("KITH_LISTEN", "127.0.0.1:0");
    let kith = Kith::start(alone).await;
    kith.clients().users().create_user(create("ann")).await.expect("a user");
    let log = kith.log();
    for line in ["opened the database database=sqlite://kith.db revision=0", "listening on 127.0.0.1:"] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    assert!(directory.path().join("kith.db").exists());
}

on_each_engine! {
    async fn a_second_start_goes_on_where_the_first_ended(engine: Engine) {
        let database = Database::empty(engine).await;
        for (round, name) in ["ann", "bob", "cy"].into_iter().enumerate() {
            let kith = Kith::serve(&database.url, &[]).await;
            assert!(kith.log().contains(&format!("revision={round}")), "{}", kith.log());
            kith.clients().users().create_user(create(name)).await.expect("a user");
            kith.signal("TERM");
            let ended = kith.wait().await;
            assert!(ended.status.success(), "{ended:#?}");
            if engine == Engine::Sqlite {
                let log = format!("{}-wal", database.path());
                assert!(!Path::new(&log).exists(), "after an orderly end one file holds everything");
            }
        }
        assert_eq!(invariants::check(&database).await, 3);
    }

    async fn migrating_can_be_a_separate_step(engine: Engine) {
        let database = Database::empty(engine).await;
        let url = format!("--database-url={}", database.url);
        let refused = run(&["serve", "--listen=127.0.0.1:0", &url, "--migrate=false"]).await;
        failed(&refused, &["--database-url", "kith migrate", "--migrate"]);
        for applied in [database::migrations(), 0] {
            let migrated = run(&["migrate", &url]).await;
            let applied = format!("migrations_applied={applied}");
            assert!(migrated.status.success() && migrated.log.contains(&applied), "{migrated:#?}");
        }
        let kith = Kith::start(command(&["serve", "--listen=127.0.0.1:0", &url, "--migrate=false"])).await;
        kith.clients().users().create_user(create("ann")).await.expect("a user");
    }

    async fn a_database_of_a_newer_version_is_refused(engine: Engine) {
        let database = Database::migrated(engine).await;
        database.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')").await;
        let url = format!("--database-url={}", database.url);
        let listen = "--listen=127.0.0.1:0";
        for args in [vec!["serve", listen], vec!["serve", "--migrate=false", listen], vec!["migrate"]] {
            let refused = run(&[args.as_slice(), &[&url]].concat()).await;
            failed(&refused, &["--database-url", "newer than this program", "99990101000000"]);
        }
    }

    async fn servers_that_start_at_once_on_an_empty_database_all_come_up(engine: Engine) {
        for _round in 0..3 {
            let database = Database::empty(engine).await;
            let mut starts = JoinSet::new();
            for _ in 0..3 {
                let url = database.url.clone();
                starts.spawn(async move { Kith::serve(&url, &[]).await });
            }
            let servers = starts.join_all().await;
            assert_eq!(servers.len(), 3);
            for (number, kith) in servers.iter().enumerate() {
                let created = kith.clients().users().create_user(create(&format!("user-{number}"))).await;
                created.expect("a user");
            }
            assert_eq!(invariants::check(&database).await, 3);
        }
    }

    async fn a_signal_ends_it_cleanly_with_any_open_connections(engine: Engine) {
        const DRAIN: Duration = Duration::from_secs(2);
        for signal in ["TERM", "INT"] {
            let database = Database::migrated(engine).await;
            let kith = Kith::serve(&database.url, &["--drain-time=2s"]).await;
            // A connection that sends nothing, one that only opens HTTP/2, and one in the middle of a call.
            let mut silent = TcpStream::connect(&kith.address).await.unwrap();
            let clients = kith.clients();
            let (sender, rows) = tokio::sync::mpsc::channel(1);
            let import = import_under_way(&clients, &sender, rows).await;
            let begun = Instant::now();
            kith.signal(signal);
            let ended = kith.wait().await;
            assert!(ended.status.success(), "{ended:#?}");
            assert!(ended.log.contains("draining open calls") && ended.log.contains("server stopped"), "{ended:#?}");
            // Generous: without the limit it would last for ever.
            assert!(begun.elapsed() < DRAIN * 10, "{:?}", begun.elapsed());
            import.await.unwrap().expect_err("a call that was cut");
            drop(sender);
            // Reads to the end. Cut off and closed count the same.
            _ = silent.read_to_end(&mut Vec::new()).await;
            invariants::check(&database).await;
        }
    }

    async fn a_call_in_progress_completes_before_the_end(engine: Engine) {
        let database = Database::migrated(engine).await;
        let kith = Kith::serve(&database.url, &[]).await;
        let (sender, rows) = tokio::sync::mpsc::channel(1);
        let import = import_under_way(&kith.clients(), &sender, rows).await;
        kith.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !kith.log().contains("draining open calls") {
            assert!(Instant::now() < deadline, "{}", kith.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(sender);
        let response = import.await.unwrap().expect("a response").into_inner();
        assert_eq!(response.created + response.updated + response.unchanged + response.refused, 3);
        let ended = kith.wait().await;
        assert!(ended.status.success() && !ended.log.contains("aborting open calls"), "{ended:#?}");
        invariants::check(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_end_it_before_it_listens() {
    let directory = TempDir::with_prefix("kith-test-").unwrap();
    let file = format!("--database-url=sqlite://{}", directory.path().join("kith.db").display());
    let missing = format!("--database-url=sqlite://{}", directory.path().join("no/such/kith.db").display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("--listen={}", taken.local_addr().unwrap());
    // A port that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = format!("--database-url=postgres://kith:{PASSWORD}@{free}/kith");
    let mode = format!("--database-url=postgres://kith:{PASSWORD}@{free}/kith?sslmode=verify-ca");
    let port = format!("--database-url=postgres://kith:{PASSWORD}@localhost:port/kith");
    let unknown = format!("--database-url=postgres://kith:{PASSWORD}@{free}/kith?colour=1");
    let listen = "--listen=127.0.0.1:0";
    for (args, words) in [
        (vec![&*file, &*in_use], vec!["--listen", "in use"]),
        (vec![&*file, "--listen=nowhere"], vec!["--listen"]),
        (vec![listen, "--database-url=mysql://root@db/kith"], vec!["--database-url", "sqlite://", "postgres://"]),
        (vec![listen, &*missing], vec!["--database-url", "no/such/kith.db"]),
        (
            vec![listen, "--database-wait=0", &*unreachable],
            vec!["--database-url", &*free.to_string().leak(), "refused"],
        ),
        (vec![listen, &*mode], vec!["--database-url", "verify-ca"]),
        (vec![listen, &*port], vec!["--database-url", "port"]),
        (vec![listen, &*unknown], vec!["--database-url", "colour"]),
        (vec![listen, "--database-url=postgres://kith:pass@word?hunter2-canary=1@db/kith"], vec!["--database-url"]),
        (vec![listen, "--database-url=postgres://kith:?hunter2-canary@db/kith"], vec!["--database-url", "%3F"]),
        (vec![listen, "--database-url=postgres://db/kith?hunter2-canary"], vec!["--database-url", "no value"]),
        (vec![listen, &*file, "--drain-time=soon"], vec!["--drain-time"]),
        (vec![listen, &*file, "--max-call-time=0s"], vec!["--max-call-time", "1ms"]),
        (vec![listen, &*file, "--rejection-cooldown=30 parsecs"], vec!["--rejection-cooldown"]),
        (vec![listen, &*file, "--max-queued-writes=0"], vec!["--max-queued-writes"]),
        (vec![listen, &*file, "--log-level=kith=loud"], vec!["--log-level"]),
        (vec![listen, &*file, "--no-such-flag"], vec!["--no-such-flag"]),
    ] {
        failed(&run(&args).await, &words);
    }
    // The same from the environment. The error names the variable.
    let mut from_environment = command(&[listen, "--database-wait=0"]);
    from_environment.env("KITH_DATABASE_URL", format!("postgres://kith:{PASSWORD}@{free}/kith"));
    failed(&run_command(from_environment).await, &["KITH_DATABASE_URL"]);
    let mut malformed = command(&[listen]);
    malformed.env("KITH_DATABASE_URL", format!("postgres://kith:{PASSWORD}@localhost:port/kith"));
    failed(&run_command(malformed).await, &["KITH_DATABASE_URL"]);
    let mut migrate = command(&["migrate", "--database-wait=0"]);
    migrate.env("KITH_DATABASE_URL", format!("postgres://kith:{PASSWORD}@{free}/kith"));
    failed(&run_command(migrate).await, &["KITH_DATABASE_URL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_has_the_password() {
    let database = Database::empty(Engine::Postgres).await;
    // The server accepts any password.
    let authority = database.url.find("://").unwrap() + 3;
    let start = database.url[authority..].find('@').map_or(authority, |at| authority + at + 1);
    if postgres::server().certificate.is_none() {
        println!("skipped: the given server may ask for its own password");
        return;
    }
    let url = format!("postgres://postgres:{PASSWORD}@{}", &database.url[start..]);
    let kith = Kith::serve(&url, &["--log-level=trace"]).await;
    kith.clients().users().create_user(create("ann")).await.expect("a user");
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.log.contains("listening on") && !ended.log.contains(PASSWORD), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_is_watched_as_lines_of_json() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let clients = kith.clients();
    let (ann, bob) = (clients.user("ann").await, clients.user("bob").await);
    let id = clients.send(ann, bob).await;
    clients.reject(id, bob).await.expect("rejected");
    let watch = |args: &[&str]| watch(&kith.address, args);
    let mut all = watch(&["--after=2", "--heartbeats"]);
    let first = all.line().await;
    assert_eq!((first["revision"].as_i64(), first["epoch"].as_str().map(str::len)), (Some(2), Some(32)), "{first}");
    let line = all.line().await;
    assert!(line["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{line}");
    let expected = serde_json::json!({
        "sequence": 3, "time": line["time"], "kind": "EVENT_KIND_REQUEST_CREATED", "actor": "EVENT_ACTOR_USER",
        "actor_user_id": ann, "user_id": ann, "other_user_id": bob, "connection_request_id": id,
        "principal": "EVENT_PRINCIPAL_ANONYMOUS",
    });
    assert_eq!(line, expected);
    assert_eq!(all.line().await["kind"], "EVENT_KIND_REQUEST_VIEWED");
    assert_eq!(all.line().await["kind"], "EVENT_KIND_REQUEST_REJECTED");
    // By kind, in any case; by user; for a viewer.
    let mut created = watch(&["--after=0", "--kind=user_created", "--kind", "USER_DELETED"]);
    assert_eq!((created.number("sequence").await, created.number("sequence").await), (1, 2));
    let mut anns = watch(&["--after=0", &format!("--viewer={ann}")]);
    assert_eq!((anns.number("sequence").await, anns.number("sequence").await), (1, 3));
    let mut bobs = watch(&["--after=0", &format!("--user={bob}")]);
    assert_eq!((bobs.number("sequence").await, bobs.number("sequence").await), (2, 3));
    // From the current end: it prints its position.
    let mut now = watch(&["--heartbeats"]);
    assert_eq!(now.number("revision").await, 5);
    let cy = clients.user("cy").await;
    for printer in [&mut all, &mut created, &mut now] {
        assert_eq!(printer.number("user_id").await, cy);
    }
    clients.cancel(id, ann).await.expect("cancelled");
    assert_eq!((anns.number("sequence").await, bobs.number("sequence").await), (7, 4));
}

on_each_engine! {
    async fn a_watch_continues_over_restarts_and_crashes_without_missing_or_repeating_a_line(engine: Engine) {
        let database = Database::migrated(engine).await;
        let mut kith = Kith::serve(&database.url, &[]).await;
        let listen = format!("--listen={}", kith.address);
        let url = format!("--database-url={}", database.url);
        let mut printer = watch(&kith.address, &["--after=0"]);
        let mut made = 0;
        for round in 0..4 {
            for user in 0..5 {
                kith.clients().user(&format!("user-{round}-{user}")).await;
                made += 1;
                // Either server may report the last two of each round.
                if user < 3 {
                    assert_eq!(printer.number("sequence").await, made);
                }
            }
            kith.signal(if round % 2 == 0 { "TERM" } else { "KILL" });
            kith.wait().await;
            // In between no server runs: it says so and retries.
            printer.says("watch interrupted, resuming in 1s").await;
            kith = Kith::start(command(&[&listen, &url])).await;
            assert_eq!((printer.number("sequence").await, printer.number("sequence").await), (made - 1, made));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_succeeds_when_its_output_is_closed_and_fails_when_its_position_is_lost() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &["--event-retention=1h"]).await;
    let clients = kith.clients();
    for name in ["ann", "bob", "cy"] {
        clients.user(name).await;
    }
    // Closed as `kith watch | head -n 1` would.
    let server = format!("--server=http://{}", kith.address);
    let mut child = command(&["watch", &server, "--after=0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("USER_CREATED"), "{line}");
    let mut ended = None;
    until("its end", async || {
        clients.update(1, &Uuid::new_v4().to_string()).await;
        ended = child.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");

    for (args, words) in
        [(&["--epoch=another", "--after=2"][..], "FailedPrecondition"), (&["--after=1000000000"], "FailedPrecondition")]
    {
        let (lines, ended) = watch(&kith.address, args).wait().await;
        assert_eq!((lines.len(), ended.status.code()), (0, Some(1)), "{ended:#?}");
        assert!(ended.log.contains(words) && !ended.log.contains("panicked"), "{ended:#?}");
    }
    database.execute("DELETE FROM events WHERE sequence <= 2").await;
    let (_, ended) = watch(&kith.address, &["--after=1"]).wait().await;
    assert!(ended.status.code() == Some(1) && ended.log.contains("OutOfRange"), "{ended:#?}");
    let address = kith.address.clone();
    kith.crash().await;
    let (_, ended) = watch(&address, &[]).wait().await;
    assert!(ended.status.code() == Some(1) && ended.log.contains("--server"), "{ended:#?}");
    for wrong in ["--kind=NOTHING", "--after=-1", "--user=0", "--viewer=-1", "--server=nowhere at all"] {
        failed(&run(&["watch", wrong]).await, &[wrong.split('=').next().unwrap()]);
    }
}

/// Runs `kith watch` against the server at this address.
fn watch(address: &str, args: &[&str]) -> Printer {
    let server = format!("--server=http://{address}");
    Printer::start(command(&[&["watch", &server], args].concat()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_can_query_a_servers_health() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[]).await;
    let address = format!("--address={}", kith.address);
    let deadline = Instant::now() + Duration::from_secs(30);
    // The database's first response comes a moment after the server listens.
    while !run(&["healthcheck", &address]).await.status.success() {
        assert!(Instant::now() < deadline, "never healthy");
    }
    let process = run(&["healthcheck", &address, "--service="]).await;
    assert!(process.status.success(), "{process:#?}");
    failed(&run(&["healthcheck", &address, "--service=no.such.Service"]).await, &[]);
    kith.crash().await;
    failed(&run(&["healthcheck", &address]).await, &["refused"]);
    // A server that accepts connections and never responds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--address={}", silent.local_addr().unwrap());
    failed(&run(&["healthcheck", &address, "--timeout=200ms"]).await, &["200ms"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_to_postgresql_is_encrypted_and_the_server_verified_as_configured() {
    let Some(certificate) = &postgres::server().certificate else {
        println!("skipped: the given server's certificate is not known");
        return;
    };
    let certificate = certificate.display();
    let encrypted = "SELECT count(*) AS value FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
                     WHERE datname = current_database() AND application_name = 'kith'";
    for (parameters, ssl) in [
        (String::new(), true),
        ("?sslmode=prefer".to_owned(), true),
        ("?sslmode=require".to_owned(), true),
        (format!("?sslmode=verify-full&sslrootcert={certificate}"), true),
        ("?sslmode=disable".to_owned(), false),
    ] {
        let database = Database::migrated(Engine::Postgres).await;
        let kith = Kith::serve(&format!("{}{parameters}", database.url), &[]).await;
        kith.clients().users().create_user(create("ann")).await.expect("a user");
        let (with, without) = (format!("{encrypted} AND ssl"), format!("{encrypted} AND NOT ssl"));
        let (with, without) = (database.number(&with).await, database.number(&without).await);
        assert!(
            if ssl { with > 1 && without == 0 } else { with == 0 && without > 1 },
            "{parameters}: {with}, {without}"
        );
    }
    let database = Database::migrated(Engine::Postgres).await;
    let directory = TempDir::with_prefix("kith-test-").unwrap();
    let (other, empty) = (directory.path().join("other.crt"), directory.path().join("empty.crt"));
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, signed.cert.pem()).unwrap();
    std::fs::write(&empty, "").unwrap();
    for parameters in [
        format!("?sslmode=verify-full&sslrootcert={}", other.display()),
        format!("?sslmode=verify-full&sslrootcert={}", empty.display()),
        "?sslmode=verify-full&sslrootcert=/no/such/file".to_owned(),
        // The system's root certificates do not include it.
        "?sslmode=verify-full".to_owned(),
    ] {
        let url = format!("--database-url={}{parameters}", database.url);
        failed(&run(&["--listen=127.0.0.1:0", &url]).await, &["--database-url"]);
    }
    // The right certificate, but for another name.
    let by_number = database.url.replace("@localhost:", "@127.0.0.1:");
    assert_ne!(by_number, database.url);
    let url = format!("--database-url={by_number}?sslmode=verify-full&sslrootcert={certificate}");
    failed(&run(&["--listen=127.0.0.1:0", &url]).await, &["--database-url"]);
    _ = database::connect(&database.url).await;
}

#[test]
fn help_names_every_setting_and_no_value_of_the_environment() {
    let help = |args: &[&str]| {
        let output =
            command(args).env("KITH_DATABASE_URL", format!("postgres://kith:{PASSWORD}@db/kith")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for command in [None, Some("serve"), Some("migrate"), Some("check"), Some("restore-epoch"), Some("healthcheck")] {
        let args: Vec<_> = command.into_iter().chain(["--help"]).collect();
        let text = help(&args);
        assert!(text.contains("--") && !text.contains(PASSWORD), "{text}");
    }
    let all = help(&["serve", "--help"]);
    for flag in ["--listen", "--database-url", "--migrate", "--drain-time", "--max-call-time", "--max-queued-writes"] {
        assert!(all.contains(flag), "{flag}");
    }
    let version = Command::new(env!("CARGO_BIN_EXE_kith")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("kith {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_postgresql_that_make_writes_slow_are_named_at_the_start() {
    let database = Database::migrated(Engine::Postgres).await;
    let small = "SELECT (pg_size_bytes(current_setting('max_wal_size')) < 8589934592)::int AS value";
    let small = database.number(small).await == 1;
    let kith = Kith::serve(&database.url, &[]).await;
    kith.signal("TERM");
    let ended = kith.wait().await;
    assert!(ended.status.success(), "{ended:#?}");
    assert_eq!(ended.log.contains("set max_wal_size to 8GB or more"), small, "{ended:#?}");
}
