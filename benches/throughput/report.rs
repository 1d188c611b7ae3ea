//! Writes the report: Markdown with the figures, and the plot next to it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use chrono::{DateTime, Utc};

use super::measure::{Sample, spread};
use super::process::{SETTINGS, run};
use super::session::{Session, Subject};
use super::workload::Operation;
use super::{Options, Result, Results, aims, lean, pair, plot};

const HEAD: &str = "\
<!-- Written by `make bench`; changes made here are lost. -->

# Performance, measured

`make bench` measures everything on this page in one run of about half an hour and writes the page. `make bench-smoke`
tests the benchmark itself in a few minutes. `make bench ARGS='--operations=send,accept --levels=64'` measures less;
`make bench ARGS=--help` lists all options.

- **Kith** is the binary of `make dist`, a separate process on the loopback interface. It runs with its default
  settings, except for the limits per user and the flags below. Each write changes a pair or a request that no earlier
  call changed, except in the operation that repeats a send. After each measurement the events in the feed are compared
  with the responses. A call that does not return the expected status, which is ALREADY_EXISTS for a repeated send and
  OK for all other calls, fails the run and is reported below.
- **SQL alone** is pgbench on a copy of the same database: one prepared, checked statement per call, without counts,
  events or gRPC ([the statements](../../benches/throughput/sql)). pgbench records the latency of one statement in ten.
- **SQLite alone** is one thread on a copy of the same file, in transactions of 64 rows. A send inserts the request's
  row if the pair has none, without other checks, counts or events. A list is joined with its senders. A status reads
  the pair's row. Each row counts as one call.
- **gRPC echo** is a server with the same gRPC stack that returns the same messages without doing any work.
- The generator, the server and the database share the processors. Each round measures all subjects one after the other.
  A figure is the median of the rounds, with the minimum and the maximum in parentheses. Before the first round, each
  Kith serves sends of random users for the duration of five measurements.

";

/// What the figures depend on.
pub struct Machine {
    lines: Vec<(&'static str, String)>,
    /// Whether the work tree differs from the commit, apart from the benchmark's own pages.
    pub changed: bool,
}

impl Machine {
    pub fn read(directory: &Path) -> Result<Self> {
        let output = |program: &str, args: &[&str]| match run(Command::new(program).args(args)) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => "unknown".to_owned(),
        };
        let of_file = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
            line.trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let cores = std::thread::available_parallelism()?;
        let memory: f64 = of_file("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
        let changed = !output("git", &["status", "--porcelain", "--", ":/", ":!/docs/performance"]).is_empty();
        let with_changes = if changed { ", with changes" } else { "" };
        let now: DateTime<Utc> = SystemTime::now().into();
        let file_system = output("df", &["--output=fstype", &directory.to_string_lossy()]);
        let lines = vec![
            ("Date", now.format("%Y-%m-%d %H:%M UTC").to_string()),
            ("Commit", output("git", &["rev-parse", "--short=12", "HEAD"]) + with_changes),
            ("Processor", format!("{}, {cores} cores", of_file("/proc/cpuinfo", "model name"))),
            ("Memory", format!("{:.0} GiB", memory / 1_048_576.0)),
            ("System", output("uname", &["-sr"])),
            ("File system", file_system.lines().last().unwrap_or_default().to_owned()),
            ("Load average before", load_average()),
            ("Rust", output("rustc", &["--version"])),
        ];
        Ok(Self { lines, changed })
    }

