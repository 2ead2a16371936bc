//! The two traits that a driver implements.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::net::UnixStream;

use crate::abilities::Abilities;
use crate::config::{Accelerator, DiskAddress, DiskConfig, VmConfig};
use crate::error::{LaunchError, VmError};

/// A program that runs VMs.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// Name by which the user chooses it, in lower case.
    fn name(&self) -> &'static str;

    /// What it can do beyond the core.
    fn abilities(&self) -> Abilities;

    /// Whether it can be used here. Takes as long as starting its program once.
    async fn health(&self) -> Health;

    /// Starts a VM and returns as soon as disks and NICs can be plugged; the guest is then booting.
    /// Call on the main thread of a process with a single-threaded runtime: the VM dies with the thread that
    /// launched it.
    ///
    /// # Errors
    /// See [`LaunchError`]; nothing is left of the VM.
    async fn launch(&self, config: VmConfig) -> Result<Arc<dyn Vm>, LaunchError>;

    /// What a template for VMs of this configuration depends on beside kernel, initial filesystem and the numbers in
    /// the configuration: VMM, machine, processor, in words. VMs of equal words can be cloned from one template.
    /// `None` where the driver has no templates.
    fn template_kind(&self, config: &VmConfig) -> Option<String>;
}

/// A VM that has been launched. All methods may be called at any time and from several tasks; after the VM has
/// ended they fail with [`VmError::Gone`]. Dropping the last reference kills the VM.
#[async_trait]
pub trait Vm: Send + Sync {
    /// What never changes of it.
    fn info(&self) -> &VmInfo;

    /// Opens the byte stream to the guest anew. What the guest wrote to an earlier one and nobody read may come
    /// first. Only one can be open: a newer one waits until the older has been dropped.
    ///
    /// # Errors
    /// See [`VmError`].
    async fn link(&self) -> Result<UnixStream, VmError>;

    /// Plugs disks, all or none, and says where the guest finds each, in order. Does not wait for the guest.
    ///
    /// # Errors
    /// [`VmError::Full`], [`VmError::Refused`] and others; [`VmError::Unable`] for a disk of several files where the
    /// driver has no such.
    async fn plug_disks(&self, disks: Vec<DiskConfig>) -> Result<Vec<DiskAddress>, VmError>;

    /// Takes a disk away, in use or not.
    ///
    /// # Errors
    /// [`VmError::Address`] when there is none at this address.
    async fn unplug_disk(&self, address: DiskAddress) -> Result<(), VmError>;

    /// Connects a NIC slot, counted from 0, to a tap (opened without a `virtio_net` header).
    ///
    /// # Errors
    /// [`VmError::Address`] when the slot does not exist or is connected.
    async fn plug_nic(&self, slot: u32, tap: OwnedFd) -> Result<(), VmError>;

    /// Disconnects a NIC slot; its tap is closed.
    ///
    /// # Errors
    /// [`VmError::Address`] when it is not connected.
    async fn unplug_nic(&self, slot: u32) -> Result<(), VmError>;

    /// Ends the VM at once, without asking the guest, and returns when its process is gone.
    async fn kill(&self);

    /// Waits until the VM has ended and its process is gone, and says how.
    async fn wait(&self) -> VmExit;

    /// The last bytes of the guest's console, at most 4 KiB.
    fn console_tail(&self) -> Vec<u8>;

    /// The ability to pause, if there is one.
    fn pausing(&self) -> Option<&dyn Pausing>;

    /// The ability to be saved; only of VMs launched to be templates.
    fn saving(&self) -> Option<&dyn Saving>;
}

/// Ability to be saved as a template.
#[async_trait]
pub trait Saving: Send + Sync {
    /// Stops the guest where it is and writes the rest of the template. The VM is of no further use; it can be
    /// killed when this returns.
    ///
    /// # Errors
    /// See [`VmError`]; the template's files are not to be used.
    async fn save(&self) -> Result<(), VmError>;
}

/// Ability to stop a VM in its tracks.
#[async_trait]
pub trait Pausing: Send + Sync {
    /// Stops the processors; a paused VM stays so.
    ///
    /// # Errors
    /// See [`VmError`].
    async fn pause(&self) -> Result<(), VmError>;

    /// Continues; a running VM keeps running.
    ///
    /// # Errors
    /// See [`VmError`].
    async fn resume(&self) -> Result<(), VmError>;
}

/// What never changes of a VM.
#[derive(Debug, Clone)]
pub struct VmInfo {
    /// Name of the driver.
    pub hypervisor: &'static str,
    /// Version of the VMM.
    pub version: String,
    /// How instructions are executed.
    pub accelerator: Accelerator,
    /// Process number of the VMM; of nobody once [`Vm::wait`] has answered.
    pub pid: u32,
    /// The steps of the launch.
    pub steps: Vec<Step>,
}

/// A step of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub name: &'static str,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// By whom.
    pub kind: ExitKind,
    /// In words, for a message: `the guest powered off`, `qemu was killed by signal 9`.
    pub reason: String,
}

/// By whom a VM was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// The guest powered off or rebooted.
    Guest,
    /// The guest's kernel panicked.
    Panic,
    /// [`Vm::kill`].
    Killed,
    /// The VMM ended by itself or was killed by somebody else.
    Lost,
}

/// Whether a hypervisor can be used, as `doctor` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// It can.
    pub usable: bool,
    /// Path and version of its program, where there is one.
    pub program: Option<String>,
    /// How it would execute instructions.
    pub accelerator: Accelerator,
    /// Why so.
    pub reason: String,
    /// What is wrong or worth mending.
    pub remarks: Vec<Remark>,
}

/// Something wrong or worth mending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What.
    pub problem: String,
    /// What to do about it; empty when nothing can be done.
    pub remedy: String,
    /// The hypervisor cannot be used because of it.
    pub fatal: bool,
}
