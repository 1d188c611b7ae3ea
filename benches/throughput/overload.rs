//! Many more calls than Kith takes: how many it still takes, how it refuses the others, and what remains.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::generator::{Client, Load, Target, Window, calls_due, refuse_other_than_expected};
use super::layout::Layout;
use super::measure::{Histogram, Sample};
use super::report::{Machine, save};
use super::session::{Session, Setup, Subject};
use super::workload::{Call, Operation};
use super::{Failures, Options, Result};

/// The operations that are measured by default: the serial path of writes, a short read, and both.
pub const OPERATIONS: [Operation; 3] = [Operation::Send, Operation::Status, Operation::Mixed];
/// The calls in flight at which the peak is measured.
const PEAK: usize = 256;
/// Callers, or open calls at which a storm offers no further one.
const OPEN_MAX: usize = 16_000;
/// How many times the peak a storm offers.
const TIMES: f64 = 10.0;
/// The length of a storm, as a part of that of the overload.
const STORM: f64 = 1.0 / 3.0;
const DEADLINE_EXCEEDED: &str = "4";
/// Measurements of a second each after the overload.
const SECONDS_AFTER: u32 = 10;
/// A latency is normal up to this multiple of the one before.
const NORMAL: f64 = 2.0;

const HEAD: &str = "\
<!-- Written by `make overload`; changes made here are lost. -->

# More calls than Kith takes, measured

*Peak* is the number of calls a second with 256 in flight. Then 16,000 callers on `--overload-connections` call for
`--overload-seconds`, 62 times as many, in one of two manners. A connection takes 256 calls at once, and the others wait in
the client.

- **They wait.** Each makes one call after the other. After a refusal it waits as `RetryInfo` says, plus up to half of
  that, and then makes the same call again.
- **They storm.** Ten times the peak is due every second, and a refused call is made again at once, without regard to
  `RetryInfo`. This lasts a third of the time.

*Offered* are calls a second with those that were refused. *Goodput* are those that succeeded, *of peak* its share of the
peak. The generator runs on the same machine. *Generator* is the number of processors that it takes at the peak and during
the overload, so that the server has only the others; *with the rest* is the share of the peak that could be reached with
the processors that are left. Latencies are from the request to the end of the response, so they include the wait for a processor
on both sides. *Late* calls ran into `--max-call-time`. *Normal after* is the first second after the overload in which
half of the peak has a p99 of at most twice the one before.

*A refusal* is the server's processor time for a call over `--limit-each-service`, with 64 in flight.

";

/// What callers do after a refusal.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Wait as `RetryInfo` says.
    Wait,
    /// Call again at once.
    Storm,
}

/// What became of the calls during the overload.
#[derive(Default)]
struct Outcomes {
    succeeded: RefCell<Histogram>,
    refused: RefCell<Histogram>,
    without_retry_info: Cell<u64>,
    /// Calls that ran into the server's maximum duration. Their changes may have been made.
    late: Cell<u64>,
}

/// The results of one operation on one engine.
struct Trial {
    operation: Operation,
    subject: Subject,
    manner: Manner,
    peak: Sample,
    half: Sample,
    offered: f64,
    goodput: f64,
    /// The number of processors that the generator took.
    generator: f64,
    outcomes: Rc<Outcomes>,
    normal_after: Option<u32>,
    refusal: Sample,
}

pub async fn run(options: &Options, machine: Machine) -> Result<()> {
    let layout = Layout::new(options.users, options.rows, false)?;
    let with = |flags: &[&str]| {
        let own = flags.iter().map(|flag| (*flag).to_owned());
        options.kith_flags.iter().cloned().chain(own).collect::<Vec<_>>()
    };
    let variants = [with(&[]), with(&["--limit-each-service=reads=1,writes=1"])];
    let mut session = Session::start(&options.directory, layout, &variants.map(Setup::from), None, true).await?;
    let (mut trials, mut failures) = (Vec::new(), Failures::default());
    for manner in [Manner::Wait, Manner::Storm] {
        let operations = options.operations.iter();
        for (operation, subject) in operations.flat_map(|one| Subject::KITH.map(|subject| (*one, subject))) {
            match trial(&mut session, options, operation, subject, manner).await {
                Ok(trial) => {
                    eprint!("{}", row(&trial));
                    trials.push(trial);
                }
                Err(error) => failures.note_check(Err(format!("{operation}, {subject}: {error}").into())),
            }
        }
    }
    failures.note_check(session.check().await);
    let seed = format!("{} users, {} requests and connections", options.users, session.rows);
    let mut text = HEAD.to_owned() + &machine.table(options, &session.versions, &seed)?;
    text += &failures.section();
    text += "| Callers | | | Peak | Half: p99 ms | Offered | Goodput | of peak | Generator | with the rest | p50 ms | p99 ms | Refused p50 ms | p99 ms | \
             Without RetryInfo | Late | Normal after s | A refusal: CPU µs |\n\
             |---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    trials.iter().for_each(|trial| text += &row(trial));
    save(&options.out.with_file_name("overload.md"), &text)?;
    failures.verdict()
}

