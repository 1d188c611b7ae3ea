//! How many rows a second `kith import` takes into an empty database, next to the same rows by COPY and INSERT alone.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;

use super::database::Database;
use super::layout::{Layout, State};
use super::live;
use super::measure::spread;
use super::process::{Postgres, migrate, own_kith};
use super::report::{Machine, save};
use super::seed::{self, edges};
use super::{Options, Result};

const ENGINES: [&str; 2] = ["PostgreSQL", "SQLite"];
/// What is measured of an empty database.
const CASES: [(&str, Option<&[&str]>); 3] = [
    ("`kith import`", Some(&[])),
    ("`kith import --events=keep`", Some(&["--events=keep"])),
    ("the rows alone, with events: COPY, or INSERT without a log", None),
];

const HEAD: &str = "\
<!-- Written by `make bench ARGS=--import`; changes made here are lost. -->

# Imports, measured

Rows a second of users, connections and requests into an empty database, from one file of NDJSON. `kith import` reads,
sorts and settles them, and makes the secondary indexes afterwards, all in one transaction; the time is that of the whole
process. Beside it stand the same numbers of rows of the benchmark's own seed, with their events, written as fast as the
engine takes them: with COPY without any index, which are made afterwards, or into a file without a log. The aim is 50,000
rows a second.

";

pub async fn run(options: &Options, machine: Machine) -> Result<()> {
    let layout = Layout::new(options.users, options.rows, false)?;
    let parent = options.directory.canonicalize()?;
    let directory = tempfile::Builder::new().prefix("kith-bench-").tempdir_in(&parent)?.keep();
    // Outside of the directory that belongs to PostgreSQL.
    let files = tempfile::Builder::new().prefix("kith-bench-").tempdir_in(&parent)?;
    let postgres = Postgres::start(&directory)?;
    let file = files.path().join("rows.ndjson");
    let rows = write_rows(&file, layout)?;
    let mut text = HEAD.to_owned();
    let mut versions = Vec::new();
    let mut table =
        "| Database | What | Rows a second | Peak memory of the process, MiB |\n|---|---|---|---|\n".to_owned();
    for engine in ENGINES {
        for (what, flags) in CASES {
            let (mut speeds, mut memory) = (Vec::new(), 0);
            for round in 0..options.rounds {
                let name = format!(
                    "import_{}_{round}",
                    speeds.len() + CASES.iter().position(|case| case.0 == what).unwrap_or(0) * 100
                );
                let url = fresh(engine, &name, &postgres, files.path()).await?;
                let Timed { time: took, peak } = match flags {
                    Some(flags) => import(&url, &file, flags).await?,
                    None => Timed { time: fill(&url, layout).await?, peak: 0 },
                };
                eprintln!(
                    "{engine}, {what}, round {round}: {:.0} rows/s, {peak} MiB",
                    rows as f64 / took.as_secs_f64()
                );
                speeds.push(rows as f64 / took.as_secs_f64());
                memory = memory.max(peak);
                drop_database(&url, &name, &postgres).await?;
            }
            let [median, least, most] = spread(speeds.into_iter());
            let memory = if memory == 0 { "–".to_owned() } else { memory.to_string() };
            writeln!(table, "| {engine} | {what} | {median:.0} ({least:.0}–{most:.0}) | {memory} |")?;
        }
    }
    table += live::HEAD;
    for engine in ENGINES {
        table += &live::measure(engine, (&file, rows), (options, layout), &postgres, files.path()).await?;
    }
    versions.push(Database::postgres(&postgres.url("postgres")).await?.version().await?);
    versions.push(Database::sqlite(Path::new(":memory:"))?.version().await?);
    let size = fs::metadata(&file)?.len() >> 20;
    let seeds =
        format!("{} users and {} rows between them; a file of {size} MiB", layout.users, rows - layout.users as u64);
    text += &table;
    text.push('\n');
    text += &machine.table(options, &versions, &seeds)?;
    save(&options.out.with_file_name("import.md"), &text)
}

