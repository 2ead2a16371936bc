//! Whether the host has room for one more VM.
//!
//! Memory is not set aside for a pod's whole size: most guests never use theirs. But a VM that cannot even come up drags
//! the others down with it, so that a start is refused while the host has less than a VM needs at first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, thread};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{EngineError, Kind, Result};

/// Memory that a VM takes to come up and run one small container, all its processes together: measured 78 MiB for a
/// clone and 92 for one that booted, under TCG; the rest is what containers begin with.
const NEED: u64 = 128 << 20;

/// What is left to the host unless told otherwise: this part of its memory, within these bounds.
const RESERVE_PART: u64 = 20;
const RESERVE_BOUNDS: (u64, u64) = (128 << 20, 1 << 30);

/// VMs that start side by side for each processor: more would take as long together, and each of them longer.
const STARTS_FOR_EACH: usize = 2;

/// Where memory is looked at.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Bytes that stay free for the host.
    reserve: Option<u64>,
    /// Bytes that starting VMs will take.
    promised: AtomicU64,
    starts: Semaphore,
    meminfo: PathBuf,
    cgroups: Vec<PathBuf>,
}

/// Room for a VM while it starts; afterwards the host itself shows what it takes.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    admission: &'a Admission,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.admission.promised.fetch_sub(NEED, Ordering::AcqRel);
    }
}

impl Admission {
    /// With so many bytes left to the host; `None` for a twentieth of its memory.
    pub(crate) fn new(reserve: Option<u64>) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            reserve,
            promised: AtomicU64::new(0),
            starts: Semaphore::new(processors * STARTS_FOR_EACH),
            meminfo: PathBuf::from("/proc/meminfo"),
            cgroups: own_cgroups(),
        }
    }

    /// Room for one more VM.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn admit(&self) -> Result<Room<'_>> {
        let before = self.promised.fetch_add(NEED, Ordering::AcqRel);
        let room = Room { admission: self };
        // A host that does not tell has none of our advice.
        let Some((available, total)) = self.memory() else { return Ok(room) };
        let (least, most) = RESERVE_BOUNDS;
        let reserve = self.reserve.unwrap_or_else(|| (total / RESERVE_PART).clamp(least, most));
        if available >= before.saturating_add(NEED).saturating_add(reserve) {
            return Ok(room);
        }
        let mib = |bytes: u64| bytes >> 20;
        let starting = if before == 0 {
            String::new()
        } else {
            format!(", VMs that are starting will take {} MiB of them", mib(before))
        };
        let message = format!(
            "not enough memory for another VM: {} MiB are available{starting}, a VM needs {} MiB at first and {} MiB are \
             left to the host",
            mib(available),
            mib(NEED),
            mib(reserve)
        );
        Err(EngineError::new(Kind::System, message).with_hint(
            "stop containers or give the host more memory; HYPER_MEMORY_RESERVE is what is left to it",
        ))
    }

    /// Waits for a turn to start a VM.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.starts.acquire().await.ok()
    }

    /// Bytes that can be used, and bytes there are.
    fn memory(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(&self.meminfo).ok()?;
        let (mut available, mut total) =
            (kib_of(&text, "MemAvailable:")? << 10, kib_of(&text, "MemTotal:")? << 10);
        for cgroup in &self.cgroups {
            if let Some((limit, used)) = limit_of(cgroup) {
                available = available.min(limit.saturating_sub(used));
                total = total.min(limit);
            }
        }
        Some((available, total))
    }
}

/// The value of a line `NAME N kB` of a file of `/proc`.
pub(crate) fn kib_of(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().trim_end_matches(" kB").parse().ok()
}

/// The control group of this process with memory control, and those above it.
fn own_cgroups() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // `number:controllers:path`
    let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let first = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let unified = || lines().find(|(controllers, _)| controllers.is_empty());
    let Some((controllers, path)) = first.or_else(unified) else { return Vec::new() };
    let root = Path::new(if controllers.is_empty() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" });
    let own = root.join(path.trim_start_matches('/'));
    own.ancestors().take_while(|group| group.starts_with(root)).map(Path::to_owned).collect()
}

/// A control group's limit and what counts towards it without what the kernel can take back at once, in bytes; of either
/// version.
fn limit_of(cgroup: &Path) -> Option<(u64, u64)> {
    let number = |name: &str| fs::read_to_string(cgroup.join(name)).ok()?.trim().parse::<u64>().ok();
    // Without a limit version 2 says `max`, version 1 a number of exabytes.
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(cgroup.join("memory.stat")).unwrap_or_default();
    let counted = |name: &str| -> Option<u64> {
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let files = counted("total_inactive_file ").or_else(|| counted("inactive_file ")).unwrap_or(0);
    Some((limit, used.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with so many MiB available of 8 GiB, in a control group with this limit.
    fn host(dir: &Path, available: u64, limit: Option<u64>) -> Admission {
        let meminfo = format!("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: {} kB\n", available << 10);
        fs::write(dir.join("meminfo"), meminfo).unwrap();
        let limit = limit.map_or("max".to_owned(), |mib| (mib << 20).to_string());
        fs::write(dir.join("memory.max"), limit).unwrap();
        fs::write(dir.join("memory.current"), (100_u64 << 20).to_string()).unwrap();
        fs::write(dir.join("memory.stat"), format!("anon 1\ninactive_file {}\n", 50_u64 << 20)).unwrap();
        let admission = Admission::new(None);
        Admission { meminfo: dir.join("meminfo"), cgroups: vec![dir.to_owned()], ..admission }
    }

    fn admitted(admission: &Admission) -> usize {
        let mut rooms = Vec::new();
        while let Ok(room) = admission.admit() {
            rooms.push(room);
            assert!(rooms.len() < 100);
        }
        rooms.len()
    }

    #[test]
    fn as_many_start_as_there_is_memory_for() {
        let dir = tempfile::tempdir().unwrap();
        // A twentieth of 8 GiB is 409.6 MiB.
        assert_eq!(admitted(&host(dir.path(), 1000, None)), 4);
        assert_eq!(admitted(&host(dir.path(), 537, None)), 0);
        // Those that have come up, or failed, hold nothing back.
        let admission = host(dir.path(), 1000, None);
        assert_eq!((admitted(&admission), admitted(&admission)), (4, 4));
    }

    #[test]
    fn a_control_groups_limit_counts_and_its_caches_do_not() {
        let dir = tempfile::tempdir().unwrap();
        // 1050 less 50 in use, and a twentieth of 1050, below 128, is left.
        assert_eq!(admitted(&host(dir.path(), 8000, Some(1050))), 6);
    }

    #[test]
    fn refusal_says_how_much_there_is_and_what_can_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let error = host(dir.path(), 300, None).admit().unwrap_err().report();
        for part in ["300 MiB are available", "128 MiB at first", "409 MiB are left", "HYPER_MEMORY_RESERVE"]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_host_that_tells_nothing_is_trusted() {
        let admission = Admission { meminfo: "/nosuch".into(), cgroups: Vec::new(), ..Admission::new(None) };
        assert!(admission.admit().is_ok());
        assert!(Admission::new(None).memory().is_some());
    }
}
