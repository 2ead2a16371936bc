//! QEMU's command line: one struct for each switch, its fields named as QEMU names them.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::config::{Accelerator, Share, Start, VmConfig};
use crate::kvm::Probe;

/// Identifier of the SCSI controller.
pub const SCSI: &str = "scsi0";
/// Name of the serial port that is the link; the agent looks for it in `/sys/class/virtio-ports`.
pub const LINK_PORT: &str = "hyper.link";
/// Descriptor sets below this number belong to the command line.
pub const FIRST_DISK_SET: u64 = 16;

/// Identifier of the guest's memory, where that has a backend of its own.
const MEMORY: &str = "ram0";

/// What the timer of QEMU's local APIC counts in a millisecond: nanoseconds (`hw/intc/apic.c`).
const APIC_KHZ: u32 = 1_000_000;

/// Descriptor set of the console's pipe.
const CONSOLE_SET: u64 = 1;

/// The descriptors that QEMU inherits, by their numbers.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    /// Connected socket on which QMP is spoken.
    pub qmp: RawFd,
    /// Listening socket of the link.
    pub link: RawFd,
    /// Writing end of the console's pipe.
    pub console: RawFd,
    /// Connected socket to the server of the share, where there is one.
    pub share: Option<RawFd>,
    /// Tap of the first NIC slot, where that is wired.
    pub wire: Option<RawFd>,
}

/// Identifier of the device in a NIC slot.
pub fn nic(slot: u32) -> String {
    format!("nic{slot}")
}

/// How guests run on a host with this probe.
pub fn accelerator(probe: &Probe) -> Accelerator {
    if probe.usable() { Accelerator::Kvm } else { Accelerator::Tcg }
}

/// The whole command line, without the program.
pub fn command_line(config: &VmConfig, probe: &Probe, descriptors: Descriptors) -> Vec<OsString> {
    let accelerator = accelerator(probe);
    let mut argv = Argv::default();
    argv.push("-name", &Name { guest: &config.name });
    argv.flag("-nodefaults");
    argv.flag("-no-user-config");
    argv.flag("-no-reboot");
    argv.value("-display", "none");
    argv.push("-sandbox", &Sandbox);
    if let Some(backend) = MemoryFile::of(config) {
        argv.push("-object", &backend);
    } else if descriptors.share.is_some() {
        argv.push("-object", &SharedMemory { size_mib: config.memory_mib });
    }
    let memory_backend = config.start != Start::Boot || descriptors.share.is_some();
    argv.push("-machine", &Machine { accel: accelerator, memory_backend });
    argv.push("-cpu", &Cpu { accel: accelerator });
    argv.push("-smp", &Smp { cpus: config.vcpus });
    argv.push("-m", &Memory { size_mib: config.memory_mib });
    if let Start::Clone(_) = &config.start {
        // What is to be restored, and that restoring begins, is said over QMP.
        argv.value("-incoming", "defer");
    } else {
        argv.value("-kernel", config.kernel.clone());
        argv.value("-initrd", config.initramfs.clone());
        argv.value("-append", kernel_arguments(config, probe));
    }
    argv.push("-chardev", &SocketChardev { id: "qmp", fd: descriptors.qmp, server: false });
    argv.push("-mon", &Monitor { chardev: "qmp" });
    argv.push("-add-fd", &AddFd { fd: descriptors.console, set: CONSOLE_SET });
    argv.push("-chardev", &FileChardev { id: "console", path: format!("/dev/fdset/{CONSOLE_SET}").into() });
    argv.value("-serial", "chardev:console");
    argv.push("-chardev", &SocketChardev { id: "link", fd: descriptors.link, server: true });
    argv.push(
        "-device",
        &Device { driver: "virtio-serial-device", properties: vec![("max_ports", "2".into())] },
    );
    argv.push(
        "-device",
        &Device {
            driver: "virtserialport",
            properties: vec![("chardev", "link".into()), ("name", LINK_PORT.into()), ("nr", "1".into())],
        },
    );
    argv.push("-device", &Device { driver: "virtio-scsi-device", properties: vec![("id", SCSI.into())] });
    argv.push("-device", &Device { driver: "virtio-rng-device", properties: vec![] });
    argv.push(
        "-device",
        &Device { driver: "virtio-balloon-device", properties: vec![("free-page-reporting", "on".into())] },
    );
    for slot in 0..config.nic_slots {
        match descriptors.wire {
            Some(fd) if slot == 0 => argv.push("-netdev", &Tap { id: net_end(slot), fd }),
            _ => argv.push("-netdev", &Hubport { id: net_end(slot), hubid: slot }),
        }
        argv.push(
            "-device",
            &Device {
                driver: "virtio-net-device",
                // A guest that announces itself after it was moved: of no use to a clone, which is another, and QEMU
                // (seen with 7.2) crashes when the NIC of a restored guest with it is reset.
                properties: vec![
                    ("id", nic(slot)),
                    ("netdev", net_end(slot)),
                    ("guest_announce", "off".into()),
                ],
            },
        );
    }
    if let Some(fd) = descriptors.share {
        // Servers of vhost-user know the modern devices only, which virtio-mmio does not have by itself.
        argv.value("-global", "virtio-mmio.force-legacy=false");
        argv.push("-chardev", &SocketChardev { id: "share", fd, server: false });
        argv.push(
            "-device",
            &Device {
                driver: "vhost-user-fs-device",
                properties: vec![("chardev", "share".into()), ("tag", Share::TAG.into())],
            },
        );
    }
    argv.words
}

