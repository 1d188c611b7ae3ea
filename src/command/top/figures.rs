//! What `kith top` shows of a server, from two readings of its metrics.

use super::interval::{Interval, Observed, Quantile, values};
use crate::metrics::exposition::{Exposition, Sample};
use crate::metrics::numbers::{UNKNOWN, bytes, count, duration, rate, seconds};

/// The share of a limit from which its use is marked, and from which it is marked as bad.
const FULL: (f64, f64) = (0.5, 0.9);
/// The status codes of errors that are the server's, not the caller's.
const SERVER_ERRORS: [&str; 6] =
    ["Unknown", "DeadlineExceeded", "Unimplemented", "Internal", "Unavailable", "DataLoss"];
/// The time before the end of the certificate from which it is marked, and from which it is marked as bad, in seconds.
const EXPIRY: (f64, f64) = (14.0 * 86_400.0, 3.0 * 86_400.0);

/// How a figure stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Plain,
    Warning,
    Bad,
}

/// A figure with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) mark: Mark,
}

/// The figures of one part of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) cells: Vec<Cell>,
}

/// A method: its name, calls and errors a second, and the median and the 99th percentile of its time.
pub(super) type Method = [String; 5];

/// The titles of the columns.
pub(super) const COLUMNS: [&str; 5] = ["METHOD", "calls/s", "errors/s", "p50", "p99"];

/// All that is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Those with cells.
    pub(super) groups: Vec<Group>,
    /// Those that were called since the start of the server, the busiest first.
    pub(super) methods: Vec<Method>,
}

impl Figures {
    /// Computes the figures of a reading. Without an earlier one of the same process there are no rates. `unix_time` is
    /// the time in seconds.
    pub(super) fn of(now: &Exposition, interval: Option<Interval<'_>>, unix_time: f64) -> Self {
        let reading = Reading { now, interval, unix_time };
        let groups = [
            Group { name: "KITH", cells: reading.process_identity() },
            Group { name: "CALLS", cells: reading.calls() },
            Group { name: "ERRORS", cells: reading.nonzero_rates("kith_errors_total", "reason", Mark::Plain) },
            Group { name: "REFUSED", cells: reading.nonzero_rates("kith_refused_total", "cause", Mark::Warning) },
            Group { name: "WRITES", cells: reading.writes() },
            Group { name: "QUEUE", cells: reading.queue() },
            Group { name: "FEED", cells: reading.feed() },
            Group { name: "DATABASE", cells: reading.database() },
            Group { name: "SQLITE", cells: reading.sqlite() },
            Group { name: "CACHES", cells: reading.caches() },
            Group { name: "DATA", cells: reading.data() },
            Group { name: "SWEEP", cells: reading.nonzero_rates("kith_swept_total", "what", Mark::Plain) },
            Group { name: "TLS", cells: reading.tls() },
            Group { name: "PROCESS", cells: reading.process() },
        ];
        let groups = groups.into_iter().filter(|group| !group.cells.is_empty()).collect();
        Self { groups, methods: reading.methods() }
    }
}

fn plain(text: String) -> Cell {
    Cell { text, mark: Mark::Plain }
}

fn marked(text: String, mark: Mark) -> Cell {
    Cell { text, mark }
}

/// `mark` if there is any.
fn if_any(rate: Option<f64>, mark: Mark) -> Mark {
    if rate.is_some_and(|rate| rate > 0.0) { mark } else { Mark::Plain }
}

/// How a number stands out that should remain below its limit.
fn fullness(used: f64, limit: Option<f64>) -> Mark {
    match limit.filter(|limit| *limit > 0.0).map(|limit| used / limit) {
        Some(share) if share >= FULL.1 => Mark::Bad,
        Some(share) if share >= FULL.0 => Mark::Warning,
        Some(_) | None => Mark::Plain,
    }
}

/// A number with its limit, as in `fds 45 of 1,024`.
fn of_limit(name: &str, used: f64, limit: Option<f64>) -> Cell {
    let limit_text = limit.map(|limit| format!(" of {}", count(limit))).unwrap_or_default();
    marked(format!("{name} {}{limit_text}", count(used)), fullness(used, limit))
}

/// Whether a sample has this value of this label.
fn with<'a>(label: &'a str, value: &'a str) -> impl Fn(&Sample) -> bool + 'a {
    move |sample| sample.label(label) == value
}

/// The sum of the matching samples. None if there are none.
fn sum(samples: &[Sample], matches: impl Fn(&Sample) -> bool) -> Option<f64> {
    let mut values = samples.iter().filter(|sample| matches(sample)).map(|sample| sample.value).peekable();
    values.peek()?;
    Some(values.sum())
}

