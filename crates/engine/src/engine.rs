//! The engine: one instance's containers, pods and images.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_image::{RegistryConfig, Store};
use hyper_network::{Forwards, Network, NetworkConfig, NetworkError};
use tokio::sync::OnceCell;

use crate::admission::Admission;
use crate::clock::Timestamp;
use crate::db::{Db, Durability, Setting};
use crate::error::{EngineError, Result};
use crate::events::{Event, EventStream, Events};
use crate::exec::Exec;
use crate::files::Helpers;
use crate::filter::Filters;
use crate::layer::Layers;
use crate::networks::Networks;
use crate::options::{ContainerRecord, State};
use crate::places::{Places, RootLock};
use crate::pool::Pool;
use crate::registry::{Container, Registry};
use crate::templates::Templates;
use crate::volumes::Volumes;

/// How long a daemon that ends waits for VMs that are ending.
const ENDINGS: Duration = Duration::from_secs(10);

/// What shims call execution on the host's own processors.
const ACCELERATED: &str = "kvm";

/// What an engine is made with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Directories and programs.
    pub places: Places,
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// The default network; a subnet that was chosen before takes the place of `None`.
    pub network: NetworkConfig,
    /// Bytes of a writable layer unless a container says.
    pub storage_size: u64,
    /// The shim's program; `None` to look for it.
    pub shim: Option<std::path::PathBuf>,
    /// Directory of templates; `None` to boot every VM.
    pub templates: Option<std::path::PathBuf>,
    /// VMs of the default kind that are kept ready; `None` for as many as the host's memory suggests.
    pub pool: Option<usize>,
    /// Bytes of memory that are left to the host when VMs start; `None` for a twentieth of its memory.
    pub memory_reserve: Option<u64>,
}

/// One instance's containers, pods and images. A clone is another handle of the same.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) db: Db,
    pub(crate) images: Store,
    pub(crate) registry: Registry,
    pub(crate) layers: Layers,
    /// Held while containers enter and leave pods for good, and pods come and go.
    pub(crate) membership: tokio::sync::Mutex<()>,
    pub(crate) events: Events,
    pub(crate) execs: Mutex<BTreeMap<String, Arc<Exec>>>,
    pub(crate) id: String,
    pub(crate) templates: Templates,
    pub(crate) pool: Pool,
    pub(crate) admission: Admission,
    pub(crate) volumes: Volumes,
    pub(crate) helpers: Helpers,
    /// Held for reading while the VM of a container ends that nobody knows any more, or a template is made.
    pub(crate) endings: tokio::sync::RwLock<()>,
    /// Held for reading while a container is made of an image, for writing while images are removed.
    pub(crate) image_use: Arc<tokio::sync::RwLock<()>>,
    accelerated: AtomicBool,
    pub(crate) forwards: Forwards,
    pub(crate) networks: Networks,
    /// Held for reading while a pod is put on networks, for writing while one is removed.
    pub(crate) network_changes: tokio::sync::RwLock<()>,
    network: OnceCell<Network>,
    _lock: RootLock,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the state under the root and finds the pods again that run. Nothing else may use the root.
    ///
    /// # Errors
    /// The root is in use, or its state cannot be read.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let shared = tokio::task::spawn_blocking(move || Shared::open(config))
            .await
            .map_err(|error| EngineError::system("cannot open the engine's state", error))??;
        let engine = Self { shared: Arc::new(shared) };
        engine.shared.networks.introduce(&engine.shared);
        engine.restore().await?;
        engine.shared.refill();
        Ok(engine)
    }

    /// The image store.
    pub fn images(&self) -> &Store {
        &self.shared.images
    }

    /// Waits until no container is being made, and keeps it so while the result lives: who uses which image is certain.
    pub async fn keep_image_uses(&self) -> impl Send + use<> {
        self.shared.image_use.clone().write_owned().await
    }

    /// Directories and programs of this instance.
    pub fn places(&self) -> &Places {
        &self.shared.config.places
    }

    /// How registries are reached.
    pub fn registries(&self) -> &RegistryConfig {
        &self.shared.config.registries
    }

    /// An id of this instance that stays.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Events from `since` on (none: from now on) that pass `filters`.
    pub fn events(&self, since: Option<Timestamp>, filters: Filters) -> EventStream {
        self.shared.events.listen(since, filters)
    }

    /// How many listen to events.
    pub fn event_listeners(&self) -> usize {
        self.shared.events.listeners()
    }

    /// Tells listeners about an image.
    pub fn image_event(&self, action: &str, id: &str, name: &str) {
        self.shared.events.publish(Event {
            kind: "image",
            action: action.to_owned(),
            actor: id.to_owned(),
            attributes: [("name".to_owned(), name.to_owned())].into(),
            time: Timestamp::now(),
        });
    }

    /// Takes the default network down unless a pod uses it: the last deed of a daemon that ends.
    pub async fn close(&self) {
        tokio::join!(self.shared.drain_pool(), self.end_helpers());
        // Nobody would end these VMs before the next daemon comes.
        let _ = tokio::time::timeout(ENDINGS, self.shared.endings.write()).await;
        if !self.shared.network_was_used() {
            return;
        }
        match self.network().await.map(Network::teardown) {
            Ok(teardown) => match teardown.await {
                Ok(()) | Err(NetworkError::InUse(_)) => {}
                Err(error) => tracing::warn!(error = %EngineError::from(error).report(), "the network stays"),
            },
            Err(error) => tracing::warn!(error = %error.report(), "the network stays"),
        }
    }

    /// The default network, opened at first use.
    pub(crate) async fn network(&self) -> Result<&Network> {
        self.shared.network().await
    }
}

