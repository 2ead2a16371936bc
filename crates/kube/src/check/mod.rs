//! What is not sound although every value has its type: Kubernetes' own validation, in its words.

mod config;
mod container;
mod env;
mod job;
mod meta;
mod mounts;
mod paths;
mod pod;
mod probe;
mod resources;
mod security;
mod service;
mod volume;
mod workload;

use crate::Object;
use crate::fault::Report;
use crate::place::At;

/// Tells what is not sound about an object that has all defaults.
pub(crate) fn object(object: &Object, report: &mut Report) {
    let top = At::top();
    meta::object(object, report);
    let at = top.field("spec");
    match object {
        Object::Pod(pod) => pod::spec(&pod.spec, &at, report),
        Object::Deployment(deployment) => workload::deployment(&deployment.spec, &at, report),
        Object::ReplicaSet(set) => workload::replica_set(&set.spec, &at, report),
        Object::StatefulSet(set) => workload::stateful_set(&set.spec, &at, report),
        Object::DaemonSet(set) => workload::daemon_set(&set.spec, &at, report),
        Object::Job(job) => job::job(&job.spec, &at, report),
        Object::CronJob(job) => job::cron_job(&job.spec, &at, report),
        Object::ConfigMap(map) => config::config_map(map, &top, report),
        Object::Secret(secret) => config::secret(secret, &top, report),
        Object::PersistentVolumeClaim(claim) => config::claim(&claim.spec, &at, report),
        Object::Service(service) => service::service(&service.spec, &at, report),
    }
}
