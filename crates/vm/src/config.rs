//! What a VM is made of.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// How guest instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// By the processor, through `/dev/kvm`.
    Kvm,
    /// By QEMU's translator, in software.
    Tcg,
}

impl Accelerator {
    /// Name as shown to the user and as QEMU has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A VM to launch. Disks and taps come later, by [`crate::Vm::plug_disks`] and [`crate::Vm::plug_nic`]; but for the tap
/// that a NIC slot is wired to.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Name for process lists and messages: 1 to 128 bytes of `[a-zA-Z0-9_.-]`.
    pub name: String,
    /// Directory for this VM's files, private to it: its console and the VMM's process number.
    pub dir: PathBuf,
    /// Guest kernel, a PVH `vmlinux`.
    pub kernel: PathBuf,
    /// Initial filesystem.
    pub initramfs: PathBuf,
    /// Words added to the kernel's command line, each without white space.
    pub kernel_args: Vec<String>,
    /// Virtual processors, at least 1.
    pub vcpus: u32,
    /// Memory in MiB, at least [`VmConfig::MEMORY_MIN_MIB`].
    pub memory_mib: u32,
    /// NIC slots, each to be connected by [`crate::Vm::plug_nic`].
    pub nic_slots: u32,
    /// What the first NIC slot is wired to for as long as the VM lives, instead of being connected later; `None` for a
    /// slot like the others. Segments and checksums of packets on such a wire are the host's work, which a slot that can
    /// be connected to anything cannot offer: bulk transfer is several times faster. A clone has it as its template has.
    pub wire: Option<Wire>,
    /// Bytes of the guest's console that are kept in `console.log`.
    pub console_kept: u64,
    /// How it comes up.
    pub start: Start,
    /// Directories of the host that the guest sees. Only for a VM that boots, and only of drivers with the ability
    /// ([`crate::Abilities::share`]).
    pub share: Option<Share>,
}

/// The other end of a NIC slot that is wired.
#[derive(Debug, Clone)]
pub enum Wire {
    /// A tap that leads nowhere, of the VMM's own: for templates, and for VMs that are on no network yet.
    Nowhere,
    /// A tap, opened with `virtio_net` headers ([`hyper_sys::tap::open_with_vnet_header`]); the NIC has a carrier.
    Tap(Arc<OwnedFd>),
}

/// A virtio-fs device: a tree of the host's files, served by a process of its own to which all of the guest's memory is
/// open.
#[derive(Debug, Clone)]
pub struct Share {
    /// Connected socket to that process, which speaks vhost-user.
    pub socket: Arc<OwnedFd>,
}

impl Share {
    /// Name by which the guest mounts it.
    pub const TAG: &'static str = "hyper";
}

/// How a VM comes up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// From its kernel.
    Boot,
    /// From its kernel, to be saved by [`crate::Saving::save`] as a template into this directory, which exists and
    /// is empty.
    Template(PathBuf),
    /// As a copy of the template in this directory, made with the same configuration by the same VMM. Its memory is
    /// the template's as long as it is not written to; the template stays as it is.
    Clone(PathBuf),
}

impl Start {
    /// The guest's memory, in a template's directory.
    pub const MEMORY: &'static str = "memory";
    /// The state of the devices, likewise.
    pub const STATE: &'static str = "state";
}

impl VmConfig {
    /// Least memory in MiB in which our kernel unpacks its initial filesystem and starts the agent (measured: with
    /// 40 MiB it panics on the way).
    pub const MEMORY_MIN_MIB: u32 = 48;
    /// Name of the console's file in [`VmConfig::dir`].
    pub const CONSOLE_FILE: &'static str = "console.log";
    /// Name of the file in [`VmConfig::dir`] that holds the VMM's process number while it runs.
    pub const PID_FILE: &'static str = "qemu.pid";
}

/// A disk to plug.
#[derive(Debug)]
pub struct DiskConfig {
    /// The image, raw, open for reading or, unless `read_only`, for reading and writing. A directory, socket or
    /// pipe is refused.
    pub image: OwnedFd,
    /// Further files, open for reading, that follow the image on the disk, one after the other. Each, and the image, is
    /// a whole number of sectors then ([`DiskConfig::SECTOR`]). Only for read-only disks, and only of drivers with
    /// the ability ([`crate::Abilities::disk_files`]).
    pub more: Vec<OwnedFd>,
    /// The guest may not write.
    pub read_only: bool,
}

impl DiskConfig {
    /// Bytes of a sector.
    pub const SECTOR: u64 = 512;

    /// A disk of one file.
    pub fn new(image: OwnedFd, read_only: bool) -> Self {
        Self { image, more: Vec::new(), read_only }
    }
}

/// Where the guest finds a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskAddress {
    /// On the SCSI controller.
    Scsi {
        /// Target.
        target: u16,
        /// Logical unit.
        lun: u16,
    },
}
