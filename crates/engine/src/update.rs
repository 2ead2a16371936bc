//! Changing limits and the restart policy of a container that is there.

use std::sync::Arc;

use crate::db::Durability;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::{Phase, Resources};
use crate::registry::{Container, Pod};
use crate::restart::RestartPolicy;
use crate::{cpuset, size, spec, validate};

/// What is to be changed; zero and `None` leave as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUpdate {
    /// Limits.
    pub resources: Resources,
    /// Whether it starts again when it has ended.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes a container's limits and restart policy. A running one gets them at once, within the size of its VM.
    ///
    /// # Errors
    /// Limits that make no sense or are more than the VM has, a policy for a container that removes itself.
    pub async fn update(&self, reference: &str, update: &ContainerUpdate) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let named = |mut error: EngineError| {
            error.message = format!("Cannot update container {}: {}", container.id, error.message);
            error
        };
        let _transition = container.transition.lock().await;
        let record = container.record();
        if matches!(record.state.phase, Phase::Removing | Phase::Dead) {
            return Err(EngineError::conflict(format!(
                "Cannot update container {}: Container is marked for removal and cannot be \"update\".",
                container.id
            )));
        }
        let mut options = record.options.clone();
        if let Some(restart) = update.restart {
            if options.auto_remove && restart != RestartPolicy::No {
                return Err(named(EngineError::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                )));
            }
            options.restart = restart;
        }
        options.resources = merged(&options.resources, &update.resources).map_err(named)?;
        validate::check_resources(&options.resources).map_err(named)?;
        let pod = self.shared.registry.pod(&record.pod)?;
        self.fit(&container, &pod, &options.resources).await.map_err(named)?;
        let changed = changed(&record.options.resources, &options.resources);
        if let Some(changed) = changed
            && record.state.is_running()
        {
            let shim = self.running_shim(&container)?;
            shim.update(&container.id, &spec::limits(&changed)).await.map_err(named)?;
        }
        let durability = Durability::of_container(options.auto_remove);
        self.shared.db.set_options(&container.id, &options, durability).await?;
        container.lock().options = options;
        self.shared.container_event(&container.record(), "update", &[]);
        Ok(())
    }

    /// Refuses limits that the pod's VM cannot give; a VM that does not run yet, of this container alone, becomes another.
    async fn fit(&self, container: &Arc<Container>, pod: &Arc<Pod>, limits: &Resources) -> Result<()> {
        // Held while the VM is booted or ended.
        let vm = pod.vm.lock().await;
        let record = pod.record();
        let alone = self.shared.registry.in_pod(&pod.id).iter().all(|other| other.id == container.id);
        if vm.shim.is_none() && alone && !record.explicit && record.name.is_none() {
            let mut resized = record;
            resized.options.vcpus = size::vcpus_of(limits, self.shared.accelerated())?;
            resized.options.memory_mib = size::memory_mib(limits.memory)?;
            if resized.options != pod.lock().options {
                self.shared.db.put_pod(resized.clone(), Durability::Synced).await?;
                pod.lock().options = resized.options;
            }
            return Ok(());
        }
        let memory = i64::from(record.options.memory_mib) << 20;
        if limits.memory > memory {
            return Err(EngineError::invalid(format!(
                "memory limit of {} MiB is more than the {} MiB of its VM, which cannot grow while it runs",
                limits.memory >> 20,
                record.options.memory_mib
            ))
            .with_hint(
                "stop the container, update it, and start it: its VM is made anew with the larger size",
            ));
        }
        if limits.nano_cpus > i64::from(record.options.vcpus) * 1_000_000_000 {
            return Err(EngineError::invalid(format!(
                "{} CPUs are more than the {} of its VM, which cannot get more while it runs",
                limits.nano_cpus as f64 / 1e9,
                record.options.vcpus
            ))
            .with_hint(
                "stop the container, update it, and start it: its VM is made anew with the larger size",
            ));
        }
        if cpuset::vcpus(&limits.cpuset_cpus) > record.options.vcpus {
            return Err(EngineError::invalid(format!(
                "Requested CPUs are not available - requested {}, its VM has {}",
                limits.cpuset_cpus, record.options.vcpus
            ))
            .with_hint(
                "stop the container, update it, and start it: its VM is made anew with more of them",
            ));
        }
        Ok(())
    }
}

