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

    pub fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid), "5").expect("the peak is forgotten");
    }

    fn mib(&self, name: &str) -> u64 {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }
}
