//! The flags that are about processors, swap and devices.

use bollard::models::{HostConfig, HostConfigIsolationEnum};
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
