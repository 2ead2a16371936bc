//! Pods as people see them.

use std::sync::Arc;

use hyper_protocol::shim::PodState;

use crate::clock::Timestamp;
use crate::create::check_pod_name;
use crate::db::Durability;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filter::Filters;
use crate::list::until_time;
use crate::options::{ContainerRecord, NameOptions, PodOptions, PodRecord, TemplateUse};
use crate::pod_options::{check_files, check_kernel_args};
use crate::pod_status::PodStatus;
use crate::registry::Pod;
use crate::{ids, podsock, size, validate};

/// Filters that listing pods knows.
pub const POD_FILTERS: &[&str] =
    &["ctr-ids", "ctr-names", "ctr-number", "ctr-status", "id", "label", "label!", "name", "status", "until"];

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
    /// Its containers share one PID namespace.
    pub share_pids: bool,
    /// Further words for the kernel's command line.
    pub kernel_args: Vec<String>,
    /// Name resolution of containers that say nothing of it themselves.
    pub names: NameOptions,
    /// Text files that every container gets, by path.
    pub files: std::collections::BTreeMap<String, String>,
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

impl PodInfo {
    /// Its state.
    pub fn status(&self) -> PodStatus {
        let phases: Vec<_> = self.containers.iter().map(|container| container.state.phase).collect();
        PodStatus::of(&phases, self.vm.is_some(), self.record.started.is_some())
    }
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
            names: request.names.clone(),
            ..Default::default()
        };
        validate::check(&mut probe)?;
        check_kernel_args(&request.kernel_args)?;
        check_files(&request.files)?;
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
                share_pids: request.share_pids,
                kernel_args: request.kernel_args,
                names: request.names,
                files: request.files,
                labels: request.labels,
            },
            endpoint: None,
            slot: 0,
            endpoints: Vec::new(),
            up: false,
            started: None,
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

    /// The pods that pass `filters`, newest first.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn list_pods_filtered(&self, filters: &Filters) -> Result<Vec<PodInfo>> {
        let until = match filters.values("until") {
            [] => None,
            [text] => Some(until_time(text)?),
            _ => return Err(EngineError::invalid("more than one until filter specified")),
        };
        for wanted in filters.values("ctr-number") {
            let number = wanted.parse::<usize>();
            number.map_err(|_| EngineError::invalid(format!("invalid filter 'ctr-number={wanted}'")))?;
        }
        let mut pods = self.list_pods().await;
        pods.retain(|pod| until.is_none_or(|until| pod.record.created < until) && passes(filters, pod));
        Ok(pods)
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
}

/// Whether a pod passes all filters but `until`.
fn passes(filters: &Filters, pod: &PodInfo) -> bool {
    let PodInfo { record, containers, .. } = pod;
    let name = record.name.as_deref().unwrap_or_default();
    let status = pod.status().name().to_ascii_lowercase();
    let of_any = |test: &dyn Fn(&ContainerRecord) -> bool| containers.iter().any(test);
    filters.any("id", &|wanted| record.id.starts_with(wanted))
        && filters.any("name", &|wanted| name.contains(wanted))
        && filters.any("status", &|wanted| wanted.to_ascii_lowercase() == status)
        && filters.any("ctr-ids", &|wanted| of_any(&|container| container.id.starts_with(wanted)))
        && filters.any("ctr-names", &|wanted| of_any(&|container| container.name.contains(wanted)))
        && filters.any("ctr-status", &|wanted| of_any(&|container| container.state.status() == wanted))
        && filters.any("ctr-number", &|wanted| wanted.parse() == Ok(containers.len()))
        && filters.matches_labels(&record.options.labels)
}