    /// Formats it as a table, with what is known after the run.
    pub fn table(&self, options: &Options, versions: &[String], seeds: &str) -> Result<String> {
        let mut text = String::from("| | |\n|---|---|\n");
        let (settings, flags) = (SETTINGS.join(", "), options.kith_flags.join(" "));
        let after = [
            ("Load average after", load_average()),
            ("Databases", format!("{}; PostgreSQL's defaults but for {settings}", versions.join(", "))),
            ("Seed", seeds.to_owned()),
            ("Measurements", format!("{} rounds of {} s each", options.rounds, options.seconds)),
            ("Other Kith", options.against.as_deref().map_or_else(|| "none".to_owned(), other_version)),
            ("Flags of Kith", if flags.is_empty() { "none".to_owned() } else { format!("`{flags}`") }),
        ];
        for (name, value) in self.lines.iter().chain(&after) {
            writeln!(text, "| {name} | {value} |")?;
        }
        Ok(text + "\n")
    }
}

/// The version that the other binary prints.
fn other_version(binary: &Path) -> String {
    run(Command::new(binary).arg("--version")).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Writes a file, and creates its directory if needed.
pub fn save(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// Writes the page and the plot.
pub fn write(options: &Options, machine: &Machine, session: &Session, results: &Results) -> Result<()> {
    let (page, picture) = (options.out.with_extension("md"), options.out.with_extension("svg"));
    let seed = format!("{} users, {} requests and connections", options.users, session.rows);
    let name = picture.file_name().unwrap_or_default().to_string_lossy();
    let mut text = HEAD.to_owned();
    text += &machine.table(options, &session.versions, &seed)?;
    text += &results.failures.section();
    write!(text, "![Calls a second by calls in flight]({name})\n\n")?;
    text += &summary(options, results)?;
    text += &aims::section(results)?;
    text += &pair::section(&options.operations, results)?;
    text += &lean::section(&session.lean)?;
    for operation in &options.operations {
        text += &details(*operation, results)?;
    }
    save(&page, &text)?;
    save(&picture, &plot::draw(&options.operations, results)?)
}

/// The peak of each subject, and the latency at half of it.
fn summary(options: &Options, results: &Results) -> Result<String> {
    let mut text = String::from(
        "## Peak throughput\n\n\
         Calls per second at the best level, and the ratio of Kith on PostgreSQL to SQL alone. p99 is measured at half of\n\
         the peak, with calls at a fixed rate. A call's latency starts at its scheduled time.\n\n\
         | | Kith on PostgreSQL | p99 ms | Kith on SQLite | p99 ms | SQL alone | p99 ms | Kith / SQL | gRPC echo |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for operation in &options.operations {
        let peak = |subject| results.peak(*operation, subject);
        let shown = |subject| peak(subject).map_or("–".to_owned(), |peak| format!("{peak:.0}"));
        let at_half = |subject| match results.half.get(&(*operation, subject)) {
            Some(samples) => with_range(samples, 2, |sample| sample.latency[1]),
            None => "–".to_owned(),
        };
        let ratio = peak(Subject::KithPostgres).zip(peak(Subject::Sql));
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            operation.title(),
            shown(Subject::KithPostgres),
            at_half(Subject::KithPostgres),
            shown(Subject::KithSqlite),
            at_half(Subject::KithSqlite),
            shown(Subject::Sql),
            at_half(Subject::Sql),
            ratio.map_or("–".to_owned(), |(kith, sql)| format!("{:.2}", kith / sql)),
            shown(Subject::Echo),
        )?;
    }
    Ok(text + "\n")
}

fn details(operation: Operation, results: &Results) -> Result<String> {
    let mut text = format!("## {}\n\n", operation.title());
    text += "| In flight | | Calls/s | of SQL's best | p50 ms | p99 ms | p99.9 ms | Server CPU ms | Database CPU ms \
             | Generator CPU ms | Bytes |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    let limit = results.peak(operation, Subject::Sql);
    let mut rows: Vec<_> = results.in_flight.iter().filter(|((one, ..), _)| *one == operation).collect();
    rows.sort_by_key(|((_, subject, level), _)| (*level, *subject));
    for ((_, subject, level), samples) in rows {
        let ratio = limit.filter(|_| Subject::KITH.contains(subject)).map(|limit| {
            let [median, ..] = spread(samples.iter().map(|sample| sample.per_second));
            format!("{:.2}", median / limit)
        });
        // A zero was not measured or does not exist.
        let median = |digits: usize, value: &dyn Fn(&Sample) -> f64| match spread(samples.iter().map(value))[0] {
            0.0 => "–".to_owned(),
            median => format!("{median:.digits$}"),
        };
        writeln!(
            text,
            "| {level} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            subject.title(),
            with_range(samples, 0, |sample| sample.per_second),
            ratio.unwrap_or_else(|| "–".to_owned()),
            median(2, &|sample| sample.latency[0]),
            median(2, &|sample| sample.latency[1]),
            median(2, &|sample| sample.latency[2]),
            median(3, &|sample| sample.cpu[0]),
            median(3, &|sample| sample.cpu[1]),
            median(4, &|sample| sample.cpu[2]),
            median(0, &|sample| sample.bytes),
        )?;
    }
    Ok(text + "\n")
}

/// The median of the rounds, with the minimum and the maximum.
pub fn with_range(samples: &[Sample], digits: usize, value: impl Fn(&Sample) -> f64) -> String {
    let [median, least, most] = spread(samples.iter().map(value));
    if samples.len() == 1 {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}
