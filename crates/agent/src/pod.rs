//! Making the guest a certain pod: names, clock, entropy, kernel parameters, network.

use std::collections::BTreeMap;
use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_protocol::agent::{Pod, Reply};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::failure::{Attempt, Failed};
use crate::{network, steps};

/// Longest host or domain name, in bytes (`__NEW_UTS_LEN` of `linux/utsname.h`).
const MAX_NAME: usize = 64;

/// A clock that differs by less is left alone: setting it would only make time jump.
const CLOCK_TOLERANCE_NS: i64 = 5_000_000;

const SECOND_NS: i64 = 1_000_000_000;

/// The answer to a ping.
pub(crate) fn pong() -> Reply {
    Reply::Pong {
        rss: resident().unwrap_or(0),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uptime_ns: steps::now(),
    }
}

/// Bytes of memory that this process takes.
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Makes the guest a pod; what is already so stays as it is.
pub(crate) async fn configure(pod: &Pod) -> Result<(), Failed> {
    let start = steps::now();
    set_clock(pod.unix_time_ns)?;
    add_entropy(&pod.entropy)?;
    set_names(&pod.hostname, &pod.domainname)?;
    let start = steps::since("set clock, entropy, names", start);
    network::configure(&pod.interfaces).await?;
    let start = steps::since("set up network", start);
    set_parameters(&pod.sysctl)?;
    steps::since("set parameters", start);
    Ok(())
}

fn set_clock(unix_time_ns: i64) -> Result<(), Failed> {
    let now = crate::reaper::now();
    if now.saturating_sub(unix_time_ns).saturating_abs() < CLOCK_TOLERANCE_NS {
        return Ok(());
    }
    let time =
        Timespec { tv_sec: unix_time_ns.div_euclid(SECOND_NS), tv_nsec: unix_time_ns.rem_euclid(SECOND_NS) };
    clock_settime(ClockId::Realtime, time).attempt(|| "set the clock".to_owned())
}

fn add_entropy(entropy: &str) -> Result<(), Failed> {
    let failed = || "take the entropy".to_owned();
    let seed = STANDARD.decode(entropy).invalid(failed)?;
    if !(32..=hyper_sys::entropy::MAX_SEED).contains(&seed.len()) {
        return Err(Failed::invalid(format!("{} bytes of entropy, 32 to 512 are expected", seed.len())));
    }
    hyper_sys::entropy::add(&seed).attempt(failed)
}

fn set_names(host: &str, domain: &str) -> Result<(), Failed> {
    for name in [host, domain] {
        if name.len() > MAX_NAME || name.contains('\0') {
            return Err(Failed::invalid(format!("{name:?} is no name of at most {MAX_NAME} bytes")));
        }
    }
    let now = rustix::system::uname();
    if now.nodename().to_bytes() != host.as_bytes() {
        rustix::system::sethostname(host.as_bytes()).attempt(|| "set the host name".to_owned())?;
    }
    if now.domainname().to_bytes() != domain.as_bytes() {
        rustix::system::setdomainname(domain.as_bytes()).attempt(|| "set the domain name".to_owned())?;
    }
    Ok(())
}

/// Sets kernel parameters of the pod's network and IPC namespaces.
pub(crate) fn set_parameters(parameters: &BTreeMap<String, String>) -> Result<(), Failed> {
    for (name, value) in parameters {
        let path = parameter_path(name)?;
        fs::write(&path, value).attempt(|| format!("set the kernel parameter {name} to {value:?}"))?;
    }
    Ok(())
}

/// Where a parameter is set. Only those of the namespaces that a pod has are accepted, as in runc. A name with
/// slashes may have dots in its components (`net/ipv4/conf/eth0.1/forwarding`).
fn parameter_path(name: &str) -> Result<String, Failed> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let ipc = ["kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall"];
    let more = ["kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"];
    let own = path.starts_with("net/")
        || path.starts_with("fs/mqueue/")
        || ipc.contains(&path.as_str())
        || more.contains(&path.as_str());
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !plain || path.contains('\0') {
        return Err(Failed::invalid(format!("{name:?} is no kernel parameter")));
    }
    if !own {
        return Err(Failed::unsupported(format!(
            "kernel parameter {name:?} is not one of a pod's network or IPC namespace"
        )));
    }
    Ok(format!("/proc/sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_pods_namespaces_are_set() {
        assert_eq!(parameter_path("net.ipv4.ip_forward").unwrap(), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(parameter_path("kernel.shmmax").unwrap(), "/proc/sys/kernel/shmmax");
        assert_eq!(
            parameter_path("net/ipv4/conf/eth0.1/forwarding").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        for bad in ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "net..x", "", "/net/x"] {
            assert!(parameter_path(bad).is_err(), "{bad}");
        }
    }
}