async fn trial(
    session: &mut Session,
    options: &Options,
    operation: Operation,
    subject: Subject,
    manner: Manner,
) -> Result<Trial> {
    let window = options.window();
    let peak = session.measure(subject, operation, Load::InFlight(PEAK), window).await?;
    let half = Load::PerSecond(peak.per_second / 2.0);
    let before = session.measure(subject, operation, half, window).await?;
    let length = match manner {
        Manner::Wait => Duration::from_secs_f64(options.overload_seconds),
        Manner::Storm => Duration::from_secs_f64(options.overload_seconds * STORM),
    };
    // Those of the mix use up requests, of which there must be enough.
    session.prepare(subject, operation, Window { start: Duration::ZERO, length }).await?;
    let target = session.target(subject)?;
    let outcomes = Rc::new(Outcomes::default());
    let used = target.watched.used();
    let overload = Overload::begin(&target, options.overload_connections).await?;
    let seconds = match manner {
        Manner::Wait => waiting(overload, &target, operation, length, &outcomes).await?,
        Manner::Storm => storm(overload, &target, operation, (peak.per_second * TIMES, length), &outcomes).await?,
    };
    let generator = (target.watched.used()[2] - used[2]) / seconds;
    let mut normal_after = None;
    for second in 1..=SECONDS_AFTER {
        let window = Window { start: Duration::ZERO, length: Duration::from_secs(1) };
        let after = session.measure(subject, operation, half, window).await;
        if after.is_ok_and(|after| after.latency[1] <= before.latency[1] * NORMAL) {
            normal_after = Some(second);
            break;
        }
    }
    let refusal = refusals(&session.target_of(subject, 1)?, operation, window).await?;
    let [succeeded, refused] = [&outcomes.succeeded, &outcomes.refused].map(|calls| calls.borrow().count as f64);
    let (offered, goodput) = ((succeeded + refused) / seconds, succeeded / seconds);
    let half = before;
    Ok(Trial { operation, subject, manner, peak, half, offered, goodput, generator, outcomes, normal_after, refusal })
}

/// The connections of an overload, and what was requested and made before it.
struct Overload {
    client: Rc<Client>,
    begun: Instant,
    requested: i64,
    made: i64,
}

impl Overload {
    async fn begin(target: &Rc<Target>, connections: usize) -> Result<Self> {
        let client = Rc::new(Client::connect(target, connections).await?);
        let requested = target.workload.borrow().changes;
        let made = client.revision().await?;
        Ok(Self { client, begun: Instant::now(), requested, made })
    }

    /// Returns the seconds since the begin. Fails unless exactly the acknowledged changes were made.
    async fn end(self, target: &Target, outcomes: &Outcomes) -> Result<f64> {
        let Self { client, begun, requested, made } = self;
        let seconds = begun.elapsed().as_secs_f64();
        let requested = target.workload.borrow().changes - requested;
        let made = client.revision().await? - made;
        if outcomes.late.get() == 0 && made != requested {
            return Err(format!("{requested} changes were acknowledged, {made} were made").into());
        }
        Ok(seconds)
    }
}

