//! The rest of a container's life: ending, being ended, frozen, waited for, removed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hyper_protocol::shim::{ExitRecord, files};

use crate::clock::Timestamp;
use crate::db::Durability;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::options::{DEFAULT_STOP_TIMEOUT, Phase, State};
use crate::registry::{Container, Pod, Progress};
use crate::restart::{self, Planned};
use crate::shim::{Shim, TaskExit};
use crate::{ids, podsock, signal};

/// Exit code of a container whose VM and shim are gone: that of `SIGKILL`, as the shim has it for a VM that is gone.
const LOST: u32 = 137;

/// How long a killed container may take to be gone before its whole pod is ended, when it is alone in it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a restart waits for clients that have not read what the container wrote.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

/// What follows a container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// A restart, if its policy says so.
    AsPolicySays,
    /// Nothing: whoever recorded the end decides.
    Stays,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run (now or later).
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is gone.
    Removed,
}

/// A wait that has begun: what happens from now on is not missed.
#[derive(Debug)]
pub struct Waiting {
    receiver: tokio::sync::watch::Receiver<Progress>,
    condition: WaitCondition,
    seen: u64,
}

impl Waiting {
    /// Waits until the condition holds; returns the exit code.
    pub async fn done(mut self) -> i64 {
        let (condition, seen) = (self.condition, self.seen);
        let holds = move |progress: &Progress| match condition {
            _ if progress.removed => true,
            // The end before a restart is one, too.
            WaitCondition::NotRunning => progress.exits > seen || !(progress.running || progress.restarting),
            WaitCondition::NextExit => progress.exits > seen,
            WaitCondition::Removed => false,
        };
        match self.receiver.wait_for(holds).await {
            Ok(progress) => progress.exit_code,
            // The container's memory is gone before it said so: the engine ends.
            Err(_) => 0,
        }
    }
}

impl Engine {
    /// Begins to wait for a container. The exit code of one that has removed itself can be asked for by its full id for
    /// ten minutes, so that a client whose daemon was ended meanwhile still gets it.
    ///
    /// # Errors
    /// No such container.
    pub fn wait(&self, reference: &str, condition: WaitCondition) -> Result<Waiting> {
        let container = match self.shared.registry.find(reference) {
            Ok(container) => container,
            Err(missing) => {
                let removed = self.shared.db.removed(reference)?;
                let exit_code = removed.ok_or(missing)?;
                let progress = Progress { removed: true, exit_code, ..Progress::default() };
                let receiver = tokio::sync::watch::channel(progress).1;
                return Ok(Waiting { receiver, condition, seen: 0 });
            }
        };
        let receiver = container.progress.subscribe();
        let seen = receiver.borrow().exits;
        Ok(Waiting { receiver, condition, seen })
    }

