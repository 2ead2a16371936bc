//! Capabilities by their names.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::console;
use crate::failure::{Attempt, Failed};
use crate::spec;

/// Names in the order of their numbers (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The five sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    inheritable: CapabilitySet,
    permitted: CapabilitySet,
    ambient: CapabilitySet,
}

fn parse(names: &[String]) -> CapabilitySet {
    names.iter().fold(CapabilitySet::empty(), |set, name| match NAMES.iter().position(|n| n == name) {
        Some(number) => set | CapabilitySet::from_bits_retain(1 << number),
        None => {
            // The specification: what cannot be mapped must be logged, and is no error.
            console::say(format_args!("capability {name:?} is unknown and not granted"));
            set
        }
    })
}

fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..NAMES.len()).map(|n| CapabilitySet::from_bits_retain(1 << n)).filter(move |&c| set.contains(c))
}

impl Sets {
    /// Reads names; a specification without capabilities grants none.
    pub(crate) fn parse(specified: Option<&spec::Capabilities>) -> Sets {
        let none = spec::Capabilities::default();
        let specified = specified.unwrap_or(&none);
        Sets {
            bounding: parse(&specified.bounding),
            effective: parse(&specified.effective),
            inheritable: parse(&specified.inheritable),
            permitted: parse(&specified.permitted),
            ambient: parse(&specified.ambient),
        }
    }

    /// Drops everything else from the bounding set. Needs `CAP_SETPCAP`, so it comes before the user changes.
    pub(crate) fn bound(&self) -> Result<(), Failed> {
        let all = CapabilitySet::from_bits_retain((1 << NAMES.len()) - 1);
        for capability in each(all - self.bounding) {
            match remove_capability_from_bounding_set(capability) {
                // A capability that this kernel does not have is not in the set either.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => {
                    return Err(error).attempt(|| "drop capabilities from the bounding set".to_owned());
                }
            }
        }
        Ok(())
    }

    /// Sets the other four; what this process does not have itself it cannot grant.
    pub(crate) fn apply(&self) -> Result<(), Failed> {
        let failed = || "set the capabilities".to_owned();
        let owned = capabilities(None).attempt(failed)?.permitted;
        let sets = CapabilitySets {
            effective: self.effective & self.permitted & owned,
            permitted: self.permitted & owned,
            inheritable: self.inheritable & owned,
        };
        set_capabilities(None, sets).attempt(failed)?;
        clear_ambient_capability_set().attempt(failed)?;
        for capability in each(self.ambient & sets.permitted & sets.inheritable) {
            configure_capability_in_ambient_set(capability, true).attempt(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_as_in_the_kernels_header() {
        let header = std::fs::read_to_string("/usr/include/linux/capability.h");
        let Ok(header) = header else {
            eprintln!("skipped: no /usr/include/linux/capability.h");
            return;
        };
        for (number, name) in NAMES.iter().enumerate() {
            let defined = header.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some("#define") && words.next() == Some(name))
                    .then(|| words.next())
                    .flatten()
            });
            assert_eq!(defined, Some(number.to_string().as_str()), "{name}");
        }
    }
}
