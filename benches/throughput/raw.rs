//! The same operations as single SQL statements, run by pgbench: the limit of PostgreSQL itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Result;
use super::database::Database;
use super::generator::Load;
use super::layout::Layout;
use super::measure::{Histogram, Sample, Watched, used_by_ended};
use super::process::{Postgres, run};
use super::seed;
use super::workload::Operation;

/// The first id of the requests that the statements insert.
const FIRST_ID: i64 = 1_000_000_000_000;
/// The share of statements that pgbench logs. Logging all of them would slow it.
const TIMED: f64 = 0.1;

/// The shortest measurement, in seconds. Within one second, 64 connections on a busy machine may complete no transaction.
const SHORTEST: u64 = 2;

/// Connections that run statements at a fixed rate: enough for each statement to start on schedule.
const CONNECTIONS: usize = 64;

/// A copy of the seeded database, to which no Kith is connected.
pub struct Raw {
    layout: Layout,
    database: Database,
    /// The id of an open request is its number plus this.
    offset: i64,
    /// The number of the first open request, and of the first that does not exist yet.
    waiting: [i64; 2],
}

impl Raw {
    /// Copies a database that has no connections.
    pub async fn copy(postgres: &Postgres, from: &str, layout: Layout) -> Result<Self> {
        let mut database = Database::postgres(&postgres.url("postgres")).await?;
        database.execute(&format!("CREATE DATABASE raw TEMPLATE {from} STRATEGY file_copy")).await?;
        let mut database = Database::postgres(&postgres.url("raw")).await?;
        database.execute(&format!("CREATE SEQUENCE raw_ids START {FIRST_ID} CACHE 1")).await?;
        let offset = database.number("(SELECT last_sequence FROM feed)").await? + 1;
        Ok(Self { layout, database, offset, waiting: [0, 0] })
    }

    /// Whether the operation has a statement.
    pub fn has(operation: Operation) -> bool {
        script(operation).is_some()
    }

    /// Adds open requests until there are this many.
    pub async fn prepare(&mut self, count: i64) -> Result<()> {
        while self.waiting[1] - self.waiting[0] < count {
            let first = self.waiting[1];
            let numbers = first..(first + 100_000).min((first / self.layout.users + 1) * self.layout.users);
            self.waiting[1] = numbers.end;
            let id = seed::add_waiting(&mut self.database, self.layout, numbers).await?;
            if id != self.offset + first {
                return Err("somebody else wrote to the copied database".into());
            }
        }
        Ok(())
    }

    /// Runs the statement of an operation for whole seconds, at least [`SHORTEST`], on a number of connections or at a
    /// rate. At a rate a statement's latency includes its delay.
    pub async fn measure(
        &mut self,
        postgres: &Postgres,
        operation: Operation,
        load: Load,
        length: Duration,
    ) -> Result<Sample> {
        let script = script(operation).ok_or("no statement")?;
        // At a fixed rate there are few statements, and all are logged.
        let (connections, rate, timed) = match load {
            Load::InFlight(connections) => (connections, None, TIMED),
            Load::PerSecond(rate) => (CONNECTIONS, Some(rate), 1.0),
        };
        let watched = Watched { server: None, database: Some(postgres.process.pid) };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("throughput/sql").join(script);
        let mut pgbench = Command::new(postgres.bin.join("pgbench"));
        pgbench.args(["-n", "-M", "prepared", "-h", "localhost", "-U", "postgres", "-p", &postgres.port.to_string()]);
        pgbench.args(["-c", &connections.to_string(), "-T", &length.as_secs().max(SHORTEST).to_string()]);
        for (name, value) in [
            ("users", self.layout.users),
            ("listed", self.layout.ranks_with(69)),
            ("clients", connections as i64),
            ("first", self.waiting[0]),
            ("offset", self.offset),
            ("call", 0),
        ] {
            pgbench.arg("-D").arg(format!("{name}={value}"));
        }
        let times = tempfile::tempdir_in(&postgres.directory)?;
        pgbench.args(["--log".to_owned(), format!("--sampling-rate={timed}")]);
        pgbench.args(rate.map(|rate| format!("--rate={rate}")));
        pgbench.arg("--log-prefix").arg(times.path().join("times"));
        let before = self.made(operation).await?;
        let (used, generator_before) = (watched.used(), used_by_ended());
        let output = run(pgbench.arg("-f").arg(path).arg("raw"))?;
        let (after, generator_after) = (watched.used(), used_by_ended());
        let calls = number(&output, "number of transactions actually processed: ")?;
        if calls < 1.0 {
            return Err(format!("{operation:?}: pgbench completed no transaction\n{output}").into());
        }
        if let Some(made) = self.made(operation).await?.map(|made| made - before.unwrap_or(0)) {
            // A pair that was picked twice by chance is not a failure; it is rare.
            if (made as f64) < calls * 0.99 || number(&output, "number of failed transactions: ")? > 0.0 {
                return Err(format!("{operation:?}: {calls} statements made {made} changes\n{output}").into());
            }
        }
        self.take(operation).await?;
        Ok(Sample {
            per_second: number(&output, "tps = ")?,
            latency: latency(times.path())?,
            cpu: [0.0, (after[1] - used[1]) * 1e3 / calls, (generator_after - generator_before) * 1e3 / calls],
            ..Sample::default()
        })
    }

    /// The number of changes that the statements of a kind have made.
    async fn made(&mut self, operation: Operation) -> Result<Option<i64>> {
        let made = match operation {
            Operation::Send => format!("(SELECT count(*) FROM connection_requests WHERE id >= {FIRST_ID})"),
            Operation::Accept => {
                format!("(SELECT count(*) FROM connection_requests WHERE id >= {} AND state <> 'PENDING')", self.offset)
            }
            _ => return Ok(None),
        };
        self.database.number(&made).await.map(Some)
    }

    /// Skips the open requests that any connection has used up. Each connection is at another one.
    async fn take(&mut self, operation: Operation) -> Result<()> {
        if operation == Operation::Accept {
            let last = format!(
                "(SELECT max(id) FROM connection_requests WHERE id BETWEEN {} AND {} AND state <> 'PENDING')",
                self.offset, FIRST_ID
            );
            self.waiting[0] = self.database.number(&last).await? - self.offset + 1;
        }
        Ok(())
    }
}

fn script(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Send => Some("send.sql"),
        Operation::Accept => Some("accept.sql"),
        Operation::Received => Some("received.sql"),
        Operation::Status => Some("status.sql"),
        Operation::Counts => Some("counts.sql"),
        Operation::User => Some("user.sql"),
        _ => None,
    }
}

/// The milliseconds within which 50 % and 99 % of the statements ended. Too few are logged for 99.9 %.
fn latency(times: &Path) -> Result<[f64; 3]> {
    let mut histogram = Histogram::default();
    for file in fs::read_dir(times)? {
        for line in fs::read_to_string(file?.path())?.lines() {
            // The connection, the statement's number, and its microseconds.
            let time = line.split(' ').nth(2).and_then(|time| time.parse().ok());
            histogram.record(Duration::from_micros(time.ok_or_else(|| format!("pgbench logged no time: {line}"))?));
        }
    }
    Ok([histogram.quantile(0.5), histogram.quantile(0.99), 0.0])
}

/// The number that follows these words.
fn number(output: &str, words: &str) -> Result<f64> {
    let rest = output.split_once(words).ok_or_else(|| format!("pgbench did not print {words:?}:\n{output}"))?.1;
    let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
    Ok(rest[..end].parse()?)
}
