//! Limits, as the runtime specification has them.

use serde_json::{Map, Value, json};

use crate::devices;
use crate::error::Result;
use crate::options::{ContainerOptions, Resources, Ulimit};

/// Period of the processor limit, in microseconds: docker's choice for `--cpus`.
const PERIOD_US: i64 = 100_000;

/// Resource limits of `getrlimit(2)` by the names that `ulimit` and docker use.
const ULIMITS: [(&str, &str); 15] = [
    ("core", "RLIMIT_CORE"),
    ("cpu", "RLIMIT_CPU"),
    ("data", "RLIMIT_DATA"),
    ("fsize", "RLIMIT_FSIZE"),
    ("locks", "RLIMIT_LOCKS"),
    ("memlock", "RLIMIT_MEMLOCK"),
    ("msgqueue", "RLIMIT_MSGQUEUE"),
    ("nice", "RLIMIT_NICE"),
    ("nofile", "RLIMIT_NOFILE"),
    ("nproc", "RLIMIT_NPROC"),
    ("rss", "RLIMIT_RSS"),
    ("rtprio", "RLIMIT_RTPRIO"),
    ("rttime", "RLIMIT_RTTIME"),
    ("sigpending", "RLIMIT_SIGPENDING"),
    ("stack", "RLIMIT_STACK"),
];

/// Devices that every container may use, as docker allows: `null`, `zero`, `full`, `random`, `urandom`, `tty`,
/// `console`, `ptmx`, the pseudo terminals, and making any node.
const DEVICES: [(&str, Option<u32>, Option<u32>, &str); 10] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(5), Some(2), "rwm"),
    ("c", Some(136), None, "rwm"),
];

/// Whether `name` is a limit's.
pub(crate) fn ulimit_is_known(name: &str) -> bool {
    ULIMITS.iter().any(|(known, _)| *known == name)
}

/// The `process.rlimits` list.
pub(super) fn rlimits(ulimits: &[Ulimit]) -> Value {
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    let one = |ulimit: &Ulimit| {
        let (_, kind) = ULIMITS.iter().find(|(known, _)| *known == ulimit.name)?;
        Some(json!({"type": kind, "soft": value(ulimit.soft), "hard": value(ulimit.hard)}))
    };
    ulimits.iter().filter_map(one).collect()
}

/// The `linux.resources` object.
///
/// # Errors
/// A rule for devices that is none.
pub(super) fn resources(options: &ContainerOptions) -> Result<Value> {
    let mut resources = self::limits(&options.resources);
    let mut allowed = usual_devices(options.security.privileged);
    allowed.extend(devices::rules(&options.devices)?);
    resources["devices"] = allowed.into();
    Ok(resources)
}

/// The limits of the `linux.resources` object.
pub(crate) fn limits(limits: &Resources) -> Value {
    let mut cpu = Map::new();
    if limits.nano_cpus > 0 {
        cpu.insert("period".into(), PERIOD_US.into());
        cpu.insert("quota".into(), (limits.nano_cpus / (1_000_000_000 / PERIOD_US)).into());
    }
    for (name, value) in
        [("period", limits.cpu_period), ("quota", limits.cpu_quota), ("shares", limits.cpu_shares)]
    {
        if value > 0 {
            cpu.insert(name.into(), value.into());
        }
    }
    for (name, list) in [("cpus", &limits.cpuset_cpus), ("mems", &limits.cpuset_mems)] {
        if !list.is_empty() {
            cpu.insert(name.into(), list.as_str().into());
        }
    }
    let mut memory = Map::new();
    if limits.memory > 0 {
        memory.insert("limit".into(), limits.memory.into());
        let swap = if limits.memory_swap == 0 { limits.memory } else { limits.memory_swap };
        memory.insert("swap".into(), swap.into());
    }
    if limits.memory_reservation > 0 {
        memory.insert("reservation".into(), limits.memory_reservation.into());
    }
    let mut resources = Map::new();
    for (name, part) in [("cpu", cpu), ("memory", memory)] {
        if !part.is_empty() {
            resources.insert(name.into(), part.into());
        }
    }
    if let Some(limit) = limits.pids_limit.filter(|limit| *limit >= 0) {
        resources.insert("pids".into(), json!({"limit": limit}));
    }
    Value::Object(resources)
}

fn usual_devices(privileged: bool) -> Vec<Value> {
    if privileged {
        return vec![json!({"allow": true, "access": "rwm"})];
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(DEVICES.iter().map(|(kind, major, minor, access)| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        for (name, number) in [("major", major), ("minor", minor)] {
            if let Some(number) = number {
                rule[name] = (*number).into();
            }
        }
        rule
    }));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Security;

    #[test]
    fn cpus_become_quota_and_period() {
        let limits = Resources { nano_cpus: 1_500_000_000, memory: 64 << 20, ..Resources::default() };
        let security = Security { privileged: true, ..Security::default() };
        let options = ContainerOptions { resources: limits, security, ..ContainerOptions::default() };
        let resources = resources(&options).unwrap();
        assert_eq!(resources["cpu"], json!({"period": 100_000, "quota": 150_000}));
        assert_eq!(resources["memory"], json!({"limit": 67_108_864, "swap": 67_108_864}));
        assert_eq!(resources["devices"], json!([{"allow": true, "access": "rwm"}]));
    }

    #[test]
    fn a_cpuset_and_rules_for_devices_come_after_the_usual() {
        let mut options = ContainerOptions::default();
        options.resources.cpuset_cpus = "0,1".into();
        options.devices.rules = vec!["c 7:128 rw".into()];
        let resources = resources(&options).unwrap();
        assert_eq!(resources["cpu"], json!({"cpus": "0,1"}));
        let last = resources["devices"].as_array().unwrap().last().unwrap();
        assert_eq!(*last, json!({"allow": true, "type": "c", "major": 7, "minor": 128, "access": "rw"}));
    }

    #[test]
    fn unlimited_ulimit_is_the_largest_number() {
        let limits = [Ulimit { name: "core".into(), soft: 0, hard: -1 }];
        assert_eq!(rlimits(&limits), json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX}]));
    }
}
