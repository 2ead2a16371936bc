//! Every container and pod in memory, found by id, name or beginning of an id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hyper_network::Forward;
use hyper_protocol::shim::Phase as Step;
use tokio::sync::{oneshot, watch};

use crate::error::{EngineError, Result};
use crate::health::HealthState;
use crate::options::{ContainerRecord, PodRecord};
use crate::podsock::AttachStreams;
use crate::restart::Restarts;
use crate::shim::Shim;

/// What those who wait for a container look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Has processes.
    pub(crate) running: bool,
    /// How often it has ended.
    pub(crate) exits: u64,
    /// Will be started again by its policy.
    pub(crate) restarting: bool,
    /// How it ended last.
    pub(crate) exit_code: i64,
    /// It is gone.
    pub(crate) removed: bool,
}

/// A client that attached before the container runs.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    pub(crate) streams: AttachStreams,
    /// Of its session, if it can come back.
    pub(crate) key: Option<String>,
    pub(crate) stream: oneshot::Sender<tokio::net::UnixStream>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    record: Mutex<ContainerRecord>,
    /// Held by whoever moves the container from one phase to another.
    pub(crate) transition: tokio::sync::Mutex<()>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) pending: Mutex<Vec<PendingAttach>>,
    /// Clients that may still be reading output.
    pub(crate) attached: watch::Sender<usize>,
    /// Places among them for clients that were attached when the last daemon ended.
    expected: Mutex<Vec<Counted>>,
    /// Requests that do not wait for those clients.
    pub(crate) impatient: watch::Sender<usize>,
    /// Steps of the last start that the engine did itself.
    pub(crate) steps: Mutex<Vec<Step>>,
    /// Steps of the last start that the shim did, kept when it ends.
    pub(crate) shim_steps: Mutex<Vec<Step>>,
    pub(crate) restarts: Restarts,
    pub(crate) health: HealthState,
    /// Rules for its ports on the host.
    pub(crate) forwards: Mutex<Vec<Forward>>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Arc<Self> {
        let progress = Progress {
            running: record.state.is_running(),
            restarting: record.state.phase == crate::options::Phase::Restarting,
            exit_code: record.state.exit_code,
            ..Progress::default()
        };
        Arc::new(Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            transition: tokio::sync::Mutex::new(()),
            progress: watch::Sender::new(progress),
            pending: Mutex::default(),
            attached: watch::Sender::new(0),
            expected: Mutex::default(),
            impatient: watch::Sender::new(0),
            steps: Mutex::default(),
            shim_steps: Mutex::default(),
            restarts: Restarts::default(),
            health: HealthState::default(),
            forwards: Mutex::default(),
        })
    }

    /// The record, for a moment.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ContainerRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the record.
    pub(crate) fn record(&self) -> ContainerRecord {
        self.lock().clone()
    }

    /// Keeps places for clients that may come back, for `patience`.
    pub(crate) fn expect(self: &Arc<Self>, clients: usize, patience: Duration) {
        if clients == 0 {
            return;
        }
        let places = (0..clients).map(|_| Counted::new(&self.attached));
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).extend(places);
        let container = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            if let Some(container) = container.upgrade() {
                container.expected.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
    }

    /// Whether clients may still be reading output.
    pub(crate) fn has_clients(&self) -> bool {
        *self.attached.borrow() > 0
    }

    /// Takes the place of a client that has come back.
    pub(crate) fn expected(&self) -> Option<Counted> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Waits until every client has read its output, or somebody cannot wait for that.
    pub(crate) async fn drained(&self) {
        let (mut attached, mut impatient) = (self.attached.subscribe(), self.impatient.subscribe());
        tokio::select! {
            _ = attached.wait_for(|clients| *clients == 0) => {}
            _ = impatient.wait_for(|requests| *requests > 0) => {}
        }
    }

    /// Takes the right to move the container to another phase; clients that read slowly lose what they have not read.
    pub(crate) async fn take_over(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let _hurry = Counted::new(&self.impatient);
        self.transition.lock().await
    }
}

/// One more in a counter, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(watch::Sender<usize>);

impl Counted {
    pub(crate) fn new(counter: &watch::Sender<usize>) -> Self {
        counter.send_modify(|count| *count += 1);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A pod: what its VM is made of, and the VM while there is one.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    record: Mutex<PodRecord>,
    /// Held while the VM is booted or ended.
    pub(crate) vm: tokio::sync::Mutex<Vm>,
    /// The same shim, for those who only call it.
    current: Mutex<Option<Arc<Shim>>>,
}

/// A pod's VM and who needs it.
#[derive(Debug, Default)]
pub(crate) struct Vm {
    pub(crate) shim: Option<Arc<Shim>>,
    /// Ids of containers that run in it or are about to.
    pub(crate) members: BTreeSet<String>,
}

impl Pod {
    pub(crate) fn new(record: PodRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            vm: tokio::sync::Mutex::default(),
            current: Mutex::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PodRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self) -> PodRecord {
        self.lock().clone()
    }

