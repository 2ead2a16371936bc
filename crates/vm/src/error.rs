//! What can go wrong with a VM.

use std::io;
use std::path::PathBuf;

use crate::kernel::KernelError;

/// A VM could not be launched. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The VMM's program is not installed.
    #[error("{program} is not installed\nhint: {hint}")]
    Missing {
        /// The program looked for.
        program: String,
        /// How to get it.
        hint: &'static str,
    },
    /// The VMM is too old or too strange.
    #[error("{program} has version {found}, at least {wanted} is needed")]
    Version {
        /// The program.
        program: String,
        /// Its version.
        found: String,
        /// The least version that will do.
        wanted: &'static str,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The guest kernel is none.
    #[error("cannot use kernel {path}")]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// There is no tap for a NIC slot that is wired to nowhere.
    #[error("cannot make a tap")]
    Tap(#[source] hyper_sys::tap::TapError),
    /// A file of the VM cannot be used.
    #[error("cannot {attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The VMM could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The VMM ended before the VM was there.
    #[error("{program} ended at once ({status}): {output}")]
    Ended {
        /// The program.
        program: String,
        /// Its exit status in words.
        status: String,
        /// The end of what it wrote to its standard error, or of the guest's console.
        output: String,
    },
    /// The VMM runs and does not answer.
    #[error("{program} does not answer")]
    Silent {
        /// The program.
        program: String,
        /// What was tried.
        #[source]
        source: VmError,
    },
}

/// An operation on a VM failed; the VM is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// The VM has ended.
    #[error("the VM has ended: {0}")]
    Gone(String),
    /// The VMM did not answer in time.
    #[error("the VMM did not answer {command} within {seconds} s")]
    Timeout {
        /// What was asked.
        command: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The VMM refused.
    #[error("the VMM refused {command}: {message}")]
    Refused {
        /// What was asked.
        command: String,
        /// What it said.
        message: String,
    },
    /// The VMM said something that is no answer.
    #[error("the VMM's answer makes no sense: {0}")]
    Nonsense(String),
    /// No room for another disk or NIC.
    #[error("{0}")]
    Full(String),
    /// The driver lacks the ability.
    #[error("this hypervisor driver has no ability {0:?}")]
    Unable(&'static str),
    /// No such disk or slot, or a slot already taken.
    #[error("{0}")]
    Address(String),
    /// Talking to the VMM failed.
    #[error("cannot {attempt}")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}
