//! What is done to all containers of a pod at once: starting, stopping, freezing, removing.

use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::boot::{Steps, vm_runs};
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::filter::Filters;
use crate::list::until_time;
use crate::options::Phase;
use crate::pod_status::PodStatus;
use crate::registry::{Container, Pod};
use crate::restart::counts_as_running;
use crate::shim::{Shim, kill_process};
use crate::{ids, signal};

/// Filters that pruning pods knows.
pub const POD_PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// Stands for a caller among a VM's members while it boots or runs things there; no container has this id.
const CALLER: &str = "";

/// How long containers whose VM was killed may take to be seen ended.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a call went for one container.
type Outcome = (Arc<Container>, Result<()>);

impl Engine {
    /// Boots the pod's VM if it was made by name, and starts all of its containers in the order in which they were made.
    /// What can be started is, though others cannot.
    ///
    /// # Errors
    /// [`Kind::NotModified`] if all of it runs already; no such pod; the VM or a container does not start.
    pub async fn start_pod(&self, reference: &str) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let containers = self.shared.registry.in_pod(&pod.id);
        let mut changed = false;
        if pod.lock().explicit {
            changed = !self.has_vm(&pod).await;
            let nothing = || async |_: &Shim| Ok(());
            self.enter_pod(&pod, CALLER, &Steps::default(), [nothing(), nothing()]).await?;
            pod.vm.lock().await.members.remove(CALLER);
        } else if containers.is_empty() {
            return Err(EngineError::conflict("only a pod made by name can run without a container"));
        }
        let mut outcomes = Vec::new();
        for container in containers {
            let started = self.start(&container.id).await;
            outcomes.push((container, started));
        }
        let started = sum_up("start", reference, outcomes)?;
        if changed || started > 0 { Ok(()) } else { Err(unchanged(reference, "running")) }
    }

    /// Asks all containers of a pod to end, at once, each by its own signal and in its own time unless `timeout` says
    /// another, and ends the VM. None of them is restarted by its policy.
    ///
    /// # Errors
    /// [`Kind::NotModified`] if nothing of it runs; no such pod; a container does not end.
    pub async fn stop_pod(&self, reference: &str, timeout: Option<i64>) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let containers = self.shared.registry.in_pod(&pod.id);
        // All of it before anything ends: whenever the daemon is killed from here on, no policy brings one back.
        let stopped_by_user =
            containers.iter().filter(|container| container.lock().state.phase != Phase::Created);
        join_all(stopped_by_user.map(|container| self.note_manual_stop(container)))
            .await
            .into_iter()
            .collect::<Result<Vec<()>>>()?;
        let had_vm = self.has_vm(&pod).await;
        let outcomes = at_once(&containers, |id| async move { self.stop(&id, timeout, None).await }).await;
        let outcomes = self.end_stuck(&pod, outcomes).await;
        let stopped = sum_up("stop", reference, outcomes)?;
        self.end_idle_vm(&pod).await;
        if had_vm || stopped > 0 { Ok(()) } else { Err(unchanged(reference, "stopped")) }
    }

    /// Stops what runs of a pod, and starts all of it.
    ///
    /// # Errors
    /// As [`Engine::stop_pod`] and [`Engine::start_pod`].
    pub async fn restart_pod(&self, reference: &str, timeout: Option<i64>) -> Result<()> {
        let pod = self.find_pod(reference)?;
        // What removes itself when it ends could not be started again, and a pod ends with its last container.
        let mut kept = Vec::new();
        for container in self.shared.registry.in_pod(&pod.id) {
            if std::mem::take(&mut container.lock().options.auto_remove) {
                kept.push(container);
            }
        }
        let stopped = self.stop_pod(&pod.id, timeout).await;
        let result = match stopped {
            Err(error) if error.kind != Kind::NotModified => Err(error),
            _ => self.start_pod(&pod.id).await,
        };
        for container in kept {
            container.lock().options.auto_remove = true;
            if !counts_as_running(container.lock().state.phase) {
                self.remove_quietly(&container).await;
            }
        }
        result
    }

    /// Sends a signal (by name or number; empty for `KILL`) to all containers of a pod that run. Without any left after
    /// `KILL` the VM ends as well.
    ///
    /// # Errors
    /// None runs; no such pod; no such signal.
    pub async fn kill_pod(&self, reference: &str, name: &str) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let number = if name.is_empty() { signal::KILL } else { signal::parse(name)? };
        let targets = self.in_phases(&pod, counts_as_running);
        if targets.is_empty() {
            return Err(EngineError::conflict(format!(
                "cannot kill pod {reference}: none of its containers is running"
            )));
        }
        let outcomes = at_once(&targets, |id| async move { self.kill(&id, name).await }).await;
        // One that ended by itself meanwhile is as dead.
        let outcomes = outcomes.into_iter().filter(|(container, outcome)| {
            outcome.is_ok() || counts_as_running(container.lock().state.phase)
        });
        sum_up("kill", reference, outcomes.collect())?;
        if number == signal::KILL {
            self.end_idle_vm(&pod).await;
        }
        Ok(())
    }

    /// Freezes all containers of a pod that run.
    ///
    /// # Errors
    /// None runs; no such pod.
    pub async fn pause_pod(&self, reference: &str) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let targets = self.in_phases(&pod, |phase| phase == Phase::Running);
        if targets.is_empty() {
            return Err(EngineError::conflict(format!(
                "cannot pause pod {reference}: none of its containers is running"
            )));
        }
        let outcomes = at_once(&targets, |id| async move { self.pause(&id).await }).await;
        sum_up("pause", reference, outcomes).map(drop)
    }

    /// Undoes [`Engine::pause_pod`].
    ///
    /// # Errors
    /// None is frozen; no such pod.
    pub async fn unpause_pod(&self, reference: &str) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let targets = self.in_phases(&pod, |phase| phase == Phase::Paused);
        if targets.is_empty() {
            return Err(EngineError::conflict(format!(
                "cannot unpause pod {reference}: none of its containers is paused"
            )));
        }
        let outcomes = at_once(&targets, |id| async move { self.unpause(&id).await }).await;
        sum_up("unpause", reference, outcomes).map(drop)
    }

    /// Removes a pod with its containers and their volumes without names. What runs is ended with `force`: killed, or
    /// asked to end first where there is a `timeout`.
    ///
    /// # Errors
    /// A container runs and `force` is not given; files cannot be removed; a container came into it meanwhile.
    pub async fn remove_pod(&self, reference: &str, force: bool, timeout: Option<i64>) -> Result<()> {
        let pod = self.find_pod(reference)?;
        let running = self.in_phases(&pod, counts_as_running);
        if !running.is_empty() && !force {
            let names: Vec<String> = running.iter().map(|container| container.lock().name.clone()).collect();
            return Err(EngineError::conflict(format!(
                "cannot remove pod {reference}: {} {} running",
                names.join(", "),
                if names.len() == 1 { "is" } else { "are" }
            ))
            .with_hint("stop it first, or force"));
        }
        if force && timeout.is_some() {
            match self.stop_pod(&pod.id, timeout).await {
                Err(error) if error.kind != Kind::NotModified => {
                    tracing::warn!(pod = pod.id, error = %error.report(), "a pod is removed that did not stop");
                }
                _ => {}
            }
        }
        let containers = self.shared.registry.in_pod(&pod.id);
        let outcomes = at_once(&containers, |id| async move { self.remove(&id, force, true).await }).await;
        sum_up("remove", reference, outcomes)?;
        self.forget_pod(&pod, reference).await
    }

    /// Removes a pod without containers.
    async fn forget_pod(&self, pod: &Arc<Pod>, reference: &str) -> Result<()> {
        let mut vm = pod.vm.lock().await;
        self.shared.end_vm(pod, &mut vm).await;
        let _membership = self.shared.membership.lock().await;
        // A pod that was not made by name went with its last container.
        if self.shared.registry.pod(&pod.id).is_err() {
            return Ok(());
        }
        if !self.shared.registry.in_pod(&pod.id).is_empty() {
            return Err(EngineError::conflict(format!(
                "cannot remove pod {reference}: a container has come into it"
            )));
        }
        self.shared.db.remove_pod(&pod.id).await?;
        self.shared.registry.remove_pod(&pod.id);
        let name = pod.lock().name.clone();
        self.shared.pod_event(&pod.id, name.as_deref(), "destroy");
        Ok(())
    }

    /// Removes pods with a name that have ended, with their containers; returns their ids and the bytes that became free.
    /// A container outside of such a pod is none of them.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn prune_pods(&self, filters: &Filters) -> Result<(Vec<String>, u64)> {
        let until = match filters.values("until") {
            [] => None,
            [text] => Some(until_time(text)?),
            _ => return Err(EngineError::invalid("more than one until filter specified")),
        };
        let (mut ids, mut freed) = (Vec::new(), 0);
        for info in self.list_pods().await {
            let record = &info.record;
            if record.name.is_none()
                || !matches!(info.status(), PodStatus::Exited | PodStatus::Stopped)
                || until.is_some_and(|until| record.created >= until)
                || !filters.matches_labels(&record.options.labels)
            {
                continue;
            }
            let size = |id: &String| {
                let writable = self.places().container(id).join("rw.ext4");
                std::fs::metadata(writable).map_or(0, |metadata| metadata.blocks() * 512)
            };
            let bytes: u64 = info.containers.iter().map(|container| size(&container.id)).sum();
            match self.remove_pod(&record.id, false, None).await {
                Ok(()) => {
                    ids.push(record.id.clone());
                    freed += bytes;
                }
                Err(error) => tracing::warn!(pod = record.id, error = %error.report(), "cannot prune"),
            }
        }
        Ok((ids, freed))
    }

    fn in_phases(&self, pod: &Pod, wanted: impl Fn(Phase) -> bool) -> Vec<Arc<Container>> {
        let mut containers = self.shared.registry.in_pod(&pod.id);
        containers.retain(|container| wanted(container.lock().state.phase));
        containers
    }

    async fn has_vm(&self, pod: &Pod) -> bool {
        match pod.shim() {
            Some(shim) => vm_runs(&shim).await,
            None => false,
        }
    }

    /// Kills the VM under containers that not even a signal ended: a guest that does not answer any more.
    async fn end_stuck(&self, pod: &Arc<Pod>, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let stuck = |(container, outcome): &Outcome| {
            let failed = outcome.as_ref().is_err_and(|error| error.kind == Kind::System);
            failed && container.lock().state.is_running()
        };
        let stuck: Vec<bool> = outcomes.iter().map(stuck).collect();
        let Some(shim) = pod.shim().filter(|_| stuck.contains(&true)) else { return outcomes };
        tracing::warn!(pod = pod.id, "killing a VM whose containers cannot be stopped");
        kill_process(&pod.id, shim.dir()).await;
        let ended = outcomes.into_iter().zip(stuck).map(|((container, outcome), stuck)| async move {
            let ended = stuck && self.await_end(&container, KILL_PATIENCE).await;
            (container, if ended { Ok(()) } else { outcome })
        });
        join_all(ended).await
    }

    /// Ends the VM of a pod made by name unless something runs in it or is about to.
    async fn end_idle_vm(&self, pod: &Arc<Pod>) {
        let mut vm = pod.vm.lock().await;
        let busy = |id: &String| {
            let found = self.shared.registry.find(id).map(|container| container.lock().state.phase);
            // A member that is no container is somebody who starts the pod.
            found.map_or(id == CALLER, |phase| {
                matches!(phase, Phase::Starting | Phase::Running | Phase::Paused)
            })
        };
        if vm.shim.is_some() && !vm.members.iter().any(busy) {
            self.shared.end_vm(pod, &mut vm).await;
        }
    }
}

