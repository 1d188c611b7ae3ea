//! What is measured side by side, started once: two Kiths, PostgreSQL by itself, and an echo.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::database::Database;
use super::generator::{self, Load, Target, Window};
use super::layout::Layout;
use super::lean::{Lean, Memory};
use super::measure::{Sample, Watched};
use super::process::{Postgres, Process, kith, migrate};
use super::raw::Raw;
use super::workload::{Operation, Workload};
use super::{Result, echo, seed};

/// More answers a second than any Kith gives: so many requests wait before each measurement.
const ANSWERS_PER_SECOND: f64 = 30_000.0;
/// How often each Kith is started, to see how long that takes.
const STARTS: usize = 5;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    KithPostgres,
    KithSqlite,
    /// PostgreSQL, asked by pgbench.
    Sql,
    Echo,
}

impl Subject {
    pub const ALL: [Self; 4] = [Self::KithPostgres, Self::KithSqlite, Self::Sql, Self::Echo];
    pub const KITH: [Self; 2] = [Self::KithPostgres, Self::KithSqlite];

    pub fn title(self) -> &'static str {
        match self {
            Self::KithPostgres => "Kith on PostgreSQL",
            Self::KithSqlite => "Kith on SQLite",
            Self::Sql => "SQL alone",
            Self::Echo => "gRPC echo",
        }
    }

    /// Whether there is anything to measure.
    pub fn takes(self, operation: Operation, in_flight: usize) -> bool {
        // PostgreSQL has its best before 64 connections on any machine that this runs on.
        self != Self::Sql || (Raw::has(operation) && in_flight <= 64)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// A server with the database behind it.
struct Server {
    target: Rc<Target>,
    database: Option<Database>,
    process: Process,
}

/// All of them. They end in this order.
pub struct Session {
    servers: Vec<(Subject, Server)>,
    raw: Option<Raw>,
    postgres: Postgres,
    /// The Kiths as they were after their start.
    pub lean: Vec<Lean>,
    /// How many requests and connections the seed has.
    pub rows: usize,
    /// The versions of PostgreSQL and SQLite.
    pub versions: [String; 2],
}

impl Session {
    /// Starts and fills all that is measured below `parent`; with `alone`, the two Kiths only.
    pub async fn start(parent: &Path, layout: Layout, alone: bool) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("kith-bench-").tempdir_in(parent.canonicalize()?)?.keep();
        let postgres = Postgres::start(&directory)?;
        Database::postgres(&postgres.url("postgres")).await?.execute("CREATE DATABASE kith").await?;
        let (url, file) = (postgres.url("kith"), directory.join("kith.db"));
        let sqlite_url = format!("sqlite://{}", file.display());
        migrate(&url)?;
        migrate(&sqlite_url)?;

        let mut on_postgres = Database::postgres(&url).await?;
        let rows = fill(&mut on_postgres, layout, Subject::KithPostgres).await?;
        on_postgres.close().await?;
        let mut on_sqlite = Database::sqlite(&file)?;
        fill(&mut on_sqlite, layout, Subject::KithSqlite).await?;
        let raw = if alone { None } else { Some(Raw::copy(&postgres, "kith", layout).await?) };

        let watched = |server: &Process, database| Watched { server: Some(server.pid), database };
        let mut lean = Vec::new();
        let mut serve = |subject, url: &str, database: Database, behind: Option<u32>| -> Result<_> {
            let log = directory.join(format!("{subject:?}.log"));
            let ((process, address), ready) = started(url, &log, if alone { 1 } else { STARTS })?;
            lean.push(Lean { subject, pid: process.pid, ready, rest: Memory::default() });
            let (watched, workload) = (watched(&process, behind), RefCell::new(Workload::new(layout)));
            let target = Rc::new(Target { address, watched, workload, is_kith: true });
            Ok((subject, Server { target, database: Some(database), process }))
        };
        let on_postgres = Database::postgres(&url).await?;
        let mut servers = vec![
            serve(Subject::KithPostgres, &url, on_postgres, Some(postgres.process.pid))?,
            serve(Subject::KithSqlite, &sqlite_url, on_sqlite, None)?,
        ];
        sleep(Duration::from_secs(1)).await;
        for one in &mut lean {
            one.rest = Memory::of(one.pid)?;
        }
        if !alone {
            let answers = answers(&mut servers[0].1).await?;
            let (process, address) = echo::start(&directory, &answers)?;
            let (watched, workload) = (watched(&process, None), RefCell::new(Workload::endless(layout)));
            let target = Rc::new(Target { address, watched, workload, is_kith: false });
            servers.push((Subject::Echo, Server { target, database: None, process }));
        }
        let versions = versions(&mut servers).await?;
        Ok(Self { servers, raw, postgres, lean, rows, versions })
    }

    /// One measurement.
    #[expect(clippy::await_holding_refcell_ref, reason = "no call is under way while the workload is prepared")]
    pub async fn measure(
        &mut self,
        subject: Subject,
        operation: Operation,
        load: Load,
        window: Window,
    ) -> Result<Sample> {
        if let (Subject::Sql, Load::InFlight(connections)) = (subject, load) {
            let raw = self.raw.as_mut().ok_or("it was not started")?;
            if operation.answers() {
                raw.prepare(enough(window, operation)).await?;
            }
            return raw.measure(&self.postgres, operation, connections, window.length).await;
        }
        let server = self.server(subject)?;
        if let (Some(database), true) = (&mut server.database, operation.answers()) {
            server.target.workload.borrow_mut().prepare(database, enough(window, operation)).await?;
        }
        if server.target.is_kith && operation != Operation::Mixed && server.target.workload.borrow().fixed.is_none() {
            generator::ask(&server.target, operation).await?;
        }
        let sample = generator::measure(&server.target, operation, load, window).await;
        sample.map_err(|error| format!("{error}; its log ends with\n{}", tail(&server.process)).into())
    }

    /// A Kith's calls.
    pub fn target(&mut self, subject: Subject) -> Result<Rc<Target>> {
        Ok(Rc::clone(&self.server(subject)?.target))
    }

    /// Fails if a database is not as it should be after all of this.
    pub async fn check(&mut self) -> Result<()> {
        for (_, server) in &mut self.servers {
            if let Some(database) = &mut server.database {
                seed::check(database).await?;
            }
        }
        Ok(())
    }

    fn server(&mut self, subject: Subject) -> Result<&mut Server> {
        let found = self.servers.iter_mut().find(|(is, _)| *is == subject);
        Ok(&mut found.ok_or("it was not started")?.1)
    }
}

