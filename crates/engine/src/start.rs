//! Starting a container.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hyper_image::{Image, RootAttributes, Store};
use hyper_protocol::agent::RootDirectory;
use hyper_protocol::shim::{ContainerConfig, Phase as Step, Session};
use tokio::sync::SetOnce;

use crate::boot::Steps;
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::layer::Journal;
use crate::options::{ContainerRecord, NetworkMode, Phase};
use crate::registry::{Container, Counted, PendingAttach, Pod};
use crate::shim::{Layer, Shim};
use crate::volumes::find_servers;
use crate::{devices, logging, names, podsock, spec};

/// Exit code of a container whose start failed for another reason than its program: docker's.
const START_FAILED: i64 = 128;

impl Engine {
    /// Starts a container: its pod's VM if there is none yet, then its first process.
    ///
    /// # Errors
    /// [`Kind::NotModified`] if it runs already; the program is missing or not executable; anything on the way
    /// fails. Nothing is left of an attempt that failed.
    pub async fn start(&self, reference: &str) -> Result<()> {
        let container = self.shared.registry.find(reference)?;
        let transition = container.take_over().await;
        let phase = container.lock().state.phase;
        match phase {
            // One between two runs is as good as running.
            Phase::Running | Phase::Restarting => {
                return Err(EngineError::new(Kind::NotModified, "container is already running"));
            }
            Phase::Paused => {
                return Err(EngineError::conflict("cannot start a paused container, try unpause instead"));
            }
            Phase::Removing | Phase::Dead => {
                return Err(EngineError::conflict("container is marked for removal and cannot be started"));
            }
            Phase::Created | Phase::Starting | Phase::Exited => {}
        }
        container.restarts.reset();
        {
            // Written down with the next phase.
            let mut record = container.lock();
            record.state.restart_count = 0;
            record.state.manually_stopped = false;
        }
        let started = self.start_locked(&container).await;
        drop(transition);
        if started.is_err() && container.lock().options.auto_remove {
            self.remove_quietly(&container).await;
        }
        started
    }

    /// Starts a container that does not run; its transition lock is held.
    pub(crate) async fn start_locked(&self, container: &Arc<Container>) -> Result<()> {
        self.return_files(container).await;
        match self.start_in_pod(container).await {
            Ok(()) => {
                self.volume_events(&container.record(), "mount");
                self.network_events(&container.record(), "connect");
                self.shared.container_event(&container.record(), "start", &[]);
                self.begin_health(container).await;
                Ok(())
            }
            Err(error) => {
                let error = start_error(error);
                self.record_failed_start(container, &error).await;
                Err(error)
            }
        }
    }

