//! Processes added to a running container.

use std::sync::{Arc, Mutex, PoisonError};

use hyper_protocol::shim::ExecConfig;

use crate::attach::Attachment;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::ids;
use crate::options::Phase;
use crate::podsock::{self, AttachStreams};
use crate::registry::{Container, Counted};
use crate::shim::Shim;
use crate::spec::{self, ExecOptions};

/// Added processes that one container may have at a time.
const PER_CONTAINER_MAX: usize = 1000;

/// Exit code of a process that could not be started: docker 26's, be its program missing or not executable.
const NOT_STARTED: i64 = 126;

/// A process added to a container. Known until the container ends.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) container: String,
    pub(crate) options: ExecOptions,
    state: Mutex<ExecState>,
    /// Held while it is being started.
    starting: tokio::sync::Mutex<()>,
    ended: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct ExecState {
    started: bool,
    running: bool,
    pid: u32,
    exit_code: Option<i64>,
}

/// An added process as `inspect` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecInfo {
    /// Its id.
    pub id: String,
    /// Its container's.
    pub container: String,
    /// What it was asked to be.
    pub options: ExecOptions,
    /// It runs.
    pub running: bool,
    /// How it ended, once it has.
    pub exit_code: Option<i64>,
    /// Its number in the guest, 0 before the start.
    pub pid: u32,
}