/// Does something to all of them side by side.
async fn at_once<Fut: Future<Output = Result<()>>>(
    containers: &[Arc<Container>],
    act: impl Fn(String) -> Fut,
) -> Vec<Outcome> {
    let acts = containers.iter().map(|container| {
        let acting = act(container.id.clone());
        async { (container.clone(), acting.await) }
    });
    join_all(acts).await
}

/// How many changed. A container that has gone meanwhile is no failure.
///
/// # Errors
/// One failure that names all.
fn sum_up(verb: &str, pod: &str, outcomes: Vec<Outcome>) -> Result<usize> {
    let (mut changed, all) = (0, outcomes.len());
    let mut failures: Vec<EngineError> = Vec::new();
    for (container, outcome) in outcomes {
        match outcome {
            Ok(()) => changed += 1,
            Err(error) if matches!(error.kind, Kind::NotModified | Kind::NotFound) => {}
            Err(mut error) => {
                let name = container.lock().name.clone();
                error.message =
                    format!("container {name} ({}): {}", ids::short(&container.id), error.report());
                (error.source, error.hint) = (None, None);
                failures.push(error);
            }
        }
    }
    let Some(first) = failures.first() else { return Ok(changed) };
    let words: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
    let message =
        format!("cannot {verb} {} of {all} containers of pod {pod}: {}", failures.len(), words.join("; "));
    Err(EngineError::new(first.kind, message))
}

fn unchanged(pod: &str, state: &str) -> EngineError {
    EngineError::new(Kind::NotModified, format!("pod {pod} is already {state}"))
}
