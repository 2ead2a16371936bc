//! Resource limits by their names.

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::failure::{Attempt, Failed};
use crate::spec;

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        _ => return None,
    })
}

/// Refuses unknown names, repetitions and soft limits above hard ones.
pub(crate) fn check(limits: &[spec::Rlimit]) -> Result<(), Failed> {
    for (index, limit) in limits.iter().enumerate() {
        if resource(&limit.kind).is_none() {
            return Err(Failed::invalid(format!("unknown rlimit {:?}", limit.kind)));
        }
        if limits[..index].iter().any(|other| other.kind == limit.kind) {
            return Err(Failed::invalid(format!("rlimit {} is given twice", limit.kind)));
        }
        if limit.soft > limit.hard {
            return Err(Failed::invalid(format!("rlimit {}: soft limit above the hard one", limit.kind)));
        }
    }
    Ok(())
}

/// Sets limits, checked before, on this process.
pub(crate) fn apply(limits: &[spec::Rlimit]) -> Result<(), Failed> {
    let bound = |value| (value != u64::MAX).then_some(value);
    for limit in limits {
        let Some(resource) = resource(&limit.kind) else { continue };
        setrlimit(resource, Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) })
            .attempt(|| format!("set rlimit {} to {}:{}", limit.kind, limit.soft, limit.hard))?;
    }
    Ok(())
}
