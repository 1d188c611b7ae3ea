//! The process, by the names that all Prometheus clients have. Only on Linux, whose `/proc` shows it.

use std::fmt;

use super::Area;
use super::families::Families;

/// What the operating system says of this process when it is asked.
#[derive(Debug)]
pub(super) struct Process;

#[cfg(not(target_os = "linux"))]
impl Area for Process {
    fn write(&self, _: &mut Families<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
impl Area for Process {
    fn write(&self, families: &mut Families<'_>) -> fmt::Result {
        // Without `/proc`, as in some sandboxes, there is nothing to say.
        let Ok(usage) = linux::Usage::read() else { return Ok(()) };
        families
            .counter("process_cpu_seconds_total", "CPU time of the process, of users and of the system.")?
            .amount(&[], usage.cpu_seconds)?;
        families
            .gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.")?
            .value(&[], usage.start_seconds)?;
        families
            .gauge("process_resident_memory_bytes", "Memory of the process in RAM.")?
            .value(&[], usage.resident_bytes)?;
        families
            .gauge("process_virtual_memory_bytes", "Address space of the process.")?
            .value(&[], usage.virtual_bytes)?;
        let help = "Maximum memory of the process's control group, if it has one.";
        let mut family = families.gauge("kith_memory_limit_bytes", help)?;
        if let Some(limit) = linux::memory_limit() {
            family.value(&[], limit)?;
        }
        families.gauge("process_threads", "Threads of the process.")?.value(&[], usage.threads)?;
        families.gauge("process_open_fds", "Open files, connections among them.")?.value(&[], usage.open_files)?;
        families
            .gauge("process_max_fds", "Maximum of open files.")?
            .value(&[], usage.max_files.unwrap_or(f64::INFINITY))
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::{LimitValue, Process};
    use procfs::{ProcResult, boot_time_secs, page_size, ticks_per_second};

    /// Returns the maximum of the process's control group (version 2), if it has one.
    ///
    /// In a container the group is the root of what can be seen.
    pub(super) fn memory_limit() -> Option<u64> {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let limit = std::fs::read_to_string(format!("/sys/fs/cgroup{group}/memory.max")).ok()?;
        limit.trim().parse().ok()
    }

    pub(super) struct Usage {
        pub(super) cpu_seconds: f64,
        pub(super) start_seconds: f64,
        pub(super) resident_bytes: u64,
        pub(super) virtual_bytes: u64,
        pub(super) threads: i64,
        pub(super) open_files: usize,
        /// `None` is no limit.
        pub(super) max_files: Option<f64>,
    }

    impl Usage {
        pub(super) fn read() -> ProcResult<Self> {
            let process = Process::myself()?;
            let stat = process.stat()?;
            let seconds = |ticks: u64| ticks as f64 / ticks_per_second() as f64;
            Ok(Self {
                cpu_seconds: seconds(stat.utime + stat.stime),
                start_seconds: boot_time_secs()? as f64 + seconds(stat.starttime),
                resident_bytes: stat.rss * page_size(),
                virtual_bytes: stat.vsize,
                threads: stat.num_threads,
                open_files: process.fd_count()?,
                max_files: match process.limits()?.max_open_files.soft_limit {
                    LimitValue::Value(files) => Some(files as f64),
                    LimitValue::Unlimited => None,
                },
            })
        }
    }
}
