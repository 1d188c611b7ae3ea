//! Whether calls cost the same on a database of any size, and on any page of a list of any length.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use kith::proto::v1 as pb;
use kith::proto::v1::user_service_client::UserServiceClient;
use prost::Message;

use super::generator::{Load, call};
use super::layout::Layout;
use super::measure::{Sample, spread};
use super::report::{Machine, save, with_range};
use super::session::{Session, Subject};
use super::workload::{Call, Operation};
use super::{Options, Result};

/// Users of the small database. Each database has ten times as many requests and connections.
const SMALL: i64 = 10_000;
const SMOKE_SIZES: [i64; 2] = [2_000, 300_000];
/// Calls in flight, if they cannot be chosen.
pub const IN_FLIGHT: [usize; 2] = [1, 64];
const DEEP_PAGES: i32 = 1_000;
/// The maximum number of users in one call.
const USERS_OF_A_CALL: usize = 1_000;
/// Enough for all users of the large database.
const ROOM: &str = "--user-cache-mib=4096";
/// The maximum ratio of costs that counts as flat.
const AIM: f64 = 1.3;

const HEAD: &str = "\
<!-- Written by `make bench ARGS=--flat`; changes made here are lost. -->

# Flat cost, measured

The same calls on a small and on a large database, and the first and a deep page of 20 rows of a user with 30,000
connections and 5,000 pending requests. Before the first measurement all files are read once, so that the system caches
as much of them as fits, and every user is read once from each Kith, whose user cache holds all of them. The comparison
therefore shows the size of the database rather than the disk. [devices.md](devices.md) shows the cost of reading users.
[latest.md](latest.md) defines the terms. The last two columns are the ratio of the processor time per call of server
and database, second case to first, and whether it is flat: at most 1.3.

";

/// A row of the table: the operation, the subject, the calls in flight, and the samples of each column.
type Line = (String, Subject, usize, Vec<Vec<Sample>>);

pub async fn run(options: &Options, machine: Machine) -> Result<()> {
    let sizes = if options.smoke { SMOKE_SIZES } else { [SMALL, options.large_users] };
    let mut operations = options.operations.clone();
    // Reads first: after minutes of writes a small database is no longer small.
    operations.sort_by_key(|operation| operation.grows());
    let mut lines: Vec<Line> = Vec::new();
    let (mut pages, mut versions) = (Vec::new(), Vec::new());
    for (column, users) in sizes.into_iter().enumerate() {
        let large = column == 1;
        let layout = Layout::new(users, 10 * users, large)?;
        let flags = [[ROOM.to_owned()].as_slice(), &options.kith_flags].concat();
        let mut session = Session::start(&options.directory, layout, &[flags.into()], None, true).await?;
        read_through(session.directory())?;
        meet(&session, users).await?;
        for operation in &operations {
            for (index, (subject, calls)) in each().enumerate() {
                let samples = samples(&mut session, options, subject, *operation, calls).await?;
                if large {
                    let at = operations.iter().position(|one| one == operation).unwrap_or(0);
                    lines[at * each().count() + index].3.push(samples);
                } else {
                    lines.push((operation.title().to_owned(), subject, calls, vec![samples]));
                }
            }
        }
        if large {
            pages = deep(&mut session, options).await?;
        }
        session.check().await?;
        versions = session.versions.to_vec();
    }
    let mut text = HEAD.to_owned();
    let seed = format!("ten requests and connections for each user; each Kith with {ROOM}");
    text += &machine.table(options, &versions, &seed)?;
    text += &table(&lines, &sizes.map(|users| format!("{users} users")))?;
    text += &table(&pages, &["First page".to_owned(), "Deep page".to_owned()])?;
    save(&options.out.with_file_name("flat.md"), &text)
}

/// Reads all files below a directory.
fn read_through(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_through(&path)?;
        } else if let Ok(mut file) = fs::File::open(&path) {
            // Files that have been deleted since are skipped.
            io::copy(&mut file, &mut io::sink())?;
        }
    }
    Ok(())
}

