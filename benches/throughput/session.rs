//! Everything that is measured, started once: one or several Kiths on each engine, PostgreSQL alone, and an echo.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use tokio::time::sleep;

use super::access::Access;
use super::bare::{Bare, GROUP};
use super::database::Database;
use super::generator::{self, Load, Target, Window};
use super::layout::Layout;
use super::lean::{Lean, Memory};
use super::measure::{Sample, Watched};
use super::process::{Postgres, Process, kith, migrate, own_kith};
use super::raw::Raw;
use super::workload::{Operation, Workload};
use super::{Result, echo, seed};

/// More calls per second than any Kith reaches: the number of open requests prepared for each measurement.
const CALLS_PER_SECOND: f64 = 30_000.0;
/// How often each Kith is started, to measure how long a start takes.
const STARTS: usize = 5;

/// The subjects of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    KithPostgres,
    /// The other Kith, of `--against`.
    AgainstPostgres,
    KithSqlite,
    AgainstSqlite,
    /// PostgreSQL, called by pgbench.
    Sql,
    /// SQLite, called by one thread of this process.
    Sqlite,
    Echo,
}

impl Subject {
    pub const ALL: [Self; 7] = [
        Self::KithPostgres,
        Self::AgainstPostgres,
        Self::KithSqlite,
        Self::AgainstSqlite,
        Self::Sql,
        Self::Sqlite,
        Self::Echo,
    ];
    pub const KITH: [Self; 2] = [Self::KithPostgres, Self::KithSqlite];
    const AGAINST: [Self; 2] = [Self::AgainstPostgres, Self::AgainstSqlite];