impl Exec {
    fn state(&self) -> std::sync::MutexGuard<'_, ExecState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    fn find_exec(&self, id: &str) -> Result<Arc<Exec>> {
        let missing = || EngineError::not_found(format!("No such exec instance: {id}"));
        self.shared.lock_execs().get(id).cloned().ok_or_else(missing)
    }

    /// Prepares a process to be added to a container.
    ///
    /// # Errors
    /// No command, a malformed option, the container does not run or is frozen.
    pub async fn create_exec(&self, reference: &str, options: ExecOptions) -> Result<String> {
        let container = self.shared.registry.find(reference)?;
        if options.cmd.first().is_none_or(String::is_empty) {
            return Err(EngineError::invalid("No exec command specified"));
        }
        if !options.working_dir.is_empty() && !options.working_dir.starts_with('/') {
            return Err(EngineError::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                options.working_dir
            )));
        }
        let texts = options.cmd.iter().chain(&options.env).chain([&options.working_dir, &options.user]);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(EngineError::invalid("options must not contain NUL bytes"));
        }
        if container.lock().state.phase == Phase::Paused {
            return Err(EngineError::conflict(format!(
                "container {reference} is paused, unpause the container before exec"
            )));
        }
        if container.lock().state.phase == Phase::Restarting {
            return Err(crate::restart::in_between(&container.id));
        }
        self.running_shim(&container)?;
        let id = ids::container_id();
        let command = options.cmd.join(" ");
        let exec = Exec {
            id: id.clone(),
            container: container.id.clone(),
            options,
            state: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            ended: tokio::sync::watch::Sender::new(false),
        };
        {
            let mut execs = self.shared.lock_execs();
            if execs.values().filter(|exec| exec.container == container.id).count() >= PER_CONTAINER_MAX {
                // Those that have ended make room first.
                execs.retain(|_, exec| exec.container != container.id || exec.state().exit_code.is_none());
            }
            if execs.values().filter(|exec| exec.container == container.id).count() >= PER_CONTAINER_MAX {
                return Err(EngineError::conflict(format!(
                    "container {reference} has {PER_CONTAINER_MAX} added processes already"
                )));
            }
            execs.insert(id.clone(), Arc::new(exec));
        }
        let details = [("execID", id.clone())];
        self.shared.container_event(&container.record(), &format!("exec_create: {command}"), &details);
        Ok(id)
    }

    /// Starts an added process, attached to its streams unless `detach`.
    ///
    /// # Errors
    /// Started already, the container does not run, the program is missing or not executable.
    pub async fn start_exec(
        &self,
        id: &str,
        detach: bool,
        console_size: Option<[u32; 2]>,
    ) -> Result<Option<Attachment>> {
        let exec = self.find_exec(id)?;
        let _starting = exec.starting.lock().await;
        if exec.state().started {
            return Err(EngineError::conflict(format!("Error: Exec command {id} has already run")));
        }
        let container = self.shared.registry.find(&exec.container)?;
        if container.lock().state.phase == Phase::Paused {
            return Err(EngineError::conflict(format!(
                "container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        let shim = self.running_shim(&container)?;
        let record = container.record();
        let pod = self.shared.registry.pod(&record.pod)?.record();
        let mut options = exec.options.clone();
        options.console_size = console_size.or(options.console_size);
        let user = if options.user.is_empty() { record.options.user.clone() } else { options.user.clone() };
        let stdin = options.attach_stdin && !detach;
        let config = ExecConfig {
            process: spec::exec_process(&record, &pod.options, &options)?,
            user: (!user.is_empty()).then_some(user),
            stdin,
        };
        let streams = AttachStreams { stdin, stdout: options.attach_stdout, stderr: options.attach_stderr };
        exec.state().started = true;
        let run = self.run_exec(&shim, &container, &exec, &config, (!detach).then_some(streams)).await;
        match run {
            Ok(attachment) => {
                let details = [("execID", exec.id.clone())];
                let action = format!("exec_start: {}", exec.options.cmd.join(" "));
                self.shared.container_event(&record, &action, &details);
                self.watch_exec(exec.clone(), shim);
                Ok(attachment)
            }
            Err(error) => {
                let _ = shim.delete(&exec.container, &exec.id).await;
                let error = exec_error(error);
                exec.state().exit_code = Some(NOT_STARTED);
                let _ = exec.ended.send_replace(true);
                Err(error)
            }
        }
    }

    async fn run_exec(
        &self,
        shim: &Arc<Shim>,
        container: &Container,
        exec: &Arc<Exec>,
        config: &ExecConfig,
        streams: Option<AttachStreams>,
    ) -> Result<Option<Attachment>> {
        shim.exec(&exec.container, &exec.id, exec.options.tty, config).await?;
        let attachment = match streams {
            Some(streams) => {
                let attach = podsock::attach(shim.dir(), &exec.container, Some(&exec.id), streams, None);
                Some(Attachment::ready(exec.options.tty, attach.await?, Counted::new(&container.attached)))
            }
            None => None,
        };
        let pid = shim.start_task(&exec.container, &exec.id).await?;
        let mut state = exec.state();
        state.running = true;
        state.pid = pid;
        Ok(attachment)
    }

    fn watch_exec(&self, exec: Arc<Exec>, shim: Arc<Shim>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let code = match shim.wait(&exec.container, &exec.id).await {
                Ok(exit) => exit.code,
                Err(_) => 137,
            };
            {
                let mut state = exec.state();
                state.running = false;
                state.exit_code = Some(code.into());
            }
            let _ = exec.ended.send_replace(true);
            let _ = shim.delete(&exec.container, &exec.id).await;
            if let Ok(container) = engine.shared.registry.find(&exec.container) {
                let details = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
                engine.shared.container_event(&container.record(), "exec_die", &details);
            }
        });
    }

    /// Waits shortly for an attached process's end to be known, after its output has ended: clients ask for the exit
    /// code right then.
    pub async fn settle_exec(&self, id: &str) {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
        if let Ok(exec) = self.find_exec(id) {
            let mut ended = exec.ended.subscribe();
            let _ = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| *ended)).await;
        }
    }

    /// Waits for an added process's end; one that nobody knows has ended.
    pub(crate) async fn exec_ended(&self, id: &str) {
        if let Ok(exec) = self.find_exec(id) {
            let mut ended = exec.ended.subscribe();
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Sends a signal to an added process that runs.
    pub(crate) async fn kill_exec(&self, id: &str, signal: i32) {
        let Ok(exec) = self.find_exec(id) else { return };
        let shim = self.shared.registry.find(&exec.container).and_then(|found| self.running_shim(&found));
        if let Ok(shim) = shim
            && let Err(error) = shim.kill(&exec.container, id, signal).await
        {
            tracing::debug!(exec = id, error = %error.report(), "cannot kill an added process");
        }
    }

    /// Forgets an added process.
    pub(crate) fn forget_exec(&self, id: &str) {
        self.shared.lock_execs().remove(id);
    }

    /// Sets the size of an added process's terminal.
    ///
    /// # Errors
    /// Not running.
    pub async fn resize_exec(&self, id: &str, width: u16, height: u16) -> Result<()> {
        let exec = self.find_exec(id)?;
        // A client resizes as soon as it asked for the start.
        drop(exec.starting.lock().await);
        if !exec.state().running {
            return Err(EngineError::conflict(format!("exec {id} is not running")));
        }
        let container = self.shared.registry.find(&exec.container)?;
        self.running_shim(&container)?.resize(&exec.container, &exec.id, width, height).await
    }

    /// What is known of an added process.
    ///
    /// # Errors
    /// No such process.
    pub fn inspect_exec(&self, id: &str) -> Result<ExecInfo> {
        let exec = self.find_exec(id)?;
        let state = *exec.state();
        Ok(ExecInfo {
            id: exec.id.clone(),
            container: exec.container.clone(),
            options: exec.options.clone(),
            running: state.running,
            exit_code: state.exit_code,
            pid: state.pid,
        })
    }

    /// Ids of a container's added processes that have not ended.
    pub(crate) fn exec_ids(&self, container: &str) -> Vec<String> {
        let execs = self.shared.lock_execs();
        let live =
            execs.values().filter(|exec| exec.container == container && exec.state().exit_code.is_none());
        live.map(|exec| exec.id.clone()).collect()
    }
}

/// Docker's words around the reason.
fn exec_error(mut error: EngineError) -> EngineError {
    if error.message.starts_with("exec: ") {
        error.kind = Kind::Invalid;
        error.message = format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {}",
            error.message
        );
    }
    error
}
