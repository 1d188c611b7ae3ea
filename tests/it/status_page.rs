//! Does the status page say what is true, escape what it shows, and keep secrets? Does a browser show it?

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::openmetrics::request;
use crate::harness::process::{Kith, command};
use crate::harness::{Database, Engine, until};
use crate::on_each_engine;

const HTML: &str = "text/html,*/*;q=0.8";

/// The port for metrics of a server that listens there too.
const PORT: &str = "--metrics-listen=127.0.0.1:0";

on_each_engine! {
    async fn the_page_says_how_the_server_is(engine: Engine) {
        let database = Database::migrated(engine).await;
        let kith = Kith::serve(&database.url, &[PORT, "--max-watchers=7"]).await;
        kith.clients().user("ann").await;
        let address = kith.metrics_address();
        // What a check of the database finds, which is one every two seconds.
        let is_serving = async || request(&address, "GET", "/", HTML).await.1.contains("<title>Kith: serving</title>");
        until("it is serving", is_serving).await;
        let (head, page) = request(&address, "GET", "/", HTML).await;
        let engine = match engine {
            Engine::Sqlite => "<td>sqlite 3",
            Engine::Postgres => "<td>postgres 1",
        };
        for expected in [
            "<title>Kith: serving</title>",
            env!("CARGO_PKG_VERSION"),
            engine,
            "<th scope=\"row\">State</th><td class=\"good\">up</td>",
            "<th scope=\"row\">Revision</th><td>",
            "<th scope=\"row\">Watchers</th><td>0</td>",
            "<th scope=\"row\">kith.v1.UserService</th><td class=\"good\">SERVING</td>",
            "<code>max-watchers</code></th><td><code>7</code></td><td class=\"quiet\">flag</td>",
            "<th scope=\"row\">Up for</th><td>",
        ] {
            assert!(page.contains(expected), "no {expected} in {page}");
        }
        assert!(!page.contains("max-imports"), "only settings that differ: {page}");
        let head = head.to_ascii_lowercase();
        for header in [
            "http/1.1 200 ok",
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "no {header} in {head}");
        }
        assert!(!page.contains("<script") && !page.contains(" style=") && !page.contains("javascript:"), "{page}");
        // The numbers in a page change: only the length of the head is compared.
        let (of_head, nothing) = request(&address, "HEAD", "/", HTML).await;
        assert_eq!((nothing.as_str(), of_head.lines().count()), ("", head.lines().count()), "{of_head}");
        for (method, path, status) in [
            ("GET", "/index.html", "404"),
            ("GET", "/metrics/x", "404"),
            ("HEAD", "/none", "404"),
            ("POST", "/", "405"),
            ("GET", "/?refresh=1", "200"),
        ] {
            let (head, _) = request(&address, method, path, HTML).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_is_escaped() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("<b>&\"'.db");
    let kith = Kith::serve(&format!("sqlite://{}", file.display()), &[PORT]).await;
    let (_, page) = request(&kith.metrics_address(), "GET", "/", HTML).await;
    assert!(page.contains("/&lt;b&gt;&amp;&quot;'.db</code>") && !page.contains("<b>"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_not_shown_and_a_server_without_its_database_has_a_page() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let url = format!("postgres://canary-user:canary-password@127.0.0.1:{port}/kith?application_name=canary-name");
    let mut serve = command(&["--listen=127.0.0.1:0", PORT, "--database-wait=1h"]);
    serve.env("KITH_DATABASE_URL", &url);
    let kith = Kith::start_early(serve, "127.0.0.1:1".to_owned());
    until("it waits for the database", async || kith.log().contains("the database is not there yet")).await;
    let (_, page) = request(&kith.metrics_address(), "GET", "/", HTML).await;
    assert!(page.contains("not opened yet") && page.contains("starting"), "{page}");
    let shown = format!("<code>postgres://127.0.0.1:{port}/kith</code></td><td class=\"quiet\">KITH_DATABASE_URL</td>");
    assert!(page.contains(&shown), "{page}");
    assert!(!page.contains("canary"), "{page}");
}

/// What a browser prints. It loads nothing from anywhere else.
fn browser(folder: &Path, args: &[&str], url: &str) -> String {
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    let fixed =
        ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", &profile];
    let browser = Command::new("chromium").args(fixed).args(args).arg(url).output();
    let Output { status, stdout, stderr } = browser.expect("chromium (make status-page installs it)");
    let log = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{log}");
    // What the policy forbids is reported on the console.
    assert!(!log.contains("CONSOLE"), "{log}");
    String::from_utf8(stdout).expect("UTF-8")
}

/// `make status-page` runs it. The pictures are for eyes: `target/status-page/*.png`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it needs a browser"]
async fn in_a_browser() {
    let database = Database::migrated(Engine::Sqlite).await;
    let kith = Kith::serve(&database.url, &[PORT, "--max-watchers=7", "--disclose-views"]).await;
    kith.clients().user("ann").await;
    let address = kith.metrics_address();
    let is_serving = async || request(&address, "GET", "/", HTML).await.1.contains("<title>Kith: serving</title>");
    until("it is serving", is_serving).await;
    let url = format!("http://{address}/");
    let folder = tempfile::tempdir().expect("a folder");
    let page = browser(folder.path(), &["--dump-dom"], &url);
    for expected in ["<title>Kith: serving</title>", "<td>sqlite 3", "<code>max-watchers</code>"] {
        assert!(page.contains(expected), "no {expected} in {page}");
    }
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/status-page");
    fs::create_dir_all(&pictures).expect("a folder");
    let mut taken = Vec::new();
    for (name, theme) in [("light", "--force-light-mode"), ("dark", "--force-dark-mode")] {
        for (width, size) in [("wide", "--window-size=1000,1300"), ("narrow", "--window-size=500,1600")] {
            let picture = pictures.join(format!("{name}-{width}.png"));
            let screenshot = format!("--screenshot={}", picture.display());
            browser(folder.path(), &[theme, size, "--hide-scrollbars", &screenshot], &url);
            taken.push(fs::read(&picture).expect("a picture"));
            println!("{}", picture.display());
        }
    }
    assert!(taken[0] != taken[2] && taken[1] != taken[3], "the dark page is another");
}
