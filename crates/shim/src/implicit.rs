//! Pods that nobody configured: containerd makes a task without saying in what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_protocol::shim::PodConfig;
use serde_json::Value;

use crate::container::{self, NewContainer};
use crate::error::ShimError;
use crate::home;
use crate::pod::{Phase, Pod};

/// Memory of a pod without limits, in MiB.
const MEMORY_MIB: u64 = 512;
/// What the guest's kernel and agent need beside the containers, in MiB.
const OVERHEAD_MIB: u64 = 128;
/// Most memory that a pod gets by itself, in MiB; limits beyond it are limits of the host rather.
const MEMORY_MAX_MIB: u64 = 64 << 10;
/// Most virtual processors that a pod gets by itself.
const VCPUS_MAX: u64 = 64;
/// How long its guest may take to boot.
const BOOT_TIMEOUT_MS: u64 = 60_000;
/// Directory of the pod in its bundle.
const DIRECTORY: &str = "pod";

/// Boots a pod of its own for a container, unless there is a pod already.
///
/// # Errors
/// See [`ShimError`].
pub fn boot(pod: &Arc<Pod>, request: &NewContainer) -> Result<(), ShimError> {
    if !matches!(pod.phase(), Phase::Empty) {
        return Ok(());
    }
    let spec = container::read_spec(&request.bundle)?;
    let config = config(&request.bundle, &spec)?;
    let dir = config.dir.clone();
    match pod.configure(config) {
        // Another request was faster, which is as good.
        Ok(()) => home::open(pod, &dir)?,
        Err(ShimError::AlreadyExists(_)) => {}
        Err(error) => return Err(error),
    }
    // Booting goes on while the container is being made.
    pod.begin_boot();
    Ok(())
}

/// The pod that containerd's own sandbox request means.
///
/// # Errors
/// [`ShimError::Unsupported`] for what cannot be honoured.
pub fn from_sandbox(pod: &Pod, bundle: &str, netns: &str) -> Result<PodConfig, ShimError> {
    if !netns.is_empty() {
        return Err(ShimError::Unsupported(format!(
            "network namespace {netns} is not supported; use a pod with host network or without network"
        )));
    }
    let bundle = if bundle.is_empty() { pod.bundle.clone() } else { PathBuf::from(bundle) };
    let spec = container::read_spec(&bundle).unwrap_or(Value::Null);
    config(&bundle, &spec)
}

fn config(bundle: &Path, spec: &Value) -> Result<PodConfig, ShimError> {
    let guest = guest_dir()?;
    let dir = bundle.join(DIRECTORY);
    match std::fs::create_dir(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(ShimError::failed(&format!("cannot make {}", dir.display()), &error));
        }
        _ => {}
    }
    let hostname = spec["hostname"].as_str().filter(|name| !name.is_empty()).unwrap_or("hyper").to_owned();
    Ok(PodConfig {
        share: false,
        dir,
        kernel: guest.join("vmlinux"),
        initramfs: guest.join("initramfs.cpio"),
        kernel_args: vec![],
        hypervisor: None,
        vcpus: vcpus(spec),
        memory_mib: memory_mib(spec),
        hostname,
        domainname: String::new(),
        sysctl: Default::default(),
        interfaces: vec![],
        nic_slots: 0,
        autostop: false,
        boot_timeout_ms: BOOT_TIMEOUT_MS,
        templates: None,
    })
}

fn memory_mib(spec: &Value) -> u32 {
    let limit = spec["linux"]["resources"]["memory"]["limit"].as_u64().filter(|limit| *limit > 0);
    let mib = limit.map_or(MEMORY_MIB, |limit| (limit >> 20) + OVERHEAD_MIB).min(MEMORY_MAX_MIB);
    u32::try_from(mib).expect("it is bounded")
}

fn vcpus(spec: &Value) -> u32 {
    let cpu = &spec["linux"]["resources"]["cpu"];
    let quota = cpu["quota"].as_u64().filter(|quota| *quota > 0);
    let period = cpu["period"].as_u64().filter(|period| *period > 0).unwrap_or(100_000);
    let wanted = quota.map_or(1, |quota| quota.div_ceil(period)).clamp(1, VCPUS_MAX);
    u32::try_from(wanted).expect("it is bounded")
}

/// Where kernel and initial filesystem are: where the environment says, beside the program, or where packages put
/// them.
fn guest_dir() -> Result<PathBuf, ShimError> {
    let named = std::env::var_os("HYPER_GUEST").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("guest")));
    let candidates = [named, beside, Some("/usr/lib/hyper/guest".into())];
    let found = candidates.into_iter().flatten().find(|dir| dir.join("vmlinux").is_file());
    found.ok_or_else(|| {
        let text = "there is no guest kernel: neither HYPER_GUEST, a directory guest beside the shim nor /usr/lib/hyper/guest has a vmlinux";
        ShimError::Failed(text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_of_the_container_size_the_pod() {
        assert_eq!((memory_mib(&json!({})), vcpus(&json!({}))), (512, 1));
        let spec = json!({"linux": {"resources": {
            "memory": {"limit": 256 << 20}, "cpu": {"quota": 150_000, "period": 100_000}}}});
        assert_eq!((memory_mib(&spec), vcpus(&spec)), (384, 2));
        let endless =
            json!({"linux": {"resources": {"memory": {"limit": u64::MAX}, "cpu": {"quota": u64::MAX}}}});
        assert_eq!((memory_mib(&endless), vcpus(&endless)), (64 << 10, 64));
        let none = json!({"linux": {"resources": {"memory": {"limit": -1}, "cpu": {"quota": -1}}}});
        assert_eq!((memory_mib(&none), vcpus(&none)), (512, 1));
    }
}
