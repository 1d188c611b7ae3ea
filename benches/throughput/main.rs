//! Measures Kith next to PostgreSQL and gRPC alone, on the same machine in the same run: `make bench`.
//!
//! `session` starts and seeds everything that is measured; `generator` makes the calls that `workload` defines; `raw`
//! makes the same changes and reads in SQL with pgbench; `report` and `plot` write the results. `flat`, `devices`,
//! `overload` and `import` are separate runs for other questions.

#![allow(unreachable_pub, reason = "a program has no public")]
#![allow(clippy::cast_possible_truncation, reason = "what is counted here is small")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a benchmark names what it looks for")]

mod access;
mod aims;
mod bare;
mod bulk;
mod database;
mod devices;
mod echo;
mod flat;
mod generator;
mod import;
mod layout;
mod lean;
mod live;
mod measure;
mod overload;
mod pair;
mod plot;
mod process;
mod raw;
mod report;
mod seed;
mod session;
mod workload;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use self::generator::{Load, Window};
use self::layout::Layout;
use self::measure::{Sample, spread};
use self::session::{Session, Subject};
use self::workload::Operation;

/// How long each Kith is used before the first measurement, as a multiple of a measurement.
const IN_USE: u32 = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What to measure, and for how long.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Users in the seed; a multiple of 8
    #[arg(long, env = "KITH_BENCH_USERS", default_value_t = 100_000)]
    users: i64,
    /// Requests and connections in the seed
    #[arg(long, env = "KITH_BENCH_ROWS", default_value_t = 1_000_000)]
    rows: i64,
    /// Seconds of one measurement; pgbench measures whole seconds, at least 2
    #[arg(long, env = "KITH_BENCH_SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// Rounds: how many times each measurement is repeated
    #[arg(long, env = "KITH_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// Numbers of concurrent calls, measured in this order: the largest first, so that single calls reach a warm service
    #[arg(long, env = "KITH_BENCH_LEVELS", value_delimiter = ',', default_value = "256,64,16,1")]
    levels: Vec<usize>,
    /// Operations to measure; all by default
    #[arg(long, env = "KITH_BENCH_OPERATIONS", value_delimiter = ',', value_enum)]
    operations: Vec<Operation>,
    /// Flag for every Kith server, such as `--kith-flag=--read-connections=4`; repeatable
    #[arg(long = "kith-flag", value_name = "FLAG")]
    kith_flags: Vec<String>,
    /// Users in the large database of `--flat`; a multiple of 8, at least 300,000
    #[arg(long, env = "KITH_BENCH_LARGE_USERS", default_value_t = 1_000_000)]
    large_users: i64,
    /// Output path without its extension: `.md` for the page, `.svg` for the plot
    #[arg(long, env = "KITH_BENCH_OUT", default_value = "docs/performance/latest")]
    out: PathBuf,
    /// Directory for the databases, on a disk; they are deleted afterwards
    #[arg(long, env = "KITH_BENCH_DIRECTORY", default_value = "/var/tmp")]
    directory: PathBuf,
    /// Test that the benchmark works, in a few minutes; the figures mean nothing
    #[arg(long)]
    smoke: bool,
    /// Compare a small with a large database, and first with deep pages
    #[arg(long)]
    flat: bool,
    /// Compare Kith with each optimisation switched off, at 1 and 64 concurrent calls
    #[arg(long, conflicts_with = "flat")]
    devices: bool,
    /// Offer ten times as many calls as Kith takes, and measure what it still takes, and how it refuses the others
    #[arg(long, conflicts_with_all = ["flat", "devices"])]
    overload: bool,
    /// Measure imports into empty databases, and loads and exports of a running server
    #[arg(long, conflicts_with_all = ["flat", "devices", "overload", "against"])]
    import: bool,
    /// Seconds of the overload
    #[arg(long, default_value_t = 60.0)]
    overload_seconds: f64,
    /// Connections of the overload. Each takes 256 calls at once, and the server refuses what is more than 4,096
    #[arg(long, default_value_t = 16)]
    overload_connections: usize,
    /// Another kith binary, measured in the same rounds on its own databases with the same seed
    #[arg(long, value_name = "BINARY", conflicts_with_all = ["flat", "devices", "overload"])]
    against: Option<PathBuf>,
    /// Allow uncommitted changes in the work tree; implied by `--smoke`
    #[arg(long)]
    dirty: bool,
}

