//! From a pod's configuration to a guest whose agent answers.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use hyper_protocol::agent::{Interface, Pod, Reply, Request};
use hyper_protocol::shim::{CONSOLE_KEPT, Origin, PodConfig, TapInterface};
use hyper_sys::tap::{self, TapError};
use hyper_vm::qemu::Qemu;
use hyper_vm::{ExitKind, Hypervisor, Share, Start, Vm, VmConfig, Wire, kvm};

use crate::error::ShimError;
use crate::guest::Guest;
use crate::idle;
use crate::share::Shares;
use crate::templates::{self, Found, Template};
use crate::timeline::Timeline;

/// Most that a pod may be configured to wait for its guest.
pub const BOOT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// The part of the time for a boot that a clone may take until its agent has made it the pod. It has about that part of
/// a boot's work to do (measured: 150 of 650 ms), so that it is not given up on a machine on which a boot would not be.
/// Of twenty starts at once on two processors with a load of 33 the slowest clone took 5.3 s; with a load of 12 a clone
/// took 2.3 s and a boot 9.8.
const CLONE_PART: u32 = 4;
/// How long a tap may be held by others, and how often it is tried.
const TAP: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(5);
/// Bytes of seed for the guest's random generator: what `/dev/urandom` is good for, twice.
const SEED: usize = 64;
/// File in the runtime directory that keeps the probe of KVM for this boot of the host.
const PROBE_FILE: &str = "kvm-probe.json";

/// Chooses a hypervisor for a pod.
pub type Choose = dyn Fn(&PodConfig) -> Result<Box<dyn Hypervisor>, ShimError> + Send + Sync;

/// The drivers there are.
///
/// # Errors
/// [`ShimError::Invalid`] for a name of none.
pub fn choose(config: &PodConfig) -> Result<Box<dyn Hypervisor>, ShimError> {
    match config.hypervisor.as_deref() {
        None | Some("qemu") => Ok(Box::new(Qemu::new(kvm::probe_cached(&probe_file(config))))),
        Some(other) => Err(ShimError::Invalid(format!("there is no hypervisor driver {other:?}, only qemu"))),
    }
}

/// `pods/<pod>` is two levels below the runtime directory, which all pods share.
fn probe_file(config: &PodConfig) -> PathBuf {
    let pods = config.dir.parent().filter(|parent| parent.ends_with("pods"));
    match pods.and_then(|pods| pods.parent()) {
        Some(run) => run.join(PROBE_FILE),
        None => config.dir.join(PROBE_FILE),
    }
}

/// Checks a configuration as far as it can be without starting anything.
///
/// # Errors
/// [`ShimError::Invalid`].
pub fn check(config: &PodConfig) -> Result<(), ShimError> {
    let invalid = |text: String| Err(ShimError::Invalid(text));
    if !config.dir.is_absolute() || !config.dir.is_dir() {
        return invalid(format!("the pod's directory {} does not exist", config.dir.display()));
    }
    if config.vcpus == 0 {
        return invalid("a pod has at least one virtual processor".into());
    }
    check_hostname(&config.hostname)?;
    if config.boot_timeout_ms == 0 || Duration::from_millis(config.boot_timeout_ms) > BOOT_TIMEOUT_MAX {
        return invalid(format!("a boot takes 1 ms to {} s", BOOT_TIMEOUT_MAX.as_secs()));
    }
    Ok(())
}

/// How long a guest may take until its agent has made it the pod.
pub fn patience(config: &PodConfig, clone: bool) -> Duration {
    let boot = Duration::from_millis(config.boot_timeout_ms);
    if clone { boot / CLONE_PART } else { boot }
}

/// The same for a boot that is begun anew, so long after the first: half as long again for both.
pub fn patience_again(config: &PodConfig, since_first: Duration) -> Duration {
    (Duration::from_millis(config.boot_timeout_ms) * 3 / 2).saturating_sub(since_first)
}

/// Checks a host name.
///
/// # Errors
/// [`ShimError::Invalid`].
pub fn check_hostname(name: &str) -> Result<(), ShimError> {
    if name.is_empty() || name.len() > 64 || name.contains(char::is_whitespace) {
        return Err(ShimError::Invalid(format!("{name:?} is no host name")));
    }
    Ok(())
}

