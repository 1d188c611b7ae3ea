//! Latencies of calls, and the processor time that processes used during them.

use std::time::Duration;
use std::{fmt, fs};

/// Values with the same first seven binary digits share a bucket: an error below 1.6 %.
const DIGITS: u32 = 6;

/// Latencies in nanoseconds, counted in buckets.
#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; (u64::BITS as usize) << DIGITS], count: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, time: Duration) {
        let value = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let shift = (u64::BITS - value.leading_zeros()).saturating_sub(DIGITS + 1);
        self.buckets[((shift as usize) << DIGITS) + (value >> shift) as usize] += 1;
        self.count += 1;
    }

    /// The milliseconds within which this share of the calls ended.
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let index = bucket.unwrap_or(0) as u64;
        let shift = (index >> DIGITS).saturating_sub(1);
        let first = (index - (shift << DIGITS)) << shift;
        // The middle of the bucket.
        (first as f64 + ((1_u64 << shift) - 1) as f64 / 2.0) / 1e6
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub per_second: f64,
    /// The milliseconds within which 50 %, 99 % and 99.9 % of the calls ended; 0 if not measured.
    pub latency: [f64; 3],
    /// Milliseconds of processor time per call: server, database, generator.
    pub cpu: [f64; 3],
    /// Bytes per call: request and response, without HTTP/2.
    pub bytes: f64,
}

impl Sample {
    /// The cost of a call: milliseconds of processor time of server and database together.
    pub fn cost(&self) -> f64 {
        self.cpu[0] + self.cpu[1]
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([median, most, _], [server, database, generator]) = (self.latency, self.cpu);
        write!(f, "{:.0} calls/s, p50 {median:.2} ms, p99 {most:.2} ms, ", self.per_second)?;
        write!(f, "CPU ms {server:.3} server, {database:.3} database, {generator:.4} generator")
    }
}

/// The processes of one measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    pub server: Option<u32>,
    /// PostgreSQL's first process. Its children are included.
    pub database: Option<u32>,
}

impl Watched {
    /// Seconds of processor time so far: server, database, this process.
    pub fn used(&self) -> [f64; 3] {
        let server = self.server.and_then(stat).map_or(0.0, |stat| stat.own);
        [server, self.database.map_or(0.0, family), stat(std::process::id()).map_or(0.0, |stat| stat.own)]
    }
}

/// Seconds of processor time of the children of this process that have ended.
pub fn used_by_ended() -> f64 {
    stat(std::process::id()).map_or(0.0, |stat| stat.ended)
}

struct Stat {
    parent: u32,
    own: f64,
    ended: f64,
}

/// Linux counts in hundredths of a second, whatever the processor.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the parenthesis may have spaces.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number)?.parse::<u32>().ok();
    let seconds = |user: usize| Some(f64::from(field(user)? + field(user + 1)?) / 100.0);
    Some(Stat { parent: field(1)?, own: seconds(11)?, ended: seconds(13)? })
}

/// The processor time of a process, its children, and those of them that have ended.
fn family(pid: u32) -> f64 {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let children = names
        .filter_map(|name| stat(name.to_str()?.parse().ok()?))
        .filter(|child| child.parent == pid)
        .map(|child| child.own);
    children.sum::<f64>() + stat(pid).map_or(0.0, |stat| stat.own + stat.ended)
}

/// The median, the minimum and the maximum.
pub fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => [0.0; 3],
        count => [f64::midpoint(values[(count - 1) / 2], values[count / 2]), values[0], values[count - 1]],
    }
}