    async fn start_in_pod(&self, container: &Arc<Container>) -> Result<()> {
        let steps = Steps::default();
        let record = container.record();
        let pod = self.shared.registry.pod(&record.pod)?;
        if let NetworkMode::Container(other) = &record.options.network {
            let other = self.shared.registry.find(other)?;
            if other.id != record.id && !other.lock().state.is_running() {
                return Err(EngineError::conflict(format!(
                    "cannot join network of a non running container: {}",
                    other.id
                )));
            }
        }
        self.shared.check_disks(container)?;
        let (prepared, failure) = (SetOnce::new(), Mutex::new(None));
        let prepare = async {
            let ready = self.prepare(container, &record, &steps).await;
            let ready =
                ready.map_err(|error| *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error));
            let _ = prepared.set(ready.ok());
        };
        // The second is for when the first VM is lost before the container is made.
        let make = || {
            async |shim: &Shim| match prepared.wait().await {
                Some((image, disks)) => {
                    self.make_in(&record, &pod, shim, (image, disks.clone()), &steps).await
                }
                None => {
                    Err(failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| {
                        EngineError::new(Kind::System, "what the container needs could not be prepared")
                    }))
                }
            }
        };
        let (entered, ()) = tokio::join!(self.enter_pod(&pod, &record.id, &steps, [make(), make()]), prepare);
        // From here on the container may be a member of its pod.
        let run = match entered {
            Ok(shim) => self.run_in(container, &record, &pod, &shim, &steps).await.map(|()| shim),
            Err(error) => Err(error),
        };
        *container.steps.lock().unwrap_or_else(PoisonError::into_inner) = steps.take();
        match run {
            Ok(shim) => {
                // Whoever waits for this may ask for the steps next.
                container.progress.send_modify(|progress| {
                    progress.running = true;
                    progress.restarting = false;
                });
                self.watch(container.clone(), pod, shim);
                Ok(())
            }
            Err(error) => {
                if let Some(shim) = pod.shim()
                    && let Err(error) = shim.delete(&record.id, "").await
                {
                    tracing::debug!(container = record.id, error = %error.report(), "nothing to delete");
                }
                self.leave_pod(&pod, &record.id).await;
                Err(error)
            }
        }
    }

    /// What can be done before there is a VM: the record, the writable layer, the image and its disks.
    async fn prepare(
        &self,
        container: &Container,
        record: &ContainerRecord,
        steps: &Steps,
    ) -> Result<(Image, Vec<Layer>)> {
        let size = record.options.storage_size.unwrap_or(self.shared.config.storage_size);
        let writable = self.writable_layer(record);
        let journal = if record.options.auto_remove { Journal::None } else { Journal::Kept };
        let (images, id) = (self.shared.images.clone(), record.image_id.clone());
        let look = move || images.get(&id).map(|image| (disks(&images, &image), image));
        let image = async {
            let found = tokio::task::spawn_blocking(look).await;
            let found = found.map_err(|error| EngineError::system("image lookup ended early", error))?;
            found.map(|(disks, image)| (image, disks)).map_err(EngineError::from)
        };
        let (starting, created, image) = tokio::join!(
            self.shared.set_state(container, |state| state.phase = Phase::Starting),
            steps.time("prepare writable layer", self.shared.layers.create(&writable, size, journal)),
            image,
        );
        starting.and(created)?;
        image
    }

    pub(crate) fn writable_layer(&self, record: &ContainerRecord) -> PathBuf {
        self.places().container(&record.id).join("rw.ext4")
    }

    /// Makes the container in its pod, whose VM may be booting.
    async fn make_in(
        &self,
        record: &ContainerRecord,
        pod: &Pod,
        shim: &Shim,
        (image, mut layers): (&Image, Vec<Layer>),
        steps: &Steps,
    ) -> Result<()> {
        let bundle = self.places().container(&record.id);
        let pod_record = pod.record();
        let spec = spec::build(record, &pod_record.options)?;
        let text = serde_json::to_vec(&spec)
            .map_err(|error| EngineError::system("cannot encode the runtime specification", error))?;
        let path = bundle.join("config.json");
        tokio::fs::write(&path, text)
            .await
            .map_err(|error| EngineError::system(format!("cannot write {}", path.display()), error))?;
        layers
            .push(Layer::Writable { image: self.writable_layer(record), cached: record.options.auto_remove });
        let config = self.container_config(record, &pod_record, &image.root).await?;
        let created = shim.create(&record.id, &bundle, &layers, record.options.tty, &config);
        steps.time("create container", created).await
    }

    /// Runs the container that was made in its pod.
    async fn run_in(
        &self,
        container: &Arc<Container>,
        record: &ContainerRecord,
        pod: &Pod,
        shim: &Arc<Shim>,
        steps: &Steps,
    ) -> Result<()> {
        self.publish_ports(container, record, pod, shim).await?;
        self.connect_pending(container, shim).await;
        let pid = steps.time("start process", shim.start_task(&record.id, "")).await?;
        self.shared
            .set_state(container, |state| {
                state.phase = Phase::Running;
                state.pid = pid;
                state.exit_code = 0;
                state.error.clear();
                state.oom_killed = false;
                state.started_at = Some(Timestamp::now());
            })
            .await?;
        Ok(())
    }

    async fn container_config(
        &self,
        record: &ContainerRecord,
        pod: &crate::options::PodRecord,
        root: &RootAttributes,
    ) -> Result<ContainerConfig> {
        let options = &record.options;
        let log = logging::shim_log(self.places(), record)?;
        Ok(ContainerConfig {
            user: (!options.user.is_empty()).then(|| options.user.clone()),
            groups: options.group_add.clone(),
            root: Some(RootDirectory {
                mode: root.mode,
                uid: root.uid,
                gid: root.gid,
                mtime: root.mtime,
                mtime_nanoseconds: root.mtime_nanoseconds,
            }),
            files: names::files(self, record, pod).await?,
            stdin: options.open_stdin,
            stdin_once: options.stdin_once,
            log,
            pid_of: options.pid_of.clone(),
            volumes: {
                let mut volumes = self.volumes_to_mount(record)?;
                find_servers(&mut volumes).await?;
                volumes
            },
            devices: devices::to_plug(&options.devices)?,
        })
    }

    /// Connects clients that attached before the start; those that went away in between are forgotten.
    async fn connect_pending(&self, container: &Arc<Container>, shim: &Arc<Shim>) {
        let pending: Vec<PendingAttach> =
            std::mem::take(&mut *container.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for client in pending {
            if client.stream.is_closed() {
                continue;
            }
            let session = client.key.map(|key| Session { key, received: None });
            match podsock::attach(shim.dir(), &container.id, None, client.streams, session).await {
                Ok((stream, _)) => drop(client.stream.send(stream)),
                Err(error) => {
                    tracing::warn!(container = container.id, error = %error.report(), "cannot attach");
                }
            }
        }
    }

    /// Leaves the container as a start that failed leaves it with docker: not running, with code and reason.
    async fn record_failed_start(&self, container: &Arc<Container>, error: &EngineError) {
        let code = exit_code_of(&error.message);
        let text = error.report();
        self.shared.unpublish(container).await;
        let recorded = self
            .shared
            .set_state(container, |state| {
                state.phase = if state.started_at.is_some() { Phase::Exited } else { Phase::Created };
                state.pid = 0;
                state.exit_code = code;
                state.error = text;
                if state.started_at.is_some() {
                    state.finished_at = Some(Timestamp::now());
                }
            })
            .await;
        if let Err(error) = recorded {
            tracing::error!(container = container.id, error = %error.report(), "cannot record a failed start");
        }
        container.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
        container.progress.send_modify(|progress| {
            progress.running = false;
            progress.restarting = false;
            progress.exits += 1;
            progress.exit_code = code;
        });
        let details = [("exitCode", code.to_string())];
        self.shared.container_event(&container.record(), "die", &details);
    }

    /// As [`Engine::timeline`], of a start that is about to come: waits until the container runs or has ended. A
    /// container that removes itself keeps its VM until this is answered, as it does for a client that reads its output.
    ///
    /// # Errors
    /// No such container.
    pub async fn timeline_once_started(&self, reference: &str) -> Result<Vec<Step>> {
        let container = self.shared.registry.find(reference)?;
        let _reading = Counted::new(&container.attached);
        let mut progress = container.progress.subscribe();
        let exits = progress.borrow().exits;
        // It ends with the container at the latest.
        let _ = progress.wait_for(|now| now.running || now.removed || now.exits > exits).await;
        self.timeline(&container.id).await
    }

    /// Steps of the container's last start, the engine's and the shim's, in order of their beginning.
    ///
    /// # Errors
    /// No such container.
    pub async fn timeline(&self, reference: &str) -> Result<Vec<Step>> {
        let container = self.shared.registry.find(reference)?;
        let mut steps = container.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = container.shim_steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pod = self.shared.registry.pod(&container.lock().pod.clone())?;
        match pod.shim() {
            Some(shim) if kept.is_empty() => {
                steps.extend(podsock::timeline(shim.dir()).await.unwrap_or_default());
            }
            _ => steps.extend(kept),
        }
        steps.sort_by_key(|step| (step.start_us, std::cmp::Reverse(step.end_us)));
        Ok(steps)
    }
}

