//! Defaults that depend on other fields: what Kubernetes sets when it takes an object. The others are in the tables.

use std::collections::BTreeMap;

use crate::Object;
use crate::model::{
    ClientIPConfig, Container, DaemonSetUpdateStrategy, DeploymentStrategy, DeploymentStrategyType,
    EmptyDirVolumeSource, HTTPGetAction, JobSpec, PodSpec, PodTemplateSpec, Probe, PullPolicy,
    ResourceRequirements, RollingUpdateDaemonSet, RollingUpdateDeployment, RollingUpdateStatefulSetStrategy,
    Secret, Service, ServiceAffinity, SessionAffinityConfig, StatefulSetUpdateStrategy, UpdateStrategyType,
    Volume,
};
use crate::read::Bytes;
use crate::value::{IntOrString, Quantity};

/// Sets what is not there.
pub(crate) fn complete(object: &mut Object) {
    match object {
        Object::Pod(pod) => complete_spec(&mut pod.spec),
        Object::Deployment(deployment) => {
            let strategy = deployment.spec.strategy.get_or_insert(DeploymentStrategy {
                rolling_update: None,
                strategy: DeploymentStrategyType::RollingUpdate,
            });
            if strategy.strategy == DeploymentStrategyType::RollingUpdate {
                let quarter = || Some(IntOrString::String("25%".to_owned()));
                let rolling = strategy
                    .rolling_update
                    .get_or_insert(RollingUpdateDeployment { max_surge: None, max_unavailable: None });
                rolling.max_surge = rolling.max_surge.take().or_else(quarter);
                rolling.max_unavailable = rolling.max_unavailable.take().or_else(quarter);
            }
            complete_template(&mut deployment.spec.template);
        }
        Object::ReplicaSet(set) => complete_template(&mut set.spec.template),
        Object::StatefulSet(set) => {
            let strategy = set.spec.update_strategy.get_or_insert(StatefulSetUpdateStrategy {
                rolling_update: None,
                strategy: UpdateStrategyType::RollingUpdate,
            });
            if strategy.strategy == UpdateStrategyType::RollingUpdate {
                strategy
                    .rolling_update
                    .get_or_insert(RollingUpdateStatefulSetStrategy { max_unavailable: None, partition: 0 });
            }
            complete_template(&mut set.spec.template);
        }
        Object::DaemonSet(set) => {
            let strategy = set.spec.update_strategy.get_or_insert(DaemonSetUpdateStrategy {
                rolling_update: None,
                strategy: UpdateStrategyType::RollingUpdate,
            });
            if strategy.strategy == UpdateStrategyType::RollingUpdate {
                let rolling = strategy
                    .rolling_update
                    .get_or_insert(RollingUpdateDaemonSet { max_surge: None, max_unavailable: None });
                rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
                rolling.max_surge.get_or_insert(IntOrString::Int(0));
            }
            complete_template(&mut set.spec.template);
        }
        Object::Job(job) => complete_job(&mut job.spec),
        Object::CronJob(job) => complete_job(&mut job.spec.job_template.spec),
        Object::Secret(secret) => complete_secret(secret),
        Object::Service(service) => complete_service(service),
        Object::ConfigMap(_) | Object::PersistentVolumeClaim(_) => {}
    }
}

fn complete_template(template: &mut PodTemplateSpec) {
    complete_spec(&mut template.spec);
}

/// A job that says neither how many are to succeed nor how many run is one pod that has to succeed.
fn complete_job(job: &mut JobSpec) {
    if job.completions.is_none() && job.parallelism.is_none() {
        job.completions = Some(1);
    }
    job.parallelism.get_or_insert(1);
    complete_template(&mut job.template);
}

fn complete_spec(spec: &mut PodSpec) {
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        complete_container(container);
    }
    spec.volumes.iter_mut().for_each(complete_volume);
    round(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        round(&mut resources.limits);
        round(&mut resources.requests);
    }
    requests_of_pod(spec);
    // Kubernetes takes less than nothing for a second.
    if spec.termination_grace_period_seconds < 0 {
        spec.termination_grace_period_seconds = 1;
    }
}