    /// Watches a running container until it ends, then cleans up after it.
    pub(crate) fn watch(&self, container: Arc<Container>, pod: Arc<Pod>, shim: Arc<Shim>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let exit = shim.wait(&container.id, "").await;
            engine.ended(&container, &pod, &shim, exit).await;
        });
    }

    /// Records how a container ended, and gives back what it had.
    pub(crate) async fn ended(
        &self,
        container: &Arc<Container>,
        pod: &Arc<Pod>,
        shim: &Arc<Shim>,
        exit: Result<TaskExit>,
    ) {
        let transition = container.transition.lock().await;
        let record = exit_record(shim.dir(), &container.id);
        if let Err(error) = &exit {
            tracing::warn!(container = container.id, error = %error.report(), "lost sight of a container");
        }
        let planned = self.record_exit(container, exit.ok(), record, Afterwards::AsPolicySays).await;
        self.give_back(container, pod, shim, transition).await;
        if let Some(planned) = planned {
            self.restart_later(container, planned);
        }
    }

    /// Gives back what a container that has ended had, once its clients have read what it wrote.
    pub(crate) async fn give_back(
        &self,
        container: &Arc<Container>,
        pod: &Arc<Pod>,
        shim: &Arc<Shim>,
        transition: tokio::sync::MutexGuard<'_, ()>,
    ) {
        if container.lock().state.phase == Phase::Restarting {
            let _ = tokio::time::timeout(RESTART_PATIENCE, container.drained()).await;
        } else {
            container.drained().await;
        }
        if container.lock().options.auto_remove {
            drop(transition);
            let _ending = self.shared.endings.read().await;
            if container.lock().options.mounts.points.is_empty() {
                // Who waits for it to be gone need not wait for its VM to be gone as well.
                let removed = self.remove_container(container, false).await;
                // Nothing of it is kept, so nothing has to be written out.
                self.drop_from_pod(pod, &container.id).await;
                if removed.is_err() {
                    // On a full disk there is room only now.
                    self.remove_quietly(container).await;
                }
            } else {
                // Its volumes are kept, and may be wanted by the next at once.
                self.leave(container, pod, shim).await;
                self.remove_quietly(container).await;
            }
            return;
        }
        let steps = podsock::timeline(shim.dir()).await.unwrap_or_default();
        if !steps.is_empty() {
            *container.shim_steps.lock().unwrap_or_else(PoisonError::into_inner) = steps;
        }
        self.leave(container, pod, shim).await;
    }

    /// Takes an ended container out of its pod; what it wrote is on its disks then.
    async fn leave(&self, container: &Container, pod: &Arc<Pod>, shim: &Shim) {
        if let Err(error) = shim.delete(&container.id, "").await {
            tracing::debug!(container = container.id, error = %error.report(), "cannot delete a task");
        }
        self.leave_pod(pod, &container.id).await;
    }

    /// Writes the end of a container down and tells those who wait.
    pub(crate) async fn record_exit(
        &self,
        container: &Arc<Container>,
        exit: Option<TaskExit>,
        record: Option<ExitRecord>,
        afterwards: Afterwards,
    ) -> Option<Planned> {
        let code = match (&record, exit) {
            (Some(record), _) => record.exit.code,
            (None, Some(exit)) => exit.code,
            (None, None) => LOST,
        };
        let at = exit.and_then(|exit| exit.at).unwrap_or_else(Timestamp::now);
        let lost = record.is_none() && exit.is_none();
        let error = match &record {
            Some(record) => record.error.clone().unwrap_or_default(),
            None if lost => "the pod's VM is gone: its shim ended and left no exit code".to_owned(),
            None => String::new(),
        };
        let oom = record.as_ref().is_some_and(|record| record.exit.oom_killed);
        self.shared.unpublish(container).await;
        let change = |state: &mut State| {
            state.phase = Phase::Exited;
            state.pid = 0;
            state.exit_code = code.into();
            state.error = error;
            state.oom_killed = oom;
            state.finished_at = Some(at.max(state.started_at.unwrap_or(at)));
        };
        self.end_health(container).await;
        let mut state = container.lock().state.clone();
        change(&mut state);
        let planned = match afterwards {
            Afterwards::AsPolicySays => restart::plan(container, &mut state),
            Afterwards::Stays => None,
        };
        // A container that removes itself is not written down again: after a crash it is removed all the same.
        let auto_remove = container.lock().options.auto_remove;
        let written = match auto_remove {
            true => Ok(()),
            false => self.shared.db.set_state(&container.id, &state, Durability::Synced).await,
        };
        if let Err(error) = written {
            tracing::error!(container = container.id, error = %error.report(), "cannot record an exit");
        }
        container.lock().state = state;
        self.shared.lock_execs().retain(|_, exec| exec.container != container.id);
        container.progress.send_modify(|progress| {
            progress.running = false;
            progress.restarting = planned.is_some();
            progress.exits += 1;
            progress.exit_code = code.into();
        });
        let record = container.record();
        if oom {
            self.shared.container_event(&record, "oom", &[]);
        }
        let ran = at.0.saturating_sub(record.state.started_at.unwrap_or(at).0).max(0) / 1_000_000_000;
        let details = [("exitCode", code.to_string()), ("execDuration", ran.to_string())];
        self.shared.container_event(&record, "die", &details);
        self.network_events(&record, "disconnect");
        self.volume_events(&record, "unmount");
        planned
    }

    /// The shim of a container that runs.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it does not.
    pub(crate) fn running_shim(&self, container: &Container) -> Result<Arc<Shim>> {
        let record = container.record();
        let shim = self.shared.registry.pod(&record.pod)?.shim();
        match shim {
            Some(shim) if record.state.is_running() => Ok(shim),
            _ => Err(EngineError::conflict(format!("container {} is not running", record.id))),
        }
    }

    /// Sends a signal (by name or number; empty for `KILL`).
    ///
    /// # Errors
    /// Not running, or no such signal.
    pub async fn kill(&self, reference: &str, name: &str) -> Result<()> {
        let named = |mut error: EngineError| {
            error.message = format!("cannot kill container: {reference}: {}", error.message);
            error
        };
        let container = self.shared.registry.find(reference).map_err(named)?;
        let number = match name {
            "" => signal::KILL,
            name => signal::parse(name).map_err(named)?,
        };
        {
            let _transition = container.transition.lock().await;
            if container.lock().state.phase == Phase::Restarting {
                return self.cancel_restart(&container).await;
            }
        }
        let shim = self.running_shim(&container).map_err(named)?;
        if self.ends_it(&container, number) {
            self.note_manual_stop(&container).await?;
        }
        self.send(&container, &shim, number).await?;
        if number == signal::KILL {
            self.await_end(&container, KILL_PATIENCE).await;
            settle(&container).await;
        }
        Ok(())
    }

    /// Whether a signal is one by which users end this container, as docker sees it.
    fn ends_it(&self, container: &Container, number: i32) -> bool {
        let stop_signal = container.lock().options.stop_signal.clone();
        let stop_signal = stop_signal.and_then(|name| signal::parse(&name).ok());
        number == signal::KILL || stop_signal.is_none_or(|stop| stop == number)
    }

    async fn send(&self, container: &Arc<Container>, shim: &Shim, number: i32) -> Result<()> {
        let paused = container.lock().state.phase == Phase::Paused;
        match shim.kill(&container.id, "", number).await {
            // It ended in the meantime.
            Err(error) if error.kind == Kind::NotFound => {}
            other => other?,
        }
        if paused && number == signal::KILL {
            // A frozen process dies when it thaws.
            let _ = shim.resume(&container.id).await;
        }
        self.shared.container_event(&container.record(), "kill", &[("signal", number.to_string())]);
        Ok(())
    }

    /// Whether the container ended within `patience`.
    pub(crate) async fn await_end(&self, container: &Container, patience: Duration) -> bool {
        let mut receiver = container.progress.subscribe();
        tokio::time::timeout(patience, receiver.wait_for(|progress| !progress.running)).await.is_ok()
    }

    /// Asks a container to end, and kills it when it has not after `timeout` seconds (none: the container's own;
    /// negative: never).
    ///
    /// # Errors
    /// [`Kind::NotModified`] if it does not run.
    pub async fn stop(&self, reference: &str, timeout: Option<i64>, name: Option<&str>) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        {
            let _transition = container.transition.lock().await;
            if container.lock().state.phase == Phase::Restarting {
                self.cancel_restart(&container).await?;
                self.shared.container_event(&container.record(), "stop", &[]);
                return Ok(());
            }
        }
        let options = container.lock().options.clone();
        let number = match name.or(options.stop_signal.as_deref()) {
            Some(name) => signal::parse(name)?,
            None => signal::TERM,
        };
        let Ok(shim) = self.running_shim(&container) else {
            return Err(EngineError::new(Kind::NotModified, "container is already stopped"));
        };
        self.note_manual_stop(&container).await?;
        if container.lock().state.phase == Phase::Paused {
            let _ = shim.resume(&container.id).await;
        }
        self.send(&container, &shim, number).await?;
        let timeout = timeout.or(options.stop_timeout).unwrap_or(DEFAULT_STOP_TIMEOUT);
        let patience = u64::try_from(timeout).map_or(Duration::MAX, Duration::from_secs);
        if !self.await_end(&container, patience).await {
            self.force_end(&container, &shim).await?;
        }
        settle(&container).await;
        self.shared.container_event(&container.record(), "stop", &[]);
        Ok(())
    }

    /// Ends a container that does not obey; when not even the kill helps and it is alone in its pod, ends the
    /// pod.
    async fn force_end(&self, container: &Arc<Container>, shim: &Arc<Shim>) -> Result<()> {
        if let Err(error) = self.send(container, shim, signal::KILL).await {
            tracing::warn!(container = container.id, error = %error.report(), "cannot kill a container");
        }
        if self.await_end(container, KILL_PATIENCE).await {
            return Ok(());
        }
        let pod = self.shared.registry.pod(&container.lock().pod.clone())?;
        let alone = {
            let vm = pod.vm.lock().await;
            vm.members.len() <= 1
        };
        if alone {
            crate::shim::kill_process(&pod.id, shim.dir()).await;
            if self.await_end(container, KILL_PATIENCE).await {
                return Ok(());
            }
        }
        Err(EngineError::new(
            Kind::System,
            format!("container {} did not end after SIGKILL", ids::short(&container.id)),
        ))
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(&self, reference: &str, timeout: Option<i64>, name: Option<&str>) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        // What removes itself when it ends could not be started again.
        let auto_remove = std::mem::take(&mut container.lock().options.auto_remove);
        let result = self.restart_kept(&container, timeout, name).await;
        container.lock().options.auto_remove = auto_remove;
        result?;
        self.shared.container_event(&container.record(), "restart", &[]);
        Ok(())
    }

    async fn restart_kept(
        &self,
        container: &Container,
        timeout: Option<i64>,
        name: Option<&str>,
    ) -> Result<()> {
        match self.stop(&container.id, timeout, name).await {
            Err(error) if error.kind == Kind::NotModified => {}
            other => other?,
        }
        self.start(&container.id).await
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// Not running, or frozen already.
    pub async fn pause(&self, reference: &str) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let _transition = container.transition.lock().await;
        let phase = container.lock().state.phase;
        if phase == Phase::Paused {
            return Err(EngineError::conflict(format!("Container {} is already paused", container.id)));
        }
        if phase == Phase::Restarting {
            return Err(restart::in_between(&container.id));
        }
        let shim = self.running_shim(&container)?;
        shim.pause(&container.id).await?;
        self.shared.set_state(&container, |state| state.phase = Phase::Paused).await?;
        self.end_health(&container).await;
        self.shared.container_event(&container.record(), "pause", &[]);
        Ok(())
    }

    /// Undoes [`Engine::pause`].
    ///
    /// # Errors
    /// Not frozen.
    pub async fn unpause(&self, reference: &str) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let _transition = container.transition.lock().await;
        let phase = container.lock().state.phase;
        if phase != Phase::Paused {
            return Err(EngineError::conflict(format!("Container {} is not paused", container.id)));
        }
        let shim = self.running_shim(&container)?;
        shim.resume(&container.id).await?;
        self.shared.set_state(&container, |state| state.phase = Phase::Running).await?;
        self.go_on_with_health(&container);
        self.shared.container_event(&container.record(), "unpause", &[]);
        Ok(())
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// Not running.
    pub async fn resize(&self, reference: &str, width: u16, height: u16) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let shim = self.running_shim(&container)?;
        if !container.lock().options.tty {
            // As docker has it, there is nothing to do.
            return Ok(());
        }
        shim.resize(&container.id, "", width, height).await?;
        let size = [("height", height.to_string()), ("width", width.to_string())];
        self.shared.container_event(&container.record(), "resize", &size);
        Ok(())
    }

    /// Removes a container with its writable layer and log; with `force`, a running one too. `volumes`: its volumes without
    /// names as well, unless others have them.
    ///
    /// # Errors
    /// It runs and `force` is not given; files cannot be removed.
    pub async fn remove(&self, reference: &str, force: bool, volumes: bool) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        self.remove_container(&container, force).await?;
        if volumes {
            self.remove_anonymous(&container).await;
        }
        Ok(())
    }

    async fn remove_container(&self, container: &Arc<Container>, force: bool) -> Result<()> {
        loop {
            let transition = container.take_over().await;
            let record = container.record();
            if self.shared.registry.find(&container.id).is_err() {
                return Ok(());
            }
            if !restart::counts_as_running(record.state.phase) {
                return self.remove_ended(container).await;
            }
            if !force {
                let (verb, way) = match record.state.phase {
                    Phase::Paused => {
                        ("paused", "unpause and then stop the container before removing or force remove")
                    }
                    Phase::Restarting => ("restarting", "stop the container before removing or force remove"),
                    _ => ("running", "stop the container before removing or force remove"),
                };
                return Err(EngineError::conflict(format!(
                    "cannot remove container \"/{}\": container is {verb}: {way}",
                    record.name
                )));
            }
            if record.state.phase == Phase::Restarting {
                self.cancel_restart(container).await?;
                return self.remove_ended(container).await;
            }
            drop(transition);
            self.note_manual_stop(container).await?;
            if let Ok(shim) = self.running_shim(container) {
                self.force_end(container, &shim).await?;
            }
        }
    }

    /// Removes a container that does not run; its transition lock is held.
    async fn remove_ended(&self, container: &Arc<Container>) -> Result<()> {
        self.return_files(container).await;
        if container.lock().options.auto_remove {
            // It is removed after a crash too, whatever the database says until then.
            container.lock().state.phase = Phase::Removing;
        } else if let Err(error) =
            self.shared.set_state(container, |state| state.phase = Phase::Removing).await
        {
            // On a full disk it is the removal that makes room.
            tracing::warn!(container = container.id, error = %error.report(), "cannot record a removal");
            container.lock().state.phase = Phase::Removing;
        }
        let directory = self.places().container(&container.id);
        let removed = tokio::fs::remove_dir_all(&directory).await;
        if let Err(source) = removed
            && source.kind() != std::io::ErrorKind::NotFound
        {
            self.shared.set_state(container, |state| state.phase = Phase::Dead).await?;
            return Err(EngineError::system(format!("cannot remove {}", directory.display()), source));
        }
        let record = container.record();
        let _membership = self.shared.membership.lock().await;
        let pod = self.shared.registry.pod(&record.pod).ok();
        let last = self.shared.registry.in_pod(&record.pod).len() <= 1;
        let ends = pod.filter(|pod| last && !pod.lock().explicit);
        let exit_code = record.options.auto_remove.then_some(record.state.exit_code);
        let durability = Durability::of_container(record.options.auto_remove);
        let pod = ends.as_ref().map(|pod| pod.id.as_str());
        self.shared.db.remove(&container.id, pod, exit_code, durability).await?;
        if let Some(pod) = ends {
            self.shared.registry.remove_pod(&pod.id);
        }
        self.shared.registry.remove(&container.id);
        container.progress.send_modify(|progress| {
            progress.running = false;
            progress.removed = true;
        });
        self.shared.container_event(&record, "destroy", &[]);
        Ok(())
    }

    /// Removes a container that removes itself; there is nobody to tell of a failure but the log.
    pub(crate) async fn remove_quietly(&self, container: &Arc<Container>) {
        if let Err(error) = self.remove_container(container, false).await {
            tracing::error!(container = container.id, error = %error.report(), "cannot remove a container");
            return;
        }
        // A removal that was asked for without volumes and interrupted ends here as well.
        if container.lock().options.auto_remove {
            self.remove_anonymous(container).await;
        }
    }
}

/// Waits, not for ever, until an ended container has given back what it had.
async fn settle(container: &Container) {
    /// A client that reads no further keeps the pod; nobody else waits for it.
    const PATIENCE: Duration = Duration::from_secs(5);
    let _ = tokio::time::timeout(PATIENCE, container.transition.lock()).await;
}

/// What the shim wrote down when the container ended.
pub(crate) fn exit_record(dir: &std::path::Path, container: &str) -> Option<ExitRecord> {
    /// An exit record is a line of text.
    const MAX: u64 = 1 << 20;
    use std::io::Read as _;
    let file = std::fs::File::open(dir.join(files::EXITS).join(format!("{container}.json"))).ok()?;
    let mut text = Vec::new();
    file.take(MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
