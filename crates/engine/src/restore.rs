//! Finding everything again after hyperd was ended, however it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper_protocol::shim::SESSION_KEPT_MS;

use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::Result;
use crate::life::{Afterwards, exit_record};
use crate::options::Phase;
use crate::registry::{Container, Pod};
use crate::shim::{self, Shim, TaskExit, TaskState};

/// What became of a container while nobody looked.
#[derive(Debug)]
enum Found {
    /// It runs in the pod.
    Live { pid: u32, paused: bool },
    /// It has ended.
    Ended(Option<TaskExit>),
    /// Its start was interrupted before its first process ran.
    NeverStarted,
}

impl Engine {
    /// Loads the state and brings it together with what runs: pods by their shims, exit codes by the shims'
    /// records; what belongs to nothing is cleared away.
    pub(crate) async fn restore(&self) -> Result<()> {
        self.shared.clear_workshops();
        let shared = self.shared.clone();
        let load = move || shared.db.load().and_then(|loaded| Ok((loaded, shared.db.health()?)));
        let ((pods, containers), health) = tokio::task::spawn_blocking(load)
            .await
            .map_err(|error| crate::error::EngineError::system("cannot load the state", error))??;
        for pod in pods {
            self.shared.registry.add_pod(Pod::new(pod));
        }
        for container in containers {
            self.shared.registry.add(Container::new(container));
        }
        for (id, health) in health {
            if let Ok(container) = self.shared.registry.find(&id) {
                container.health.set(Some(health));
            }
        }
        let dirs = self.pod_dirs();
        let all = self.shared.registry.pods();
        let concerned = all.into_iter().filter(|pod| {
            let record = pod.lock();
            record.up
                || record.endpoint.is_some()
                || !record.endpoints.is_empty()
                || dirs.contains(&pod.id)
                || self.has_unfinished(&record.id)
        });
        let concerned: Vec<Arc<Pod>> = concerned.collect();
        futures::future::join_all(concerned.iter().map(|pod| self.restore_pod(pod))).await;
        self.clear_strays(dirs).await;
        self.shared.restore_networks().await;
        self.shared.restore_forwards().await;
        let engine = self.clone();
        tokio::spawn(async move { engine.finish_restore().await });
        Ok(())
    }

    fn has_unfinished(&self, pod: &str) -> bool {
        self.shared.registry.in_pod(pod).iter().any(|container| {
            matches!(container.lock().state.phase, Phase::Starting | Phase::Running | Phase::Paused)
        })
    }

