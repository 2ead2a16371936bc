//! The flags that are about processors, swap and devices.

use bollard::models::{DeviceMapping, HostConfig, HostConfigIsolationEnum};
use clap::Args;

use super::FlagError;

/// What of the machine a container may use.
#[derive(Debug, Clone, Default, Args)]
pub struct HardwareFlags {
    /// CPUs of the VM in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "CPUS")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes of the VM in which to allow execution: there is one, 0
    #[arg(long, value_name = "NODES")]
    pub cpuset_mems: Option<String>,
    /// Tune container memory swappiness (0 to 100), which has no effect: a VM has no swap
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub memory_swappiness: Option<i64>,
    /// Add a host disk (a block device) to the container
    #[arg(long, value_name = "HOST[:PATH][:ACCESS]")]
    pub device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "TYPE MAJOR:MINOR ACCESS")]
    pub device_cgroup_rule: Vec<String>,
    /// Runtime to use for this container: hyper, by whatever name
    #[arg(long, value_name = "NAME")]
    pub runtime: Option<String>,
    /// Container isolation technology: default
    #[arg(long, value_name = "NAME")]
    pub isolation: Option<String>,
}

impl HardwareFlags {
    /// Adds them to the API's description.
    ///
    /// # Errors
    /// A number out of its range.
    pub fn add_to(&self, host: &mut HostConfig) -> Result<(), FlagError> {
        if let Some(swappiness) = self.memory_swappiness
            && !(-1..=100).contains(&swappiness)
        {
            let reason = "Valid memory swappiness range is 0-100";
            return Err(FlagError::new("memory-swappiness", &swappiness.to_string(), reason));
        }
        host.cpuset_cpus.clone_from(&self.cpuset_cpus);
        host.cpuset_mems.clone_from(&self.cpuset_mems);
        host.memory_swappiness = self.memory_swappiness;
        host.device_cgroup_rules =
            (!self.device_cgroup_rule.is_empty()).then(|| self.device_cgroup_rule.clone());
        let devices = self.device.iter().map(|text| device(text)).collect::<Result<Vec<_>, _>>()?;
        host.devices = (!devices.is_empty()).then_some(devices);
        host.runtime.clone_from(&self.runtime);
        host.isolation = match self.isolation.as_deref() {
            None => None,
            Some(word) if word.is_empty() || word.eq_ignore_ascii_case("default") => {
                Some(HostConfigIsolationEnum::DEFAULT)
            }
            Some(word) => {
                return Err(FlagError::new("isolation", word, "there is only \"default\" on Linux"));
            }
        };
        Ok(())
    }
}

/// A device as docker's client reads it: `HOST[:PATH][:ACCESS]`.
fn device(text: &str) -> Result<DeviceMapping, FlagError> {
    let is_access =
        |word: &str| (1..=3).contains(&word.len()) && word.bytes().all(|letter| b"rwm".contains(&letter));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, path, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if is_access(access) => (host, host, access),
        [host, path] => (host, path, "rwm"),
        [host, path, access] => (host, path, access),
        _ => return Err(FlagError::new("device", text, "invalid device specification")),
    };
    if !is_access(access) {
        return Err(FlagError::new("device", text, &format!("bad mode specified: {access}")));
    }
    if let Some(relative) = [host, path].into_iter().find(|path| !path.starts_with('/')) {
        return Err(FlagError::new("device", text, &format!("{relative} is not an absolute path")));
    }
    Ok(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(path.to_owned()),
        cgroup_permissions: Some(access.to_owned()),
    })
}
