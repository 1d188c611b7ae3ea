//! The effect of each optimisation, and the cost of each protection: the same calls with all optimisations and no
//! protection, with each optimisation switched off, and with each protection switched on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::access::{Credentials, Demands};
use super::flat::IN_FLIGHT;
use super::generator::Load;
use super::layout::Layout;
use super::lean::{Lean, Memory};
use super::measure::{Sample, spread};
use super::report::{Machine, save, with_range};
use super::session::{Session, Setup, Subject};
use super::workload::Operation;
use super::{Failures, Options, Result};

/// A Kith with its own settings.
struct Variant {
    title: &'static str,
    flags: &'static [&'static str],
    demands: Demands,
}

/// The first has all optimisations and no protection. The others are compared with it.
const VARIANTS: [Variant; 5] = [
    Variant { title: "All optimisations", flags: &[], demands: Demands { tls: false, token: false } },
    Variant {
        title: "No cache of users",
        flags: &["--user-cache-mib=0"],
        demands: Demands { tls: false, token: false },
    },
    Variant {
        title: "No batches of reads",
        flags: &["--read-batch-max=1"],
        demands: Demands { tls: false, token: false },
    },
    Variant { title: "TLS", flags: &[], demands: Demands { tls: true, token: false } },
    Variant { title: "TLS and tokens", flags: &[], demands: Demands { tls: true, token: true } },
];

/// The operations that are measured by default: reads that an optimisation could make faster, and writes it could slow.
pub const OPERATIONS: [Operation; 8] = [
    Operation::Received,
    Operation::Connections,
    Operation::Status,
    Operation::Statuses,
    Operation::Counts,
    Operation::User,
    Operation::Send,
    Operation::Accept,
];

const HEAD: &str = "\
<!-- Written by `make bench ARGS=--devices`; changes made here are lost. -->

# Effect of each optimisation and protection, measured

Kith with its default settings; with one optimisation switched off by its setting; with TLS; and with TLS and a token in
each call, which is signed by Ed25519. All Kith servers of an engine
share one database and are measured one after the other within each round. The idle servers receive no calls, but are
notified of each change, as any server beside others is. This costs every variant the same, and PostgreSQL's part of it
is included in the figures.

CPU is the processor time of server and database per call, in milliseconds. *Brings* is the ratio of calls per second
with all optimisations and no protection to those of this variant. *Saves* is the ratio of this variant's CPU to that of
the first. An optimisation pays if they are above 1. Of a protection they are what it costs. [latest.md](latest.md) defines the other terms.

";

/// The samples of each operation, engine, number of calls in flight, and variant.
type Samples = BTreeMap<(Operation, Subject, usize, usize), Vec<Sample>>;

pub async fn run(options: &Options, machine: Machine) -> Result<()> {
    let layout = Layout::new(options.users, options.rows, false)?;
    let credentials = Credentials::new()?;
    let setup = |variant: &Variant| {
        let (demanded, access) = credentials.of(variant.demands);
        let own = variant.flags.iter().map(|flag| (*flag).to_owned());
        Setup { flags: options.kith_flags.iter().cloned().chain(own).chain(demanded).collect(), access }
    };
    let mut session = Session::start(&options.directory, layout, &VARIANTS.each_ref().map(setup), None, true).await?;
    let (mut samples, mut failures) = (Samples::new(), Failures::default());
    for operation in &options.operations {
        rounds(&mut session, options, *operation, &mut samples, &mut failures).await;
    }
    failures.note_check(session.check().await);

    let mut text = HEAD.to_owned();
    for variant in &VARIANTS[1..] {
        let flags = if variant.flags.is_empty() {
            "its certificate and keys".to_owned()
        } else {
            format!("`{}`", variant.flags.join(" "))
        };
        writeln!(text, "- **{}**: {flags}", variant.title)?;
    }
    let seed = format!("{} users, {} requests and connections", options.users, session.rows);
    write!(text, "\n{}", machine.table(options, &session.versions, &seed)?)?;
    text += &failures.section();
    for subject in Subject::KITH {
        text += &table(options, subject, &samples)?;
        text += &memory(&session.lean, subject)?;
    }
    save(&options.out.with_file_name("devices.md"), &text)?;
    failures.verdict()
}

/// Measures the variants one after the other in each round, so that disturbances affect all of them.
async fn rounds(
    session: &mut Session,
    options: &Options,
    operation: Operation,
    samples: &mut Samples,
    failures: &mut Failures,
) {
    for round in 1..=options.rounds {
        for (level, subject) in IN_FLIGHT.into_iter().flat_map(|level| Subject::KITH.map(|subject| (level, subject))) {
            for (variant, Variant { title, .. }) in VARIANTS.iter().enumerate() {
                let (load, window) = (Load::InFlight(level), options.window());
                let measured = session.measure_variant(subject, variant, operation, load, window).await;
                let what = format!("{operation}, {subject}, {title}, {level} in flight, round {round}");
                if let Some(sample) = failures.note(&what, measured) {
                    samples.entry((operation, subject, level, variant)).or_default().push(sample);
                }
            }
        }
    }
}

/// The section of an engine.
fn table(options: &Options, subject: Subject, samples: &Samples) -> Result<String> {
    let mut text = format!("## {subject}\n\n| | In flight | {}: calls/s | p99 ms | CPU ms |", VARIANTS[0].title);
    for variant in &VARIANTS[1..] {
        write!(text, " {}: calls/s | p99 ms | CPU ms | Brings | Saves |", variant.title)?;
    }
    writeln!(text, "\n|---|--:|--:|--:|--:|{}", "--:|--:|--:|--:|--:|".repeat(VARIANTS.len() - 1))?;
    for (operation, level) in options.operations.iter().flat_map(|one| IN_FLIGHT.map(|level| (*one, level))) {
        let of = |variant| samples.get(&(operation, subject, level, variant)).map_or(&[][..], Vec::as_slice);
        let all = of(0);
        write!(text, "| {operation} | {level} |{}", columns(all))?;
        for variant in 1..VARIANTS.len() {
            let without = of(variant);
            let (brings, saves) = (times(all, without, rate), times(without, all, Sample::cost));
            write!(text, "{} {brings} | {saves} |", columns(without))?;
        }
        text.push('\n');
    }
    Ok(text + "\n")
}

fn columns(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return " – | – | – |".to_owned();
    }
    let [rate, cost] = [with_range(samples, 0, rate), with_range(samples, 3, Sample::cost)];
    format!(" {rate} | {} | {cost} |", with_range(samples, 2, |sample| sample.latency[1]))
}

/// The ratio of the first median to the second.
fn times(one: &[Sample], other: &[Sample], value: impl Fn(&Sample) -> f64) -> String {
    let [[one, ..], [other, ..]] = [one, other].map(|samples| spread(samples.iter().map(&value)));
    if one > 0.0 && other > 0.0 { format!("{:.2}", one / other) } else { "–".to_owned() }
}

fn rate(sample: &Sample) -> f64 {
    sample.per_second
}

/// The memory of each server of an engine after the run.
fn memory(lean: &[Lean], subject: Subject) -> Result<String> {
    let mut text = String::from("Memory of the server after the run, MB: ");
    for (index, one) in lean.iter().filter(|one| one.subject == subject).enumerate() {
        let between = if index == 0 { "" } else { ", " };
        write!(text, "{between}{} {}", VARIANTS[one.variant].title.to_lowercase(), Memory::now_of(one.pid))?;
    }
    Ok(text + ".\n\n")
}
