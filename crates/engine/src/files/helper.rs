//! A VM for the files of a container that does not run.
//!
//! The container's own disks are plugged into it and mounted as for a start, with its volumes and binds where the work is
//! on paths, and no program is executed. A helper comes,
//! works and goes under the container's transition lock, so that its disks are never in two VMs; one that has nothing to
//! do is kept for a moment, and ends when the container is started or removed. Its pod is known to nobody: what a daemon
//! leaves behind that was killed is cleared away by the next as any stray.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_network::Endpoint;
use hyper_protocol::agent::RootDirectory;
use hyper_protocol::shim::{ContainerConfig, PodConfig};
use serde_json::json;
use tokio::sync::oneshot;

use super::connection::Lease;
use crate::boot::{BOOT_TIMEOUT, make_pod_dir};
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Result};
use crate::ids;
use crate::layer::Journal;
use crate::mounts;
use crate::options::{Phase, PodOptions};
use crate::podsock;
use crate::registry::Container;
use crate::shim::{Layer, Shim};
use crate::size;

/// How long a helper is kept that has nothing to do.
const IDLE: Duration = Duration::from_secs(5);

/// How long work may stand still that somebody else waits for.
const STILL: Duration = Duration::from_secs(10);

/// A VM with a container's disks.
#[derive(Debug)]
struct Helper {
    pod: String,
    shim: Shim,
    endpoint: Option<Endpoint>,
    /// The container's volumes and binds are mounted in it.
    mounted: bool,
    /// Counts how often it was put aside.
    turn: u64,
}

/// Helpers that have nothing to do, by their containers.
#[derive(Debug, Default)]
pub(crate) struct Helpers(Mutex<BTreeMap<String, Helper>>);

impl Helpers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Helper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, container: &str) -> Option<Helper> {
        self.lock().remove(container)
    }
}

impl Engine {
    /// A helper for a container that does not run, with its volumes and binds if `mounted`: the directory of its pod, and
    /// the right to use it. No directory where the container runs by now.
    pub(super) async fn lend_helper(
        &self,
        container: &Arc<Container>,
        mounted: bool,
    ) -> Result<(Option<PathBuf>, Option<Lease>)> {
        let (ready, lent) = oneshot::channel();
        let engine = self.clone();
        let container = container.clone();
        // A task of its own: whoever asked may go away at any moment, and the helper must be put in its place then.
        tokio::spawn(async move { engine.keep_helper(&container, mounted, ready).await });
        lent.await.map_err(|error| EngineError::system("a helper's task ended early", error))?
    }