/// Identifier of what the device in a NIC slot is joined to: a port of its hub, or its tap.
pub fn net_end(slot: u32) -> String {
    format!("slot{slot}")
}

/// What a template depends on beside the configuration, apart from the program: the command line of a VM that boots,
/// without what is its own alone, and with the time stamp counter's frequency as exact as two measurements are alike.
pub fn template_kind(config: &VmConfig, probe: &Probe) -> String {
    let common = VmConfig {
        name: "template".into(),
        dir: PathBuf::new(),
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        start: Start::Boot,
        share: None,
        ..config.clone()
    };
    let rough = Probe { tsc_khz: probe.tsc_khz.map(|khz| (khz + 25_000) / 50_000 * 50_000), ..probe.clone() };
    let wire = config.wire.as_ref().map(|_| 6);
    let words = command_line(&common, &rough, Descriptors { qmp: 3, link: 4, console: 5, share: None, wire });
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// The kernel's command line.
fn kernel_arguments(config: &VmConfig, probe: &Probe) -> String {
    let mut words: Vec<String> = [
        "console=ttyS0",
        "quiet",
        // A panic ends the VM (`-no-reboot`) instead of leaving a mute one.
        "panic=-1",
        // The way out that microvm has without ACPI: a triple fault.
        "reboot=t",
        "random.trust_cpu=on",
        // The machine has no ACPI tables: no search for them, no error line about it.
        "acpi=off",
        // From 4 GiB on the kernel would set 64 MiB aside for devices with 32-bit addresses; virtio has none.
        "swiotlb=noforce",
        // No disk is plugged yet: the search of an empty bus would take 100 ms under TCG. The agent turns it on.
        "scsi_mod.scan=manual",
        // The driver of dummy interfaces would make one that nobody asked for.
        "dummy.numdummies=0",
    ]
    .map(str::to_owned)
    .into();
    if accelerator(probe) == Accelerator::Tcg {
        // Nothing to protect from inside a translator, and each mitigation costs translated instructions.
        words.push("mitigations=off".to_owned());
        // Without it the calibration of the time stamp counter against the PIT sometimes waits for ever. The
        // guest's counter is the host's, so that it is known and steady.
        words.extend(probe.tsc_khz.map(|khz| format!("tsc_early_khz={khz}")));
        words.push("tsc=reliable".to_owned());
        // The calibration of the local APIC's timer takes 150 ms and fails. Our kernel (`guest/kernel/patches`) is told
        // its frequency, which takes the first word back: the PIT would wake an idle guest 45 times a second.
        words.push("nolapic_timer".to_owned());
        words.push(format!("lapic_timer_khz={APIC_KHZ}"));
        // On a busy host the timer's interrupts come too late for the check that they come at all.
        words.push("no_timer_check".to_owned());
        if config.vcpus == 1 {
            // Taking 9000 lock prefixes out of the kernel costs 200 ms of translating it anew.
            words.push("noreplace-smp".to_owned());
        } else if let Some(khz) = probe.tsc_khz {
            // Each further CPU would count its delay loop for 130 ms: the counter's cycles in a tick (250 Hz).
            words.push(format!("lpj={}", u64::from(khz) * 4));
        }
    }
    if config.nic_slots > 1 {
        // One is all that most pods ever need: the agent binds the driver to those beyond it (`guest/kernel/patches`).
        words.push("virtio.boot_nics=1".to_owned());
    }
    words.extend(config.kernel_args.iter().cloned());
    words.join(" ")
}

/// The words in the making.
#[derive(Default)]
struct Argv {
    words: Vec<OsString>,
}

impl Argv {
    fn flag(&mut self, switch: &str) {
        self.words.push(switch.into());
    }

    fn value(&mut self, switch: &str, value: impl Into<OsString>) {
        self.words.push(switch.into());
        self.words.push(value.into());
    }

    fn push(&mut self, switch: &str, options: &dyn Options) {
        let mut text = String::new();
        for (name, value) in options.list() {
            if !text.is_empty() {
                text.push(',');
            }
            if !name.is_empty() {
                text.push_str(name);
                text.push('=');
            }
            // The one character that QEMU's option syntax quotes, by doubling it.
            text.push_str(&value.replace(',', ",,"));
        }
        self.value(switch, text);
    }
}

/// The value of a switch: options in order, the leading one often without a name.
trait Options {
    fn list(&self) -> Vec<(&'static str, String)>;
}

/// `-name`.
struct Name<'a> {
    guest: &'a str,
}

impl Options for Name<'_> {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("guest", self.guest.into())]
    }
}

