//! What on this machine keeps containers from running, and what to do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::engine::Engine;
use crate::layer;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Something will not work.
    Fail,
}

/// One look at the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub status: CheckStatus,
    /// What was found.
    #[serde(default)]
    pub detail: String,
    /// What to do about it; empty when nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// How long the shim may take to look at hypervisors.
const SHIM_TIMEOUT: Duration = Duration::from_secs(20);

/// Free bytes under which a disk counts as almost full: a large image and its layers.
const LOW_SPACE: u64 = 2 << 30;

/// `CAP_NET_ADMIN` in `/proc/self/status` (`linux/capability.h`).
const CAP_NET_ADMIN: u64 = 1 << 12;

impl Check {
    fn new(name: &str, status: CheckStatus, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status, detail: detail.into(), hint: hint.into() }
    }

    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, CheckStatus::Ok, detail, "")
    }
}

impl Engine {
    /// Looks at everything that containers need.
    pub async fn doctor(&self) -> Vec<Check> {
        let mut checks = self.shim_checks().await;
        for name in ["vmlinux", "initramfs.cpio"] {
            checks.push(match self.places().guest_file(name) {
                Ok(path) => Check::ok(&format!("guest {name}"), path.display().to_string()),
                Err(error) => Check::new(
                    &format!("guest {name}"),
                    CheckStatus::Fail,
                    error.message.clone(),
                    error.hint.clone().unwrap_or_default(),
                ),
            });
        }
        checks.push(match layer::mke2fs() {
            Some(path) => Check::ok("mke2fs", path.display().to_string()),
            None => Check::new(
                "mke2fs",
                CheckStatus::Fail,
                "mke2fs is not installed: writable layers cannot be made",
                "install the package e2fsprogs",
            ),
        });
        checks.extend(self.network_checks().await);
        for (name, path) in [("root", &self.places().root), ("runtime directory", &self.places().run)] {
            checks.push(directory(name, path));
        }
        checks
    }

    /// What the shim says about hypervisors: only it links their drivers.
    async fn shim_checks(&self) -> Vec<Check> {
        let program = match self.shared.shim_program() {
            Ok(program) => program,
            Err(error) => {
                let hint = error.hint.clone().unwrap_or_default();
                return vec![Check::new("shim", CheckStatus::Fail, error.message.clone(), hint)];
            }
        };
        let mut checks = vec![Check::ok("shim", program.display().to_string())];
        match ask_shim(&program).await {
            Ok(found) => checks.extend(found),
            Err(reason) => checks.push(Check::new(
                "hypervisor",
                CheckStatus::Fail,
                reason,
                "run `containerd-shim-hyper-v2 doctor` to see more",
            )),
        }
        checks
    }

    async fn network_checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        checks.push(match Path::new("/dev/net/tun").exists() {
            true => Check::ok("tun", "/dev/net/tun"),
            false => Check::new(
                "tun",
                CheckStatus::Fail,
                "/dev/net/tun does not exist: containers cannot have a network",
                "load the kernel module tun, or run containers with --network none",
            ),
        });
        checks.push(match find_program("nft") {
            Some(path) => Check::ok("nft", path.display().to_string()),
            None => Check::new(
                "nft",
                CheckStatus::Fail,
                "nft is not installed: containers cannot reach the network",
                "install the package nftables",
            ),
        });
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
        checks.push(match forwarding.trim() {
            "1" => Check::ok("ip_forward", "on"),
            _ => {
                Check::new("ip_forward", CheckStatus::Ok, "off until the first container with a network", "")
            }
        });
        let effective = capabilities().unwrap_or(0);
        checks.push(match effective & CAP_NET_ADMIN != 0 {
            true => Check::ok("permissions", "hyperd may configure the network"),
            false => Check::new(
                "permissions",
                CheckStatus::Fail,
                "hyperd has no CAP_NET_ADMIN: bridges and taps cannot be made",
                "run hyperd as root, or containers with --network none",
            ),
        });
        if let Some(network) = self.shared.open_network() {
            for warning in network.warnings().await {
                checks.push(Check::new("network", CheckStatus::Warn, warning, ""));
            }
        }
        checks
    }

    /// What the shim says about hypervisors, in one line each.
    pub async fn hypervisor_report(&self) -> Vec<Check> {
        self.shim_checks().await.into_iter().filter(|check| check.name != "shim").collect()
    }
}

/// Runs `containerd-shim-hyper-v2 doctor`, which prints a JSON list of checks.
async fn ask_shim(program: &Path) -> Result<Vec<Check>, String> {
    let run = Command::new(program).arg("doctor").kill_on_drop(true).output();
    let output = tokio::time::timeout(SHIM_TIMEOUT, run)
        .await
        .map_err(|_| format!("the shim did not answer within {} s", SHIM_TIMEOUT.as_secs()))?
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("what the shim found cannot be read: {error}"))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    dirs.into_iter().map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// This process's effective capabilities.
fn capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn directory(name: &str, path: &Path) -> Check {
    let shown = path.display();
    let space = match rustix::fs::statvfs(path) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(error) => {
            return Check::new(
                name,
                CheckStatus::Fail,
                format!("{shown}: {error}"),
                "make it accessible to hyperd",
            );
        }
    };
    let mib = space >> 20;
    if name == "root" && space < LOW_SPACE {
        return Check::new(
            name,
            CheckStatus::Warn,
            format!("{shown}: only {mib} MiB free"),
            "remove images or containers (`hyper image prune`), or enlarge the disk",
        );
    }
    Check::ok(name, format!("{shown}, {mib} MiB free"))
}