/// The old limits with the new ones over them.
fn merged(old: &Resources, new: &Resources) -> Result<Resources> {
    let mut merged = old.clone();
    if new.nano_cpus != 0 && (old.cpu_period != 0 || old.cpu_quota != 0) {
        return Err(EngineError::invalid(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota has already been set",
        ));
    }
    for (name, value) in [("CPU Period", new.cpu_period), ("CPU Quota", new.cpu_quota)] {
        if value != 0 && old.nano_cpus != 0 {
            return Err(EngineError::invalid(format!(
                "Conflicting options: {name} cannot be updated as NanoCPUs has already been set"
            )));
        }
    }
    for (merged, new) in [
        (&mut merged.nano_cpus, new.nano_cpus),
        (&mut merged.cpu_quota, new.cpu_quota),
        (&mut merged.cpu_period, new.cpu_period),
        (&mut merged.cpu_shares, new.cpu_shares),
        (&mut merged.memory, new.memory),
        (&mut merged.memory_swap, new.memory_swap),
        (&mut merged.memory_reservation, new.memory_reservation),
    ] {
        if new != 0 {
            *merged = new;
        }
    }
    if new.memory_swap == 0 && old.memory_swap > 0 && new.memory > old.memory_swap {
        return Err(EngineError::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    for (merged, new) in
        [(&mut merged.cpuset_cpus, &new.cpuset_cpus), (&mut merged.cpuset_mems, &new.cpuset_mems)]
    {
        if !new.is_empty() {
            merged.clone_from(new);
        }
    }
    if new.pids_limit.is_some() {
        merged.pids_limit = new.pids_limit;
    }
    Ok(merged)
}

/// The limits that are others than before; `None` when none is.
fn changed(old: &Resources, new: &Resources) -> Option<Resources> {
    let text = |old: &String, new: &String| if old == new { String::new() } else { new.clone() };
    let only = |old: i64, new: i64| if old == new { 0 } else { new };
    let quota = (old.cpu_quota, old.cpu_period) != (new.cpu_quota, new.cpu_period);
    let pids = old.pids_limit != new.pids_limit;
    let changed = Resources {
        nano_cpus: only(old.nano_cpus, new.nano_cpus),
        cpu_quota: if quota { new.cpu_quota } else { 0 },
        cpu_period: if quota { new.cpu_period } else { 0 },
        cpu_shares: only(old.cpu_shares, new.cpu_shares),
        cpuset_cpus: text(&old.cpuset_cpus, &new.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &new.cpuset_mems),
        memory: only(old.memory, new.memory),
        memory_reservation: only(old.memory_reservation, new.memory_reservation),
        // None is "as it is" there, and 0 "no limit".
        pids_limit: if pids { Some(new.pids_limit.unwrap_or(0).max(0)) } else { None },
        ..Resources::default()
    };
    (changed != Resources::default()).then_some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let old =
            Resources { memory: 64 << 20, cpu_shares: 512, pids_limit: Some(9), ..Resources::default() };
        let new = Resources { memory: 128 << 20, ..Resources::default() };
        let merged = merged(&old, &new).unwrap();
        assert_eq!((merged.memory, merged.cpu_shares, merged.pids_limit), (128 << 20, 512, Some(9)));
        let changed = changed(&old, &merged).unwrap();
        assert_eq!(changed, Resources { memory: 128 << 20, ..Resources::default() });
        assert_eq!(super::changed(&old, &old), None);
    }

    #[test]
    fn two_ways_to_say_the_same_exclude_each_other() {
        let nano = Resources { nano_cpus: 1_000_000_000, ..Resources::default() };
        let quota = Resources { cpu_quota: 50_000, ..Resources::default() };
        assert!(merged(&nano, &quota).unwrap_err().message.contains("CPU Quota cannot be updated"));
        assert!(merged(&quota, &nano).unwrap_err().message.contains("Nano CPUs cannot be updated"));
    }

    #[test]
    fn a_limit_of_processes_can_be_taken_away() {
        let old = Resources { pids_limit: Some(9), ..Resources::default() };
        let new = Resources { pids_limit: Some(-1), ..Resources::default() };
        let changed = changed(&old, &merged(&old, &new).unwrap()).unwrap();
        assert_eq!(spec::limits(&changed)["pids"]["limit"], 0);
    }
}