impl Options {
    fn parsed() -> Self {
        let mut options = Self::parse();
        if options.smoke {
            // With fewer users, pgbench would pick too many pairs twice.
            (options.users, options.rows) = (4_000, 40_000);
            (options.seconds, options.rounds, options.levels) = (0.15, 1, vec![1, 64]);
            options.overload_seconds = 1.0;
        }
        if options.operations.is_empty() {
            let all = match (options.devices, options.overload) {
                (true, _) => &devices::OPERATIONS[..],
                (_, true) => &overload::OPERATIONS[..],
                _ => Operation::value_variants(),
            };
            options.operations = all.to_vec();
        }
        options
    }

    fn window(&self) -> Window {
        let length = Duration::from_secs_f64(self.seconds);
        Window { start: length / 6, length }
    }
}

/// The samples of each round, for each operation, subject and number of calls in flight.
#[derive(Default)]
struct Results {
    in_flight: BTreeMap<(Operation, Subject, usize), Vec<Sample>>,
    half: BTreeMap<(Operation, Subject), Vec<Sample>>,
    failures: Failures,
}

/// Measurements that failed. If there are any, the run fails.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    /// Prints a measurement. Returns its sample unless it failed.
    fn note(&mut self, what: &str, measured: Result<Sample>) -> Option<Sample> {
        match &measured {
            Ok(sample) => eprintln!("{what}: {sample}"),
            Err(error) => {
                eprintln!("{what}: FAILED: {error}");
                self.0.push(format!("{what}: {error}"));
            }
        }
        measured.ok()
    }

    /// Records another check that may have failed.
    fn note_check(&mut self, checked: Result<()>) {
        self.0.extend(checked.err().map(|error| error.to_string()));
    }

    /// The failures as a section of the report.
    fn section(&self) -> String {
        self.0.iter().map(|text| format!("**Failed:** {}\n\n", text.lines().next().unwrap_or_default())).collect()
    }

    /// Returns an error if anything failed.
    fn verdict(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n").into()) }
    }
}

impl Results {
    /// Calls per second at each level: median, minimum and maximum.
    fn levels(&self, operation: Operation, subject: Subject) -> Vec<(usize, [f64; 3])> {
        let of_these = self.in_flight.iter().filter(|((one, other, _), _)| (*one, *other) == (operation, subject));
        of_these.map(|((.., level), samples)| (*level, spread(samples.iter().map(|one| one.per_second)))).collect()
    }

    /// The median of the rounds at a level, if it was measured.
    fn median(
        &self,
        operation: Operation,
        subject: Subject,
        level: usize,
        value: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        self.in_flight.get(&(operation, subject, level)).map(|samples| spread(samples.iter().map(value))[0])
    }

    /// The median over the rounds of the ratio of this Kith's value to the other's in the same round.
    fn to_other(
        &self,
        operation: Operation,
        subject: Subject,
        level: usize,
        value: impl Fn(&Sample) -> f64,
    ) -> Option<[f64; 3]> {
        let of = |subject| self.in_flight.get(&(operation, subject, level));
        let pairs = of(subject)?.iter().zip(of(subject.against()?)?);
        let ratios: Vec<_> =
            pairs.map(|(one, other)| value(one) / value(other)).filter(|one| one.is_finite()).collect();
        (!ratios.is_empty()).then(|| spread(ratios.into_iter()))
    }