/// An image's read-only disks: one, except where its layers cannot be made one. Blocks.
pub(crate) fn disks(images: &Store, image: &Image) -> Vec<Layer> {
    match images.merged(image) {
        Ok(Some(merged)) => {
            return vec![Layer::ReadOnly { image: merged.metadata, devices: merged.devices }];
        }
        Ok(None) => {}
        Err(error) => {
            let cause: &dyn std::error::Error = &error;
            tracing::warn!(image = %image.id, cause, "each layer of an image becomes a disk of its own");
        }
    }
    image.layers.iter().map(|layer| Layer::read_only(layer.blob.clone())).collect()
}

/// What the user reads when a start failed: docker's words around the reason.
fn start_error(mut error: EngineError) -> EngineError {
    if matches!(exit_code_of(&error.message), 126 | 127) {
        error.kind = Kind::Invalid;
        error.message =
            format!("failed to create task for container: failed to create shim task: {}", error.message);
    } else if error.kind == Kind::NotFound {
        // Nothing that the caller named is missing.
        error.kind = Kind::System;
    }
    error
}

/// Docker's exit code for a start that failed with this text.
fn exit_code_of(message: &str) -> i64 {
    let program =
        |texts: &[&str]| message.contains("exec: ") && texts.iter().any(|text| message.contains(text));
    if program(&["executable file not found", "no such file or directory"]) {
        127
    } else if program(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        START_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_have_dockers_codes() {
        for (text, code) in [
            (r#"exec: "nosuch": executable file not found in $PATH: unknown"#, 127),
            (r#"exec: "/nosuch": stat /nosuch: no such file or directory: unknown"#, 127),
            (r#"exec: "/etc/passwd": permission denied: unknown"#, 126),
            ("cannot boot: no such file or directory", 128),
        ] {
            assert_eq!(exit_code_of(text), code, "{text}");
        }
    }
}