/// The metrics to compute the figures from.
struct Reading<'a> {
    now: &'a Exposition,
    interval: Option<Interval<'a>>,
    unix_time: f64,
}

impl Reading<'_> {
    fn rate(&self, name: &str, matches: impl Fn(&Sample) -> bool) -> Option<f64> {
        self.interval?.rate(name, matches)
    }

    /// The rate of a part of the series, of which `all` is the rate: zero if none of the part is there yet.
    fn share(&self, all: Option<f64>, name: &str, matches: impl Fn(&Sample) -> bool) -> Option<f64> {
        all.map(|_| self.rate(name, matches).unwrap_or_default())
    }

    fn sum(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        sum(self.now.samples(name), with(label, value))
    }

    /// The median and the 99th percentile of a histogram.
    fn quantiles(&self, name: &str, matches: impl Fn(&Sample) -> bool, format: fn(f64) -> String) -> (String, String) {
        let observed = self.interval.map(|interval| interval.observed(name, matches));
        let share =
            |share| Quantile::text(observed.as_ref().and_then(|observed: &Observed| observed.quantile(share)), format);
        (share(0.5), share(0.99))
    }

    /// The quantiles of a histogram as a cell. None if the server has no such histogram.
    fn quantiles_cell(
        &self,
        words: &str,
        name: &str,
        label: &str,
        value: &str,
        format: fn(f64) -> String,
    ) -> Option<Cell> {
        let matches = |sample: &Sample| label.is_empty() || sample.label(label) == value;
        sum(self.now.samples(&format!("{name}_count")), matches)?;
        let (p50, p99) = self.quantiles(name, matches, format);
        Some(plain(format!("{words} p50 {p50} p99 {p99}")))
    }

    /// The rates of a counter by a label: those that are not zero.
    fn nonzero_rates(&self, name: &str, label: &str, mark: Mark) -> Vec<Cell> {
        let rates = self.interval.map(|interval| interval.rates_by(name, label)).unwrap_or_default();
        let cell = |(value, per_second): (String, f64)| marked(format!("{value} {}/s", rate(Some(per_second))), mark);
        rates.into_iter().filter(|(_, rate)| *rate > 0.0).map(cell).collect()
    }

    fn process_identity(&self) -> Vec<Cell> {
        let version =
            self.now.samples("kith_build_info").first().map(|sample| plain(sample.label("version").to_owned()));
        let start = self.now.value("process_start_time_seconds");
        let up = start.map(|start| plain(format!("up {}", duration(self.unix_time - start))));
        let health = self.now.samples("kith_health");
        let down = values_of_zero(health);
        let health = if health.is_empty() {
            None
        } else if down.is_empty() {
            Some(plain("serving".to_owned()))
        } else if down.len() == health.len() {
            Some(marked("NOT SERVING".to_owned(), Mark::Bad))
        } else {
            Some(marked(format!("NOT SERVING: {}", down.join(", ")), Mark::Bad))
        };
        [version, up, health].into_iter().flatten().collect()
    }

    fn calls(&self) -> Vec<Cell> {
        let handled = "grpc_server_handled_total";
        if self.now.samples("grpc_server_started_total").is_empty() && self.now.samples(handled).is_empty() {
            return Vec::new();
        }
        let all = self.rate(handled, |_| true);
        let errors = self.share(all, handled, |sample| sample.label("grpc_code") != "OK");
        let failed = self.share(all, handled, |sample| SERVER_ERRORS.contains(&sample.label("grpc_code")));
        let mut cells = vec![
            plain(format!("{}/s", rate(all))),
            plain(format!("errors {}/s", rate(errors))),
            marked(format!("of the server {}/s", rate(failed)), if_any(failed, Mark::Bad)),
        ];
        cells.extend(self.quantiles_cell("unary", "grpc_server_handling_seconds", "grpc_type", "unary", seconds));
        cells
            .extend(self.now.value("kith_calls_in_flight").map(|number| plain(format!("in flight {}", count(number)))));
        let limit = self.now.value("kith_client_connections_max");
        cells.extend(self.now.value("kith_client_connections").map(|number| of_limit("clients", number, limit)));
        cells
    }

    fn writes(&self) -> Vec<Cell> {
        let commits = "kith_commits_total";
        let mut cells = Vec::new();
        if !self.now.samples(commits).is_empty() {
            let committed = self.rate(commits, with("outcome", "committed"));
            cells.push(plain(format!("commits {}/s", rate(committed))));
            for (outcome, mark) in [("refused", Mark::Warning), ("failed", Mark::Bad), ("unknown", Mark::Bad)] {
                let found = self.rate(commits, with("outcome", outcome)).filter(|rate| *rate > 0.0);
                cells.extend(found.map(|found| marked(format!("{outcome} {}/s", rate(Some(found))), mark)));
            }
        }
        cells.extend(self.quantiles_cell("time", "kith_commit_seconds", "", "", seconds));
        cells.extend(self.quantiles_cell("batch", "kith_batch_commands", "", "", count));
        let retries = self.rate("kith_commit_retries_total", |_| true).filter(|rate| *rate > 0.0);
        cells.extend(retries.map(|retries| marked(format!("retries {}/s", rate(Some(retries))), Mark::Warning)));
        cells
    }

    fn queue(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for queue in values(self.now.samples("kith_queue_commands"), "queue") {
            let waiting = self.sum("kith_queue_commands", "queue", &queue).unwrap_or_default();
            let capacity = self.sum("kith_queue_capacity_commands", "queue", &queue);
            cells.push(of_limit(&queue, waiting, capacity));
            if waiting > 0.0 || queue == "calls" {
                cells.extend(self.quantiles_cell("wait", "kith_queue_wait_seconds", "queue", &queue, seconds));
            }
        }
        cells
    }

    fn feed(&self) -> Vec<Cell> {
        let number = |words: &str, name| self.now.value(name).map(|number| plain(format!("{words} {}", count(number))));
        let lag = self.now.value("kith_feed_lag_events");
        let lag = lag.map(|lag| plain(format!("slowest lags by {}", count(lag))));
        let sent = "kith_feed_events_sent_total";
        let has_sent = !self.now.samples(sent).is_empty();
        let sent = has_sent.then(|| plain(format!("sent {}/s", rate(self.rate(sent, |_| true)))));
        let all = [number("revision", "kith_feed_revision"), number("watchers", "kith_feed_watchers"), lag, sent];
        all.into_iter().flatten().collect()
    }

    fn database(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        if let Some(up) = self.now.value("kith_database_up") {
            let info = self.now.samples("kith_database_info").first();
            let name =
                info.map_or_else(String::new, |info| format!("{} {} ", info.label("engine"), info.label("version")));
            let is_writable = self.now.value("kith_database_writable") != Some(0.0);
            let (word, mark) = match info {
                Some(_) if up > 0.0 && !is_writable => ("up, but commits fail", Mark::Bad),
                Some(_) if up > 0.0 => ("up", Mark::Plain),
                Some(_) => ("DOWN", Mark::Bad),
                None => ("not opened yet", Mark::Warning),
            };
            cells.push(marked(format!("{name}{word}"), mark));
        }
        for pool in values(self.now.samples("kith_database_connections"), "pool") {
            let connections = self.now.samples("kith_database_connections");
            let is_busy = |sample: &Sample| sample.label("pool") == pool && sample.label("state") == "busy";
            let busy = sum(connections, is_busy).unwrap_or_default();
            let limit = self.sum("kith_database_connections_max", "pool", &pool);
            let limit = limit.map(|limit| format!(" of {}", count(limit))).unwrap_or_default();
            cells.push(plain(format!("{pool} {}{limit} busy", count(busy))));
            let waiting = self.sum("kith_database_waiting", "pool", &pool).filter(|waiting| *waiting > 0.0);
            cells.extend(waiting.map(|waiting| marked(format!("{} wait", count(waiting)), Mark::Warning)));
        }
        let reconnects = self.rate("kith_database_reconnects_total", |_| true).filter(|rate| *rate > 0.0);
        cells.extend(reconnects.map(|found| marked(format!("reconnects {}/s", rate(Some(found))), Mark::Warning)));
        cells
    }

    fn sqlite(&self) -> Vec<Cell> {
        let log = self.now.value("kith_sqlite_wal_bytes").map(|size| plain(format!("log {}", bytes(size))));
        let checkpoint = self.quantiles_cell("checkpoint", "kith_sqlite_checkpoint_seconds", "", "", seconds);
        log.map(|log| [Some(log), checkpoint].into_iter().flatten().collect()).unwrap_or_default()
    }

    fn caches(&self) -> Vec<Cell> {
        let cell = |cache: String| {
            let counted = |name| self.rate(name, with("cache", &cache));
            let share = match (counted("kith_cache_hits_total"), counted("kith_cache_misses_total")) {
                (Some(hits), Some(misses)) if hits + misses > 0.0 => format!("{:.0}%", 100.0 * hits / (hits + misses)),
                (_, _) => UNKNOWN.to_owned(),
            };
            let size = self.sum("kith_cache_bytes", "cache", &cache).map(|size| format!(", {}", bytes(size)));
            let limit =
                self.sum("kith_cache_capacity_bytes", "cache", &cache).map(|size| format!(" of {}", bytes(size)));
            let size = size.map(|size| size + &limit.unwrap_or_default()).unwrap_or_default();
            plain(format!("{cache} {share} hits{size}"))
        };
        values(self.now.samples("kith_cache_hits_total"), "cache").into_iter().map(cell).collect()
    }

    fn data(&self) -> Vec<Cell> {
        let users = self.now.value("kith_users").map(|users| plain(format!("users {}", count(users))));
        let requests = self.now.samples("kith_requests");
        let requests =
            requests.iter().map(|sample| plain(format!("{} {}", sample.label("state"), count(sample.value))));
        users.into_iter().chain(requests).collect()
    }

    fn tls(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        let expiry = self.now.value("kith_tls_certificate_expiry_timestamp_seconds").filter(|expiry| *expiry > 0.0);
        if let Some(left) = expiry.map(|expiry| expiry - self.unix_time) {
            let mark = if left < EXPIRY.1 {
                Mark::Bad
            } else if left < EXPIRY.0 {
                Mark::Warning
            } else {
                Mark::Plain
            };
            let text = if left < 0.0 {
                "certificate EXPIRED".to_owned()
            } else {
                format!("certificate {} left", duration(left))
            };
            cells.push(marked(text, mark));
        }
        let failures = self.now.samples("kith_reload_failures_total").iter().filter(|sample| sample.value > 0.0);
        let failure = |sample: &Sample| format!("{} reloads of {} failed", count(sample.value), sample.label("file"));
        cells.extend(failures.map(|sample| marked(failure(sample), Mark::Warning)));
        cells
    }

    fn process(&self) -> Vec<Cell> {
        let cpu = "process_cpu_seconds_total";
        let has_cpu = !self.now.samples(cpu).is_empty();
        let share = self.rate(cpu, |_| true).map_or(UNKNOWN.to_owned(), |share| format!("{:.0}%", 100.0 * share));
        let cpu = has_cpu.then(|| plain(format!("cpu {share}")));
        let memory = self.now.value("process_resident_memory_bytes").map(|size| {
            let limit = self.now.value("kith_memory_limit_bytes");
            let limit_text = limit.map(|limit| format!(" of {}", bytes(limit))).unwrap_or_default();
            marked(format!("memory {}{limit_text}", bytes(size)), fullness(size, limit))
        });
        let limit = self.now.value("process_max_fds");
        let files = self.now.value("process_open_fds").map(|open| of_limit("files", open, limit));
        let threads = self.now.value("process_threads").map(|number| plain(format!("threads {}", count(number))));
        [cpu, memory, files, threads].into_iter().flatten().collect()
    }

    /// A row for each method, the busiest first.
    fn methods(&self) -> Vec<Method> {
        let handled = "grpc_server_handled_total";
        let mut methods: Vec<(String, String, String)> = Vec::new();
        for sample in self.now.samples(handled).iter().filter(|sample| sample.value > 0.0) {
            let key = |label: &str| sample.label(label).to_owned();
            let method = (key("grpc_service"), key("grpc_method"), key("grpc_type"));
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        let mut rows: Vec<(f64, Method)> = methods
            .into_iter()
            .map(|(service, method, kind)| {
                let is_of =
                    |sample: &Sample| sample.label("grpc_service") == service && sample.label("grpc_method") == method;
                let calls = self.rate(handled, is_of);
                let errors = self.share(calls, handled, |sample| is_of(sample) && sample.label("grpc_code") != "OK");
                // A stream takes as long as its client wants.
                let (p50, p99) = match kind.as_str() {
                    "unary" => self.quantiles("grpc_server_handling_seconds", is_of, seconds),
                    _ => (UNKNOWN.to_owned(), UNKNOWN.to_owned()),
                };
                (calls.unwrap_or_default(), [short(&service, &method), rate(calls), rate(errors), p50, p99])
            })
            .collect();
        rows.sort_by(|(one, one_row), (other, other_row)| other.total_cmp(one).then(one_row[0].cmp(&other_row[0])));
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// The name of a method. Those of Kith's own services are distinct without the service.
fn short(service: &str, method: &str) -> String {
    if service.starts_with("kith.") {
        return method.to_owned();
    }
    format!("{}/{method}", service.rsplit('.').next().unwrap_or_default())
}

/// The services that do not serve, without their packages.
fn values_of_zero(health: &[Sample]) -> Vec<&str> {
    let down = health.iter().filter(|sample| sample.value <= 0.0).map(|sample| sample.label("service"));
    down.map(|service| service.rsplit('.').next().unwrap_or(service)).collect()
}

#[cfg(test)]
pub(super) mod tests;