/// Callers that wait after a refusal. Returns the seconds until the last call has ended.
async fn waiting(
    overload: Overload,
    target: &Rc<Target>,
    operation: Operation,
    length: Duration,
    outcomes: &Rc<Outcomes>,
) -> Result<f64> {
    let (begun, mut callers) = (overload.begun, JoinSet::new());
    for number in 0..OPEN_MAX {
        let (target, client, outcomes) = (Rc::clone(target), Rc::clone(&overload.client), Rc::clone(outcomes));
        callers.spawn_local(async move {
            while begun.elapsed() < length {
                let call = target.workload.borrow_mut().next_or_again(operation)?;
                if let Some(delay) = attempt(&target, &client, number, call, &outcomes).await? {
                    let longer = 1.0 + rand::random::<f64>() / 2.0;
                    sleep(delay.mul_f64(longer).min(length.saturating_sub(begun.elapsed()))).await;
                }
            }
            Result::Ok(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    overload.end(target, outcomes).await
}

/// Offers this many calls a second. Returns the seconds until the last one has ended.
async fn storm(
    overload: Overload,
    target: &Rc<Target>,
    operation: Operation,
    (rate, length): (f64, Duration),
    outcomes: &Rc<Outcomes>,
) -> Result<f64> {
    let (mut due, mut calls) = (calls_due(rate, length), JoinSet::new());
    let mut number = 0;
    while due.recv().await.is_some() {
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
        if calls.len() >= OPEN_MAX {
            // Otherwise the open calls would make no progress while calls are overdue.
            tokio::task::yield_now().await;
            continue;
        }
        let call = target.workload.borrow_mut().next_or_again(operation)?;
        let (target, client, outcomes) = (Rc::clone(target), Rc::clone(&overload.client), Rc::clone(outcomes));
        number += 1;
        calls.spawn_local(async move { attempt(&target, &client, number, call, &outcomes).await });
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    overload.end(target, outcomes).await
}

/// Makes a call, and records whether it succeeded or was refused. Returns how long to wait after a refusal. Fails if
/// anything else becomes of it.
async fn attempt(
    target: &Target,
    client: &Client,
    number: usize,
    call: Call,
    outcomes: &Outcomes,
) -> Result<Option<Duration>> {
    let begun = Instant::now();
    let (_, trailers) = client.exchange(number, &call, |_| ()).await?;
    if let Some(retry_delay) = refusal(&trailers) {
        outcomes.refused.borrow_mut().record(begun.elapsed());
        outcomes.without_retry_info.set(outcomes.without_retry_info.get() + u64::from(retry_delay.is_none()));
        target.workload.borrow_mut().take_back(call);
        return Ok(Some(retry_delay.unwrap_or_default()));
    }
    if trailers.get("grpc-status").is_some_and(|status| status == DEADLINE_EXCEEDED) {
        outcomes.late.set(outcomes.late.get() + 1);
        return Ok(None);
    }
    refuse_other_than_expected(&call, &trailers)?;
    outcomes.succeeded.borrow_mut().record(begun.elapsed());
    Ok(None)
}

/// Whether a call was refused for lack of room: if so, the delay of its `RetryInfo`, if it has one.
fn refusal(trailers: &HeaderMap) -> Option<Option<Duration>> {
    // Most calls end well, and decoding takes time.
    if trailers.get("grpc-status").is_some_and(|status| status == "0") {
        return None;
    }
    let status = Status::from_header_map(trailers).filter(|status| status.code() == Code::ResourceExhausted)?;
    Some(status.get_details_retry_info().and_then(|info| info.retry_delay))
}

/// Measures calls of which almost all are over the limit of their caller.
async fn refusals(target: &Rc<Target>, operation: Operation, window: Window) -> Result<Sample> {
    let client = Rc::new(Client::connect(target, 4).await?);
    let outcomes = Rc::new(Outcomes::default());
    let (begun, used, mut workers) = (Instant::now(), target.watched.used(), JoinSet::new());
    for number in 0..64 {
        let (target, client, outcomes) = (Rc::clone(target), Rc::clone(&client), Rc::clone(&outcomes));
        workers.spawn_local(async move {
            while begun.elapsed() < window.length {
                let call = target.workload.borrow_mut().next_or_again(operation)?;
                attempt(&target, &client, number, call, &outcomes).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let (seconds, refused, after) = (begun.elapsed().as_secs_f64(), outcomes.refused.borrow(), target.watched.used());
    if refused.count == 0 {
        return Err("no call was refused".into());
    }
    let calls = refused.count as f64;
    Ok(Sample {
        per_second: calls / seconds,
        latency: [0.5, 0.99, 0.999].map(|part| refused.quantile(part)),
        cpu: [0, 1, 2].map(|who| (after[who] - used[who]) * 1e3 / calls),
        bytes: 0.0,
    })
}

fn row(trial: &Trial) -> String {
    let Trial { operation, subject, manner, peak, half, offered, goodput, generator, outcomes, normal_after, refusal } =
        trial;
    let (succeeded, refused) = (outcomes.succeeded.borrow(), outcomes.refused.borrow());
    let (rate, times) = (peak.per_second, offered / peak.per_second);
    let manner = match manner {
        Manner::Wait => "wait",
        Manner::Storm => "storm",
    };
    let mut text = format!("| {manner} | {operation} | {subject} | {rate:.0} | {:.2} |", half.latency[1]);
    _ = write!(text, " {offered:.0} ({times:.1}×) |");
    // Processors that the generator takes at the peak, and that there are.
    let at_peak = peak.cpu[2] * rate / 1e3;
    let all = thread::available_parallelism().map_or(1.0, |number| number.get() as f64);
    let (share, left) = (goodput / rate, (all - generator) / (all - at_peak));
    _ = write!(text, " {goodput:.0} | {:.0} % |", 100.0 * share);
    _ = write!(text, " {at_peak:.2}, {generator:.2} | {:.0} % |", 100.0 * share / left);
    for calls in [&succeeded, &refused] {
        let [median, most] = [0.5, 0.99].map(|part| calls.quantile(part));
        if calls.count == 0 { text += " – | – |" } else { _ = write!(text, " {median:.2} | {most:.2} |") }
    }
    let normal = normal_after.map_or_else(|| "never".to_owned(), |seconds| seconds.to_string());
    let (without, late) = (outcomes.without_retry_info.get(), outcomes.late.get());
    _ = writeln!(text, " {without} | {late} | {normal} | {:.0} |", refusal.cpu[0] * 1e3);
    text
}