impl Shared {
    fn open(config: EngineConfig) -> Result<Self> {
        let lock = config.places.prepare()?;
        let db = Db::open(&config.places.database())?;
        let images =
            Store::open(&config.places.images(), &config.places.database(), config.registries.clone())
                .map_err(|error| EngineError::system("cannot open the image store", error))?;
        let id = match db.setting(Setting::DaemonId)? {
            Some(id) => id,
            None => {
                let id = crate::ids::container_id()[..36].to_owned();
                db.set_setting(Setting::DaemonId, &id)?;
                id
            }
        };
        let volumes = Volumes::open(&config.places.volumes(), db.volumes()?);
        let accelerator = db.setting(Setting::Accelerator)?;
        let networks = Networks::default();
        networks.load(db.networks()?)?;
        let forwards = Forwards::new(&config.places.instance_id(), config.places.is_default_root())?;
        Ok(Self {
            volumes,
            layers: Layers::new(config.places.cache()),
            templates: Templates::new(config.templates.clone()),
            // Without templates each would be a boot that nobody asked for.
            pool: Pool::new(if config.templates.is_some() { config.pool } else { Some(0) }),
            admission: Admission::new(config.memory_reserve),
            helpers: Helpers::default(),
            endings: tokio::sync::RwLock::default(),
            image_use: Arc::default(),
            membership: tokio::sync::Mutex::default(),
            config,
            db,
            images,
            registry: Registry::default(),
            events: Events::new(),
            execs: Mutex::default(),
            accelerated: AtomicBool::new(accelerator.as_deref() == Some(ACCELERATED)),
            id,
            forwards,
            networks,
            network_changes: tokio::sync::RwLock::default(),
            network: OnceCell::new(),
            _lock: lock,
        })
    }

    /// The default network, opened at first use and brought to what the pods need.
    pub(crate) async fn network(&self) -> Result<&Network> {
        self.network
            .get_or_try_init(|| async {
                let mut config = self.config.network.clone();
                let stored = self.db.setting(Setting::Subnet)?;
                if config.subnet.is_none() {
                    config.subnet = stored.as_deref().and_then(|subnet| subnet.parse().ok());
                }
                let places = &self.config.places;
                let network = Network::open(&places.instance_id(), places.is_default_root(), config).await?;
                let subnet = network.subnet().to_string();
                if stored.as_ref() != Some(&subnet) {
                    self.db.set_setting(Setting::Subnet, &subnet)?;
                }
                let endpoints: Vec<_> =
                    self.registry.pods().iter().filter_map(|pod| pod.lock().endpoint.clone()).collect();
                network.reconcile(&endpoints).await?;
                Ok(network)
            })
            .await
    }

    /// Whether guests run on the host's processors rather than being emulated, as far as is known: the first pod tells.
    pub(crate) fn accelerated(&self) -> bool {
        self.accelerated.load(Ordering::Relaxed)
    }

    /// Notes how a pod's instructions are executed. Blocks when that changed.
    pub(crate) fn learn_accelerator(&self, name: &str) {
        let now = name == ACCELERATED;
        if self.accelerated.swap(now, Ordering::Relaxed) != now
            && let Err(error) = self.db.set_setting(Setting::Accelerator, name)
        {
            tracing::warn!(error = %error.report(), "cannot note the accelerator");
        }
    }

    /// The network if it was used already.
    pub(crate) fn open_network(&self) -> Option<&Network> {
        self.network.get()
    }

    /// Whether this instance ever had containers on the network.
    pub(crate) fn network_was_used(&self) -> bool {
        matches!(self.db.setting(Setting::Subnet), Ok(Some(_)))
    }

    /// Changes a container's state: in the database first, then in memory.
    pub(crate) async fn set_state(
        &self,
        container: &Container,
        change: impl FnOnce(&mut State),
    ) -> Result<()> {
        let (mut state, auto_remove) = {
            let record = container.lock();
            (record.state.clone(), record.options.auto_remove)
        };
        change(&mut state);
        self.db.set_state(&container.id, &state, Durability::of_container(auto_remove)).await?;
        container.lock().state = state;
        Ok(())
    }

    /// Tells listeners about a container.
    pub(crate) fn container_event(&self, record: &ContainerRecord, action: &str, details: &[(&str, String)]) {
        let mut attributes = record.options.labels.clone();
        attributes.insert("image".to_owned(), record.options.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        for (key, value) in details {
            attributes.insert((*key).to_owned(), value.clone());
        }
        self.events.publish(Event {
            kind: "container",
            action: action.to_owned(),
            actor: record.id.clone(),
            attributes,
            time: Timestamp::now(),
        });
    }

    /// Tells listeners about a pod.
    pub(crate) fn pod_event(&self, id: &str, name: Option<&str>, action: &str) {
        self.events.publish(Event {
            kind: "pod",
            action: action.to_owned(),
            actor: id.to_owned(),
            attributes: [("name".to_owned(), name.unwrap_or(id).to_owned())].into(),
            time: Timestamp::now(),
        });
    }

    pub(crate) fn lock_execs(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim's program.
    pub(crate) fn shim_program(&self) -> Result<std::path::PathBuf> {
        match &self.config.shim {
            Some(path) => Ok(path.clone()),
            None => self.config.places.shim(),
        }
    }
}