    fn pod_dirs(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.places().run.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    async fn restore_pod(&self, pod: &Arc<Pod>) {
        let dir = self.places().pod(&pod.id);
        let shim = Shim::find(&pod.id, &dir).await.map(Arc::new);
        let mut live = BTreeSet::new();
        let (sessions, mut published) = match &shim {
            Some(_) => {
                let state = crate::podsock::inspect(&dir).await;
                state.map(|state| (state.sessions, state.published)).unwrap_or_default()
            }
            None => <(BTreeMap<_, _>, BTreeMap<_, _>)>::default(),
        };
        for container in self.shared.registry.in_pod(&pod.id) {
            let phase = container.lock().state.phase;
            if !matches!(phase, Phase::Starting | Phase::Running | Phase::Paused) {
                continue;
            }
            let found = look_for(&container.id, shim.as_deref(), phase, &dir).await;
            tracing::info!(container = container.id, ?found, "found a container again");
            // Before its end is acted upon: its clients may come back for the rest of its output.
            container.lock().state.ports = published.remove(&container.id).unwrap_or_default();
            let clients = sessions.get(&container.id).copied().unwrap_or(0);
            container.expect(clients, Duration::from_millis(SESSION_KEPT_MS));
            if self.settle(&container, pod, found, shim.as_ref()).await {
                live.insert(container.id.clone());
            }
        }
        let mut vm = pod.vm.lock().await;
        let keep = shim.is_some() && (!live.is_empty() || pod.lock().explicit);
        vm.members = live.clone();
        pod.set_shim(&mut vm, shim.clone());
        if !keep {
            self.shared.end_vm(pod, &mut vm).await;
            return;
        }
        drop(vm);
        if let Some(shim) = shim {
            for container in self.shared.registry.in_pod(&pod.id) {
                if !live.contains(&container.id) {
                    continue;
                }
                if container.lock().state.is_running() {
                    if container.lock().state.phase == Phase::Running {
                        self.go_on_with_health(&container);
                    }
                    self.watch(container, pod.clone(), shim.clone());
                } else {
                    self.give_back_later(container, pod.clone(), shim.clone());
                }
            }
        }
    }

    fn give_back_later(&self, container: Arc<Container>, pod: Arc<Pod>, shim: Arc<Shim>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let transition = container.transition.lock().await;
            // Somebody may have removed it already.
            if pod.vm.lock().await.members.contains(&container.id) {
                engine.give_back(&container, &pod, &shim, transition).await;
            }
        });
    }

    /// Makes a container's record what was found; tells whether the container needs its pod: it runs, or there may be
    /// clients that lack some of its output.
    async fn settle(
        &self,
        container: &Arc<Container>,
        pod: &Arc<Pod>,
        found: Found,
        shim: Option<&Arc<Shim>>,
    ) -> bool {
        match found {
            Found::Live { pid, paused } => {
                let written = self
                    .shared
                    .set_state(container, |state| {
                        state.phase = if paused { Phase::Paused } else { Phase::Running };
                        state.pid = pid;
                        state.started_at.get_or_insert_with(Timestamp::now);
                    })
                    .await;
                report(container, written);
                container.progress.send_modify(|progress| progress.running = true);
                true
            }
            Found::Ended(exit) => {
                let record = exit_record(&self.places().pod(&pod.id), &container.id);
                // Restarts come when everything is found.
                self.record_exit(container, exit, record, Afterwards::Stays).await;
                if shim.is_some() && container.has_clients() {
                    return true;
                }
                forget(container, shim).await;
                false
            }
            Found::NeverStarted => {
                let written = self
                    .shared
                    .set_state(container, |state| {
                        state.phase = if state.started_at.is_some() { Phase::Exited } else { Phase::Created };
                        state.error = "hyperd ended while the container was being started".to_owned();
                    })
                    .await;
                report(container, written);
                forget(container, shim).await;
                false
            }
        }
    }

    /// Ends shims and removes directories that belong to no pod, and containers' directories likewise.
    async fn clear_strays(&self, dirs: BTreeSet<String>) {
        for id in dirs {
            if self.shared.registry.pod(&id).is_err() {
                let dir = self.places().pod(&id);
                tracing::info!(pod = id, "clearing away a pod that nobody knows");
                shim::kill_process(&id, &dir).await;
                let _ = tokio::fs::remove_dir_all(&dir).await;
            }
        }
        let entries =
            std::fs::read_dir(self.places().root.join("containers")).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let known =
                name.to_str().is_some_and(|id| self.shared.registry.find(id).is_ok_and(|c| c.id == id));
            if !known {
                let _ = tokio::fs::remove_dir_all(entry.path()).await;
            }
        }
    }

    /// Removes a container that removes itself and was never started, as dockerd does when it starts; but who made it may
    /// be about to come back and start it.
    fn remove_unless_started(&self, container: Arc<Container>) {
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(SESSION_KEPT_MS)).await;
            if container.lock().state.phase == Phase::Created {
                tracing::info!(container = container.id, "removing a container that nobody has started");
                engine.remove_quietly(&container).await;
            }
        });
    }

    /// What may take its time: half-done removals, and the network.
    async fn finish_restore(&self) {
        for container in self.shared.registry.containers() {
            let record = container.record();
            // One with clients removes itself when they have read its output.
            let removes = record.state.phase == Phase::Removing
                || (record.options.auto_remove
                    && record.state.phase == Phase::Exited
                    && !container.has_clients());
            if removes {
                self.remove_quietly(&container).await;
            } else if record.options.auto_remove && record.state.phase == Phase::Created {
                self.remove_unless_started(container);
            }
        }
        if self.shared.network_was_used()
            && let Err(error) = self.network().await
        {
            tracing::warn!(error = %error.report(), "cannot bring the network up");
        }
        for pod in self.shared.registry.pods() {
            if let Err(error) = self.settle_interfaces(&pod).await {
                tracing::warn!(pod = pod.id, error = %error.report(), "its networks are not what they should be");
            }
        }
        self.restart_all().await;
    }
}

/// What became of a container, by its shim or by what the shim left.
async fn look_for(id: &str, shim: Option<&Shim>, phase: Phase, dir: &std::path::Path) -> Found {
    let state = match shim {
        Some(shim) => shim.state(id, "").await.unwrap_or(TaskState::Unknown),
        None => TaskState::Unknown,
    };
    match state {
        TaskState::Running(pid) => Found::Live { pid, paused: false },
        TaskState::Paused(pid) => Found::Live { pid, paused: true },
        TaskState::Stopped(exit) => Found::Ended(Some(exit)),
        TaskState::Created => Found::NeverStarted,
        TaskState::Unknown if exit_record(dir, id).is_some() || phase != Phase::Starting => {
            Found::Ended(None)
        }
        TaskState::Unknown => Found::NeverStarted,
    }
}

async fn forget(container: &Container, shim: Option<&Arc<Shim>>) {
    if let Some(shim) = shim
        && let Err(error) = shim.delete(&container.id, "").await
    {
        tracing::debug!(container = container.id, error = %error.report(), "cannot delete a task");
    }
}

fn report(container: &Container, written: Result<()>) {
    if let Err(error) = written {
        tracing::error!(container = container.id, error = %error.report(), "cannot record what was found");
    }
}