/// Starts a VM, and the server of its shared files where it may have such, and connects its NICs; the guest is on its way
/// then.
///
/// # Errors
/// Nothing is left of the VM.
pub async fn launch(
    hypervisor: &dyn Hypervisor,
    mut vm_config: VmConfig,
    config: &PodConfig,
    timeline: &Timeline,
) -> Result<(Arc<dyn Vm>, Option<Shares>), ShimError> {
    // Before the VM: a tap that is missing is known at once.
    let mut taps = Vec::new();
    for interface in &config.interfaces {
        let tap = open_tap(interface).await?;
        match interface.slot {
            WIRED => vm_config.wire = Some(Wire::Tap(Arc::new(tap))),
            slot => taps.push((slot, tap)),
        }
    }
    let mut shares = None;
    if config.share {
        let start = SystemTime::now();
        let (started, socket) = Shares::start(&config.dir)?;
        vm_config.share = Some(Share { socket: Arc::new(socket) });
        shares = Some(started);
        timeline.since("start virtiofsd", start);
    }
    let vm = hypervisor.launch(vm_config).await?;
    for step in &vm.info().steps {
        timeline.host(step.name, step.start, step.end);
    }
    for (slot, tap) in taps {
        let start = SystemTime::now();
        if let Err(error) = vm.plug_nic(slot, tap).await {
            vm.kill().await;
            return Err(error.into());
        }
        timeline.since("plug nic", start);
    }
    Ok((vm, shares))
}

/// The NIC slot that is wired to its tap when the VM comes up. What is disconnected from it is connected by another slot
/// later.
const WIRED: u32 = 0;

/// Opens the tap of an interface. Whoever made it has closed it, but of every process that was forked meanwhile there is a
/// copy of its descriptors until that executes its program, and on a busy machine that takes its time.
///
/// # Errors
/// There is none of that name, or it stays in use.
pub async fn open_tap(interface: &TapInterface) -> Result<OwnedFd, ShimError> {
    let deadline = Instant::now() + TAP;
    let open = if interface.slot == WIRED { tap::open_with_vnet_header } else { tap::open };
    loop {
        match open(&interface.tap) {
            Err(TapError::Busy(_)) if Instant::now() < deadline => tokio::time::sleep(RETRY).await,
            opened => {
                return opened.map_err(|error| ShimError::failed("cannot connect the network", &error));
            }
        }
    }
}

/// NIC slots of a pod's VM.
pub fn nic_slots(config: &PodConfig) -> u32 {
    let needed = config.interfaces.iter().map(|interface| interface.slot.saturating_add(1)).max();
    config.nic_slots.max(needed.unwrap_or(0))
}

/// What a pod's VM is made of, when it boots.
///
/// # Errors
/// [`ShimError::Invalid`].
pub fn vm_config(name: &str, config: &PodConfig) -> Result<VmConfig, ShimError> {
    Ok(VmConfig {
        name: name.to_owned(),
        dir: config.dir.clone(),
        kernel: config.kernel.clone(),
        initramfs: config.initramfs.clone(),
        kernel_args: config.kernel_args.clone(),
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        nic_slots: nic_slots(config),
        wire: (nic_slots(config) > 0).then_some(Wire::Nowhere),
        console_kept: CONSOLE_KEPT,
        start: Start::Boot,
        share: None,
    })
}

/// The template to clone a pod's VM from, if it may be a clone and there is one; and what is to be told of how the VM
/// comes up.
pub fn template(
    hypervisor: &dyn Hypervisor,
    vm_config: &VmConfig,
    config: &PodConfig,
) -> (Option<Template>, Origin) {
    // What serves its shared files writes into its memory, which is no other's then.
    if config.share {
        return (None, Origin::Shares);
    }
    let Some(root) = &config.templates else { return (None, Origin::Booted) };
    // A kernel that is not there is told of by the launch.
    let Ok(Some(key)) = templates::key(hypervisor, vm_config) else { return (None, Origin::Unable) };
    let unsound = match templates::open(root, &key) {
        Found::Sound(template) => return (Some(template), Origin::Cloned(key)),
        Found::None => None,
        Found::Unsound(why) => {
            tracing::warn!(key, why, "a template was thrown away; the guest boots");
            Some(why)
        }
    };
    (None, Origin::NoTemplate { key, unsound })
}

