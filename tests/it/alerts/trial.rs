//! One server, its callers, and the Prometheus that scrapes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::{Value, json};

use super::load::Load;
use super::prometheus::Prometheus;
use crate::harness::daemon::free_port;
use crate::harness::process::{Kith, command};

/// The maximum time from a fault to its alert, and from its end to the end of the alert.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long a fault lasts after its alert: longer than any other alert that could follow from it needs.
const LASTS: Duration = Duration::from_secs(40);
/// Interval between two looks at the alerts.
const LOOK: Duration = Duration::from_millis(500);

/// The severities of alerts.
pub const CRITICAL: &str = "critical";
pub const WARNING: &str = "warning";

/// Without the limits of a user, so that few users make many calls.
const FLAGS: [&str; 2] = ["--max-sends-per-hour=0", "--max-sends-per-pair=0"];

pub struct Trial {
    pub kith: Kith,
    pub prometheus: Prometheus,
    begun: Instant,
    _load: Option<Load>,
}

impl Trial {
    /// A server with these flags for the database, with a few callers, that has raised no alert.
    pub async fn start(url: &str, flags: &[&str]) -> Self {
        Self::of(Kith::start(serve(url, flags)).await).await
    }

    /// The same for a server that runs already.
    pub async fn of(kith: Kith) -> Self {
        let load = Load::start(&kith.clients(), 4, Duration::from_millis(50)).await;
        let prometheus = Prometheus::scraping(&[&kith.metrics_address()]).await;
        let trial = Self { kith, prometheus, begun: Instant::now(), _load: Some(load) };
        trial.is_quiet(Duration::from_secs(10)).await;
        trial
    }

    /// The same without callers.
    pub async fn without_callers(kith: Kith) -> Self {
        let prometheus = Prometheus::scraping(&[&kith.metrics_address()]).await;
        Self::observed(kith, prometheus).await
    }

    /// The same with a Prometheus that scrapes other servers too.
    pub async fn observed(kith: Kith, prometheus: Prometheus) -> Self {
        let trial = Self { kith, prometheus, begun: Instant::now(), _load: None };
        trial.is_quiet(Duration::from_secs(10)).await;
        trial
    }

    /// More callers, who do not pause.
    pub fn rush(&self, callers: i64) -> Load {
        Load::more(&self.kith.fresh_clients(), callers, Duration::ZERO)
    }

    /// Waits until the alert fires, and for some time more. No other alert fires until then.
    pub async fn raises(&self, name: &str, severity: &str) {
        let expected = BTreeSet::from([(name.to_owned(), severity.to_owned())]);
        let begun = Instant::now();
        let mut fired = None;
        while fired.is_none_or(|fired: Instant| fired.elapsed() < LASTS) {
            let firing = self.prometheus.firing().await;
            assert!(firing.is_subset(&expected), "{firing:?} instead of {name}\n{}", self.kith.log());
            if firing == expected {
                let first = *fired.get_or_insert_with(Instant::now);
                if first.elapsed() < LOOK {
                    println!("{name} ({severity}) fires after {:?}", begun.elapsed());
                }
            }
            assert!(fired.is_some() || begun.elapsed() < PATIENCE, "{name} does not fire\n{}", self.kith.log());
            tokio::time::sleep(LOOK).await;
        }
        self.record(name, severity, fired.map_or(begun, |fired| fired + LASTS / 2)).await;
    }

    /// After the end of a fault: waits until its alert has ended too. No other alert fires until some time later.
    pub async fn recovers(&self, name: &str) {
        let begun = Instant::now();
        loop {
            let firing = self.prometheus.firing().await;
            assert!(firing.iter().all(|(firing, _)| firing == name), "{firing:?} after {name}");
            if firing.is_empty() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} does not end\n{}", self.kith.log());
            tokio::time::sleep(LOOK).await;
        }
        println!("{name} ends after {:?}", begun.elapsed());
        self.is_quiet(LASTS).await;
        self.record_end().await;
    }

    /// Leaves what Prometheus has seen for scripts/record-alerts, if that runs this trial: the alert fired at this time.
    async fn record(&self, alert: &str, severity: &str, firing: Instant) {
        let Some(path) = recording() else { return };
        let series = self.prometheus.recorded(self.begun.elapsed()).await;
        let firing = (firing - self.begun).as_secs();
        let recording = json!({ "alert": alert, "severity": severity, "firing": firing, "series": series });
        fs::write(&path, recording.to_string()).expect("written");
    }

    /// The same, once nothing is wrong any more.
    async fn record_end(&self) {
        let Some(path) = recording() else { return };
        let mut recording: Value = serde_json::from_slice(&fs::read(&path).expect("a recording")).expect("JSON");
        recording["series"] = self.prometheus.recorded(self.begun.elapsed()).await;
        recording["quiet"] = self.begun.elapsed().as_secs().into();
        fs::write(&path, recording.to_string()).expect("written");
    }

    /// No alert fires for this long.
    pub async fn is_quiet(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let firing = self.prometheus.firing().await;
            assert!(firing.is_empty(), "{firing:?} although nothing is wrong\n{}", self.kith.log());
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Where this trial leaves its recording, if it does.
fn recording() -> Option<PathBuf> {
    let directory = PathBuf::from(env::var_os("KITH_TEST_RECORD")?);
    let thread = thread::current();
    let name = thread.name().and_then(|name| name.rsplit("::").next()).expect("the name of the test");
    Some(directory.join(name).with_extension("json"))
}

/// The command of a server with these flags. It has the same port for metrics whenever it runs.
pub fn serve(url: &str, flags: &[&str]) -> Command {
    let database = format!("--database-url={url}");
    let metrics = format!("--metrics-listen=127.0.0.1:{}", free_port());
    command(&[&["serve", "--listen=127.0.0.1:0", &database, &metrics], &FLAGS[..], flags].concat())
}
