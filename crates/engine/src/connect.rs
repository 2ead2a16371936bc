//! Connecting containers to networks and taking them off, whether they run or not.
//!
//! A pod that runs gets a NIC for a network, or loses it: its VM has free slots from its start. What is to be is written
//! down before it is done, and a daemon that ended in between does the rest when it starts again.

use std::sync::Arc;

use hyper_network::Endpoint;

use crate::boot;
use crate::db::Durability;
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Kind, Result};
use crate::networks::{
    BRIDGE, EndpointOptions, NETWORKS_MAX, NETWORKS_WITH_SHARE_MAX, Net, Placed, check_count, forbidden,
};
use crate::options::{ContainerOptions, ContainerRecord, NetworkMode, PodRecord};
use crate::registry::{Container, Pod};
use crate::{names, podsock};

/// What is connected to.
enum Side {
    /// The default network.
    Bridge,
    /// One that a user made.
    User(Arc<Net>),
}

impl Engine {
    /// Puts a container on a network; one that runs has a NIC more afterwards.
    ///
    /// # Errors
    /// It is there already, cannot be on a network, or its pod is not its own.
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        endpoint: EndpointOptions,
    ) -> Result<()> {
        let container = self.shared.registry.find(container)?;
        let _transition = container.transition.lock().await;
        let side = self.side(network)?;
        let mut options = container.lock().options.clone();
        if options.network == NetworkMode::None {
            return Err(forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        let exists = |name: &str| {
            let container = container.lock().name.clone();
            Err(forbidden(format!("endpoint with name {container} already exists in network {name}")))
        };
        match &side {
            Side::Bridge => {
                let only = |what: &str| {
                    Err(EngineError::invalid(format!(
                        "invalid config for network {BRIDGE}: invalid endpoint settings:\n{what} is supported only for \
                         containers in user defined networks"
                    )))
                };
                if endpoint.address.is_some() || endpoint.address6.is_some() {
                    return only("user specified IP address");
                }
                if !endpoint.aliases.is_empty() {
                    return only("network-scoped alias");
                }
                if endpoint.mac.is_some() {
                    return only("a MAC address");
                }
                if options.on_bridge() {
                    return exists(BRIDGE);
                }
                options.bridge = Some(true);
            }
            Side::User(net) => {
                net.check(&endpoint)?;
                if options.endpoints.contains_key(&net.record.id) {
                    return exists(net.name());
                }
                options.endpoints.insert(net.record.id.clone(), endpoint);
            }
        }
        check_count(&options)?;
        self.change_networks(&container, options).await?;
        self.tell_of(&side, "connect", &container.id);
        Ok(())
    }

    /// Takes a container off a network; one that runs loses the NIC.
    ///
    /// # Errors
    /// It is not there, or its pod is not its own.
    pub async fn disconnect_network(&self, network: &str, container: &str) -> Result<()> {
        let container = self.shared.registry.find(container)?;
        let _transition = container.transition.lock().await;
        let not_on = |name: &str| {
            Err(forbidden(format!("container {} is not connected to network {name}", container.id)))
        };
        if let "host" | "none" = network {
            return not_on(network);
        }
        let side = self.side(network)?;
        let mut options = container.lock().options.clone();
        let (was_on, name) = match &side {
            Side::Bridge => {
                let was_on = options.on_bridge();
                options.bridge = Some(false);
                (was_on, BRIDGE)
            }
            Side::User(net) => (options.endpoints.remove(&net.record.id).is_some(), net.name()),
        };
        if !was_on {
            return not_on(name);
        }
        self.change_networks(&container, options).await?;
        self.tell_of(&side, "disconnect", &container.id);
        Ok(())
    }

    fn side(&self, network: &str) -> Result<Side> {
        let id = self.network_id(BRIDGE);
        match network {
            BRIDGE | "default" => Ok(Side::Bridge),
            _ if network.len() >= 12 && id.starts_with(network) => Ok(Side::Bridge),
            "host" => Err(EngineError::invalid(
                "container cannot be disconnected from host network or connected to host network",
            )),
            "none" => Err(EngineError::invalid(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            )),
            _ => self.shared.networks.find(network).map(Side::User),
        }
    }

    /// Tells listeners that a container that starts is on its networks, or that one that has ended is not any more.
    pub(crate) fn network_events(&self, record: &ContainerRecord, action: &str) {
        if record.options.on_bridge() {
            self.tell_of(&Side::Bridge, action, &record.id);
        }
        for net in record.options.endpoints.keys().filter_map(|id| self.shared.networks.by_id(id)) {
            self.tell_of(&Side::User(net), action, &record.id);
        }
    }

    fn tell_of(&self, side: &Side, action: &str, container: &str) {
        match side {
            Side::Bridge => {
                self.shared.network_event(&self.network_id(BRIDGE), BRIDGE, action, Some(container));
            }
            Side::User(net) => {
                self.shared.network_event(&net.record.id, net.name(), action, Some(container));
            }
        }
    }

    /// Makes a container's networks what `options` says, and its pod's with them.
    async fn change_networks(&self, container: &Container, options: ContainerOptions) -> Result<()> {
        if matches!(options.network, NetworkMode::Container(_)) {
            return Err(EngineError::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other \
                 network",
            ));
        }
        let pod = self.shared.registry.pod(&container.lock().pod.clone())?;
        // Those that joined this one's network go with it; in a pod made by name nobody is the first.
        let shares =
            |other: &Arc<Container>| matches!(other.lock().options.network, NetworkMode::Container(_));
        let members = self.shared.registry.in_pod(&pod.id);
        if pod.lock().explicit || members.iter().any(|other| other.id != container.id && !shares(other)) {
            return Err(EngineError::unsupported(
                "the networks of a pod with several containers cannot be changed",
            ));
        }
        let vm = pod.vm.lock().await;
        let _changes = self.shared.network_changes.read().await;
        if let Some(id) = options.endpoints.keys().find(|id| self.shared.networks.by_id(id).is_none()) {
            return Err(EngineError::not_found(format!("network {id} not found")));
        }
        let before = pod.record();
        let mut after = before.clone();
        after.options.network = options.on_bridge();
        after.options.networks = self.shared.pod_networks(&options);
        let shim = vm.shim.clone();
        if shim.is_some() {
            let shares = members.iter().any(|member| member.lock().options.mounts.needs_share());
            self.shared.change_places(&before, &mut after, shares).await?;
        }
        self.shared.db.set_options(&container.id, &options, Durability::Synced).await?;
        if shim.is_none() {
            self.shared.db.put_pod(after.clone(), Durability::Synced).await?;
        }
        container.lock().options = options;
        {
            let mut record = pod.lock();
            let PodRecord { options, endpoint, slot, endpoints, .. } = after;
            (record.options, record.endpoint, record.slot, record.endpoints) =
                (options, endpoint, slot, endpoints);
        }
        if shim.is_some() {
            self.follow_places(&pod, &before, &members).await;
        }
        Ok(())
    }

    /// What else knows where a pod is: its containers' files with names, and the rules for their ports.
    async fn follow_places(&self, pod: &Pod, before: &PodRecord, members: &[Arc<Container>]) {
        let dir = self.places().pod(&pod.id);
        let now = pod.record();
        for member in members {
            let record = member.record();
            if !record.state.is_running() {
                continue;
            }
            let rewritten = async {
                let files = names::files(self, &record, &now).await?;
                podsock::rewrite(&dir, &member.id, files).await
            };
            if let Err(error) = rewritten.await {
                tracing::warn!(container = member.id, error = %error.report(), "its files keep the old names");
            }
            let moved = now.primary().map(|endpoint| endpoint.address.addr());
            if moved != before.primary().map(|endpoint| endpoint.address.addr())
                && let Err(error) = self.redirect_ports(member, &now).await
            {
                tracing::warn!(container = member.id, error = %error.report(), "its ports lead nowhere");
            }
        }
    }

    /// Has the VM of a pod that was found running be on the networks that the pod is said to be on: an earlier daemon may
    /// have ended between the two.
    pub(crate) async fn settle_interfaces(&self, pod: &Arc<Pod>) -> Result<()> {
        let vm = pod.vm.lock().await;
        if vm.shim.is_none() {
            return Ok(());
        }
        let dir = self.places().pod(&pod.id);
        let wanted = boot::interfaces(&pod.record());
        let taps = podsock::inspect(&dir).await?.taps;
        let same = taps.len() == wanted.len() && wanted.iter().all(|interface| taps.contains(&interface.tap));
        if same { Ok(()) } else { podsock::set_interfaces(&dir, wanted).await }
    }
}

