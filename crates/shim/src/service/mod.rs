//! containerd's API: what its messages mean here, and nothing else.

mod sandbox;
mod status;
mod task;

pub use sandbox::SandboxService;
pub use task::TaskService;

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use ttrpc::asynchronous::Service;

use crate::pod::Pod;

/// The name that containerd 2 gave to the Task service, which the generated code has.
const TASK_V3: &str = "containerd.task.v3.Task";
/// The same service as containerd 1 knows it.
const TASK_V2: &str = "containerd.task.v2.Task";

/// All services of a pod.
pub fn services(pod: &Arc<Pod>) -> HashMap<String, Service> {
    let mut services = create_sandbox(Arc::new(SandboxService::new(pod.clone())));
    let task = || create_task(Arc::new(TaskService::new(pod.clone())));
    services.extend(task());
    services.extend(task().remove(TASK_V3).map(|service| (TASK_V2.to_owned(), service)));
    services
}