    /// The most calls per second at any level.
    fn peak(&self, operation: Operation, subject: Subject) -> Option<f64> {
        self.levels(operation, subject).into_iter().map(|(_, [median, ..])| median).max_by(f64::total_cmp)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let ended = if arguments.get(1).is_some_and(|first| first == echo::ARGUMENT) {
        serve_echo(&arguments.get(2).map(PathBuf::from).unwrap_or_default())
    } else {
        let options = Options::parsed();
        // One thread, so that the generator takes as little as possible from the measured processes.
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Into::into);
        runtime.and_then(|runtime| LocalSet::new().block_on(&runtime, run(options)))
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_echo(directory: &Path) -> Result<()> {
    Builder::new_multi_thread().enable_all().build()?.block_on(echo::serve(directory))
}

async fn run(options: Options) -> Result<()> {
    let machine = report::Machine::read(&options.directory)?;
    if machine.changed && !options.dirty && !options.smoke {
        return Err("the work tree has changes: commit them, or add --dirty".into());
    }
    if options.flat {
        return flat::run(&options, machine).await;
    }
    if options.devices {
        return devices::run(&options, machine).await;
    }
    if options.overload {
        return overload::run(&options, machine).await;
    }
    if options.import {
        return import::run(&options, machine).await;
    }
    let layout = Layout::new(options.users, options.rows, false)?;
    let setups = [options.kith_flags.clone().into()];
    let mut session = Session::start(&options.directory, layout, &setups, options.against.as_deref(), false).await?;
    let mut results = Results::default();
    put_to_use(&mut session, &options, &mut results).await;
    for operation in &options.operations {
        rounds(&mut session, &options, *operation, &mut results).await;
        half_of_peak(&mut session, &options, *operation, &mut results).await;
    }
    results.failures.note_check(session.check().await);
    report::write(&options, &machine, &session, &results)?;
    results.failures.verdict()
}

/// Makes sends that are not measured: the following measurements are of a service in use, not of one that loads each
/// user for the first time.
async fn put_to_use(session: &mut Session, options: &Options, results: &mut Results) {
    let load = Load::InFlight(options.levels.iter().copied().max().unwrap_or(1));
    let length = options.window().length * IN_USE;
    for subject in kiths(session) {
        let made = session.measure(subject, Operation::Send, load, Window { start: Duration::ZERO, length }).await;
        results.failures.note(&format!("Sends that are not counted, {subject}"), made);
    }
}

/// Measures all subjects one after the other, at each level, in each round, so that disturbances affect all of them.
async fn rounds(session: &mut Session, options: &Options, operation: Operation, results: &mut Results) {
    for round in 1..=options.rounds {
        for level in &options.levels {
            for subject in Subject::ALL {
                if !session.has(subject) || !subject.takes(operation, *level) {
                    continue;
                }
                let load = Load::InFlight(*level);
                let measured = session.measure(subject, operation, load, options.window()).await;
                let what = format!("{operation}, {subject}, {level} in flight, round {round}");
                if let Some(sample) = results.failures.note(&what, measured) {
                    results.in_flight.entry((operation, subject, *level)).or_default().push(sample);
                }
            }
        }
    }
}

/// The Kiths that were started.
fn kiths(session: &Session) -> Vec<Subject> {
    let with_other = Subject::KITH.into_iter().flat_map(|subject| [Some(subject), subject.against()]);
    with_other.flatten().filter(|subject| session.has(*subject)).collect()
}

/// Measures latency at a fixed rate: half of the peak of each subject.
async fn half_of_peak(session: &mut Session, options: &Options, operation: Operation, results: &mut Results) {
    for round in 1..=options.rounds {
        for subject in kiths(session).into_iter().chain([Subject::Sql]) {
            let Some(peak) = results.peak(operation, subject) else { continue };
            let measured = session.measure(subject, operation, Load::PerSecond(peak / 2.0), options.window()).await;
            let what = format!("{operation}, {subject}, half of the peak, round {round}");
            if let Some(sample) = results.failures.note(&what, measured) {
                results.half.entry((operation, subject)).or_default().push(sample);
            }
        }
    }
}
