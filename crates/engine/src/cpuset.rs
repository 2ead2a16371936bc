//! `--cpuset-cpus` and `--cpuset-mems`: which of its VM's processors a container may use.
//!
//! The numbers are those of the VM, which gets as many processors as the highest that is named wants; what they run on is
//! the host's scheduler's choice. A guest has one node of memory.

use crate::error::{EngineError, Result};
use crate::options::Resources;

/// Checks both lists of a container's limits against what the host has.
///
/// # Errors
/// Malformed, or more than there is, in docker's words.
pub(crate) fn check(limits: &Resources) -> Result<()> {
    let host = crate::size::host_cpus();
    for (list, kind, words, there) in
        [(&limits.cpuset_cpus, "cpus", "CPUs", host), (&limits.cpuset_mems, "mems", "memory nodes", 1)]
    {
        let highest = highest(list).map_err(|part| {
            EngineError::invalid(format!("Invalid value {list} for cpuset {kind}: invalid format: {part}"))
        })?;
        if highest.is_some_and(|highest| highest >= there) {
            let available = if there == 1 { "0".to_owned() } else { format!("0-{}", there - 1) };
            return Err(EngineError::invalid(format!(
                "Requested {words} are not available - requested {list}, available: {available}"
            )));
        }
    }
    Ok(())
}

/// Virtual CPUs that a list wants: 0 for none, and for one that is malformed, which [`check`] refuses.
pub(crate) fn vcpus(list: &str) -> u32 {
    highest(list).ok().flatten().map_or(0, |highest| highest.saturating_add(1))
}

/// The highest number of a list as `0-2,4`; the part that makes no sense otherwise.
fn highest(list: &str) -> Result<Option<u32>, &str> {
    if list.is_empty() {
        return Ok(None);
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten()
    };
    let mut highest = None;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => highest = highest.max(Some(last)),
            _ => return Err(part),
        }
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_wants_as_many_as_its_highest() {
        for (list, count) in [("", 0), ("0", 1), ("0,1", 2), ("0-2,1", 3), ("3", 4), ("x", 0)] {
            assert_eq!(vcpus(list), count, "{list}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_in_dockers_words() {
        let said = |cpus: &str, mems: &str| {
            let limits =
                Resources { cpuset_cpus: cpus.into(), cpuset_mems: mems.into(), ..Resources::default() };
            check(&limits).map_err(|error| error.message)
        };
        said("0", "0").unwrap();
        for (cpus, words) in [
            ("x", "Invalid value x for cpuset cpus: invalid format: x"),
            ("0,2-1", "Invalid value 0,2-1 for cpuset cpus: invalid format: 2-1"),
            ("0,", "invalid format: "),
            ("99999", "Requested CPUs are not available - requested 99999, available: 0"),
            ("99999999999", "invalid format"),
        ] {
            assert!(said(cpus, "").unwrap_err().contains(words), "{cpus}");
        }
        let mems = said("", "3").unwrap_err();
        assert_eq!(mems, "Requested memory nodes are not available - requested 3, available: 0");
    }
}
