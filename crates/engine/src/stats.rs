//! What containers use, and their processes.

use std::fs;
use std::path::Path;

use hyper_protocol::agent::{Process, Stats};
use hyper_protocol::shim::files;

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::{podsock, shim};

/// What a pod's processes take of the host's memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// What they have for themselves, and of what they share with other processes their part (PSS).
    pub proportional: u64,
    /// What they have for themselves.
    pub private: u64,
    /// What they share with other processes (programs, libraries, a template), whole.
    pub shared: u64,
    /// Of the guest's memory what the host has no page for: never used, or given back.
    pub absent: u64,
}

impl Engine {
    /// What the pod of a running container takes of the host's memory; `None` if it does not run.
    ///
    /// # Errors
    /// No such container.
    pub async fn host_memory(&self, reference: &str) -> Result<Option<HostMemory>> {
        let container = self.shared.registry.find(reference)?;
        let Ok(shim) = self.running_shim(&container) else { return Ok(None) };
        let pod = self.shared.registry.pod(&container.lock().pod.clone())?;
        let guest = u64::from(pod.record().options.memory_mib) << 20;
        let dir = shim.dir().to_owned();
        let look = move || host_memory(&dir, guest);
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| EngineError::system("looking at memory ended early", error))
    }

    /// What a container uses now; `None` if it does not run.
    ///
    /// # Errors
    /// The shim does not answer.
    pub async fn stats(&self, reference: &str) -> Result<Option<Stats>> {
        let container = self.shared.registry.find(reference)?;
        match self.running_shim(&container) {
            Ok(shim) => podsock::stats(shim.dir(), &container.id).await.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The processes of a container.
    ///
    /// # Errors
    /// Not running.
    pub async fn processes(&self, reference: &str) -> Result<Vec<Process>> {
        let container = self.shared.registry.find(reference)?;
        let shim = self
            .running_shim(&container)
            .map_err(|_| EngineError::conflict(format!("container {} is not running", container.id)))?;
        podsock::processes(shim.dir(), &container.id).await
    }
}

/// Memory of the processes named in a pod's directory, whose guest has `guest` bytes.
fn host_memory(dir: &Path, guest: u64) -> Option<HostMemory> {
    let [vmm, shim] = of_processes(dir, "smaps");
    let mut memory = HostMemory { absent: guest, ..HostMemory::default() };
    memory.add(&vmm?, guest);
    if let Some(shim) = shim {
        memory.add(&shim, guest);
    }
    Some(memory)
}

/// A file of `/proc/PID` of a pod's VMM and of its shim, which are named in the pod's directory; `None` of one that is
/// gone.
pub(crate) fn of_processes(dir: &Path, file: &str) -> [Option<String>; 2] {
    [shim::VMM_PID, files::SHIM_PID].map(|name| {
        let pid = fs::read_to_string(dir.join(name)).ok()?;
        fs::read_to_string(format!("/proc/{}/{file}", pid.trim())).ok()
    })
}

impl HostMemory {
    /// Adds a process, by its `smaps`.
    fn add(&mut self, smaps: &str, guest: u64) {
        // The mapping that is the guest's memory is the only one of its size, up to QEMU's alignment of it.
        let mut is_guest = false;
        for line in smaps.lines() {
            let Some((name, rest)) = line.split_once(' ') else { continue };
            if !name.ends_with(':') {
                is_guest = range(name).is_some_and(|bytes| (guest..guest + (4 << 20)).contains(&bytes));
                continue;
            }
            let bytes = rest.trim().trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib << 10);
            match name {
                "Pss:" => self.proportional += bytes,
                "Private_Clean:" | "Private_Dirty:" => self.private += bytes,
                "Shared_Clean:" | "Shared_Dirty:" => self.shared += bytes,
                "Rss:" if is_guest => self.absent = self.absent.saturating_sub(bytes),
                _ => {}
            }
        }
    }
}

/// Bytes of an address range, `7f00-7fff` in hexadecimal.
fn range(text: &str) -> Option<u64> {
    let (start, end) = text.split_once('-')?;
    u64::from_str_radix(end, 16).ok()?.checked_sub(u64::from_str_radix(start, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_by_who_has_it() {
        let smaps = "7f0000000000-7f0000100000 rw-p 00000000 00:00 0 \nSize: 1024 kB\nRss: 100 kB\nPss: 60 kB\n\
            Shared_Clean: 80 kB\nShared_Dirty: 0 kB\nPrivate_Clean: 5 kB\nPrivate_Dirty: 15 kB\nVmFlags: rd wr\n\
            7f1000000000-7f1000002000 r-xp 00000000 fe:00 7 /usr/bin/x\nRss: 8 kB\nPss: 2 kB\nShared_Clean: 8 kB\n";
        let guest = 1 << 20;
        let mut memory = HostMemory { absent: guest, ..HostMemory::default() };
        memory.add(smaps, guest);
        let expected = HostMemory {
            proportional: 62 << 10,
            private: 20 << 10,
            shared: 88 << 10,
            absent: guest - (100 << 10),
        };
        assert_eq!(memory, expected);
    }

    #[test]
    fn a_pod_that_is_gone_has_no_memory() {
        assert_eq!(host_memory(Path::new("/nosuch"), 1), None);
    }
}
