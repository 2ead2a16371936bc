//! Devices of containers: what the cgroup lets its processes use.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{EngineError, Result};

/// Most rules of a container: far above any use, and the agent's bound.
const RULES_MAX: usize = 1024;

/// What a container is asked to have of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceOptions {
    /// Rules of the cgroup as docker writes them (`c 7:128 rwm`); the numbers are the guest's kernel's.
    pub rules: Vec<String>,
}

/// Checks what is asked for.
///
/// # Errors
/// A rule that is none, in docker's words.
pub(crate) fn check(devices: &DeviceOptions) -> Result<()> {
    if devices.rules.len() > RULES_MAX {
        return Err(EngineError::invalid(format!("a container has at most {RULES_MAX} device cgroup rules")));
    }
    devices.rules.iter().try_for_each(|text| rule(text).map(drop))
}

/// The rules as the runtime specification has them.
///
/// # Errors
/// As [`check`].
pub(crate) fn rules(devices: &DeviceOptions) -> Result<Vec<Value>> {
    devices.rules.iter().map(|text| rule(text)).collect()
}

/// `TYPE MAJOR:MINOR ACCESS`, each number or `*`.
fn rule(text: &str) -> Result<Value> {
    let wrong = || EngineError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split(' ').collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else { return Err(wrong()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(wrong)?;
    if !is_access(access) {
        return Err(wrong());
    }
    let mut rule = json!({"allow": true, "type": kind, "access": access});
    for (name, number) in [("major", major), ("minor", minor)] {
        if number != "*" {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.then(|| number.parse::<u32>().ok()).flatten().ok_or_else(wrong)?;
            rule[name] = number.into();
        }
    }
    Ok(rule)
}

/// Whether letters say what may be done with a device: reading, writing, making its node.
pub(crate) fn is_access(letters: &str) -> bool {
    (1..=3).contains(&letters.len()) && letters.bytes().all(|letter| b"rwm".contains(&letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_docker_does() {
        let read = |text: &str| rules(&DeviceOptions { rules: vec![text.into()] });
        assert_eq!(
            read("c 7:128 rwm").unwrap(),
            [json!({"allow": true, "type": "c", "major": 7, "minor": 128, "access": "rwm"})]
        );
        assert_eq!(read("a *:* r").unwrap(), [json!({"allow": true, "type": "a", "access": "r"})]);
        for wrong in
            ["", "c", "x 1:2 r", "c 1 r", "c 1:2", "c 1:2 q", "c 1:2 rwmr", "c +1:2 r", "c :2 r", "c 1:2  r"]
        {
            let message = read(wrong).unwrap_err().message;
            assert_eq!(message, format!("invalid device cgroup rule format: '{wrong}'"));
        }
    }
}