async fn fill(database: &mut Database, layout: Layout, subject: Subject) -> Result<usize> {
    let begun = Instant::now();
    let rows = seed::fill(database, layout).await?;
    seed::settle(database).await?;
    seed::check(database).await?;
    let (users, time) = (layout.users, begun.elapsed());
    eprintln!("{}: {users} users, {rows} requests and connections in {time:.1?}", subject.title());
    Ok(rows)
}

/// Starts a Kith so many times; answers the last one, and how many milliseconds each start took.
fn started(url: &str, log: &Path, times: usize) -> Result<((Process, String), Vec<f64>)> {
    let mut ready = Vec::new();
    loop {
        let begun = Instant::now();
        let kith = kith(url, log)?;
        ready.push(begun.elapsed().as_secs_f64() * 1e3);
        if ready.len() == times {
            return Ok((kith, ready));
        }
    }
}

/// How many requests a measurement may answer.
fn enough(window: Window, operation: Operation) -> i64 {
    let share = if operation == Operation::Mixed { 0.1 } else { 1.0 };
    ((window.start + window.length).max(Duration::from_secs(1)).as_secs_f64() * ANSWERS_PER_SECOND * share) as i64
}

/// One answer of each kind, as Kith gives it.
async fn answers(server: &mut Server) -> Result<Vec<(Operation, Vec<u8>)>> {
    let mut workload = Workload::new(server.target.workload.borrow().layout);
    workload.prepare(server.database.as_mut().ok_or("no database")?, 10).await?;
    server.target.workload.replace(workload);
    let mut answers = Vec::new();
    for operation in Operation::single() {
        answers.push((operation, generator::ask(&server.target, operation).await?));
    }
    Ok(answers)
}

async fn versions(servers: &mut [(Subject, Server)]) -> Result<[String; 2]> {
    let mut versions = [String::new(), String::new()];
    for (version, (_, server)) in versions.iter_mut().zip(servers) {
        *version = server.database.as_mut().ok_or("no database")?.version().await?;
    }
    Ok(versions)
}

/// The end of what a process wrote.
fn tail(process: &Process) -> String {
    let log = process.log();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
