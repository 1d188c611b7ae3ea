//! What is measured side by side, started once: a Kith on each engine or several, PostgreSQL by itself, and an echo.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use tokio::time::sleep;

use super::bare::{Bare, GROUP};
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
    /// SQLite, asked by one thread of this process.
    Sqlite,
    Echo,
}

impl Subject {
    pub const ALL: [Self; 5] = [Self::KithPostgres, Self::KithSqlite, Self::Sql, Self::Sqlite, Self::Echo];
    pub const KITH: [Self; 2] = [Self::KithPostgres, Self::KithSqlite];

    pub fn title(self) -> &'static str {
        match self {
            Self::KithPostgres => "Kith on PostgreSQL",
            Self::KithSqlite => "Kith on SQLite",
            Self::Sql => "SQL alone",
            Self::Sqlite => "SQLite alone",
            Self::Echo => "gRPC echo",
        }
    }

    /// Whether there is anything to measure.
    pub fn takes(self, operation: Operation, in_flight: usize) -> bool {
        match self {
            // PostgreSQL has its best before 64 connections on any machine that this runs on.
            Self::Sql => Raw::has(operation) && in_flight <= 64,
            Self::Sqlite => Bare::has(operation) && in_flight == GROUP,
            Self::KithPostgres | Self::KithSqlite | Self::Echo => true,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// A server that is measured.
struct Server {
    subject: Subject,
    /// Which of the Kiths on its database, by the place of its flags.
    variant: usize,
    target: Rc<Target>,
    process: Process,
}

/// All of them. They end in this order.
pub struct Session {
    servers: Vec<Server>,
    /// Those behind the Kiths.
    databases: Vec<(Subject, Database)>,
    raw: Option<Raw>,
    bare: Option<Bare>,
    postgres: Postgres,
    /// The Kiths as they were after their start.
    pub lean: Vec<Lean>,
    /// How many requests and connections the seed has.
    pub rows: usize,
    /// The versions of PostgreSQL and SQLite.
    pub versions: [String; 2],
}

impl Session {
    /// Starts and fills all that is measured below `parent`: on each engine a Kith with each of these lists of flags.
    /// With `alone` nothing but Kiths.
    pub async fn start(parent: &Path, layout: Layout, variants: &[Vec<String>], alone: bool) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("kith-bench-").tempdir_in(parent.canonicalize()?)?.keep();
        let postgres = Postgres::start(&directory)?;
        Database::postgres(&postgres.url("postgres")).await?.execute("CREATE DATABASE kith").await?;
        let (url, file) = (postgres.url("kith"), directory.join("kith.db"));
        let sqlite_url = format!("sqlite://{}", file.display());
        migrate(&url)?;
        migrate(&sqlite_url)?;

        let rows = fill(Database::postgres(&url).await?, layout, Subject::KithPostgres).await?;
        fill(Database::sqlite(&file)?, layout, Subject::KithSqlite).await?;
        // What the seed left to the system would be written while calls are measured.
        fs::File::open(&file)?.sync_all()?;
        let raw = if alone { None } else { Some(Raw::copy(&postgres, "kith", layout).await?) };
        let bare = if alone { None } else { Some(Bare::copy(&file, layout)?) };

        let (mut on_postgres, mut on_sqlite) = (Database::postgres(&url).await?, Database::sqlite(&file)?);
        let versions = [on_postgres.version().await?, on_sqlite.version().await?];
        let databases = vec![(Subject::KithPostgres, on_postgres), (Subject::KithSqlite, on_sqlite)];
        let mut session =
            Self { servers: Vec::new(), databases, raw, bare, postgres, lean: Vec::new(), rows, versions };
        session.serve(Subject::KithPostgres, &url, layout, variants)?;
        session.serve(Subject::KithSqlite, &sqlite_url, layout, variants)?;
        sleep(Duration::from_secs(1)).await;
        for one in &mut session.lean {
            one.rest = Memory::of(one.pid)?;
        }
        if !alone {
            session.serve_echo(layout).await?;
        }
        Ok(session)
    }

    /// Starts the Kiths on a database. They share the workload: no change is asked of two of them.
    fn serve(&mut self, subject: Subject, url: &str, layout: Layout, variants: &[Vec<String>]) -> Result<()> {
        let workload = Rc::new(RefCell::new(Workload::new(layout)));
        let starts = if self.raw.is_some() { STARTS } else { 1 };
        for (variant, flags) in variants.iter().enumerate() {
            let log = self.postgres.directory.join(format!("{subject:?}-{variant}.log"));
            let ((process, address), ready) = started(url, &log, flags, starts)?;
            let database = (subject == Subject::KithPostgres).then_some(self.postgres.process.pid);
            let watched = Watched { server: Some(process.pid), database };
            self.lean.push(Lean { subject, variant, pid: process.pid, ready, rest: Memory::default() });
            let target = Rc::new(Target { address, watched, workload: Rc::clone(&workload), is_kith: true });
            self.servers.push(Server { subject, variant, target, process });
        }
        Ok(())
    }

    /// Starts the echo of what Kith answers.
    async fn serve_echo(&mut self, layout: Layout) -> Result<()> {
        let answers = self.answers(layout).await?;
        let (process, address) = echo::start(&self.postgres.directory, &answers)?;
        let watched = Watched { server: Some(process.pid), database: None };
        let workload = Rc::new(RefCell::new(Workload::endless(layout)));
        let target = Rc::new(Target { address, watched, workload, is_kith: false });
        self.servers.push(Server { subject: Subject::Echo, variant: 0, target, process });
        Ok(())
    }

    /// One answer of each kind, as Kith gives it.
    async fn answers(&mut self, layout: Layout) -> Result<Vec<(Operation, Vec<u8>)>> {
        let target = self.target(Subject::KithPostgres)?;
        let mut workload = Workload::new(layout);
        workload.prepare(&mut self.databases[0].1, 10).await?;
        target.workload.replace(workload);
        let mut answers = Vec::new();
        for operation in Operation::single() {
            answers.push((operation, generator::ask(&target, operation).await?));
        }
        Ok(answers)
    }

    /// One measurement.
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
        if subject == Subject::Sqlite {
            return self.bare.as_mut().ok_or("it was not started")?.measure(operation, window.length);
        }
        self.measure_variant(subject, 0, operation, load, window).await
    }

    /// One measurement of this Kith of those on an engine.
    #[expect(clippy::await_holding_refcell_ref, reason = "no call is under way while the workload is prepared")]
    pub async fn measure_variant(
        &mut self,
        subject: Subject,
        variant: usize,
        operation: Operation,
        load: Load,
        window: Window,
    ) -> Result<Sample> {
        let target = Rc::clone(&self.server(subject, variant)?.target);
        if let (Some(database), true) = (self.database(subject), operation.answers()) {
            target.workload.borrow_mut().prepare(database, enough(window, operation)).await?;
        }
        if target.is_kith && operation != Operation::Mixed && target.workload.borrow().fixed.is_none() {
            generator::ask(&target, operation).await?;
        }
        let sample = generator::measure(&target, operation, load, window).await;
        let process = &self.server(subject, variant)?.process;
        sample.map_err(|error| format!("{error}; its log ends with\n{}", tail(process)).into())
    }

    /// Where both databases are.
    pub fn directory(&self) -> &Path {
        &self.postgres.directory
    }

    /// A server's calls.
    pub fn target(&self, subject: Subject) -> Result<Rc<Target>> {
        Ok(Rc::clone(&self.server(subject, 0)?.target))
    }

    /// Fails if a database is not as it should be after all of this.
    pub async fn check(&mut self) -> Result<()> {
        for (_, database) in &mut self.databases {
            seed::check(database).await?;
        }
        Ok(())
    }

    fn server(&self, subject: Subject, variant: usize) -> Result<&Server> {
        let found = self.servers.iter().find(|server| (server.subject, server.variant) == (subject, variant));
        Ok(found.ok_or("it was not started")?)
    }

    fn database(&mut self, subject: Subject) -> Option<&mut Database> {
        self.databases.iter_mut().find(|(behind, _)| *behind == subject).map(|(_, database)| database)
    }
}

async fn fill(mut database: Database, layout: Layout, subject: Subject) -> Result<usize> {
    let begun = Instant::now();
    let rows = seed::fill(&mut database, layout).await?;
    seed::settle(&mut database).await?;
    seed::check(&mut database).await?;
    database.close().await?;
    let (users, time) = (layout.users, begun.elapsed());
    eprintln!("{}: {users} users, {rows} requests and connections in {time:.1?}", subject.title());
    Ok(rows)
}

/// Starts a Kith so many times; answers the last one, and how many milliseconds each start took.
fn started(url: &str, log: &Path, flags: &[String], times: usize) -> Result<((Process, String), Vec<f64>)> {
    let mut ready = Vec::new();
    loop {
        let begun = Instant::now();
        let kith = kith(url, log, flags)?;
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

/// The end of what a process wrote.
fn tail(process: &Process) -> String {
    let log = process.log();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