    async fn keep_helper(
        &self,
        container: &Arc<Container>,
        mounted: bool,
        ready: oneshot::Sender<Result<(Option<PathBuf>, Option<Lease>)>>,
    ) {
        let _transition = container.take_over().await;
        let phase = container.lock().state.phase;
        match phase {
            Phase::Running | Phase::Paused => {
                let _ = ready.send(Ok((None, None)));
                return;
            }
            Phase::Removing | Phase::Dead => {
                let error = EngineError::conflict("container is marked for removal");
                let _ = ready.send(Err(error));
                return;
            }
            Phase::Created | Phase::Starting | Phase::Exited | Phase::Restarting => {}
        }
        let helper = match self.shared.helpers.take(&container.id) {
            Some(helper) if helper.mounted || !mounted => Ok(helper),
            other => {
                // It has the disks that the next is to get.
                if let Some(bare) = other {
                    self.end_helper(&container.id, bare).await;
                }
                self.make_helper(container, mounted).await
            }
        };
        let mut helper = match helper {
            Ok(helper) => helper,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let (over, ended) = oneshot::channel();
        let moved = Arc::new(AtomicU64::new(0));
        let lease = Lease { _over: over, moved: moved.clone() };
        if ready.send(Ok((Some(helper.shim.dir().to_owned()), Some(lease)))).is_ok() {
            tokio::select! {
                // The sender is dropped, never used.
                _ = ended => {}
                () = stands_still(container, &moved) => {
                    tracing::warn!(container = container.id, "work on files stands still and others wait: it is ended");
                    self.end_helper(&container.id, helper).await;
                    return;
                }
            }
        }
        helper.turn += 1;
        let turn = helper.turn;
        self.shared.helpers.lock().insert(container.id.clone(), helper);
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            let _transition = container.transition.lock().await;
            let idle =
                engine.shared.helpers.lock().get(&container.id).is_some_and(|helper| helper.turn == turn);
            if idle {
                engine.return_files(&container).await;
            }
        });
    }

    /// Ends the helper of a container, if there is one: the container's disks are free then. Its transition lock is held.
    pub(crate) async fn return_files(&self, container: &Container) {
        if let Some(helper) = self.shared.helpers.take(&container.id) {
            self.end_helper(&container.id, helper).await;
        }
    }

    /// Ends all helpers that have nothing to do: the daemon is ending.
    pub(crate) async fn end_helpers(&self) {
        let all = std::mem::take(&mut *self.shared.helpers.lock());
        let ends = all.into_iter().map(|(container, helper)| async move {
            self.end_helper(&container, helper).await;
        });
        futures::future::join_all(ends).await;
    }

    async fn end_helper(&self, container: &str, helper: Helper) {
        // Unmounted, so that the next mount finds a clean filesystem.
        if let Err(error) = helper.shim.delete(container, "").await {
            tracing::warn!(container, error = %error.report(), "a helper did not let go of its disks in order");
        }
        self.shared.clear_runtime(&helper.pod, helper.endpoint).await;
    }

    async fn make_helper(&self, container: &Arc<Container>, mounted: bool) -> Result<Helper> {
        let share = mounted && container.lock().options.mounts.needs_share();
        if mounted {
            self.shared.check_disks_unused(container)?;
        }
        // A VM that was kept ready cannot share anything.
        if !share && let Some((pod, shim, endpoint)) = self.shared.take_spare().await {
            let helper = Helper { pod, shim, endpoint, mounted, turn: 0 };
            return self.plug_or_clear(container, helper, false).await;
        }
        let _room = self.shared.admission.admit()?;
        let _turn = self.shared.admission.turn().await;
        let (pod, shim, config) = self.shared.begin_helper(share).await?;
        let helper = Helper { pod, shim, endpoint: None, mounted, turn: 0 };
        let helper = self.plug_or_clear(container, helper, true).await?;
        let shared = self.shared.clone();
        tokio::spawn(async move {
            // So that the next of its kind is a clone.
            if let Ok(state) = podsock::inspect(&config.dir).await {
                shared.note_origin(state.origin, config).await;
            }
        });
        Ok(helper)
    }

    async fn plug_or_clear(&self, container: &Container, helper: Helper, fresh: bool) -> Result<Helper> {
        match self.plug(container, &helper, fresh).await {
            Ok(()) => Ok(helper),
            Err(error) => {
                self.shared.clear_runtime(&helper.pod, helper.endpoint).await;
                Err(error)
            }
        }
    }

    /// Mounts the container's disks in a helper, which boots first if it is `fresh`.
    async fn plug(&self, container: &Container, helper: &Helper, fresh: bool) -> Result<()> {
        let Helper { pod, shim, mounted, .. } = helper;
        let mut record = container.record();
        record.options.mounts.points.retain(|point| !point.is_remote());
        let (mut mounts, volumes) = match mounted {
            true => (mounts::in_spec(&record.options.mounts), self.volumes_to_mount(&record)?),
            false => (Vec::new(), Vec::new()),
        };
        mounts.sort_by_key(|(target, _)| mounts::depth(target));
        let mounts: Vec<_> = mounts.into_iter().map(|(_, mount)| mount).collect();
        let size = record.options.storage_size.unwrap_or(self.shared.config.storage_size);
        let writable = self.writable_layer(&record);
        // What is put into it shall survive a crash, whatever becomes of the container later.
        self.shared.layers.create(&writable, size, Journal::Kept).await?;
        let (images, id) = (self.shared.images.clone(), record.image_id.clone());
        let look = move || images.get(&id).map(|image| (crate::start::disks(&images, &image), image));
        let found = tokio::task::spawn_blocking(look).await;
        let found = found.map_err(|error| EngineError::system("image lookup ended early", error))?;
        let (mut layers, image) = found.map_err(EngineError::from)?;
        layers.push(Layer::Writable { image: writable, cached: record.options.auto_remove });
        let failed = |error| EngineError::system("cannot prepare a container's files", error);
        let bundle = self.places().pod(pod).join("files");
        tokio::fs::create_dir(&bundle).await.map_err(failed)?;
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": {"cwd": "/", "args": ["/"], "env": [], "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs", "readonly": record.options.security.readonly_rootfs},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "resources": {}},
        });
        tokio::fs::write(bundle.join("config.json"), spec.to_string()).await.map_err(failed)?;
        let root = &image.root;
        let config = ContainerConfig {
            root: Some(RootDirectory {
                mode: root.mode,
                uid: root.uid,
                gid: root.gid,
                mtime: root.mtime,
                mtime_nanoseconds: root.mtime_nanoseconds,
            }),
            // A pipe that nobody writes to; there is no `/dev/null` in it.
            stdin: true,
            volumes,
            ..ContainerConfig::default()
        };
        let boot = async {
            match fresh {
                true => shim.boot(BOOT_TIMEOUT).await,
                false => Ok(()),
            }
        };
        let (booted, made) = tokio::join!(boot, shim.create(&record.id, &bundle, &layers, false, &config));
        booted.and(made)
    }
}

impl Shared {
    /// The shim of a VM of no pod, which is about to boot.
    async fn begin_helper(&self, share: bool) -> Result<(String, Shim, PodConfig)> {
        let id = ids::pod_id();
        let options = PodOptions {
            vcpus: size::vcpus(0, self.accelerated())?,
            memory_mib: size::DEFAULT_MEMORY_MIB,
            hostname: id.clone(),
            ..PodOptions::default()
        };
        let dir = self.config.places.pod(&id);
        let mut config = self.pod_config(dir.clone(), &options, false)?;
        config.share = share;
        make_pod_dir(&dir)?;
        let begun = async {
            let shim = Shim::start(&self.shim_program()?, &id, &dir).await?;
            shim.configure(&config).await?;
            Ok(shim)
        };
        match begun.await {
            Ok(shim) => Ok((id, shim, config)),
            Err(error) => {
                self.clear_runtime(&id, None).await;
                Err(error)
            }
        }
    }
}

/// Returns when nothing has moved for a while although others wait for the container.
async fn stands_still(container: &Container, moved: &AtomicU64) {
    let mut impatient = container.impatient.subscribe();
    loop {
        // The sender lives in the container.
        let _ = impatient.wait_for(|requests| *requests > 0).await;
        let before = moved.load(Ordering::Relaxed);
        tokio::time::sleep(STILL).await;
        if moved.load(Ordering::Relaxed) == before && *impatient.borrow() > 0 {
            return;
        }
    }
}
