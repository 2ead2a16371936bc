//! `containerd.task.v3.Task`, and v2, which is the same.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::*;
use containerd_shim_protos::cgroups_v2::metrics::{CPUStat, IOStat, MemoryStat, Metrics, PidsStat};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim_protos::shim_async::Task;
use hyper_protocol::agent::Stats;
use hyper_protocol::shim::{CONTAINER_CONFIG_URL, ContainerConfig, EXEC_CONFIG_URL, ExecConfig};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ttrpc::asynchronous::TtrpcContext;

use super::status::{status, to_the_end};
use crate::container::{Mount as RootfsMount, NewContainer};
use crate::error::ShimError;
use crate::events;
use crate::phase::ProcessRequest;
use crate::pod::{Pod, STOP};
use crate::process::{State, Streams};
use crate::{clock, implicit, tasks};

/// Longest JSON in an `Any`.
const JSON_MAX: usize = 4 << 20;

/// The service.
pub struct TaskService {
    pod: Arc<Pod>,
}

impl TaskService {
    /// For a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self { pod }
    }
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.pod.container(&request.id).map_err(status)?;
        let process = container.process(&request.exec_id).map_err(status)?;
        let mut response = StateResponse {
            id: request.id,
            bundle: container.bundle.display().to_string(),
            stdin: process.streams.stdin.clone(),
            stdout: process.streams.stdout.clone(),
            stderr: process.streams.stderr.clone(),
            terminal: process.streams.tty,
            exec_id: request.exec_id,
            pid: self.pod.vmm_pid(),
            ..Default::default()
        };
        response.status = EnumOrUnknown::new(match process.state() {
            State::Created => Status::CREATED,
            State::Running { .. } => Status::RUNNING,
            State::Paused { .. } => Status::PAUSED,
            State::Stopped { exit, .. } => {
                response.exit_status = exit.code;
                response.exited_at = MessageField::some(clock::timestamp(exit.unix_time_ns));
                Status::STOPPED
            }
        });
        Ok(response)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let request = new_container(request)?;
            implicit::boot(&pod, &request)?;
            tasks::create(&pod, request).await?;
            Ok(CreateTaskResponse { pid: pod.vmm_pid(), ..Default::default() })
        })
        .await
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let process = pod.container(&request.id)?.process(&request.exec_id)?;
            tasks::start(&pod, &process).await?;
            Ok(StartResponse { pid: pod.vmm_pid(), ..Default::default() })
        })
        .await
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let exit = tasks::delete(&pod, &request.id, &request.exec_id).await?;
            Ok(DeleteResponse {
                pid: pod.vmm_pid(),
                exit_status: exit.code,
                exited_at: MessageField::some(clock::timestamp(exit.unix_time_ns)),
                ..Default::default()
            })
        })
        .await
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        self.pod.container(&request.id).map_err(status)?;
        // On this host there is one process for all that run in the pod.
        let vmm = ProcessInfo { pid: self.pod.vmm_pid(), ..Default::default() };
        let processes = if vmm.pid == 0 { vec![] } else { vec![vmm] };
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move { tasks::set_paused(&pod, &request.id, true).await.map(|()| Empty::new()) })
            .await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move { tasks::set_paused(&pod, &request.id, false).await.map(|()| Empty::new()) })
            .await
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let process = pod.container(&request.id)?.process(&request.exec_id)?;
            tasks::signal(&pod, &process, request.signal, request.all).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let streams = Streams {
                tty: request.terminal,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            };
            let config = exec_config(request.spec.as_ref())?;
            tasks::exec(&pod, &request.id, &request.exec_id, streams, config).await?;
            Ok(Empty::new())
        })
        .await
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let process = self.pod.container(&request.id).and_then(|found| found.process(&request.exec_id));
        let resized =
            tasks::resize(&self.pod, &*process.map_err(status)?, request.width, request.height).await;
        resized.map(|()| Empty::new()).map_err(status)
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let process = self.pod.container(&request.id).and_then(|found| found.process(&request.exec_id));
        let process = process.map_err(status)?;
        process.admit(ProcessRequest::CloseInput).map_err(status)?;
        if request.stdin {
            process.close_input();
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let pod = self.pod.clone();
        to_the_end(async move {
            let resources: Value = json(request.resources.as_ref(), "the resources")?;
            tasks::update(&pod, &request.id, resources).await.map(|()| Empty::new())
        })
        .await
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.pod.container(&request.id).and_then(|found| found.process(&request.exec_id));
        let (exit, _) = process.map_err(status)?.wait().await;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: MessageField::some(clock::timestamp(exit.unix_time_ns)),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let stats = tasks::stats(&self.pod, &request.id).await.map_err(status)?;
        let any = events::any(&metrics(&stats));
        Ok(StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        if !request.id.is_empty() && request.id != self.pod.id {
            self.pod.container(&request.id).map_err(status)?;
        }
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.pod.vmm_pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        // containerd asks after each container; the shim ends with its last one.
        if request.now || self.pod.is_empty() {
            match request.now {
                true => self.pod.abandon("the shim was asked to end").await,
                false => self.pod.stop(STOP, "the shim was asked to end").await,
            }
            self.pod.quit.notify_one();
        }
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(status(ShimError::Unsupported("checkpoints are not supported".into())))
    }
}