/// `-sandbox`: QEMU's own seccomp filter, as strict as it goes.
struct Sandbox;

impl Options for Sandbox {
    fn list(&self) -> Vec<(&'static str, String)> {
        let mut list = vec![("", "on".to_owned())];
        list.extend(
            ["obsolete", "elevateprivileges", "spawn", "resourcecontrol"].map(|name| (name, "deny".into())),
        );
        list
    }
}

/// `-object memory-backend-file`: a template's memory is the file, a clone's a private mapping of it.
struct MemoryFile {
    size_mib: u32,
    mem_path: PathBuf,
    share: bool,
}

impl MemoryFile {
    fn of(config: &VmConfig) -> Option<Self> {
        let (dir, share) = match &config.start {
            Start::Boot => return None,
            Start::Template(dir) => (dir, true),
            Start::Clone(dir) => (dir, false),
        };
        Some(Self { size_mib: config.memory_mib, mem_path: dir.join(Start::MEMORY), share })
    }
}

impl Options for MemoryFile {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![
            ("", "memory-backend-file".into()),
            ("id", MEMORY.into()),
            ("size", format!("{}M", self.size_mib)),
            ("mem-path", self.mem_path.display().to_string()),
            ("share", if self.share { "on" } else { "off" }.into()),
        ]
    }
}

/// `-object memory-backend-memfd`: memory that another process can map.
struct SharedMemory {
    size_mib: u32,
}

impl Options for SharedMemory {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![
            ("", "memory-backend-memfd".into()),
            ("id", MEMORY.into()),
            ("size", format!("{}M", self.size_mib)),
            ("share", "on".into()),
        ]
    }
}

/// `-machine`: microvm without what the guest does not use.
struct Machine {
    accel: Accelerator,
    memory_backend: bool,
}

impl Options for Machine {
    fn list(&self) -> Vec<(&'static str, String)> {
        let on = |on: bool| if on { "on" } else { "off" }.to_owned();
        let mut list = vec![
            ("", "microvm".into()),
            ("accel", self.accel.name().into()),
            ("acpi", on(false)),
            ("x-option-roms", on(false)),
            ("isa-serial", on(true)),
            // Without ACPI the guest learns of its devices by the kernel's command line.
            ("auto-kernel-cmdline", on(true)),
        ];
        if self.memory_backend {
            list.push(("memory-backend", MEMORY.into()));
        }
        list
    }
}

/// `-cpu`.
struct Cpu {
    accel: Accelerator,
}

impl Options for Cpu {
    fn list(&self) -> Vec<(&'static str, String)> {
        match self.accel {
            Accelerator::Kvm => vec![("", "host".into())],
            // With these two, kernel and glibc copy by `rep movsb`, which is translated to a loop over bytes.
            Accelerator::Tcg => ["max", "-erms", "-fsrm"].map(|word| ("", word.to_owned())).into(),
        }
    }
}

/// `-smp`.
struct Smp {
    cpus: u32,
}

impl Options for Smp {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("cpus", self.cpus.to_string())]
    }
}

/// `-m`.
struct Memory {
    size_mib: u32,
}

impl Options for Memory {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("size", format!("{}M", self.size_mib))]
    }
}

/// `-chardev socket`.
struct SocketChardev {
    id: &'static str,
    fd: RawFd,
    server: bool,
}

