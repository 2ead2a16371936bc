//! Seccomp filters, which come compiled.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_protocol::agent::SystemCallFilter;
use hyper_sys::seccomp::{Instruction, MAX_INSTRUCTIONS, install};

use crate::failure::{Attempt, Failed};

/// A filter; the kernel verifies it when it is installed.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<Instruction>,
    flags: u64,
}

impl Filter {
    /// Reads a filter.
    pub(crate) fn decode(filter: &SystemCallFilter) -> Result<Filter, Failed> {
        let bytes = STANDARD.decode(&filter.program).invalid(|| "read the seccomp filter".to_owned())?;
        let (instructions, rest) = bytes.as_chunks();
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS || !rest.is_empty() {
            return Err(Failed::invalid(format!("a seccomp filter of {} bytes", bytes.len())));
        }
        let program = instructions.iter().copied().map(Instruction::from_bytes).collect();
        Ok(Filter { program, flags: filter.flags })
    }

    /// Installs it on the calling thread.
    pub(crate) fn install(&self) -> Result<(), Failed> {
        install(&self.program, self.flags).attempt(|| "install the seccomp filter".to_owned())
    }
}
