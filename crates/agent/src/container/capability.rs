//! Capabilities by their names.

use hyper_protocol::capability::CAPABILITIES;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::console;
use crate::failure::{Attempt, Failed};
use crate::spec;

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
    names.iter().fold(CapabilitySet::empty(), |set, name| match CAPABILITIES.iter().position(|n| n == name) {
        Some(number) => set | CapabilitySet::from_bits_retain(1 << number),
        None => {
            // The specification: what cannot be mapped must be logged, and is no error.
            console::say(format_args!("capability {name:?} is unknown and not granted"));
            set
        }
    })
}

fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..CAPABILITIES.len()).map(|n| CapabilitySet::from_bits_retain(1 << n)).filter(move |&c| set.contains(c))
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
        let all = CapabilitySet::from_bits_retain((1 << CAPABILITIES.len()) - 1);
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