/// A guest did not become its pod.
#[derive(Debug)]
pub struct Unmet {
    /// Why.
    pub why: String,
    /// The end of its console, as an error shows it.
    pub console: String,
    /// Its agent was never heard, and nobody ended the VM: another boot may do better.
    pub mute: bool,
}

/// Waits for the agent for as long as `patience` after `since`, calls `listening`, and makes the guest this pod. When
/// that fails the VM is killed.
///
/// # Errors
/// See above.
pub async fn meet(
    vm: Arc<dyn Vm>,
    config: &PodConfig,
    (since, patience): (Instant, Duration),
    timeline: &Timeline,
    listening: impl FnOnce(),
) -> Result<Guest, Unmet> {
    let heard = AtomicBool::new(false);
    let listening = || {
        heard.store(true, Ordering::Relaxed);
        listening();
    };
    let opening = Guest::open(vm.clone(), pod(config), timeline, listening);
    let (why, mute) = tokio::select! {
        biased;
        opened = opening => match opened {
            Ok(guest) => return Ok(guest),
            Err(error) => (error.to_string(), false),
        },
        exit = vm.wait() => (exit.reason, matches!(exit.kind, ExitKind::Panic | ExitKind::Lost)),
        rested = idle::hung(vm.info().pid) => (format!("its guest did nothing for {} s", rested.as_secs()), true),
        () = tokio::time::sleep_until((since + patience).into()) => {
            (format!("its agent did not answer within {} ms", patience.as_millis()), true)
        }
    };
    vm.kill().await;
    let mute = mute && !heard.into_inner();
    Err(Unmet { why, console: last_lines(&vm.console_tail()), mute })
}

/// Release of the guest kernel.
pub async fn identify(guest: &Guest) -> Option<String> {
    match guest.repeat(&Request::Ping).await {
        Ok(Reply::Pong { kernel, rss, .. }) => {
            guest.set_agent_rss(rss);
            Some(kernel.chars().filter(|c| !c.is_control()).take(64).collect())
        }
        Ok(reply) => {
            tracing::warn!(?reply, "the agent does not answer a ping");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "the agent was not asked for its kernel");
            None
        }
    }
}

fn pod(config: &PodConfig) -> Pod {
    Pod {
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        interfaces: config.interfaces.iter().map(of_guest).collect(),
        sysctl: config.sysctl.clone(),
        unix_time_ns: 0,
        entropy: String::new(),
    }
}

/// An interface as the guest sees it.
pub fn of_guest(interface: &TapInterface) -> Interface {
    Interface {
        slot: interface.slot,
        name: interface.name.clone(),
        mac: interface.mac.clone(),
        addresses: interface.addresses.clone(),
        gateways: interface.gateways.clone(),
        mtu: interface.mtu,
    }
}

/// The request that makes a guest this pod, with the time and fresh entropy.
pub fn configure(pod: &Pod) -> Request {
    let mut pod = pod.clone();
    pod.unix_time_ns = crate::clock::unix_ns();
    pod.entropy = seed();
    Request::Configure(Box::new(pod))
}

/// Random bytes from the host, in base64.
fn seed() -> String {
    let mut bytes = [0; SEED];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    if let Err(error) = read {
        // The guest has a virtio-rng device as well.
        tracing::warn!(%error, "the guest gets no seed");
    }
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The end of a console for an error message: what can be printed, at most 20 lines.
fn last_lines(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let printable: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let lines: Vec<_> = printable.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "; its console is empty".to_owned();
    }
    format!("; its console ends:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_in_an_error_is_short_and_printable() {
        let console = (0..100).map(|n| format!("\x1b[31mline {n}\r\n\n")).collect::<String>();
        let text = last_lines(console.as_bytes());
        assert_eq!(text.lines().count(), 21);
        assert!(text.ends_with("line 99") && !text.contains('\x1b'));
        assert!(last_lines(b"\n\n").contains("empty"));
    }
}