impl Shared {
    /// Gives a running pod the places of `after`'s networks that `before` does not have, fills them in there, and takes
    /// the others back. All is as before when it fails.
    async fn change_places(&self, before: &PodRecord, after: &mut PodRecord, shares: bool) -> Result<()> {
        let pod = &before.id;
        let wanted = &after.options.networks;
        let (mut kept, gone): (Vec<Placed>, Vec<Placed>) = before
            .endpoints
            .iter()
            .cloned()
            .partition(|place| wanted.iter().any(|(network, _)| *network == place.network));
        let slots = if shares { NETWORKS_WITH_SHARE_MAX } else { NETWORKS_MAX };
        let used: Vec<u32> = before.endpoint.iter().map(|_| before.slot).collect();
        let used: Vec<u32> =
            used.into_iter().chain(before.endpoints.iter().map(|place| place.slot)).collect();
        // The first is wired to its tap when the VM comes up, and to no other later.
        let mut free = (1..slots).filter(|slot| !used.contains(slot));
        let full = || forbidden("the container's virtual machine has no free NIC");
        let mut fresh = Vec::new();
        for (network, wanted) in wanted {
            if kept.iter().any(|place| place.network == *network) {
                continue;
            }
            let missing = || EngineError::new(Kind::System, format!("network {network} not found"));
            let slot = free.next().ok_or_else(full)?;
            let endpoint =
                self.networks.by_id(network).ok_or_else(missing)?.attach(self, pod, wanted).await?;
            fresh.push(Placed { network: network.clone(), gateway: false, slot, endpoint });
        }
        let mut on_bridge = None;
        match (&before.endpoint, after.options.network) {
            (None, true) => {
                after.slot = free.next().ok_or_else(full)?;
                on_bridge = self.attach_network(pod, &after.options).await?;
                after.endpoint.clone_from(&on_bridge);
            }
            (Some(_), false) => after.endpoint = None,
            _ => {}
        }
        kept.extend(fresh.iter().cloned());
        self.choose_gateway(after.options.network, &mut kept);
        after.endpoints = kept;
        let done = async {
            self.db.put_pod(after.clone(), Durability::Synced).await?;
            podsock::set_interfaces(&self.config.places.pod(pod), boot::interfaces(after)).await
        };
        if let Err(error) = done.await {
            self.take_back(pod, on_bridge, fresh).await;
            if let Err(error) = self.db.put_pod(before.clone(), Durability::Synced).await {
                tracing::warn!(pod, error = %error.report(), "cannot record the pod's networks");
            }
            return Err(error);
        }
        let left = before.endpoint.clone().filter(|_| after.endpoint.is_none());
        self.take_back(pod, left, gone).await;
        Ok(())
    }

    async fn take_back(&self, pod: &str, on_bridge: Option<Endpoint>, placed: Vec<Placed>) {
        self.detach_network(pod, on_bridge).await;
        self.detach_networks(pod, placed).await;
    }
}
