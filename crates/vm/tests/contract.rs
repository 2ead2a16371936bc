//! What every driver must do, run on each.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_vm::qemu::Qemu;
use hyper_vm::{
    DiskAddress, DiskConfig, ExitKind, Hypervisor, LaunchError, Share, Start, Vm, VmConfig, VmError, Wire,
    kvm,
};
use support::{Fake, config, empty, guest_kernel, image};

/// Most that anything here may take, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a claim on every driver that can run here.
macro_rules! contract {
    ($($claim:ident),* $(,)?) => {
        mod fake {
            $(#[tokio::test]
            async fn $claim() {
                let dir = tempfile::tempdir().unwrap();
                // The smallest file that passes for a kernel.
                let kernel = dir.path().join("vmlinux");
                std::fs::write(&kernel, super::pvh_stub()).unwrap();
                super::within(super::$claim(&super::Fake, super::config(dir.path(), kernel))).await;
            })*
        }
        mod qemu {
            $(#[tokio::test]
            async fn $claim() {
                let Some((driver, kernel)) = super::qemu().await else { return };
                let dir = tempfile::tempdir().unwrap();
                super::within(super::$claim(&driver, super::config(dir.path(), kernel))).await;
            })*
        }
    };
}

contract!(
    killed_vm_is_gone_and_says_so,
    disks_get_addresses_of_their_own,
    disks_are_plugged_all_or_none,
    several_files_are_one_disk_where_that_is_declared,
    unplugged_disk_is_gone,
    nic_slots_are_as_many_as_configured,
    wired_nic_slot_is_its_taps_for_good,
    link_can_be_opened_again,
    pausing_is_declared_and_repeatable,
    dropped_vm_is_killed,
    impossible_configurations_are_refused,
    saved_vm_is_cloned_many_times_and_stays_as_it_was,
    share_is_served_where_that_is_declared,
);

async fn within<T>(claim: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, claim).await.expect("the claim holds within its deadline")
}

/// QEMU and a kernel, or the reason why there is none.
async fn qemu() -> Option<(Qemu, PathBuf)> {
    let driver = Qemu::new(kvm::probe());
    let health = driver.health().await;
    let kernel = guest_kernel();
    if !health.usable || kernel.is_none() {
        eprintln!("skipped: qemu {:?}, guest kernel {kernel:?}", health.remarks);
        return None;
    }
    Some((driver, kernel.unwrap()))
}

async fn launch(driver: &dyn Hypervisor, config: &VmConfig) -> Arc<dyn Vm> {
    driver.launch(config.clone()).await.unwrap()
}

fn disk(dir: &Path, name: &str) -> DiskConfig {
    DiskConfig::new(image(dir, name, 1), false)
}

async fn killed_vm_is_gone_and_says_so(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    assert_eq!(vm.info().hypervisor, driver.name());
    assert!(!vm.info().steps.is_empty());
    vm.kill().await;
    assert_eq!(vm.wait().await.kind, ExitKind::Killed);
    vm.kill().await;
    assert_eq!(vm.wait().await, vm.wait().await);
    assert!(matches!(vm.link().await, Err(VmError::Gone(_))));
    assert!(matches!(vm.plug_disks(vec![disk(&config.dir, "a")]).await, Err(VmError::Gone(_))));
    assert!(matches!(vm.unplug_nic(0).await, Err(VmError::Gone(_))));
    assert!(!config.dir.join(VmConfig::PID_FILE).exists());
}

async fn disks_get_addresses_of_their_own(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    let mut disks: Vec<_> = (0..20).map(|n| disk(&config.dir, &format!("disk{n}"))).collect();
    // Two read-only disks of one image are two disks.
    for _ in 0..2 {
        let image = std::fs::File::open(config.dir.join("disk0")).unwrap().into();
        disks.push(DiskConfig::new(image, true));
    }
    disks.remove(0);
    let mut addresses = vm.plug_disks(disks).await.unwrap();
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!((count, addresses.len()), (21, 21));
    vm.kill().await;
}

