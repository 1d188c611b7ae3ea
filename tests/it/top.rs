//! Does `kith top` show a real server, in a pipe and on a terminal, and leave the terminal as it was?

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::harness::process::{Kith, run};
use crate::harness::terminal::Terminal;
use crate::harness::{Database, Engine, until};
use crate::on_each_engine;

const KITH: &str = env!("CARGO_BIN_EXE_kith");

/// A server with metrics, and where they are.
async fn server(database: &Database) -> (Kith, String) {
    let kith = Kith::serve(&database.url, &["--metrics-listen=127.0.0.1:0"]).await;
    let url = format!("http://{}/metrics", kith.metrics_address());
    (kith, url)
}

on_each_engine! {
    async fn one_sample_of_a_server_is_plain_text(engine: Engine) {
        let database = Database::migrated(engine).await;
        let (kith, url) = server(&database).await;
        kith.clients().user("ann").await;
        let metrics = format!("--metrics={url}");
        let once = ["top", "--once", &metrics, "--interval=10ms"];
        // What a check of the database finds, which is one every two seconds.
        until("it is healthy", async || run(&once).await.output.contains("serving")).await;
        let engine = match engine {
            Engine::Sqlite => "sqlite 3",
            Engine::Postgres => "postgres 1",
        };
        // Without a terminal, it is the same.
        for args in [&once[..], &["top", &metrics, "--interval=10ms"]] {
            let ended = run(args).await;
            assert!(ended.status.success() && ended.log.is_empty(), "{ended:#?}");
            let output = &ended.output;
            assert!(output.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{output}");
            assert!(output.lines().all(|line| line.len() <= 80), "{output}");
            for (group, words) in [
                ("KITH", env!("CARGO_PKG_VERSION")),
                ("CALLS", "errors 0.0/s"),
                ("WRITES", "commits 0.0/s"),
                ("QUEUE", "calls 0 of 4,096"),
                ("FEED", "watchers 0"),
                ("DATABASE", engine),
                ("DATABASE", " up"),
                ("CACHES", "users"),
                ("PROCESS", "memory"),
                ("DATA ", "users 1"),
                ("METHOD", "calls/s"),
                ("CreateUser", "0.0"),
            ] {
                let line = output.lines().find(|line| line.starts_with(group));
                assert!(line.is_some_and(|line| line.contains(words)), "no {words:?} at {group}: {output}");
            }
        }
    }
}

/// `docs/operations.md` has all metrics of a server; another test holds it to that.
#[test]
fn every_metric_that_is_shown_exists() {
    let read = |path: &str| fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).expect("a file");
    let described = read("docs/operations.md");
    for source in ["src/command/top/figures.rs", "src/server/status_page.rs"] {
        let source = read(source);
        let (source, _) = source.split_once("#[cfg(test)]").expect("tests");
        let names: BTreeSet<_> = source.split('"').filter(|text| is_metric(text)).collect();
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            assert!(described.contains(&format!("`{name}`")), "no {name} in docs/operations.md");
        }
    }
}

fn is_metric(text: &str) -> bool {
    let is_prefixed = ["kith_", "grpc_server_", "process_"].iter().any(|prefix| text.starts_with(prefix));
    is_prefixed && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_has_no_sample() {
    let ended = run(&["top", "--once", "--metrics=http://127.0.0.1:1/metrics"]).await;
    assert_eq!((ended.status.code(), ended.output.as_str()), (Some(1), ""), "{ended:#?}");
    let words = "kith: --metrics http://127.0.0.1:1/metrics: cannot connect: Connection refused";
    assert!(ended.log.starts_with(words), "{ended:#?}");
}

/// The line of shell that runs `kith top` and then says how it ended and how the terminal is.
fn line(url: &str) -> String {
    format!("sh -c 'echo process $$; exec {KITH} top --metrics={url} --interval=50ms'; echo ended with $?; stty -a")
}

/// Asserts that the terminal is as it was, after the program has ended with this status.
#[track_caller]
fn restored(shown: &str, status: u8) {
    let (_, after) = shown.rsplit_once("\u{1b}[?1049l").unwrap_or_else(|| panic!("the screen is not left: {shown:?}"));
    assert!(after.contains(&format!("ended with {status}")), "{shown:?}");
    // The cursor is visible again, and what is typed is echoed and comes in lines.
    assert!(shown.rfind("\u{1b}[?25h") > shown.rfind("\u{1b}[?25l"), "{shown:?}");
    for mode in ["icanon", "echo", "isig"] {
        assert!(after.split_whitespace().any(|word| word == mode), "no {mode} in {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_a_key_or_a_signal_quits_and_the_terminal_is_as_before() {
    let database = Database::migrated(Engine::Sqlite).await;
    let (_kith, url) = server(&database).await;
    for (key, status) in [(Some("q"), 0), (Some("\u{3}"), 0), (None, 143)] {
        let mut terminal = Terminal::run(&line(&url));
        // The second word is of a reading.
        terminal.shows("kith top", 0).await;
        terminal.shows("DATABASE", 0).await;
        match key {
            Some(key) => terminal.press(key),
            None => {
                let shown = terminal.shown();
                let (_, rest) = shown.split_once("process ").expect("a process");
                let process = rest.split_whitespace().next().expect("a number");
                assert!(Command::new("kill").args(["-s", "TERM", process]).status().expect("kill runs").success());
            }
        }
        let (_, shown) = terminal.wait().await;
        restored(&shown, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_went_away_is_shown_as_away_until_it_is_back() {
    let database = Database::migrated(Engine::Sqlite).await;
    let (kith, url) = server(&database).await;
    let mut terminal = Terminal::run(&line(&url));
    let seen = terminal.shows("DATABASE", 0).await;
    let address = kith.metrics_address();
    kith.crash().await;
    let seen = terminal.shows("AWAY", seen).await;
    let _kith = Kith::serve(&database.url, &[&format!("--metrics-listen={address}")]).await;
    // The line is erased.
    terminal.shows("serving", seen).await;
    terminal.press("q");
    restored(&terminal.wait().await.1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_progress_of_a_check_is_a_bar_on_a_terminal_and_its_report_is_as_in_a_pipe() {
    let database = Database::migrated(Engine::Postgres).await;
    let other = crate::harness::database::connect(&database.url).await;
    other.batch_execute("BEGIN; LOCK TABLE blocks IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report");
    let check = format!("{KITH} check --database-url='{}' >{}", database.url, report.display());
    let terminal = Terminal::run(&check);
    terminal.shows("counting rows: 25% of 8 tables, ", 0).await;
    other.batch_execute("COMMIT").await.expect("no lock");
    let (status, shown) = terminal.wait().await;
    assert!(status.success(), "{shown:?}");
    // The bar is gone at the end.
    assert!(shown.rsplit_once(" so far").is_some_and(|(_, end)| end.contains("\u{1b}[2K")), "{shown:?}");
    let piped = Command::new(KITH).args(["check", "--database-url", &database.url]).output().expect("kith runs");
    assert_eq!(fs::read(&report).expect("a report"), piped.stdout);
    assert!(!piped.stderr.contains(&0x1b), "{}", String::from_utf8_lossy(&piped.stderr));
}