impl Options for SocketChardev {
    fn list(&self) -> Vec<(&'static str, String)> {
        let mut list = vec![("", "socket".into()), ("id", self.id.into()), ("fd", self.fd.to_string())];
        if self.server {
            list.extend([("server", "on".into()), ("wait", "off".into())]);
        }
        list
    }
}

/// `-chardev file`. Appending, because the other way QEMU truncates, which a pipe cannot be.
struct FileChardev {
    id: &'static str,
    path: PathBuf,
}

impl Options for FileChardev {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![
            ("", "file".into()),
            ("id", self.id.into()),
            ("path", self.path.display().to_string()),
            ("append", "on".into()),
        ]
    }
}

/// `-mon`.
struct Monitor {
    chardev: &'static str,
}

impl Options for Monitor {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("chardev", self.chardev.into()), ("mode", "control".into())]
    }
}

/// `-add-fd`.
struct AddFd {
    fd: RawFd,
    set: u64,
}

impl Options for AddFd {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("fd", self.fd.to_string()), ("set", self.set.to_string())]
    }
}

/// `-netdev hubport`.
struct Hubport {
    id: String,
    hubid: u32,
}

impl Options for Hubport {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("", "hubport".into()), ("id", self.id.clone()), ("hubid", self.hubid.to_string())]
    }
}

/// `-netdev tap`, whose headers QEMU finds out by itself.
struct Tap {
    id: String,
    fd: RawFd,
}

impl Options for Tap {
    fn list(&self) -> Vec<(&'static str, String)> {
        vec![("", "tap".into()), ("id", self.id.clone()), ("fd", self.fd.to_string())]
    }
}

