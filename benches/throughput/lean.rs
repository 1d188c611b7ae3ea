//! What a Kith needs besides processor time: binary size, start time, memory.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use super::Result;
use super::measure::spread;
use super::session::Subject;

/// The targets.
const BINARY_MEGABYTES: f64 = 25.0;
const READY_MILLISECONDS: f64 = 200.0;
const REST_MEGABYTES: f64 = 30.0;

/// A Kith after its start, before any call.
pub struct Lean {
    pub subject: Subject,
    /// The index of the Kith on its database.
    pub variant: usize,
    pub pid: u32,
    pub binary: PathBuf,
    /// The milliseconds from each start until it listened.
    pub ready: Vec<f64>,
    pub rest: Memory,
}

/// The resident memory of a process in bytes, shared pages included: the current and the peak value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    now: f64,
    most: f64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such memory")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1_024.0)
        };
        Ok(Self { now: bytes("VmRSS:")?, most: bytes("VmHWM:")? })
    }

    /// The current megabytes of a process. A dash if it has ended.
    pub fn now_of(pid: u32) -> String {
        Self::of(pid).map_or("–".to_owned(), |memory| megabytes(memory.now))
    }

    /// The peak megabytes of a process.
    fn most_of(pid: u32) -> String {
        Self::of(pid).map_or("–".to_owned(), |memory| megabytes(memory.most))
    }
}

/// The section of the report, written after the load.
pub fn section(lean: &[Lean]) -> Result<String> {
    let mut text = String::from(
        "## Size and memory\n\n\
         Each Kith on the seeded database, excluding PostgreSQL's processes. A server is ready when it logs that it\n\
         listens. At rest is one second after the start, before any call. The load is all measurements on this page.\n\n\
         | |",
    );
    for one in lean {
        write!(text, " {} |", one.subject)?;
    }
    writeln!(text, " Target |\n|---|{}--:|", "--:|".repeat(lean.len()))?;
    let mut row = |name: &str, aim: Option<f64>, value: &dyn Fn(&Lean) -> String| {
        let values: String = lean.iter().map(|one| format!(" {} |", value(one))).collect();
        let aim = aim.map_or("–".to_owned(), |aim| format!("≤ {aim}"));
        writeln!(text, "| {name} |{values} {aim} |")
    };
    row("Binary, MB", Some(BINARY_MEGABYTES), &|one| {
        fs::metadata(&one.binary).map_or("–".to_owned(), |file| megabytes(file.len() as f64))
    })?;
    row("From start to ready, ms", Some(READY_MILLISECONDS), &|one| {
        let [median, least, most] = spread(one.ready.iter().copied());
        format!("{median:.0} ({least:.0}–{most:.0})")
    })?;
    row("Memory at rest, MB", Some(REST_MEGABYTES), &|one| megabytes(one.rest.now))?;
    row("Memory after the load, MB", None, &|one| Memory::now_of(one.pid))?;
    row("Peak memory, MB", None, &|one| Memory::most_of(one.pid))?;
    Ok(text + "\n")
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1}", bytes / 1e6)
}
