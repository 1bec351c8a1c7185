//! What this machine has: memory that may be used, memory that is used, cores.
//!
//! A process is often allowed less than the machine has: a container's limit is a file of a control group, and a limit may
//! stand at any level of the chain of groups. The parsers are pure functions of those files' text.

mod cgroup;
mod procfs;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// How much RAM this process may use, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamLimit {
    /// Bytes.
    pub bytes: u64,
    /// Where the number comes from.
    pub source: RamSource,
}

/// Where a [`RamLimit`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RamSource {
    /// What the operating system calls available: free, or reclaimable without swapping.
    Available,
    /// A limit of a control group; the path is the file that states it.
    Cgroup(PathBuf),
    /// The operating system does not say; `bytes` is zero, so that a budget must be given.
    Unknown,
}

impl std::fmt::Display for RamSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RamSource::Available => f.write_str("available memory"),
            RamSource::Cgroup(path) => write!(f, "cgroup limit {}", path.display()),
            RamSource::Unknown => f.write_str("unknown on this system"),
        }
    }
}

/// The least of the available memory and every control group's limit up the chain (v1 and v2).
pub fn available_ram() -> RamLimit {
    let Some(bytes) = available_bytes() else {
        return RamLimit { bytes: 0, source: RamSource::Unknown };
    };
    let available = RamLimit { bytes, source: RamSource::Available };
    match read("/proc/self/cgroup").zip(read("/proc/self/mountinfo")) {
        Some((groups, mounts)) => {
            cgroup::limits(&groups, &mounts, &|path| std::fs::read_to_string(path).ok())
                .into_iter()
                .map(|(bytes, path)| RamLimit { bytes, source: RamSource::Cgroup(path) })
                .fold(available, |least, limit| if limit.bytes < least.bytes { limit } else { least })
        }
        None => available,
    }
}

/// All RAM of the machine in bytes, whoever uses it; `None` where the system does not say.
pub fn total_ram_bytes() -> Option<u64> {
    read("/proc/meminfo")
        .and_then(|text| procfs::kib_field(&text, "MemTotal"))
        .or_else(|| Some(sysinfo_memory()?.total_memory()))
}

/// Physical memory that this process occupies now, in bytes; `None` where the system does not say.
pub fn rss_bytes() -> Option<u64> {
    status_field("VmRSS").or_else(sysinfo_rss_bytes)
}

/// The most physical memory that this process has occupied so far, in bytes; `None` where the system does not say.
///
/// Linux keeps this number. Elsewhere it is the largest value seen by calls of this function, so it is worth calling
/// it at the moments that use most.
pub fn peak_rss_bytes() -> Option<u64> {
    static SEEN: Mutex<u64> = Mutex::new(0);
    if let Some(bytes) = status_field("VmHWM") {
        return Some(bytes);
    }
    let now = sysinfo_rss_bytes()?;
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    *seen = now.max(*seen);
    Some(*seen)
}

/// The name of this machine in its network; `None` where the system does not say.
pub fn name() -> Option<String> {
    System::host_name().ok()
}

/// Processors that this process may use: its affinity mask and its control group's quota count.
pub fn allowed_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn available_bytes() -> Option<u64> {
    read("/proc/meminfo").and_then(|text| procfs::mem_available(&text)).or_else(sysinfo_available_bytes)
}

fn sysinfo_available_bytes() -> Option<u64> {
    let system = sysinfo_memory()?;
    [system.available_memory(), system.free_memory()].into_iter().find(|&bytes| bytes > 0)
}

fn sysinfo_memory() -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_memory();
    Some(system)
}

fn sysinfo_rss_bytes() -> Option<u64> {
    let pid = sysinfo::get_current_pid().ok()?;
    let mut system = System::new().ok()?;
    let memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, memory);
    system.process(pid).map(|process| process.memory()).filter(|&bytes| bytes > 0)
}

fn status_field(name: &str) -> Option<u64> {
    procfs::kib_field(&read("/proc/self/status")?, name)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_cores() {
        let limit = available_ram();
        assert!(limit.bytes > 1 << 20, "{limit:?}");
        assert!(limit.bytes <= total_ram_bytes().expect("this system says it"), "{limit:?}");
        assert!(allowed_cores() >= 1);
    }

    #[test]
    fn resident_memory_grows_with_what_is_touched() {
        let before = rss_bytes().expect("this system says it");
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let during = rss_bytes().expect("this system says it");
        let peak = peak_rss_bytes().expect("this system says it");
        assert!(during >= before + (48 << 20), "{before} then {during}");
        assert!(peak + (1 << 20) >= during, "peak {peak}, seen {during}");
        drop(block);
    }

    /// The way of systems without /proc, taken here on every system.
    #[test]
    fn the_portable_way_agrees() {
        let rss = sysinfo_rss_bytes().expect("sysinfo sees this process");
        assert!(rss > 1 << 18, "{rss}");
        let portable = sysinfo_available_bytes().expect("sysinfo sees the memory") as f64;
        let direct = available_bytes().expect("this system says it") as f64;
        assert!((0.5..2.0).contains(&(portable / direct)), "{portable} and {direct}");
    }
}
