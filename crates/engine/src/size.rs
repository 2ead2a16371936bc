//! How large a pod's VM is.

use crate::cpuset;
use crate::error::{EngineError, Result};
use crate::options::Resources;

/// Memory of a VM whose first container has no limit, in MiB.
pub const DEFAULT_MEMORY_MIB: u32 = 512;

/// What a VM has beyond its container's limit, in MiB: the guest kernel and its page tables, the agent, slab and
/// page cache of the layers' filesystems.
pub const OVERHEAD_MIB: u32 = 96;

/// Smallest memory limit of a container, in bytes: docker's.
const MIN_MEMORY: i64 = 6 << 20;

/// Virtual CPUs of a VM whose first container has no limit, where the guest runs on real ones and the host has as
/// many. An emulated guest gets one: each more makes its boot longer (measured with QEMU's TCG: by 90 to 200 ms).
const DEFAULT_VCPUS: u32 = 2;

/// Most memory of a VM, in MiB: more than any host has, and the arithmetic stays in range.
const MAX_MEMORY_MIB: i64 = 64 << 20;

/// CPUs of this host.
pub fn host_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Virtual CPUs for a container's limits; where there are none it matters whether guests are `accelerated`.
///
/// # Errors
/// As [`vcpus`].
pub(crate) fn vcpus_of(limits: &Resources, accelerated: bool) -> Result<u32> {
    Ok(vcpus(limits.nano_cpus, accelerated)?.max(cpuset::vcpus(&limits.cpuset_cpus)))
}

/// Virtual CPUs for a limit in thousand millionths of a CPU; 0 for no limit, where it matters whether guests are
/// `accelerated`.
///
/// # Errors
/// Negative, less than a hundredth, or more than the host has.
pub(crate) fn vcpus(nano_cpus: i64, accelerated: bool) -> Result<u32> {
    let host = host_cpus();
    if nano_cpus == 0 {
        return Ok(if accelerated { DEFAULT_VCPUS.min(host) } else { 1 });
    }
    if !(10_000_000..=i64::from(host) * 1_000_000_000).contains(&nano_cpus) {
        return Err(EngineError::invalid(format!(
            "Range of CPUs is from 0.01 to {host}.00, as there are only {host} CPUs available"
        )));
    }
    Ok(u32::try_from((nano_cpus + 999_999_999) / 1_000_000_000).unwrap_or(host))
}

/// Memory of a VM, in MiB, for a container's limit in bytes; 0 for no limit.
///
/// # Errors
/// Less than docker's minimum, or absurdly much.
pub(crate) fn memory_mib(limit: i64) -> Result<u32> {
    if limit == 0 {
        return Ok(DEFAULT_MEMORY_MIB);
    }
    if limit < MIN_MEMORY {
        return Err(EngineError::invalid("Minimum memory limit allowed is 6MB"));
    }
    let limit = limit.div_euclid(1 << 20) + i64::from(limit.rem_euclid(1 << 20) != 0);
    if limit > MAX_MEMORY_MIB {
        return Err(EngineError::invalid(format!("memory limit of {limit} MiB is more than a VM can have")));
    }
    Ok(u32::try_from(limit).unwrap_or(u32::MAX).saturating_add(OVERHEAD_MIB))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_cpus_are_rounded_up() {
        assert_eq!(vcpus(500_000_000, true).unwrap(), 1);
        assert_eq!(vcpus(1_000_000_000, false).unwrap(), 1);
        assert_eq!(vcpus(0, false).unwrap(), 1);
        assert!(vcpus(0, true).unwrap() <= 2);
        for bad in [-1, 9_999_999, (i64::from(host_cpus()) + 1) * 1_000_000_000] {
            assert!(vcpus(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn vm_is_larger_than_its_containers_limit() {
        assert_eq!(memory_mib(0).unwrap(), DEFAULT_MEMORY_MIB);
        assert_eq!(memory_mib(64 << 20).unwrap(), 64 + OVERHEAD_MIB);
        assert_eq!(memory_mib((64 << 20) + 1).unwrap(), 65 + OVERHEAD_MIB);
        for bad in [-1, 1, (6 << 20) - 1, i64::MAX] {
            assert!(memory_mib(bad).is_err(), "{bad}");
        }
    }
}
