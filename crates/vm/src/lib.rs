//! What a VM is: the driver traits, the drivers and their contract suite.
//!
//! [`Hypervisor`] launches, [`Vm`] is what runs. The core asks of a hypervisor a byte stream, disks and NICs
//! ([`Vm`]'s own methods); everything more is an ability that a driver declares ([`Abilities`]) and
//! hands out on request ([`Vm::pausing`]). [`qemu`] is the driver for QEMU, [`kvm`] says whether the processor's
//! virtualisation is worth using.

mod abilities;
mod config;
mod console;
mod error;
mod hypervisor;
mod kernel;
pub mod kvm;
pub mod qemu;

pub use abilities::{Abilities, Ability};
pub use config::{Accelerator, DiskAddress, DiskConfig, Share, Start, VmConfig, Wire};
pub use console::Console;
pub use error::{LaunchError, VmError};
pub use hypervisor::{ExitKind, Health, Hypervisor, Pausing, Remark, Saving, Step, Vm, VmExit, VmInfo};
pub use kernel::{KernelError, check_kernel};