/// `-device`.
struct Device {
    driver: &'static str,
    properties: Vec<(&'static str, String)>,
}

impl Options for Device {
    fn list(&self) -> Vec<(&'static str, String)> {
        let mut list = vec![("", self.driver.into())];
        list.extend(self.properties.iter().cloned());
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Wire;
    use crate::kvm::Verdict;

    fn lines(config: &VmConfig, accelerator: Accelerator) -> String {
        lines_with(config, accelerator, None)
    }

    fn lines_with(config: &VmConfig, accelerator: Accelerator, share: Option<RawFd>) -> String {
        let verdict = if accelerator == Accelerator::Kvm { Verdict::Good } else { Verdict::TooSlow };
        let probe = Probe { verdict, reason: String::new(), rate: None, tsc_khz: Some(2_100_000) };
        let wire = config.wire.as_ref().map(|_| 14);
        let argv = command_line(config, &probe, Descriptors { qmp: 10, link: 11, console: 12, share, wire });
        let mut text = String::new();
        for word in argv {
            let word = word.into_string().unwrap();
            text += if word.starts_with('-') { "\n" } else { " " };
            text += &word;
        }
        text.trim_start().to_owned()
    }

    fn config() -> VmConfig {
        VmConfig {
            name: "pod1".into(),
            dir: "/run/hyper/pods/pod1".into(),
            kernel: "/usr/lib/hyper/guest/vmlinux".into(),
            initramfs: "/usr/lib/hyper/guest/initramfs.cpio".into(),
            kernel_args: vec!["loglevel=7".into()],
            vcpus: 2,
            memory_mib: 512,
            nic_slots: 1,
            wire: None,
            console_kept: 1 << 20,
            start: Start::Boot,
            share: None,
        }
    }

    #[test]
    fn share_is_a_device_of_a_vm_whose_memory_others_can_map() {
        let text = lines_with(&config(), Accelerator::Tcg, Some(13));
        assert!(text.contains("\n-object memory-backend-memfd,id=ram0,size=512M,share=on\n"), "{text}");
        assert!(text.contains(",auto-kernel-cmdline=on,memory-backend=ram0\n"), "{text}");
        assert!(text.ends_with(
            "\n-global virtio-mmio.force-legacy=false\n-chardev socket,id=share,fd=13\n-device vhost-user-fs-device,chardev=share,tag=hyper"
        ), "{text}");
    }

    #[test]
    fn template_and_clone_have_one_memory_and_differ_in_how_it_is_mapped() {
        let dir = PathBuf::from("/var/lib/hyper/templates/k");
        let template = lines(&VmConfig { start: Start::Template(dir.clone()), ..config() }, Accelerator::Tcg);
        let clone = lines(&VmConfig { start: Start::Clone(dir), ..config() }, Accelerator::Tcg);
        let memory =
            "-object memory-backend-file,id=ram0,size=512M,mem-path=/var/lib/hyper/templates/k/memory";
        assert!(template.contains(&format!("{memory},share=on\n")), "{template}");
        assert!(clone.contains(&format!("{memory},share=off\n")), "{clone}");
        for text in [&template, &clone] {
            assert!(text.contains(",auto-kernel-cmdline=on,memory-backend=ram0\n"));
        }
        assert!(template.contains("\n-kernel ") && !clone.contains("-kernel ") && !clone.contains("-append"));
        assert!(clone.contains("\n-incoming defer\n"));
    }

    #[test]
    fn kind_of_a_template_is_that_of_the_machine_alone() {
        let probe = |tsc_khz| Probe {
            verdict: Verdict::TooSlow,
            reason: String::new(),
            rate: None,
            tsc_khz: Some(tsc_khz),
        };
        let kind = |config: &VmConfig, tsc_khz| template_kind(config, &probe(tsc_khz));
        let one = kind(&config(), 2_100_100);
        let elsewhere = VmConfig { name: "pod2".into(), dir: "/x".into(), kernel: "/k".into(), ..config() };
        assert_eq!(one, kind(&elsewhere, 2_099_900));
        assert_ne!(one, kind(&config(), 2_900_000));
        assert_ne!(one, kind(&VmConfig { memory_mib: 513, ..config() }, 2_100_100));
        assert_ne!(one, kind(&VmConfig { nic_slots: 0, ..config() }, 2_100_100));
        assert_ne!(one, kind(&VmConfig { wire: Some(Wire::Nowhere), ..config() }, 2_100_100));
        assert_ne!(one, kind(&VmConfig { kernel_args: vec![], ..config() }, 2_100_100));
    }

    #[test]
    fn whole_command_line() {
        let expected = "\
-name guest=pod1
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine microvm,accel=tcg,acpi=off,x-option-roms=off,isa-serial=on,auto-kernel-cmdline=on
-cpu max,-erms,-fsrm
-smp cpus=2
-m size=512M
-kernel /usr/lib/hyper/guest/vmlinux
-initrd /usr/lib/hyper/guest/initramfs.cpio
-append console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on acpi=off swiotlb=noforce scsi_mod.scan=manual dummy.numdummies=0 mitigations=off tsc_early_khz=2100000 tsc=reliable nolapic_timer lapic_timer_khz=1000000 no_timer_check lpj=8400000 loglevel=7
-chardev socket,id=qmp,fd=10
-mon chardev=qmp,mode=control
-add-fd fd=12,set=1
-chardev file,id=console,path=/dev/fdset/1,append=on
-serial chardev:console
-chardev socket,id=link,fd=11,server=on,wait=off
-device virtio-serial-device,max_ports=2
-device virtserialport,chardev=link,name=hyper.link,nr=1
-device virtio-scsi-device,id=scsi0
-device virtio-rng-device
-device virtio-balloon-device,free-page-reporting=on
-netdev hubport,id=slot0,hubid=0
-device virtio-net-device,id=nic0,netdev=slot0,guest_announce=off";
        assert_eq!(lines(&config(), Accelerator::Tcg), expected);
    }

    #[test]
    fn kvm_takes_the_hosts_processor_and_keeps_mitigations() {
        let text = lines(&config(), Accelerator::Kvm);
        assert!(text.contains("-machine microvm,accel=kvm,"));
        assert!(text.contains("-cpu host"));
        assert!(!text.contains("mitigations=off") && !text.contains("tsc_early_khz"));
    }

    #[test]
    fn each_nic_slot_has_its_own_hub() {
        let mut config = config();
        config.nic_slots = 3;
        let text = lines(&config, Accelerator::Tcg);
        for slot in 0..3 {
            assert!(text.contains(&format!("-netdev hubport,id=slot{slot},hubid={slot}\n")));
        }
    }

    #[test]
    fn first_nic_slot_can_be_wired_to_a_tap() {
        let config = VmConfig { nic_slots: 2, wire: Some(Wire::Nowhere), ..config() };
        let text = lines(&config, Accelerator::Tcg);
        assert!(
            text.contains("-netdev tap,id=slot0,fd=14\n-device virtio-net-device,id=nic0,netdev=slot0,"),
            "{text}"
        );
        assert!(text.contains("-netdev hubport,id=slot1,hubid=1\n"), "{text}");
    }

    #[test]
    fn commas_in_names_do_not_become_options() {
        let mut config = config();
        config.name = "a,b".into();
        assert!(lines(&config, Accelerator::Tcg).starts_with("-name guest=a,,b\n"));
    }
}
