//! What a server process takes of the machine, from `/proc`.

use std::fs;

use crate::harness::process::Kith;

/// The memory and the open files of a process at one time.
pub struct Usage {
    pid: u32,
    status: String,
    descriptors: usize,
}

impl Usage {
    pub fn of(kith: &Kith) -> Self {
        let pid = kith.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process").count();
        Self { pid, status, descriptors }
    }

    /// Its resident memory.
    pub fn resident_mib(&self) -> u64 {
        self.mib("VmRSS:")
    }

    /// The most that it was since the last [`forget_peak`](Self::forget_peak).
    pub fn peak_mib(&self) -> u64 {
        self.mib("VmHWM:")
    }

    /// Open files and connections.
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Whether all threads of a process sleep, and none waits for the processor.
    pub fn is_idle(kith: &Kith) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", kith.pid())).expect("a running process");
        let stats = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        // The state follows the name, which is in parentheses.
        stats.into_iter().all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')))
    }

    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").expect("the peak is forgotten");
    }

    fn mib(&self, name: &str) -> u64 {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }
}
