//! A database in use: how many rows a second `kith load` and `kith export` take, and what other calls notice of a load.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread::available_parallelism;
use std::time::Duration;

use super::access::Access;
use super::generator::{self, Load, Target, Window};
use super::import::{Timed, drop_database, fresh, import, timed};
use super::layout::Layout;
use super::measure::{Watched, spread};
use super::process::{Postgres, Process, kith, own_kith};
use super::workload::{Operation, Workload};
use super::{Options, Result};

/// The other calls, while rows are loaded.
const OTHERS: [Operation; 2] = [Operation::Status, Operation::Send];
/// Other calls a second.
const RATE: f64 = 500.0;
/// Users of a load. Each has five relations.
const USERS: u64 = 40_000;

pub const HEAD: &str = "
## A database in use

`kith export` writes the rows of the first table to a file, while a server runs. `kith load` brings users and relations of
their own into the same server, while 500 calls a second are made: statuses of pairs, then sends. *Alone* and *beside* are
the latencies of these calls without and with the load, whose client has the lowest priority. *Beside others* is the p99
beside a program for each processor that computes and has nothing to do with Kith: what it costs that the processors are
busy. The aims are 10,000 rows a second and a p99 of at most twice the one alone.

| Database | What | Rows a second | Peak memory of the process, MiB | Other calls | p50 alone, ms | beside | p99 alone, ms | beside | beside others |
|---|---|---|---|---|---|---|---|---|---|
";

/// Measures one engine. Returns the rows of the table.
pub async fn measure(
    engine: &str,
    (file, rows): (&Path, u64),
    (options, layout): (&Options, Layout),
    postgres: &Postgres,
    files: &Path,
) -> Result<String> {
    let url = fresh(engine, "live", postgres, files).await?;
    import(&url, file, &[]).await?;
    let log = postgres.directory.join(format!("live-{engine}.log"));
    let (process, address) = kith(&own_kith()?, &url, &log, &options.kith_flags)?;
    let target = Rc::new(Target {
        address,
        access: Access::default(),
        watched: Watched { server: Some(process.pid), database: None },
        workload: Rc::new(RefCell::new(Workload::new(layout))),
        // The changes of the load are not those of the calls.
        is_kith: false,
    });
    let mut table = String::new();
    let exported = files.join("exported.ndjson");
    let mut export = Command::new(own_kith()?);
    export.arg("export").arg(&exported).args(["--database-url", &url]);
    let Timed { time, peak } = timed(&mut export).await?;
    std::fs::remove_file(&exported)?;
    let speed = rows as f64 / time.as_secs_f64();
    eprintln!("{engine}, export: {speed:.0} rows/s, {peak} MiB");
    writeln!(table, "| {engine} | `kith export` | {speed:.0} | {peak} | | | | | | |")?;
    for operation in OTHERS {
        let alone = generator::measure(&target, operation, Load::PerSecond(RATE), options.window()).await?.latency;
        let [_, others] = beside_others(&target, operation, files).await?;
        let more = files.join("more.ndjson");
        let loaded = write_more(&more, operation)?;
        let loading = load(&target.address, &more);
        let (loading, beside) = tokio::join!(loading, beside(&target, operation));
        let (Timed { time, peak }, [p50, p99]) = (loading?, beside?);
        let speed = loaded as f64 / time.as_secs_f64();
        let p99_alone = alone[1];
        eprintln!(
            "{engine}, load beside {operation:?}: {speed:.0} rows/s, p99 {p99_alone:.2}, {p99:.2} and {others:.2} ms"
        );
        writeln!(
            table,
            "| {engine} | `kith load` | {speed:.0} | {peak} | {} | {:.2} | {p50:.2} | {p99_alone:.2} | {p99:.2} | {others:.2} |",
            operation.title(),
            alone[0],
        )?;
    }
    drop(process);
    drop_database(&url, "live", postgres).await?;
    Ok(table)
}

async fn load(address: &str, file: &Path) -> Result<Timed> {
    // Elsewhere its client would take no time from the server.
    let mut load = Command::new("nice");
    load.args(["-n", "19"]).arg(own_kith()?).arg("load").arg(file).args(["--server", address]).stdout(Stdio::null());
    timed(&mut load).await
}

/// Makes calls while a program for each processor computes.
async fn beside_others(target: &Rc<Target>, operation: Operation, files: &Path) -> Result<[f64; 2]> {
    let mut computes = Command::new("sh");
    computes.args(["-c", "while :; do :; done"]);
    let start = |number| Process::start(&computes, &files.join(format!("computes-{number}.log")), "TERM", None);
    let _others: Vec<Process> = (0..available_parallelism()?.get()).map(start).collect::<Result<_>>()?;
    beside(target, operation).await
}

/// Makes calls while something else runs. Returns the median of their p50 and p99 in each second.
async fn beside(target: &Rc<Target>, operation: Operation) -> Result<[f64; 2]> {
    // A load takes longer: it has more rows than any Kith takes in this time.
    const SECONDS: usize = 3;
    let (mut medians, mut tails) = (Vec::new(), Vec::new());
    for _ in 0..SECONDS {
        let window = Window { start: Duration::ZERO, length: Duration::from_secs(1) };
        let [p50, p99, _] = generator::measure(target, operation, Load::PerSecond(RATE), window).await?.latency;
        medians.push(p50);
        tails.push(p99);
    }
    Ok([medians, tails].map(|values| spread(values.into_iter())[0]))
}

/// Writes rows about users who are not in the database. Returns their number.
fn write_more(path: &Path, beside: Operation) -> Result<u64> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "{{\"type\":\"header\",\"format\":\"kith.export.v1\",\"source\":\"benchmark\"}}")?;
    let user = |number: u64| format!("{{\"external_id\":\"{beside:?}-{}\"}}", number % USERS);
    let mut rows = 0;
    for number in 0..USERS {
        rows += 1;
        writeln!(
            file,
            "{{\"type\":\"user\",\"external_id\":\"{beside:?}-{number}\",\"username\":\"{beside:?}_{number}\",\
             \"real_name\":\"Maria Fernanda da Silva {number}\",\"date_joined\":\"2020-01-01T00:00:00Z\"}}"
        )?;
    }
    for number in 0..USERS {
        for other in 1..=5 {
            rows += 1;
            let (from, to) = (user(number), user(number + other));
            writeln!(
                file,
                "{{\"type\":\"connection\",\"from\":{from},\"to\":{to},\"created\":\"2026-01-01T00:00:00Z\",\
                 \"connected\":\"2026-01-02T00:00:00Z\",\"message\":\"We met at the conference in Lisbon.\"}}"
            )?;
        }
    }
    writeln!(file, "{{\"type\":\"footer\"}}")?;
    file.flush()?;
    Ok(rows)
}