    /// The shim, if the pod has a VM now.
    pub(crate) fn shim(&self) -> Option<Arc<Shim>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `shim` the one that callers find.
    pub(crate) fn set_shim(&self, vm: &mut Vm, shim: Option<Arc<Shim>>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = shim.clone();
        vm.shim = shim;
    }
}

/// All containers and pods.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    containers: BTreeMap<String, Arc<Container>>,
    /// Names to ids; a name is here from before its container is in the database until after it is gone.
    names: BTreeMap<String, String>,
    pods: BTreeMap<String, Arc<Pod>>,
    pod_names: BTreeMap<String, String>,
}

impl Registry {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a container name for `id`; fails with who has it.
    pub(crate) fn reserve_name(&self, name: &str, id: &str) -> Result<()> {
        let mut maps = self.write();
        match maps.names.get(name) {
            Some(holder) => Err(EngineError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            ))),
            None => {
                maps.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives a name back.
    pub(crate) fn release_name(&self, name: &str) {
        self.write().names.remove(name);
    }

    pub(crate) fn name_taken(&self, name: &str) -> bool {
        self.read().names.contains_key(name)
    }

    /// Adds a container; its name is reserved.
    pub(crate) fn add(&self, container: Arc<Container>) {
        let name = container.lock().name.clone();
        let mut maps = self.write();
        maps.names.insert(name, container.id.clone());
        maps.containers.insert(container.id.clone(), container);
    }

    pub(crate) fn remove(&self, id: &str) {
        let mut maps = self.write();
        maps.containers.remove(id);
        maps.names.retain(|_, holder| holder != id);
    }

    /// All containers.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// The container with this id, name or beginning of an id, in this order.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let maps = self.read();
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let by_name = || maps.names.get(name).and_then(|id| maps.containers.get(id));
        if let Some(container) = maps.containers.get(reference).or_else(by_name) {
            return Ok(container.clone());
        }
        if reference.is_empty() {
            return Err(EngineError::invalid("invalid name or ID supplied: \"\""));
        }
        let missing = || EngineError::not_found(format!("No such container: {reference}"));
        if !reference.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let from = maps.containers.range(reference.to_owned()..);
        let mut matches =
            from.take_while(|(id, _)| id.starts_with(reference)).map(|(_, container)| container);
        match (matches.next(), matches.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => {
                Err(EngineError::invalid(format!("multiple IDs found with provided prefix: {reference}")))
            }
            (None, _) => Err(missing()),
        }
    }

    pub(crate) fn add_pod(&self, pod: Arc<Pod>) {
        let name = pod.lock().name.clone();
        let mut maps = self.write();
        if let Some(name) = name {
            maps.pod_names.insert(name, pod.id.clone());
        }
        maps.pods.insert(pod.id.clone(), pod);
    }

    pub(crate) fn remove_pod(&self, id: &str) {
        let mut maps = self.write();
        maps.pods.remove(id);
        maps.pod_names.retain(|_, holder| holder != id);
    }

    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    /// The pod with this id.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        self.read().pods.get(id).cloned().ok_or_else(|| EngineError::not_found(format!("No such pod: {id}")))
    }

    /// The pod with this name.
    pub(crate) fn pod_named(&self, name: &str) -> Option<Arc<Pod>> {
        let maps = self.read();
        maps.pod_names.get(name).and_then(|id| maps.pods.get(id)).cloned()
    }

    /// Containers whose pod this is, oldest first.
    pub(crate) fn in_pod(&self, pod: &str) -> Vec<Arc<Container>> {
        let mut containers: Vec<_> =
            self.containers().into_iter().filter(|container| container.lock().pod == pod).collect();
        containers.sort_by_key(|container| container.lock().created);
        containers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::error::Kind;
    use crate::options::{ContainerOptions, State};

    fn container(id: &str, name: &str) -> Arc<Container> {
        Container::new(ContainerRecord {
            id: id.into(),
            name: name.into(),
            created: Timestamp(0),
            image_id: String::new(),
            pod: "p".into(),
            options: ContainerOptions::default(),
            state: State::default(),
        })
    }

    #[test]
    fn containers_are_found_by_id_name_and_unique_beginning() {
        let registry = Registry::default();
        registry.add(container("abc1", "web"));
        registry.add(container("abd2", "db"));
        for reference in ["abc1", "web", "/web", "abc"] {
            assert_eq!(registry.find(reference).unwrap().id, "abc1", "{reference}");
        }
        assert_eq!(registry.find("ab").unwrap_err().kind, Kind::Invalid);
        assert_eq!(registry.find("").unwrap_err().kind, Kind::Invalid);
        for missing in ["x", "abe", "/"] {
            assert_eq!(registry.find(missing).unwrap_err().kind, Kind::NotFound, "{missing}");
        }
    }

    #[test]
    fn name_has_one_holder_until_released() {
        let registry = Registry::default();
        registry.reserve_name("web", "a").unwrap();
        assert_eq!(registry.reserve_name("web", "b").unwrap_err().kind, Kind::Conflict);
        registry.release_name("web");
        registry.reserve_name("web", "b").unwrap();
    }
}