    /// The other Kith on the same engine.
    pub fn against(self) -> Option<Self> {
        Self::KITH.iter().zip(Self::AGAINST).find(|(kith, _)| **kith == self).map(|(_, against)| against)
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::KithPostgres => "Kith on PostgreSQL",
            Self::AgainstPostgres => "Other Kith on PostgreSQL",
            Self::KithSqlite => "Kith on SQLite",
            Self::AgainstSqlite => "Other Kith on SQLite",
            Self::Sql => "SQL alone",
            Self::Sqlite => "SQLite alone",
            Self::Echo => "gRPC echo",
        }
    }

    /// Whether the operation is measured for this subject.
    pub fn takes(self, operation: Operation, in_flight: usize) -> bool {
        if operation.repeated() > 0 && in_flight != GROUP {
            return false;
        }
        match self {
            // PostgreSQL reaches its peak below 64 connections on all machines that this has run on.
            Self::Sql => Raw::has(operation) && in_flight <= 64,
            Self::Sqlite => Bare::has(operation) && in_flight == GROUP,
            // Its response is always the same.
            Self::Echo => operation.repeated() == 0,
            Self::KithPostgres | Self::AgainstPostgres | Self::KithSqlite | Self::AgainstSqlite => true,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// How a Kith is started, and how it is called.
#[derive(Clone, Default)]
pub struct Setup {
    pub flags: Vec<String>,
    pub access: Access,
}

/// A Kith with these flags that demands nothing of its clients.
impl From<Vec<String>> for Setup {
    fn from(flags: Vec<String>) -> Self {
        Self { flags, access: Access::default() }
    }
}

/// A server that is measured.
struct Server {
    subject: Subject,
    /// The index of the Kith on its database, and of its flags.
    variant: usize,
    target: Rc<Target>,
    process: Process,
}

/// All subjects. They end in this order.
pub struct Session {
    servers: Vec<Server>,
    /// The databases of the Kiths.
    databases: Vec<(Subject, Database)>,
    raw: Option<Raw>,
    bare: Option<Bare>,
    postgres: Postgres,
    /// The Kiths after their start.
    pub lean: Vec<Lean>,
    /// The number of requests and connections in the seed.
    pub rows: usize,
    /// The versions of PostgreSQL and SQLite.
    pub versions: [String; 2],
}

impl Session {
    /// Starts and seeds everything below `parent`: on each engine one Kith for each setup. With `against`,
    /// another Kith on its own databases. With `alone`, nothing but Kiths.
    pub async fn start(
        parent: &Path,
        layout: Layout,
        variants: &[Setup],
        against: Option<&Path>,
        alone: bool,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("kith-bench-").tempdir_in(parent.canonicalize()?)?.keep();
        let postgres = Postgres::start(&directory)?;
        let compression = compress_log(&mut Database::postgres(&postgres.url("postgres")).await?).await?;
        let mut kiths = vec![Kith { binary: own_kith()?, name: "kith", on: Subject::KITH }];
        let other = against.map(|path| Kith { binary: path.to_owned(), name: "against", on: Subject::AGAINST });
        kiths.extend(other);
        let mut rows = 0;
        for kith in &kiths {
            rows = kith.fill(&postgres, layout).await?;
        }
        let file = kiths[0].file(&postgres);
        let raw = if alone { None } else { Some(Raw::copy(&postgres, kiths[0].name, layout).await?) };
        let bare = if alone { None } else { Some(Bare::copy(&file, layout)?) };

        let mut databases = Vec::new();
        for kith in &kiths {
            databases.push((kith.on[0], Database::postgres(&postgres.url(kith.name)).await?));
            databases.push((kith.on[1], Database::sqlite(&kith.file(&postgres))?));
        }
        let versions = [databases[0].1.version().await? + &compression, databases[1].1.version().await?];
        let mut session =
            Self { servers: Vec::new(), databases, raw, bare, postgres, lean: Vec::new(), rows, versions };
        for kith in &kiths {
            session.serve(kith, 0, layout, variants)?;
            session.serve(kith, 1, layout, variants)?;
        }
        sleep(Duration::from_secs(1)).await;
        for one in &mut session.lean {
            one.rest = Memory::of(one.pid)?;
        }
        if !alone {
            session.serve_echo(layout).await?;
        }
        Ok(session)
    }

    /// Starts the Kiths of a database. They share the workload, so that no two of them make the same change.
    fn serve(&mut self, kith: &Kith, engine: usize, layout: Layout, variants: &[Setup]) -> Result<()> {
        let (subject, url) = (kith.on[engine], &kith.urls(&self.postgres)[engine]);
        let workload = Rc::new(RefCell::new(Workload::new(layout)));
        let starts = if self.raw.is_some() { STARTS } else { 1 };
        for (variant, Setup { flags, access }) in variants.iter().enumerate() {
            let log = self.postgres.directory.join(format!("{subject:?}-{variant}.log"));
            let ((process, address), ready) = started(&kith.binary, url, &log, flags, starts)?;
            let database = (engine == 0).then_some(self.postgres.process.pid);
            let watched = Watched { server: Some(process.pid), database };
            let (binary, rest) = (kith.binary.clone(), Memory::default());
            self.lean.push(Lean { subject, variant, pid: process.pid, binary, ready, rest });
            let target = Rc::new(Target {
                address,
                access: access.clone(),
                watched,
                workload: Rc::clone(&workload),
                is_kith: true,
            });
            self.servers.push(Server { subject, variant, target, process });
        }
        Ok(())
    }

    /// Starts an echo of Kith's responses.
    async fn serve_echo(&mut self, layout: Layout) -> Result<()> {
        let responses = self.responses(layout).await?;
        let (process, address) = echo::start(&self.postgres.directory, &responses)?;
        let watched = Watched { server: Some(process.pid), database: None };
        let workload = Rc::new(RefCell::new(Workload::endless(layout)));
        let target = Rc::new(Target { address, access: Access::default(), watched, workload, is_kith: false });
        self.servers.push(Server { subject: Subject::Echo, variant: 0, target, process });
        Ok(())
    }

    /// A response of each kind, as Kith sends it.
    async fn responses(&mut self, layout: Layout) -> Result<Vec<(Operation, Vec<u8>)>> {
        let target = self.target(Subject::KithPostgres)?;
        let mut workload = Workload::new(layout);
        workload.prepare(&mut self.databases[0].1, 10).await?;
        target.workload.replace(workload);
        let mut responses = Vec::new();
        for operation in Operation::single() {
            responses.push((operation, generator::checked_call(&target, operation).await?));
        }
        Ok(responses)
    }

    /// One measurement.
    pub async fn measure(
        &mut self,
        subject: Subject,
        operation: Operation,
        load: Load,
        window: Window,
    ) -> Result<Sample> {
        if subject == Subject::Sql {
            let raw = self.raw.as_mut().ok_or("it was not started")?;
            if operation.uses_requests() {
                raw.prepare(enough(window, operation)).await?;
            }
            return raw.measure(&self.postgres, operation, load, window.length).await;
        }
        if subject == Subject::Sqlite {
            return self.bare.as_mut().ok_or("it was not started")?.measure(operation, window.length);
        }
        self.measure_variant(subject, 0, operation, load, window).await
    }

    /// Makes sure that there are enough open requests for a measurement of this operation.
    #[expect(clippy::await_holding_refcell_ref, reason = "no call is under way while the workload is prepared")]
    pub async fn prepare(&mut self, subject: Subject, operation: Operation, window: Window) -> Result<()> {
        let target = self.target(subject)?;
        if let (Some(database), true) = (self.database(subject), operation.uses_requests()) {
            target.workload.borrow_mut().prepare(database, enough(window, operation)).await?;
        }
        Ok(())
    }

    /// Measures one of the Kiths on an engine.
    pub async fn measure_variant(
        &mut self,
        subject: Subject,
        variant: usize,
        operation: Operation,
        load: Load,
        window: Window,
    ) -> Result<Sample> {
        let target = self.target_of(subject, variant)?;
        self.prepare(subject, operation, window).await?;
        if target.is_kith && operation != Operation::Mixed && target.workload.borrow().fixed.is_none() {
            generator::checked_call(&target, operation).await?;
        }
        let sample = generator::measure(&target, operation, load, window).await;
        let process = &self.server(subject, variant)?.process;
        sample.map_err(|error| format!("{error}; its log ends with\n{}", tail(process)).into())
    }

    /// Whether the subject was started.
    pub fn has(&self, subject: Subject) -> bool {
        match subject {
            Subject::Sql => self.raw.is_some(),
            Subject::Sqlite => self.bare.is_some(),
            _ => self.server(subject, 0).is_ok(),
        }
    }

    /// The directory of the databases.
    pub fn directory(&self) -> &Path {
        &self.postgres.directory
    }

    /// The calls of a server.
    pub fn target(&self, subject: Subject) -> Result<Rc<Target>> {
        self.target_of(subject, 0)
    }

    /// The calls of one of the Kiths on an engine.
    pub fn target_of(&self, subject: Subject, variant: usize) -> Result<Rc<Target>> {
        Ok(Rc::clone(&self.server(subject, variant)?.target))
    }

    /// Fails if a database is not consistent after the run.
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

/// A binary, and its databases.
struct Kith {
    binary: PathBuf,
    name: &'static str,
    /// Its subjects on PostgreSQL and on SQLite.
    on: [Subject; 2],
}

impl Kith {
    fn file(&self, postgres: &Postgres) -> PathBuf {
        postgres.directory.join(self.name).with_extension("db")
    }

    fn urls(&self, postgres: &Postgres) -> [String; 2] {
        [postgres.url(self.name), format!("sqlite://{}", self.file(postgres).display())]
    }

    /// Creates the databases with the binary's own migrations, and fills them. Returns the number of rows.
    async fn fill(&self, postgres: &Postgres, layout: Layout) -> Result<usize> {
        let create = format!("CREATE DATABASE {}", self.name);
        Database::postgres(&postgres.url("postgres")).await?.execute(&create).await?;
        for url in self.urls(postgres) {
            migrate(&self.binary, &url)?;
        }
        let rows = fill(Database::postgres(&postgres.url(self.name)).await?, layout, self.on[0]).await?;
        let file = self.file(postgres);
        fill(Database::sqlite(&file)?, layout, self.on[1]).await?;
        // Otherwise the system would write the rest of the seed during a measurement.
        fs::File::open(&file)?.sync_all()?;
        Ok(rows)
    }
}

/// Makes PostgreSQL compress its log, as docs/operations.md recommends. Returns how, for the report.
async fn compress_log(database: &mut Database) -> Result<String> {
    // Faster than the default method `on`, but not every server has it.
    let set = |method| format!("ALTER SYSTEM SET wal_compression = '{method}'");
    let method = if database.execute(&set("lz4")).await.is_ok() { "lz4" } else { "on" };
    database.execute(&set(method)).await?;
    database.execute("SELECT pg_reload_conf()").await?;
    Ok(format!(" with wal_compression={method}"))
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

/// Starts a Kith several times. Returns the last one, and the milliseconds of each start.
fn started(
    binary: &Path,
    url: &str,
    log: &Path,
    flags: &[String],
    times: usize,
) -> Result<((Process, String), Vec<f64>)> {
    let mut ready = Vec::new();
    loop {
        let begun = Instant::now();
        let kith = kith(binary, url, log, flags)?;
        ready.push(begun.elapsed().as_secs_f64() * 1e3);
        if ready.len() == times {
            return Ok((kith, ready));
        }
    }
}

/// The number of open requests that a measurement may use up.
fn enough(window: Window, operation: Operation) -> i64 {
    let share = if operation == Operation::Mixed { 0.1 } else { 1.0 };
    ((window.start + window.length).max(Duration::from_secs(1)).as_secs_f64() * CALLS_PER_SECOND * share) as i64
}

/// The last lines that a process logged.
fn tail(process: &Process) -> String {
    let log = process.log();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
