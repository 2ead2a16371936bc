//! `containerd.runtime.sandbox.v1.Sandbox`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api::*;
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;
use hyper_protocol::shim::{POD_CONFIG_URL, PodConfig};
use ttrpc::asynchronous::TtrpcContext;

use super::status::{status, to_the_end};
use super::task::{info, json};
use crate::error::ShimError;
use crate::pod::{Phase, Pod, STOP};
use crate::{clock, home, implicit};

/// Exit status of a sandbox that was lost: containerd's for an unknown one (`UnknownExitStatus`). Its containers have
/// that of `SIGKILL`.
const LOST: u32 = 255;

/// The service.
pub struct SandboxService {
    pod: Arc<Pod>,
    created: i64,
}

impl SandboxService {
    /// For a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        Self { pod, created: clock::unix_ns() }
    }

    fn check(&self, id: &str) -> ttrpc::Result<()> {
        if id.is_empty() || id == self.pod.id {
            return Ok(());
        }
        Err(status(ShimError::NotFound(format!("this shim has pod {}, not {id}", self.pod.id))))
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        self.check(&request.sandbox_id)?;
        let ours =
            request.options.as_ref().filter(|any| any.type_url.rsplit('/').next() == Some(POD_CONFIG_URL));
        let config = match ours {
            Some(_) => json::<PodConfig>(ours, "the pod's configuration"),
            None => implicit::from_sandbox(&self.pod, &request.bundle_path, &request.netns_path),
        };
        let created = config.and_then(|config| {
            let dir = config.dir.clone();
            self.pod.configure(config)?;
            home::open(&self.pod, &dir)
        });
        created.map(|()| CreateSandboxResponse::new()).map_err(status)
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        self.check(&request.sandbox_id)?;
        let live = self.pod.boot().await.map_err(status)?;
        Ok(StartSandboxResponse {
            pid: live.machine.vm.info().pid,
            created_at: MessageField::some(clock::timestamp(self.created)),
            ..Default::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        self.check(&request.sandbox_id)?;
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
        Ok(PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        self.check(&request.sandbox_id)?;
        let grace = match request.timeout_secs {
            0 => STOP,
            seconds => Duration::from_secs(seconds.into()),
        };
        self.pod.stop(grace, "it was asked to").await;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        self.check(&request.sandbox_id)?;
        let ending = self.pod.stopped().await;
        Ok(WaitSandboxResponse {
            exit_status: if ending.wanted { 0 } else { LOST },
            exited_at: MessageField::some(clock::timestamp(ending.unix_ns)),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        self.check(&request.sandbox_id)?;
        let mut response = SandboxStatusResponse {
            sandbox_id: self.pod.id.clone(),
            pid: self.pod.vmm_pid(),
            created_at: MessageField::some(clock::timestamp(self.created)),
            ..Default::default()
        };
        if request.verbose {
            response.info = info(&self.pod);
        }
        // The two words of CRI.
        response.state = "SANDBOX_NOTREADY".to_owned();
        match self.pod.phase() {
            Phase::Running(_) => response.state = "SANDBOX_READY".to_owned(),
            Phase::Stopped(_, ending) => {
                response.exited_at = MessageField::some(clock::timestamp(ending.unix_ns));
                if request.verbose {
                    response.info.insert("reason".to_owned(), ending.reason);
                }
            }
            _ => {}
        }
        Ok(response)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> ttrpc::Result<PingResponse> {
        self.check(&request.sandbox_id)?;
        let ping = hyper_protocol::agent::Request::Ping;
        let live = self.pod.live().await.map_err(status)?;
        live.guest.repeat(&ping).await.map(|_| PingResponse::new()).map_err(status)
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        self.check(&request.sandbox_id)?;
        let pod = self.pod.clone();
        to_the_end(async move {
            // One who wants the guest to write everything out stops the sandbox first.
            pod.abandon("the shim was asked to end").await;
            pod.quit.notify_one();
            Ok(ShutdownSandboxResponse::new())
        })
        .await
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        _: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        Err(status(ShimError::Unsupported("a pod is measured container by container".into())))
    }
}