fn complete_container(container: &mut Container) {
    let image = container.image.as_deref().unwrap_or_default();
    container.image_pull_policy.get_or_insert_with(|| pull_policy(image));
    container.resources.iter_mut().for_each(complete_resources);
    for port in &mut container.ports {
        port.host_port = port.host_port.filter(|port| *port != 0);
    }
    let probes =
        [&mut container.startup_probe, &mut container.liveness_probe, &mut container.readiness_probe];
    probes.into_iter().flatten().for_each(complete_probe);
    let hooks = container.lifecycle.iter_mut().flat_map(|hooks| [&mut hooks.post_start, &mut hooks.pre_stop]);
    hooks.flatten().filter_map(|hook| hook.http_get.as_mut()).for_each(complete_request);
}

/// Zero is no number for a probe, but what leaving it out leaves behind.
fn complete_probe(probe: &mut Probe) {
    for (number, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if *number == 0 {
            *number = default;
        }
    }
    probe.http_get.iter_mut().for_each(complete_request);
}

/// A path without the slash that each begins with is meant below the root.
fn complete_request(request: &mut HTTPGetAction) {
    if !request.path.starts_with('/') {
        request.path.insert(0, '/');
    }
}

/// Always for the tag `latest`, which is also what an image without a tag has, else what is there does.
fn pull_policy(image: &str) -> PullPolicy {
    let name = image.rsplit('/').next().unwrap_or_default();
    let latest = match name.split_once('@') {
        Some((name, _)) => name.ends_with(":latest"),
        None => name.split_once(':').is_none_or(|(_, tag)| tag == "latest"),
    };
    if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent }
}

fn complete_resources(resources: &mut ResourceRequirements) {
    round(&mut resources.limits);
    round(&mut resources.requests);
    for (name, limit) in &resources.limits {
        resources.requests.entry(name.clone()).or_insert(*limit);
    }
}

/// Nothing is counted in less than thousandths.
fn round(amounts: &mut BTreeMap<String, Quantity>) {
    amounts.values_mut().for_each(|amount| *amount = amount.rounded_to_milli());
}

/// What a pod asks for as a whole, where it says only what it may have at most: what its containers ask for, else that.
fn requests_of_pod(spec: &mut PodSpec) {
    for name in ["cpu", "memory"] {
        let asked = spec.requests(name);
        let Some(resources) = &mut spec.resources else { return };
        if let Some(limit) = resources.limits.get(name) {
            resources.requests.entry(name.to_owned()).or_insert(asked.unwrap_or(*limit));
        }
    }
}

fn complete_volume(volume: &mut Volume) {
    if volume.sources().is_empty() {
        volume.empty_dir = Some(EmptyDirVolumeSource { medium: None, size_limit: None });
    }
    if let Some(image) = &mut volume.image {
        image.pull_policy.get_or_insert_with(|| pull_policy(&image.reference));
    }
}

/// Texts become bytes, and win.
fn complete_secret(secret: &mut Secret) {
    let texts = std::mem::take(&mut secret.string_data);
    secret.data.extend(texts.into_iter().map(|(key, text)| (key, Bytes(text.into_bytes()))));
}

fn complete_service(service: &mut Service) {
    let spec = &mut service.spec;
    match spec.session_affinity {
        ServiceAffinity::None => spec.session_affinity_config = None,
        ServiceAffinity::ClientIp => {
            let config =
                spec.session_affinity_config.get_or_insert(SessionAffinityConfig { client_ip: None });
            config.client_ip.get_or_insert(ClientIPConfig { timeout_seconds: 10800 });
        }
    }
    for port in &mut spec.ports {
        let unset = [None, Some(IntOrString::Int(0)), Some(IntOrString::String(String::new()))];
        if unset.contains(&port.target_port) {
            port.target_port = Some(IntOrString::Int(port.port));
        }
        port.node_port = port.node_port.filter(|port| *port != 0);
    }
}