fn new_container(request: CreateTaskRequest) -> Result<NewContainer, ShimError> {
    if !request.checkpoint.is_empty() || !request.parent_checkpoint.is_empty() {
        return Err(ShimError::Unsupported("checkpoints are not supported".into()));
    }
    // Options of other runtimes, which containerd passes by default, say nothing about us.
    let ours = request.options.as_ref().filter(|options| is(options, CONTAINER_CONFIG_URL));
    let config: ContainerConfig = match ours {
        Some(options) => json(Some(options), "the container's configuration")?,
        None => ContainerConfig::default(),
    };
    let rootfs = request.rootfs.into_iter().map(|mount| RootfsMount {
        kind: mount.type_,
        source: mount.source,
        options: mount.options,
    });
    Ok(NewContainer {
        id: request.id,
        bundle: request.bundle.into(),
        rootfs: rootfs.collect(),
        streams: Streams {
            tty: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        },
        config,
    })
}

/// Our own message, or the `process` object of the runtime specification, which containerd sends.
fn exec_config(spec: Option<&Any>) -> Result<ExecConfig, ShimError> {
    match spec {
        Some(any) if is(any, EXEC_CONFIG_URL) => json(spec, "the process to add"),
        _ => Ok(ExecConfig { process: json(spec, "the process to add")?, user: None, stdin: false }),
    }
}

fn is(any: &Any, url: &str) -> bool {
    any.type_url.rsplit('/').next() == Some(url)
}

pub(super) fn json<T: DeserializeOwned>(any: Option<&Any>, what: &str) -> Result<T, ShimError> {
    let Some(any) = any else { return Err(ShimError::Invalid(format!("{what} is missing"))) };
    if any.value.len() > JSON_MAX {
        return Err(ShimError::Invalid(format!("{what} is longer than {JSON_MAX} bytes")));
    }
    serde_json::from_slice(&any.value)
        .map_err(|error| ShimError::Invalid(format!("{what} is not valid: {error}")))
}

/// The counters as containerd's cgroup v2 metrics.
fn metrics(stats: &Stats) -> Metrics {
    let of = |name: &str| stats.memory_stat.get(name).copied().unwrap_or(0);
    let cpu = CPUStat {
        usage_usec: stats.cpu_usage_us,
        user_usec: stats.cpu_user_us,
        system_usec: stats.cpu_system_us,
        nr_periods: stats.cpu_periods,
        nr_throttled: stats.cpu_throttled_periods,
        throttled_usec: stats.cpu_throttled_us,
        ..Default::default()
    };
    let memory = MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        usage: stats.memory_usage,
        usage_limit: stats.memory_limit,
        ..Default::default()
    };
    let mut metrics = Metrics::new();
    metrics.pids =
        MessageField::some(PidsStat { current: stats.pids, limit: stats.pids_limit, ..Default::default() });
    metrics.cpu = MessageField::some(cpu);
    metrics.memory = MessageField::some(memory);
    let io = containerd_shim_protos::cgroups_v2::metrics::IOEntry {
        rbytes: stats.read_bytes,
        wbytes: stats.write_bytes,
        rios: stats.read_ops,
        wios: stats.write_ops,
        ..Default::default()
    };
    metrics.io = MessageField::some(IOStat { usage: vec![io], ..Default::default() });
    metrics
}

/// Facts about the pod that containerd shows as they are.
pub(super) fn info(pod: &Pod) -> HashMap<String, String> {
    let state = pod.inspect();
    let mut info = HashMap::new();
    info.insert("hypervisor".to_owned(), state.hypervisor);
    info.insert("accelerator".to_owned(), state.accelerator);
    info.extend(state.kernel.map(|kernel| ("kernel".to_owned(), kernel)));
    info
}
