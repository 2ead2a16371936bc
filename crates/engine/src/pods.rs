//! Pods as people see them.

use std::sync::Arc;

use hyper_protocol::shim::PodState;

use crate::clock::Timestamp;
use crate::create::check_pod_name;
use crate::db::Durability;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::options::{ContainerRecord, PodOptions, PodRecord, TemplateUse};
use crate::registry::Pod;
use crate::{ids, podsock, size, validate};

/// A pod to make by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRequest {
    /// Its name.
    pub name: String,
    /// Thousand millionths of a CPU; 0 for the default.
    pub nano_cpus: i64,
    /// Bytes of memory for its containers; 0 for the default.
    pub memory: i64,
    /// Host name; empty for the pod's name.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// Without network.
    pub isolated: bool,
    /// Kernel parameters.
    pub sysctls: std::collections::BTreeMap<String, String>,
    /// Labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Guest kernel; `None` for the installed one.
    pub kernel: Option<String>,
    /// Hypervisor driver.
    pub hypervisor: Option<String>,
    /// Whether its VM may be a clone of a template.
    pub template: TemplateUse,
}

/// A pod with all that is shown of it.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// What the database has.
    pub record: PodRecord,
    /// Its containers, oldest first.
    pub containers: Vec<ContainerRecord>,
    /// Its VM, while there is one.
    pub vm: Option<PodState>,
}

impl Engine {
    /// Makes a pod by name. Its VM boots with its first container, and stays until the pod is removed.
    ///
    /// # Errors
    /// Malformed or taken name, or a size that cannot be.
    pub async fn create_pod(&self, request: PodRequest) -> Result<String> {
        check_pod_name(&request.name)?;
        let mut sysctl = request.sysctls.clone();
        validate::add_default_sysctls(&mut sysctl);
        let hostname = if request.hostname.is_empty() { &request.name } else { &request.hostname };
        let mut probe = crate::options::ContainerOptions {
            cmd: Some(vec!["true".to_owned()]),
            hostname: hostname.clone(),
            domainname: request.domainname.clone(),
            sysctls: request.sysctls,
            ..Default::default()
        };
        validate::check(&mut probe)?;
        if let Some(kernel) = &request.kernel {
            validate::check_kernel(kernel)?;
        }
        let record = PodRecord {
            id: ids::pod_id(),
            name: Some(request.name.clone()),
            explicit: true,
            created: Timestamp::now(),
            options: PodOptions {
                vcpus: size::vcpus(request.nano_cpus, self.shared.accelerated())?,
                memory_mib: size::memory_mib(request.memory)?,
                hostname: hostname.clone(),
                domainname: request.domainname,
                sysctl,
                network: !request.isolated,
                mac: None,
                networks: Vec::new(),
                kernel: request.kernel,
                hypervisor: request.hypervisor,
                template: request.template,
                labels: request.labels,
            },
            endpoint: None,
            slot: 0,
            endpoints: Vec::new(),
            up: false,
        };
        let _membership = self.shared.membership.lock().await;
        if self.shared.registry.pod_named(&request.name).is_some() {
            return Err(EngineError::conflict(format!(
                "the pod name \"{}\" is already in use",
                request.name
            )));
        }
        self.shared.db.put_pod(record.clone(), Durability::Synced).await?;
        let id = record.id.clone();
        self.shared.registry.add_pod(Pod::new(record));
        self.shared.pod_event(&id, Some(&request.name), "create");
        Ok(id)
    }

    pub(crate) fn find_pod(&self, reference: &str) -> Result<Arc<Pod>> {
        if let Some(pod) = self.shared.registry.pod_named(reference) {
            return Ok(pod);
        }
        let pods = self.shared.registry.pods();
        let mut matches =
            pods.into_iter().filter(|pod| !reference.is_empty() && pod.id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(pod), None) => Ok(pod),
            (Some(_), Some(_)) => {
                Err(EngineError::invalid(format!("multiple pods found with provided prefix: {reference}")))
            }
            (None, _) => Err(EngineError::not_found(format!("No such pod: {reference}"))),
        }
    }

    /// A pod by name, id or beginning of an id.
    ///
    /// # Errors
    /// No such pod.
    pub async fn inspect_pod(&self, reference: &str) -> Result<PodInfo> {
        let pod = self.find_pod(reference)?;
        Ok(self.pod_info(&pod).await)
    }

    /// All pods, newest first.
    pub async fn list_pods(&self) -> Vec<PodInfo> {
        let mut pods = self.shared.registry.pods();
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.lock().created));
        futures::future::join_all(pods.iter().map(|pod| self.pod_info(pod))).await
    }

    async fn pod_info(&self, pod: &Arc<Pod>) -> PodInfo {
        let vm = match pod.shim() {
            Some(shim) => podsock::inspect(shim.dir()).await.ok().filter(|state| state.vmm_pid.is_some()),
            None => None,
        };
        let containers =
            self.shared.registry.in_pod(&pod.id).iter().map(|container| container.record()).collect();
        PodInfo { record: pod.record(), containers, vm }
    }

    /// Removes a pod and, with `force`, its containers.
    ///
    /// # Errors
    /// It has containers and `force` is not given.
    pub async fn remove_pod(&self, reference: &str, force: bool) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let containers = self.shared.registry.in_pod(&pod.id);
        if !containers.is_empty() && !force {
            return Err(EngineError::conflict(format!(
                "cannot remove pod {reference}: it has {} containers",
                containers.len()
            ))
            .with_hint("remove them first, or force"));
        }
        for container in containers {
            match self.remove(&container.id, true, false).await {
                Err(error) if error.kind == crate::error::Kind::NotFound => {}
                other => other?,
            }
        }
        let mut vm = pod.vm.lock().await;
        self.shared.end_vm(&pod, &mut vm).await;
        let _membership = self.shared.membership.lock().await;
        // A pod that was not made by name went with its last container.
        if self.shared.registry.pod(&pod.id).is_ok() {
            if !self.shared.registry.in_pod(&pod.id).is_empty() {
                return Err(EngineError::conflict(format!(
                    "cannot remove pod {reference}: a container has come into it"
                )));
            }
            self.shared.db.remove_pod(&pod.id).await?;
            self.shared.registry.remove_pod(&pod.id);
            let name = pod.lock().name.clone();
            self.shared.pod_event(&pod.id, name.as_deref(), "destroy");
        }
        Ok(())
    }
}