/// Reads all users from each Kith.
async fn meet(session: &Session, users: i64) -> Result<()> {
    let ids: Vec<i64> = (1..=users).collect();
    for subject in Subject::KITH {
        let mut client = UserServiceClient::connect(format!("http://{}", session.target(subject)?.address)).await?;
        for ids in ids.chunks(USERS_OF_A_CALL) {
            client.batch_get_users(pb::BatchGetUsersRequest { ids: ids.to_vec(), ..Default::default() }).await?;
        }
    }
    Ok(())
}

fn each() -> impl Iterator<Item = (Subject, usize)> {
    Subject::KITH.into_iter().flat_map(|subject| IN_FLIGHT.map(|calls| (subject, calls)))
}

async fn samples(
    session: &mut Session,
    options: &Options,
    subject: Subject,
    operation: Operation,
    calls: usize,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for _ in 0..options.rounds {
        let sample = session.measure(subject, operation, Load::InFlight(calls), options.window()).await?;
        eprintln!("{operation}, {subject}, {calls} in flight: {sample}");
        samples.push(sample);
    }
    Ok(samples)
}

/// Compares the first page of the hub's lists with one near their end.
async fn deep(session: &mut Session, options: &Options) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (operation, name) in [(Operation::Received, "20 received"), (Operation::Connections, "20 connections")] {
        for (subject, calls) in each() {
            let target = session.target(subject)?;
            let mut columns = Vec::new();
            for token in [String::new(), last_token(session, subject, operation).await?] {
                target.workload.borrow_mut().fixed = Some(Call::hub(operation, 20, token));
                columns.push(samples(session, options, subject, operation, calls).await?);
            }
            target.workload.borrow_mut().fixed = None;
            lines.push((name.to_owned(), subject, calls, columns));
        }
    }
    Ok(lines)
}

/// Returns the token of the last full page, found with large pages.
async fn last_token(session: &mut Session, subject: Subject, operation: Operation) -> Result<String> {
    let target = session.target(subject)?;
    let (mut before, mut token) = (String::new(), String::new());
    loop {
        let response = call(&target, Call::hub(operation, DEEP_PAGES, token.clone())).await?;
        let next = match operation {
            Operation::Received => pb::ListConnectionRequestsResponse::decode(&response[..])?.next_page_token,
            _ => pb::ListConnectionsResponse::decode(&response[..])?.next_page_token,
        };
        if next.is_empty() {
            return Ok(before);
        }
        before = std::mem::replace(&mut token, next);
    }
}

fn table(lines: &[Line], columns: &[String; 2]) -> Result<String> {
    let mut text = String::from("| | | In flight |");
    for column in columns {
        write!(text, " {column}: calls/s | p99 ms | CPU ms, server and database |")?;
    }
    text += " CPU, times | |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";
    for (name, subject, calls, columns) in lines {
        write!(text, "| {name} | {} | {calls} |", subject.title())?;
        for samples in columns {
            write!(
                text,
                " {} | {} | {} |",
                with_range(samples, 0, |sample| sample.per_second),
                with_range(samples, 2, |sample| sample.latency[1]),
                with_range(samples, 3, Sample::cost),
            )?;
        }
        text += &verdict(columns);
    }
    Ok(text + "\n")
}

/// The ratio of the second column's cost to the first's, and whether that is flat.
fn verdict(columns: &[Vec<Sample>]) -> String {
    let costs: Vec<_> = columns.iter().map(|samples| spread(samples.iter().map(Sample::cost))[0]).collect();
    match costs[..] {
        [before, after] if before > 0.0 => {
            let times = after / before;
            format!(" {times:.2} | {} |\n", if times <= AIM { "yes" } else { "**no**" })
        }
        // The measurement was too short.
        _ => " – | |\n".to_owned(),
    }
}