async fn disks_are_plugged_all_or_none(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    let bad = || DiskConfig::new(empty(&config.dir), true);
    let directory = std::fs::File::open(&config.dir).unwrap().into();
    assert!(vm.plug_disks(vec![disk(&config.dir, "a"), bad()]).await.is_err());
    assert!(vm.plug_disks(vec![DiskConfig::new(directory, true)]).await.is_err());
    let read_only = std::fs::File::open(config.dir.join("a")).unwrap().into();
    let refused = vm.plug_disks(vec![disk(&config.dir, "b"), DiskConfig::new(read_only, false)]).await;
    if driver.name() != "fake" {
        assert!(matches!(refused, Err(VmError::Refused { .. })), "{refused:?}");
    }
    // Nothing of the failures is left: the images are free again.
    vm.plug_disks(vec![disk(&config.dir, "a"), disk(&config.dir, "b")]).await.unwrap();
    vm.kill().await;
}

async fn several_files_are_one_disk_where_that_is_declared(driver: &dyn Hypervisor, config: VmConfig) {
    // The guest, which has no init, is to stay.
    let config = VmConfig { kernel_args: vec!["panic=0".into()], ..config };
    let vm = launch(driver, &config).await;
    // Of content that pretends to be an image of another kind.
    let file = |number: u64, size: u64| -> OwnedFd {
        let path = tempfile::NamedTempFile::new_in(&config.dir).unwrap().into_temp_path();
        std::fs::write(&path, [b"QFI\xfb\0\0\0\x03".as_slice(), b"KDMV\x01\0\0\0"][number as usize % 2])
            .unwrap();
        File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        File::open(&path).unwrap().into()
    };
    let of = |count: u64| {
        let more = (1..count).map(|number| file(number, 512 * number)).collect();
        DiskConfig { image: file(0, 4096), more, read_only: true }
    };
    let Some(most) = driver.abilities().disk_files else {
        assert!(matches!(vm.plug_disks(vec![of(2)]).await, Err(VmError::Unable(_))));
        vm.plug_disks(vec![of(1)]).await.unwrap();
        vm.kill().await;
        return;
    };
    let before = descriptors(&*vm);
    let many = of(most.min(100).into());
    let addresses = vm.plug_disks(vec![of(3), disk(&config.dir, "a"), many]).await.unwrap();
    assert_eq!(addresses.len(), 3);
    let too_many = of(u64::from(most) + 1);
    let odd = DiskConfig { more: vec![file(1, 700)], ..of(1) };
    let none = DiskConfig { more: vec![empty(&config.dir)], ..of(1) };
    let writable = DiskConfig { read_only: false, ..of(2) };
    for bad in [too_many, odd, none, writable] {
        assert!(vm.plug_disks(vec![bad]).await.is_err());
    }
    for address in addresses {
        vm.unplug_disk(address).await.unwrap();
    }
    assert_eq!(descriptors(&*vm), before, "nothing that was passed stays open");
    vm.kill().await;
}

/// Open descriptors of the VMM.
fn descriptors(vm: &dyn Vm) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", vm.info().pid)).unwrap().count()
}

async fn unplugged_disk_is_gone(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    let address = vm.plug_disks(vec![disk(&config.dir, "a")]).await.unwrap()[0];
    vm.unplug_disk(address).await.unwrap();
    assert!(matches!(vm.unplug_disk(address).await, Err(VmError::Address(_))));
    let nowhere = DiskAddress::Scsi { target: 0, lun: 4000 };
    assert!(matches!(vm.unplug_disk(nowhere).await, Err(VmError::Address(_))));
    let again = vm.plug_disks(vec![disk(&config.dir, "a")]).await.unwrap()[0];
    assert_ne!(again, address, "an address just freed is not given again at once");
    vm.kill().await;
}

async fn nic_slots_are_as_many_as_configured(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    assert!(matches!(vm.plug_nic(1, null()).await, Err(VmError::Address(_))));
    assert!(matches!(vm.unplug_nic(0).await, Err(VmError::Address(_))));
    vm.kill().await;
}

