//! The pod's shared memory: its containers share IPC, so `/dev/shm` is one filesystem for all of them.

use std::fs;
use std::path::Path;

use rustix::fs::statvfs;
use rustix::mount::{MountFlags, mount_remount};

use crate::container::mounts::Options;
use crate::failure::{Attempt, Failed};
use crate::spec::Spec;

/// Turns a mount on `/dev/shm` into a bind of the pod's. A size that it asks for is met: the first container of the pod
/// (`alone`) gets just that, for others the pod's shared memory grows to the largest that any container wanted.
pub(crate) fn share(spec: &mut Spec, shm: &Path, alone: bool) -> Result<(), Failed> {
    for mount in spec.mounts.iter_mut().filter(|m| m.destination.trim_end_matches('/') == "/dev/shm") {
        let options = Options::parse(&mount.options)?;
        if let Some(size) = options.value("size") {
            resize(shm, bytes(size)?, alone)?;
        }
        let own = |option: &String| {
            Options::parse(std::slice::from_ref(option)).is_ok_and(|o| o.data.is_empty() && o.bind.is_none())
        };
        mount.options.retain(own);
        mount.kind = "bind".to_owned();
        mount.source = shm.to_string_lossy().into_owned();
    }
    Ok(())
}

/// A size as tmpfs takes it: a number with `k`, `m` or `g`, or a share of the memory in percent.
fn bytes(size: &str) -> Result<u64, Failed> {
    let bad = || Failed::invalid(format!("size={size} of /dev/shm is no size"));
    let (digits, factor) = match size.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&size[..size.len() - 1], 1 << 10),
        Some(b'm') => (&size[..size.len() - 1], 1 << 20),
        Some(b'g') => (&size[..size.len() - 1], 1 << 30),
        Some(b'%') => (&size[..size.len() - 1], guest_memory() / 100),
        _ => (size, 1),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)
}

fn resize(shm: &Path, size: u64, smaller: bool) -> Result<(), Failed> {
    let failed = || "give the pod's shared memory its size".to_owned();
    let now = statvfs(shm).attempt(failed)?;
    let now = now.f_blocks.saturating_mul(now.f_frsize);
    if now == size || (now > size && !smaller) {
        return Ok(());
    }
    let options = std::ffi::CString::new(format!("size={size}")).invalid(failed)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(shm, flags, options).attempt(failed)
}

/// The guest's memory, in bytes.
pub(crate) fn guest_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sizes_are_read_as_tmpfs_reads_them() {
        assert_eq!(bytes("65536k").unwrap(), 64 << 20);
        assert_eq!(bytes("1G").unwrap(), 1 << 30);
        assert_eq!(bytes("4096").unwrap(), 4096);
        assert!(bytes("x").is_err() && bytes("").is_err() && bytes("99999999999999999999g").is_err());
    }

    #[test]
    fn mount_on_dev_shm_becomes_a_bind_of_the_pods() {
        let mut spec = Spec::parse(json!({"mounts": [{"destination": "/dev/shm", "type": "tmpfs",
            "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]}]}))
        .unwrap();
        share(&mut spec, Path::new("/dev/shm"), false).unwrap();
        let mount = &spec.mounts[0];
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("bind", "/dev/shm"));
        assert_eq!(mount.options, ["nosuid", "noexec", "nodev"]);
    }
}
