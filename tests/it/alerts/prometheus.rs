//! A Prometheus of one test, with the rules in deploy/ and shorter times.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::daemon::{Daemon, free_port};
use crate::harness::until;

/// All times of the rules are divided by this: a minute is three seconds.
const SCALE: u64 = 20;

/// Thresholds that take too long to reach otherwise: events behind, and bytes of SQLite's log.
const THRESHOLDS: [(&str, &str); 2] =
    [("kith_feed_lag_events > 10000", "kith_feed_lag_events > 1000"), ("536870912", "33554432")];

/// It ends when this is dropped.
pub struct Prometheus {
    port: u16,
    targets: PathBuf,
    _daemon: Daemon,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes the metrics at these addresses each second, and waits until it has.
    pub async fn scraping(metrics: &[&str]) -> Self {
        let dir = TempDir::with_prefix("kith-test-prometheus-").expect("a directory");
        let (port, targets) = (free_port(), dir.path().join("targets.json"));
        for rules in ["kith-recording.yml", "kith-alerts.yml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/rules").join(rules);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let faster = faster(&text);
            assert!(
                rules != "kith-alerts.yml" || THRESHOLDS.iter().all(|(_, lower)| faster.contains(lower)),
                "{faster}"
            );
            fs::write(dir.path().join(rules), faster).expect("written");
        }
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [kith-*.yml]\n\
             scrape_configs:\n\
             - job_name: kith\n  \
               file_sd_configs: [{{files: [{}], refresh_interval: 1s}}]\n",
            targets.display(),
        );
        fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        fs::write(&targets, serde_json::json!([{ "targets": metrics }]).to_string()).expect("written");
        let mut command = Command::new(program());
        command
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let daemon = Daemon::start(&command, dir.path());
        daemon.says("Server is ready to receive web requests");
        let prometheus = Self { port, targets, _daemon: daemon, _dir: dir };
        let scraped = Some(f64::from(u32::try_from(metrics.len()).expect("few")));
        until("a scrape", async || prometheus.number("sum(up)").await == scraped).await;
        prometheus
    }

    /// Removes the server from what is scraped.
    pub fn forget(&self) {
        fs::write(&self.targets, "[]").expect("written");
    }

    /// The alerts that fire, with their severities. Checks that their texts are complete.
    pub async fn firing(&self) -> BTreeSet<(String, String)> {
        let alerts = self.get("/api/v1/alerts").await;
        let alerts = alerts["alerts"].as_array().expect("alerts").iter().filter(|alert| alert["state"] == "firing");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        alerts
            .map(|alert| {
                for (name, annotation) in alert["annotations"].as_object().expect("annotations") {
                    let annotation = text(annotation);
                    assert!(
                        !annotation.contains("<no value>") && !annotation.contains("error calling"),
                        "{name}: {annotation}"
                    );
                }
                (text(&alert["labels"]["alertname"]), text(&alert["labels"]["severity"]))
            })
            .collect()
    }

    /// The value of a query with one result, if it has one.
    pub async fn number(&self, query: &str) -> Option<f64> {
        let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let answer = self.get(&format!("/api/v1/query?query={query}")).await;
        answer["result"][0]["value"][1].as_str().map(|value| value.parse().expect("a number"))
    }

    /// All series of the last seconds, with a sample for each.
    pub async fn recorded(&self, time: Duration) -> Value {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let query = percent_encoding::utf8_percent_encode(r#"{job="kith"}"#, percent_encoding::NON_ALPHANUMERIC);
        let range = format!("start={}&end={end}&step=1", end - time.as_secs());
        self.get(&format!("/api/v1/query_range?query={query}&{range}")).await["result"].take()
    }

    /// The data of an answer of its API.
    async fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        // In HTTP/1.0 the end of the connection is that of the answer.
        let request = format!("GET {path} HTTP/1.0\r\nhost: prometheus\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it is received");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a response");
        let answer: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }
}

/// The program that scripts/install-prometheus leaves in the checkout, or that of the system.
fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/prometheus");
    if unpacked.exists() { unpacked } else { "prometheus".into() }
}

/// The rules with shorter times: those of `for` and those in brackets. Names of recording rules stay.
fn faster(rules: &str) -> String {
    let mut faster = String::new();
    for line in rules.lines() {
        let mut line = match line.split_once("for: ") {
            Some((indent, time)) if indent.trim().is_empty() => format!("{indent}for: {}", shorter(time)),
            _ => line.to_owned(),
        };
        let mut from = 0;
        while let Some(open) = line[from..].find('[').map(|open| from + open) {
            let close = open + line[open..].find(']').expect("a bracket");
            if line[open + 1..].starts_with(|first: char| first.is_ascii_digit()) {
                let time = shorter(&line[open + 1..close]);
                line.replace_range(open + 1..close, &time);
            }
            from = open + 1;
        }
        faster.push_str(&line);
        faster.push('\n');
    }
    THRESHOLDS.iter().fold(faster, |rules, (threshold, lower)| rules.replace(threshold, lower))
}

fn shorter(time: &str) -> String {
    let (number, unit) = time.split_at(time.len() - 1);
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => panic!("a time: {time}"),
    };
    format!("{}s", number.parse::<u64>().expect("a number") * seconds / SCALE)
}