/// Writes the layout as a file to import. Returns the number of rows.
fn write_rows(path: &Path, layout: Layout) -> Result<u64> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "{{\"type\":\"header\",\"format\":\"kith.export.v1\",\"source\":\"benchmark\"}}")?;
    let (now, mut rows) = (DateTime::<Utc>::from(SystemTime::now()), 0_u64);
    let date = |seconds: u64| {
        let time: DateTime<Utc> = now - TimeDelta::days(5) + TimeDelta::milliseconds(seconds as i64 % 345_600_000);
        time.format("%Y-%m-%dT%H:%M:%S%.3fZ")
    };
    for id in 1..=layout.users {
        rows += 1;
        writeln!(
            file,
            "{{\"type\":\"user\",\"id\":{id},\"username\":\"member_{id}\",\"real_name\":\"Maria Fernanda da Silva {id}\",\
             \"email\":\"maria.{id}@example.com\",\"date_joined\":\"2020-01-01T00:00:00Z\",\"location\":\"Lisbon\"}}"
        )?;
    }
    for edge in edges(layout) {
        rows += 1;
        let (from, to) = (edge.from, edge.to);
        // Not in the order of the file.
        let created = rows.wrapping_mul(2_654_435_761) % 300_000_000;
        let answered = created + 1 + rows % 40_000_000;
        let (created, answered) = (date(created), date(answered));
        let message = "We met at the conference in Lisbon, and I would like to stay in touch.";
        let (kind, more) = match edge.state {
            State::Connected => ("connection", format!("\"connected\":\"{answered}\"")),
            State::Pending => ("request", "\"state\":\"PENDING\"".to_owned()),
            State::Rejected => ("request", format!("\"state\":\"REJECTED\",\"rejected\":\"{answered}\"")),
        };
        writeln!(
            file,
            "{{\"type\":\"{kind}\",\"from\":{from},\"to\":{to},\"created\":\"{created}\",{more},\"message\":\"{message}\"}}"
        )?;
    }
    writeln!(file, "{{\"type\":\"footer\"}}")?;
    file.flush()?;
    Ok(rows)
}

/// Makes an empty database with Kith's tables, and returns its URL.
pub(super) async fn fresh(engine: &str, name: &str, postgres: &Postgres, files: &Path) -> Result<String> {
    let url = if engine == "SQLite" {
        format!("sqlite://{}", files.join(name).display())
    } else {
        let mut server = Database::postgres(&postgres.url("postgres")).await?;
        server.execute(&format!("CREATE DATABASE {name}")).await?;
        server.execute("CHECKPOINT").await?;
        server.close().await?;
        postgres.url(name)
    };
    migrate(&own_kith()?, &url)?;
    Ok(url)
}

pub(super) async fn drop_database(url: &str, name: &str, postgres: &Postgres) -> Result<()> {
    match url.strip_prefix("sqlite://") {
        Some(path) => Ok(fs::remove_file(path)?),
        None => {
            let mut server = Database::postgres(&postgres.url("postgres")).await?;
            server.execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
            server.close().await
        }
    }
}

/// Fills a database with the same numbers of rows, without Kith.
async fn fill(url: &str, layout: Layout) -> Result<Duration> {
    let mut database = match url.strip_prefix("sqlite://") {
        Some(path) => Database::sqlite(Path::new(path))?,
        None => Database::postgres(url).await?,
    };
    let begun = Instant::now();
    seed::fill(&mut database, layout).await?;
    database.close().await?;
    Ok(begun.elapsed())
}

/// Imports the file.
pub(super) async fn import(url: &str, file: &Path, flags: &[&str]) -> Result<Timed> {
    let mut command = Command::new(own_kith()?);
    command.arg("import").arg(file).args(["--database-url", url]).args(flags).stdout(Stdio::null());
    timed(&mut command).await
}

/// What a process took.
pub(super) struct Timed {
    pub(super) time: Duration,
    /// Its peak memory, in MiB.
    pub(super) peak: u64,
}

/// Runs a command to its end.
pub(super) async fn timed(command: &mut Command) -> Result<Timed> {
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let mut peak = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                return Err(format!("{command:?}: {status}").into());
            }
            return Ok(Timed { time: begun.elapsed(), peak: peak >> 10 });
        }
        peak = peak.max(resident_peak(child.id()));
        sleep(Duration::from_millis(20)).await;
    }
}

/// The most memory that a process has had so far, in KiB.
fn resident_peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