async fn wired_nic_slot_is_its_taps_for_good(driver: &dyn Hypervisor, config: VmConfig) {
    let tap = match hyper_sys::tap::loose() {
        Ok(tap) => Arc::new(tap),
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let wired = |wire| VmConfig { nic_slots: 2, wire: Some(wire), ..config.clone() };
    let none = VmConfig { nic_slots: 0, ..wired(Wire::Nowhere) };
    assert!(matches!(driver.launch(none).await, Err(LaunchError::Config(_))));
    let vm = launch(driver, &wired(Wire::Tap(tap))).await;
    assert!(matches!(vm.plug_nic(0, null()).await, Err(VmError::Address(_))));
    vm.unplug_nic(0).await.unwrap();
    assert!(matches!(vm.unplug_nic(0).await, Err(VmError::Address(_))));
    assert!(matches!(vm.plug_nic(0, null()).await, Err(VmError::Address(_))));
    vm.kill().await;
    let vm = launch(driver, &wired(Wire::Nowhere)).await;
    assert!(matches!(vm.plug_nic(0, null()).await, Err(VmError::Address(_))));
    assert!(matches!(vm.unplug_nic(0).await, Err(VmError::Address(_))));
    vm.kill().await;
}

async fn link_can_be_opened_again(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    for _ in 0..3 {
        drop(vm.link().await.unwrap());
    }
    vm.kill().await;
}

async fn pausing_is_declared_and_repeatable(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    assert_eq!(vm.pausing().is_some(), driver.abilities().pause);
    if let Some(pausing) = vm.pausing() {
        for _ in 0..2 {
            pausing.pause().await.unwrap();
        }
        for _ in 0..2 {
            pausing.resume().await.unwrap();
        }
    }
    vm.kill().await;
}

async fn dropped_vm_is_killed(driver: &dyn Hypervisor, config: VmConfig) {
    let vm = launch(driver, &config).await;
    let pid = vm.info().pid;
    drop(vm);
    if driver.name() != "fake" {
        while Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn share_is_served_where_that_is_declared(driver: &dyn Hypervisor, config: VmConfig) {
    let mut server = share_server(&config.dir);
    if driver.abilities().share && server.is_none() {
        eprintln!("skipped: no virtiofsd");
        return;
    }
    // The VMM alone has it then.
    let socket = match server.as_mut().and_then(|(_, socket)| socket.take()) {
        Some(socket) => socket,
        None => Arc::new(std::os::unix::net::UnixStream::pair().unwrap().0.into()),
    };
    let config = VmConfig { share: Some(Share { socket }), ..config };
    for refused in [
        VmConfig { start: Start::Template(config.dir.clone()), ..config.clone() },
        VmConfig { nic_slots: 4, ..config.clone() },
    ] {
        assert!(matches!(driver.launch(refused).await, Err(LaunchError::Config(_))));
    }
    let dir = config.dir.clone();
    let launched = driver.launch(config).await;
    if !driver.abilities().share {
        assert!(matches!(launched, Err(LaunchError::Config(_))));
        return;
    }
    let vm = launched.unwrap();
    vm.plug_disks(vec![disk(&dir, "a")]).await.unwrap();
    vm.kill().await;
    // It goes with the VM.
    let (mut server, _) = server.unwrap();
    while server.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server of an empty directory and a socket to it.
fn share_server(dir: &Path) -> Option<(std::process::Child, Option<Arc<OwnedFd>>)> {
    let programs = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
    let program = programs.iter().find(|path| Path::new(path).exists())?;
    let (socket, shared) = (dir.join("share.sock"), dir.join("shared"));
    std::fs::create_dir(&shared).unwrap();
    let mut command = std::process::Command::new(program);
    command.arg(format!("--socket-path={}", socket.display()));
    match *program {
        "/usr/libexec/virtiofsd" => command.arg(format!("--shared-dir={}", shared.display())),
        _ => command.arg("-o").arg(format!("source={}", shared.display())),
    };
    let server = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    loop {
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(connected) => return Some((server, Some(Arc::new(connected.into())))),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

async fn impossible_configurations_are_refused(driver: &dyn Hypervisor, config: VmConfig) {
    let small = VmConfig { memory_mib: 4, ..config.clone() };
    assert!(matches!(driver.launch(small).await, Err(LaunchError::Config(_))));
    let no_kernel = VmConfig { kernel: "/bin/true".into(), ..config.clone() };
    assert!(matches!(driver.launch(no_kernel).await, Err(LaunchError::Kernel { .. })));
}

async fn saved_vm_is_cloned_many_times_and_stays_as_it_was(driver: &dyn Hypervisor, config: VmConfig) {
    assert_eq!(driver.template_kind(&config).is_some(), driver.abilities().snapshot);
    let plain = launch(driver, &config).await;
    assert!(plain.saving().is_none(), "a VM that was not meant to be a template is none");
    plain.kill().await;
    if !driver.abilities().snapshot {
        return;
    }
    let dir = config.dir.join("template");
    std::fs::create_dir(&dir).unwrap();
    let config = VmConfig { kernel_args: vec!["ignore_loglevel".into()], ..config };
    let original = launch(driver, &VmConfig { start: Start::Template(dir.clone()), ..config.clone() }).await;
    // A clone has no kernel but the one in the template's memory.
    while original.console_tail().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    original.saving().unwrap().save().await.unwrap();
    original.kill().await;
    let files = [Start::MEMORY, Start::STATE].map(|name| dir.join(name));
    let before = files.each_ref().map(|file| std::fs::read(file).unwrap());
    let mut clones = Vec::new();
    for n in 0..3 {
        let own = config.dir.join(format!("clone{n}"));
        std::fs::create_dir(&own).unwrap();
        let clone = VmConfig { dir: own.clone(), start: Start::Clone(dir.clone()), ..config.clone() };
        let vm = launch(driver, &clone).await;
        assert!(vm.saving().is_none());
        vm.plug_disks(vec![disk(&own, "a")]).await.unwrap();
        clones.push(vm);
    }
    // They go on from where the template was: to the panic of a kernel that finds no init.
    for vm in &clones {
        assert_eq!(vm.wait().await.kind, ExitKind::Panic);
    }
    assert!(before == files.each_ref().map(|file| std::fs::read(file).unwrap()));
    // A template that lacks a part or is of another size is refused.
    let own = config.dir.join("refused");
    std::fs::create_dir(&own).unwrap();
    let clone = VmConfig { dir: own, start: Start::Clone(dir), ..config.clone() };
    let larger = VmConfig { memory_mib: config.memory_mib + 1, ..clone.clone() };
    assert!(matches!(driver.launch(larger).await, Err(LaunchError::Config(_))));
    std::fs::write(&files[1], &before[1][..before[1].len() / 2]).unwrap();
    assert!(driver.launch(clone.clone()).await.is_err());
    std::fs::remove_file(&files[1]).unwrap();
    assert!(matches!(driver.launch(clone).await, Err(LaunchError::File { .. })));
}

#[tokio::test]
async fn qemu_guest_that_panics_is_reported_with_its_console() {
    let Some((driver, kernel)) = qemu().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let vm = launch(&driver, &config(dir.path(), kernel)).await;
    // There is no init in the initial filesystem.
    let exit = within(vm.wait()).await;
    assert_eq!(exit.kind, ExitKind::Panic, "{exit:?}");
    let console = String::from_utf8_lossy(&vm.console_tail()).into_owned();
    assert!(console.contains("Kernel panic"), "{console}");
    assert!(std::fs::read(dir.path().join(VmConfig::CONSOLE_FILE)).unwrap().ends_with(&vm.console_tail()));
}

/// An ELF file with a PVH note and nothing else.
fn pvh_stub() -> Vec<u8> {
    let mut bytes = vec![0; 120];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (bytes[18], bytes[32], bytes[54], bytes[56]) = (62, 64, 56, 1);
    (bytes[64], bytes[72], bytes[96]) = (4, 120, 24);
    for word in [4, 8, 18] {
        bytes.extend(u32::to_le_bytes(word));
    }
    bytes.extend(b"Xen\0\0\0\0\x01\0\0\0\0");
    bytes
}
