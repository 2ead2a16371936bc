//! User-defined networks: what users know of them, and pods' places on them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use hyper_network::{Endpoint, Ipv4Net, Ipv6Net, Names, UserConfig, UserNetwork, Wanted};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::clock::Timestamp;
use crate::engine::{Engine, Shared};
use crate::error::{EngineError, Kind, Result};
use crate::events::Event;
use crate::filter::Filters;
use crate::ids;
use crate::options::{ContainerOptions, ContainerRecord, NetworkMode, PodOptions};
use crate::registry::{Container, Pod};

/// Networks that a pod can be on: the NIC slots of a VM.
pub(crate) const NETWORKS_MAX: u32 = 4;
/// The same where the VM shares files of the host: one slot less.
pub(crate) const NETWORKS_WITH_SHARE_MAX: u32 = 3;
/// User-defined networks of an instance: their numbers have three hexadecimal digits.
const NUMBERS: u16 = 1 << 12;
/// Names that are not to be had.
pub(crate) const PREDEFINED: [&str; 4] = [BRIDGE, "host", "none", "default"];
/// The default network.
pub(crate) const BRIDGE: &str = "bridge";
/// Most bytes of a network's name.
const NAME_MAX: usize = 200;
/// Most bytes of a bridge's name (`IFNAMSIZ` less the NUL).
const LINK_NAME_MAX: usize = 15;

/// The user's name for the bridge.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";

/// Names of filters that [`Engine::networks`] knows.
pub const NETWORK_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

/// Addresses of a network that were asked for, in one subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// The subnet; empty for one that is chosen.
    pub subnet: String,
    /// The part of it for containers.
    pub range: String,
    /// The bridge's own address.
    pub gateway: String,
    /// Addresses that are not given away, by what they are for.
    pub reserved: BTreeMap<String, String>,
}

/// A network to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Subnets.
    pub ipam: Vec<Ipam>,
    /// Options for choosing addresses were given, though none that do anything: kept for `inspect`.
    pub ipam_options: bool,
    /// With IPv6.
    pub ipv6: bool,
    /// Without a way out.
    pub internal: bool,
    /// Kept for `inspect`; without a swarm everybody may attach.
    pub attachable: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// A network as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its number among those of the instance.
    pub number: u16,
    /// When it was made.
    pub created: Timestamp,
    /// What was asked for; its subnets with what was chosen.
    pub request: NetworkRequest,
}

/// A container's place on a network, as it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointOptions {
    /// Names besides the container's own.
    pub aliases: Vec<String>,
    /// IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Ethernet address.
    pub mac: Option<String>,
}

/// A pod's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Id of the network.
    pub network: String,
    /// The default route leads here.
    pub gateway: bool,
    /// NIC slot.
    #[serde(default)]
    pub slot: u32,
    /// The place.
    pub endpoint: Endpoint,
}

/// A network in memory.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) record: NetworkRecord,
    config: UserConfig,
    user: OnceCell<UserNetwork>,
}

/// All user-defined networks.
#[derive(Default)]
pub(crate) struct Networks {
    nets: Mutex<BTreeMap<String, Arc<Net>>>,
    names: OnceLock<Arc<dyn Names>>,
}

impl Networks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Net>>> {
        self.nets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the database has.
    pub(crate) fn load(&self, records: Vec<NetworkRecord>) -> Result<()> {
        let mut nets = self.lock();
        for record in records {
            let config = config(&record)?;
            nets.insert(record.id.clone(), Arc::new(Net { record, config, user: OnceCell::new() }));
        }
        Ok(())
    }

    /// Lets the networks' name servers know the engine.
    pub(crate) fn introduce(&self, shared: &Arc<Shared>) {
        let _ = self.names.set(Arc::new(Known(Arc::downgrade(shared))));
    }

    pub(crate) fn all(&self) -> Vec<Arc<Net>> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Net>> {
        self.lock().get(id).cloned()
    }

    /// By name, id or the unambiguous beginning of an id.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Net>> {
        let nets = self.lock();
        if reference.is_empty() {
            let all = nets.len() + PREDEFINED.len() - 1;
            return Err(EngineError::invalid(format!(
                "network  is ambiguous ({all} matches found based on ID prefix)"
            )));
        }
        let named = nets.values().find(|net| net.record.request.name == reference);
        if let Some(net) = nets.get(reference).or(named) {
            return Ok(net.clone());
        }
        let mut matches = nets.values().filter(|net| net.record.id.starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some(net), None) => Ok(net.clone()),
            (Some(_), Some(_)) => Err(EngineError::invalid(format!(
                "network {reference} is ambiguous (2 matches found based on ID prefix)"
            ))),
            (None, _) => Err(EngineError::not_found(format!("network {reference} not found"))),
        }
    }
}

pub(crate) fn forbidden(message: impl Into<String>) -> EngineError {
    EngineError::new(Kind::Forbidden, message)
}

/// What the network's host side is made of.
fn config(record: &NetworkRecord) -> Result<UserConfig> {
    let request = &record.request;
    let options = &request.options;
    let unknown = options
        .keys()
        .find(|name| ![BRIDGE_NAME, ICC, MASQUERADE, HOST_BINDING, MTU].contains(&name.as_str()));
    if let Some(name) = unknown {
        return Err(EngineError::unsupported(format!("network option {name} is not supported")));
    }
    let switch = |name: &str| match options.get(name).map(String::as_str) {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(EngineError::invalid(format!("invalid value for {name}: {other:?}"))),
    };
    let bridge =
        options.get(BRIDGE_NAME).cloned().unwrap_or_else(|| format!("br-{}", ids::short(&record.id)));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if bridge.is_empty()
        || bridge.len() > LINK_NAME_MAX
        || !bridge.chars().all(plain)
        || bridge.starts_with('.')
    {
        return Err(EngineError::invalid(format!("invalid value for {BRIDGE_NAME}: {bridge:?}")));
    }
    let mtu = options.get(MTU).map(|text| {
        let mtu = text.parse::<u32>().ok().filter(|mtu| (576..=65_535).contains(mtu));
        mtu.ok_or_else(|| EngineError::invalid(format!("invalid value for {MTU}: {text:?}")))
    });
    if let Some(address) = options.get(HOST_BINDING)
        && address.parse::<Ipv4Addr>().is_err()
    {
        return Err(EngineError::invalid(format!("invalid value for {HOST_BINDING}: {address:?}")));
    }
    let mut config = UserConfig {
        number: record.number,
        bridge,
        subnet: Ipv4Net::default(),
        gateway: Ipv4Addr::UNSPECIFIED,
        range: None,
        subnet6: None,
        gateway6: None,
        range6: None,
        reserved: Vec::new(),
        mtu: mtu.transpose()?,
        internal: request.internal,
        icc: switch(ICC)?,
        masquerade: switch(MASQUERADE)?,
    };
    for ipam in &request.ipam {
        read_ipam(ipam, &mut config)?;
    }
    Ok(config)
}

fn read_ipam(ipam: &Ipam, config: &mut UserConfig) -> Result<()> {
    let invalid = |what: &str, text: &str| {
        EngineError::invalid(format!("invalid network config:\ninvalid {what} {text}"))
    };
    for text in ipam.reserved.values() {
        config.reserved.push(text.parse().map_err(|_| invalid("auxiliary address", text))?);
    }
    if ipam.subnet.contains(':') {
        let subnet: Ipv6Net = ipam.subnet.parse().map_err(|_| invalid("subnet", &ipam.subnet))?;
        let fits = subnet == subnet.trunc() && (8..=124).contains(&subnet.prefix_len());
        if !fits || config.subnet6.is_some() {
            return Err(invalid("subnet", &ipam.subnet));
        }
        let inside = |text: &str, what: &str| -> Result<Ipv6Addr> {
            let address = text.parse::<Ipv6Addr>().ok().filter(|address| subnet.contains(address));
            address.ok_or_else(|| invalid(what, text))
        };
        config.gateway6 = Some(match ipam.gateway.as_str() {
            "" => Ipv6Addr::from_bits(subnet.addr().to_bits() + 1),
            text => inside(text, "gateway address")?,
        });
        if !ipam.range.is_empty() {
            let range: Ipv6Net = ipam.range.parse().map_err(|_| invalid("ip-range", &ipam.range))?;
            inside(&range.addr().to_string(), "ip-range")?;
            config.range6 = Some(range);
        }
        config.subnet6 = Some(subnet);
        return Ok(());
    }
    let subnet: Ipv4Net = ipam.subnet.parse().map_err(|_| invalid("subnet", &ipam.subnet))?;
    let octets = subnet.addr().octets();
    let usable = (1..=223).contains(&octets[0]) && octets[0] != 127;
    if subnet != subnet.trunc()
        || !(8..=30).contains(&subnet.prefix_len())
        || !usable
        || config.subnet.prefix_len() > 0
    {
        return Err(invalid("subnet", &ipam.subnet));
    }
    let inside = |text: &str, what: &str| -> Result<Ipv4Addr> {
        let address = text.parse::<Ipv4Addr>().ok().filter(|address| subnet.contains(address));
        address.ok_or_else(|| invalid(what, text))
    };
    config.gateway = match ipam.gateway.as_str() {
        "" => Ipv4Addr::from_bits(subnet.addr().to_bits() + 1),
        text => inside(text, "gateway address")?,
    };
    if [subnet.network(), subnet.broadcast()].contains(&config.gateway) {
        return Err(invalid("gateway address", &ipam.gateway));
    }
    if !ipam.range.is_empty() {
        let range: Ipv4Net = ipam.range.parse().map_err(|_| invalid("ip-range", &ipam.range))?;
        inside(&range.addr().to_string(), "ip-range")?;
        config.range = Some(range);
    }
    config.subnet = subnet;
    Ok(())
}

impl NetworkRecord {
    /// The bridge's address in one of the subnets.
    pub fn gateway_of(&self, ipam: &Ipam) -> String {
        let Ok(config) = config(self) else { return ipam.gateway.clone() };
        match ipam.subnet.contains(':') {
            true => config.gateway6.map(|address| address.to_string()).unwrap_or_default(),
            false => config.gateway.to_string(),
        }
    }
}

impl Net {
    /// The host's side, opened at first use.
    pub(crate) async fn user(&self, shared: &Shared) -> Result<&UserNetwork> {
        self.user
            .get_or_try_init(|| async {
                let places = &shared.config.places;
                let names =
                    shared.networks.names.get().cloned().expect("the engine is introduced when it is opened");
                let (id, default) = (places.instance_id(), places.is_default_root());
                UserNetwork::open(&id, default, self.config.clone(), names).await.map_err(EngineError::from)
            })
            .await
    }

    /// Address of the host for ports that are published at none.
    pub(crate) fn host_binding(&self) -> Option<String> {
        self.record.request.options.get(HOST_BINDING).cloned().filter(|address| address != "0.0.0.0")
    }

    pub(crate) fn name(&self) -> &str {
        &self.record.request.name
    }

    /// Checks what is asked for of a place on this network.
    pub(crate) fn check(&self, endpoint: &EndpointOptions) -> Result<()> {
        let config = &self.config;
        let outside = endpoint.address.is_some_and(|address| !config.subnet.contains(&address))
            || endpoint
                .address6
                .is_some_and(|address| config.subnet6.is_none_or(|net| !net.contains(&address)));
        match outside {
            true => Err(EngineError::invalid(
                "invalid config for network: invalid endpoint settings:\nno configured subnet or ip-range contain the IP \
                 address",
            )),
            false => Ok(()),
        }
    }

    /// Gives a pod a place.
    pub(crate) async fn attach(
        &self,
        shared: &Shared,
        pod: &str,
        wanted: &EndpointOptions,
    ) -> Result<Endpoint> {
        let mac = wanted.mac.as_ref().map(|mac| mac.parse()).transpose();
        let mac = mac.map_err(|error| EngineError::system("cannot use the MAC address", error))?;
        let wanted = Wanted { address: wanted.address, address6: wanted.address6, mac };
        self.user(shared).await?.attach(pod, wanted).await.map_err(EngineError::from)
    }
}

impl Engine {
    /// Makes a network.
    ///
    /// # Errors
    /// A taken or reserved name, subnets that make no sense or meet others, options that are not known.
    pub async fn create_network(&self, mut request: NetworkRequest) -> Result<String> {
        if PREDEFINED.contains(&request.name.as_str()) {
            return Err(forbidden(format!(
                "operation is not permitted on predefined {} network ",
                request.name
            )));
        }
        // Docker takes any words; these would be no name in an address of the API.
        let bad = request.name.trim().is_empty()
            || request.name.len() > NAME_MAX
            || request.name.contains(|c: char| c == '/' || c.is_control());
        if bad {
            return Err(EngineError::invalid(format!("invalid network name: {:?}", request.name)));
        }
        let _membership = self.shared.membership.lock().await;
        let nets = self.shared.networks.all();
        if nets.iter().any(|net| net.name() == request.name) {
            return Err(EngineError::conflict(format!("network with name {} already exists", request.name)));
        }
        let number = (1..NUMBERS).find(|number| nets.iter().all(|net| net.record.number != *number));
        let number = number.ok_or_else(|| EngineError::conflict("there are too many networks"))?;
        self.choose_subnets(&mut request, &nets, number).await?;
        let record = NetworkRecord { id: ids::container_id(), number, created: Timestamp::now(), request };
        let config = config(&record)?;
        if nets.iter().any(|net| net.config.bridge == config.bridge) {
            return Err(forbidden(format!("bridge name {} is in use by another network", config.bridge)));
        }
        let overlap = nets.iter().any(|net| {
            let meets =
                net.config.subnet.contains(&config.subnet) || config.subnet.contains(&net.config.subnet);
            let six = match (net.config.subnet6, config.subnet6) {
                (Some(a), Some(b)) => a.contains(&b) || b.contains(&a),
                _ => false,
            };
            meets || six
        });
        let default = self.shared.open_network().map(|network| network.subnet());
        let meets_default =
            default.is_some_and(|net| net.contains(&config.subnet) || config.subnet.contains(&net));
        if overlap || meets_default {
            return Err(forbidden(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
        self.shared.db.put_network(record.clone()).await?;
        let id = record.id.clone();
        self.shared.networks.load(vec![record.clone()])?;
        self.shared.network_event(&id, &record.request.name, "create", None);
        Ok(id)
    }

    /// Fills in what the caller left to us.
    async fn choose_subnets(
        &self,
        request: &mut NetworkRequest,
        nets: &[Arc<Net>],
        number: u16,
    ) -> Result<()> {
        let has = |six: bool| {
            request.ipam.iter().any(|ipam| !ipam.subnet.is_empty() && ipam.subnet.contains(':') == six)
        };
        let (has_four, has_six) = (has(false), has(true));
        // Who names a subnet wants addresses of it.
        request.ipv6 |= has_six;
        if !has_four {
            let mut taken: Vec<Ipv4Net> = nets.iter().map(|net| net.config.subnet).collect();
            // Opened, so that its subnet is known.
            taken.push(self.network().await?.subnet());
            let subnet = hyper_network::choose_user_subnet(&taken).await?;
            match request.ipam.iter_mut().find(|ipam| ipam.subnet.is_empty()) {
                Some(ipam) => ipam.subnet = subnet.to_string(),
                None => request.ipam.insert(0, Ipam { subnet: subnet.to_string(), ..Ipam::default() }),
            }
        }
        if request.ipv6 && !has_six {
            // Unique local addresses (RFC 4193): 40 bits that are this instance's, 16 that are the network's.
            let global = ids::derived_id(&format!("IPv6 prefix of {}", self.shared.id));
            let subnet = format!("fd{}:{}:{}:{number:x}::/64", &global[..2], &global[2..6], &global[6..10]);
            let subnet: Ipv6Net =
                subnet.parse().map_err(|error| EngineError::system("cannot choose an IPv6 subnet", error))?;
            request.ipam.push(Ipam { subnet: subnet.trunc().to_string(), ..Ipam::default() });
        }
        if request.ipam.iter().any(|ipam| ipam.subnet.is_empty()) {
            return Err(EngineError::invalid("invalid network config:\na gateway or range needs its subnet"));
        }
        Ok(())
    }

    /// A network.
    ///
    /// # Errors
    /// No such network.
    pub fn find_network(&self, reference: &str) -> Result<NetworkRecord> {
        self.shared.networks.find(reference).map(|net| net.record.clone())
    }

    /// All user-defined networks that pass, oldest first. Those that are not user-defined are not among them.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub fn networks(&self, filters: &Filters) -> Result<Vec<NetworkRecord>> {
        let dangling = filters.boolean("dangling")?;
        for kind in filters.values("type") {
            if !["custom", "builtin"].contains(&kind.as_str()) {
                return Err(EngineError::invalid(format!("invalid filter: 'type'='{kind}'")));
            }
        }
        let mut records: Vec<NetworkRecord> =
            self.shared.networks.all().into_iter().map(|net| net.record.clone()).collect();
        records.sort_by_key(|record| record.created);
        records.retain(|record| {
            filters.any("name", &|wanted| record.request.name.contains(wanted))
                && filters.any("id", &|wanted| record.id.starts_with(wanted))
                && filters.any("driver", &|wanted| wanted == "bridge")
                && filters.any("scope", &|wanted| wanted == "local")
                && filters.any("type", &|wanted| wanted == "custom")
                && dangling.is_none_or(|wanted| self.on_network(&record.id).is_empty() == wanted)
                && filters.matches_labels(&record.request.labels)
        });
        Ok(records)
    }

    /// Containers that run on a network, each with its pod's place.
    pub fn on_network(&self, id: &str) -> Vec<(ContainerRecord, Endpoint)> {
        let mut found = Vec::new();
        for pod in self.shared.registry.pods() {
            let placed = pod.lock().endpoints.iter().find(|placed| placed.network == id).cloned();
            let Some(placed) = placed else { continue };
            for container in self.shared.registry.in_pod(&pod.id) {
                found.push((container.record(), placed.endpoint.clone()));
            }
        }
        found
    }

    /// Removes a network.
    ///
    /// # Errors
    /// It is one of ours, there is none, or pods are on it.
    pub async fn remove_network(&self, reference: &str) -> Result<NetworkRecord> {
        let net = match self.shared.networks.find(reference) {
            Err(_) if PREDEFINED.contains(&reference) => {
                return Err(forbidden(format!("{reference} is a pre-defined network and cannot be removed")));
            }
            found => found?,
        };
        let _changes = self.shared.network_changes.write().await;
        let record = net.record.clone();
        let on = self.on_network(&record.id);
        let active = match net.user.get() {
            Some(user) => user.pods().await > 0,
            None => false,
        };
        if active || !on.is_empty() {
            return Err(forbidden(format!(
                "error while removing network: network {} id {} has active endpoints",
                record.request.name, record.id
            )));
        }
        // What an earlier daemon may have left.
        net.user(&self.shared).await?.reconcile(&[]).await?;
        self.shared.db.remove_network(&record.id).await?;
        self.shared.networks.lock().remove(&record.id);
        self.shared.network_event(&record.id, &record.request.name, "destroy", None);
        Ok(record)
    }

    /// Removes networks without containers; returns their names.
    ///
    /// # Errors
    /// A filter's value makes no sense.
    pub async fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>> {
        let until = match filters.values("until") {
            [] => None,
            [text] => Some(crate::list::until_time(text)?),
            _ => return Err(EngineError::invalid("more than one until filter specified")),
        };
        let mut removed = Vec::new();
        for net in self.shared.networks.all() {
            let record = &net.record;
            if until.is_some_and(|until| record.created >= until)
                || !filters.matches_labels(&record.request.labels)
            {
                continue;
            }
            match self.remove_network(&record.id).await {
                Ok(_) => removed.push(record.request.name.clone()),
                Err(error) if error.kind == Kind::Forbidden || error.kind == Kind::NotFound => {}
                Err(error) => tracing::warn!(network = record.id, error = %error.report(), "cannot prune"),
            }
        }
        Ok(removed)
    }
}

/// Makes the ids of networks of the names that the caller wrote, and checks what can be checked before a start.
pub(crate) fn resolve(shared: &Shared, options: &mut ContainerOptions) -> Result<()> {
    let find = |name: &str| {
        shared.networks.find(name).map_err(|error| match error.kind {
            // Docker's client takes "not found" here for a missing image, and pulls.
            Kind::NotFound => EngineError::invalid(error.message),
            _ => error,
        })
    };
    let mut endpoints = BTreeMap::new();
    for (name, endpoint) in std::mem::take(&mut options.endpoints) {
        let net = find(&name)?;
        net.check(&endpoint)?;
        endpoints.insert(net.record.id.clone(), endpoint);
    }
    if let NetworkMode::Named(name) = &options.network {
        let net = find(name)?;
        endpoints.entry(net.record.id.clone()).or_default();
    }
    if !endpoints.is_empty() && matches!(options.network, NetworkMode::None | NetworkMode::Container(_)) {
        return Err(EngineError::invalid("conflicting options: networks and the network mode"));
    }
    options.endpoints = endpoints;
    check_count(options)
}

/// Checks that a pod's VM has a NIC for each network.
pub(crate) fn check_count(options: &ContainerOptions) -> Result<()> {
    let (most, why) = match options.mounts.needs_share() {
        true => (NETWORKS_WITH_SHARE_MAX, " with volumes or bind mounts"),
        false => (NETWORKS_MAX, ""),
    };
    if options.endpoints.len() + usize::from(options.on_bridge()) > most as usize {
        return Err(EngineError::invalid(format!(
            "a container{why} can be on at most {most} networks: its virtual machine has no more NICs"
        )));
    }
    Ok(())
}

impl Shared {
    /// The networks of a new pod, in the order of its NICs: that of the network mode first, then by name.
    pub(crate) fn pod_networks(&self, options: &ContainerOptions) -> Vec<(String, EndpointOptions)> {
        let mode = match &options.network {
            NetworkMode::Named(name) => self.networks.find(name).ok().map(|net| net.record.id.clone()),
            _ => None,
        };
        let mut networks: Vec<(String, EndpointOptions)> =
            options.endpoints.iter().map(|(id, endpoint)| (id.clone(), endpoint.clone())).collect();
        let name = |id: &str| self.networks.by_id(id).map(|net| net.name().to_owned());
        networks.sort_by_cached_key(|(id, _)| (mode.as_deref() != Some(id), name(id)));
        networks
    }

    /// Tells listeners about a network.
    pub(crate) fn network_event(&self, id: &str, name: &str, action: &str, container: Option<&str>) {
        let mut attributes =
            BTreeMap::from([("name".to_owned(), name.to_owned()), ("type".to_owned(), "bridge".to_owned())]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_owned());
        }
        self.events.publish(Event {
            kind: "network",
            action: action.to_owned(),
            actor: id.to_owned(),
            attributes,
            time: Timestamp::now(),
        });
    }

    /// Gives a pod its places on user-defined networks; all or none.
    pub(crate) async fn attach_networks(&self, pod: &str, options: &PodOptions) -> Result<Vec<Placed>> {
        if options.networks.is_empty() {
            return Ok(Vec::new());
        }
        let _changes = self.network_changes.read().await;
        let mut nets = Vec::new();
        for (id, wanted) in &options.networks {
            let missing = || EngineError::new(Kind::System, format!("network {id} not found"));
            nets.push((self.networks.by_id(id).ok_or_else(missing)?, wanted));
        }
        let mut placed: Vec<Placed> = Vec::new();
        // The default network has the first slot.
        for (slot, (net, wanted)) in (u32::from(options.network)..).zip(nets) {
            match net.attach(self, pod, wanted).await {
                Ok(endpoint) => {
                    placed.push(Placed { network: net.record.id.clone(), gateway: false, slot, endpoint });
                }
                Err(error) => {
                    self.detach_networks(pod, placed).await;
                    return Err(error);
                }
            }
        }
        self.choose_gateway(options.network, &mut placed);
        Ok(placed)
    }

    /// Decides where the default route leads, as docker does: of the networks with a way out to the first by name. None
    /// of these has it where that is the default one.
    pub(crate) fn choose_gateway(&self, bridge: bool, placed: &mut [Placed]) {
        let way_out = |place: &Placed| {
            let net = self.networks.by_id(&place.network)?;
            (!net.config.internal).then(|| net.name().to_owned())
        };
        let ways = placed.iter().filter_map(way_out);
        let way = ways.chain(bridge.then(|| BRIDGE.to_owned())).min();
        for place in placed {
            place.gateway = way.is_some() && way_out(place) == way;
        }
    }

    /// Takes a pod's places back.
    pub(crate) async fn detach_networks(&self, pod: &str, placed: Vec<Placed>) {
        for place in placed {
            let Some(net) = self.networks.by_id(&place.network) else { continue };
            let detached = match net.user(self).await {
                Ok(user) => user.detach(&place.endpoint).await.map_err(EngineError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = detached {
                tracing::warn!(pod, error = %error.report(), "cannot detach the pod from a network");
            }
        }
    }

    /// After a restart of the daemon: what the networks' pods need is there, and nothing else of them.
    pub(crate) async fn restore_networks(&self) {
        for net in self.networks.all() {
            let pods = self.registry.pods();
            let of_net = |pod: &Arc<Pod>| {
                let record = pod.lock();
                let place = record.endpoints.iter().find(|place| place.network == net.record.id);
                place.map(|place| place.endpoint.clone())
            };
            let keep: Vec<Endpoint> = pods.iter().filter_map(of_net).collect();
            let restored = match net.user(self).await {
                Ok(user) => user.reconcile(&keep).await.map_err(EngineError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = restored {
                tracing::warn!(network = net.name(), error = %error.report(), "cannot bring a network up");
            }
        }
    }
}

/// What the name server knows: the engine's containers.
struct Known(Weak<Shared>);

impl Known {
    /// The pod at an address, and its places.
    fn asker(shared: &Shared, asker: IpAddr) -> Option<(Arc<Pod>, Vec<Placed>)> {
        shared.registry.pods().into_iter().find_map(|pod| {
            let places = pod.lock().endpoints.clone();
            places.iter().any(|place| has(&place.endpoint, asker)).then_some((pod, places))
        })
    }
}

fn has(endpoint: &Endpoint, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => endpoint.address.addr() == v4,
        IpAddr::V6(v6) => endpoint.address6.is_some_and(|own| own.addr() == v6),
    }
}

/// Whether a running container is called so on a network.
fn is_called(record: &ContainerRecord, hostname: &str, network: &str, name: &str) -> bool {
    let aliases = record.options.endpoints.get(network).map_or(&[][..], |endpoint| &endpoint.aliases);
    record.state.is_running()
        && (record.name.eq_ignore_ascii_case(name)
            || ids::short(&record.id) == name
            || hostname.eq_ignore_ascii_case(name)
            || aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name)))
}

impl Names for Known {
    fn addresses(&self, asker: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
        let shared = self.0.upgrade()?;
        let (_, places) = Self::asker(&shared, asker)?;
        let mut found = Vec::new();
        for place in places {
            let net = shared.networks.by_id(&place.network)?;
            let suffix = format!(".{}", net.name().to_ascii_lowercase());
            let bare = name.strip_suffix(&suffix).unwrap_or(name);
            for pod in shared.registry.pods() {
                let (endpoint, hostname) = {
                    let record = pod.lock();
                    let there = record.endpoints.iter().find(|other| other.network == place.network);
                    (there.map(|there| there.endpoint.clone()), record.options.hostname.clone())
                };
                let Some(endpoint) = endpoint else { continue };
                let called = |container: &Arc<Container>| {
                    is_called(&container.lock(), &hostname, &place.network, bare)
                };
                if shared.registry.in_pod(&pod.id).iter().any(called) {
                    found.push(IpAddr::V4(endpoint.address.addr()));
                    found.extend(endpoint.address6.map(|address| IpAddr::V6(address.addr())));
                }
            }
        }
        (!found.is_empty()).then_some(found)
    }

    fn name_at(&self, asker: IpAddr, address: IpAddr) -> Option<String> {
        let shared = self.0.upgrade()?;
        let (_, places) = Self::asker(&shared, asker)?;
        for pod in shared.registry.pods() {
            let there = pod.lock().endpoints.iter().find(|place| has(&place.endpoint, address)).cloned();
            let Some(there) = there else { continue };
            if !places.iter().any(|place| place.network == there.network) {
                return None;
            }
            let net = shared.networks.by_id(&there.network)?;
            let container = shared.registry.in_pod(&pod.id).into_iter().next()?;
            let name = container.lock().name.clone();
            return Some(format!("{name}.{}", net.name()));
        }
        None
    }

    fn servers(&self, asker: IpAddr) -> Vec<IpAddr> {
        let Some(shared) = self.0.upgrade() else { return Vec::new() };
        let Some((pod, places)) = Self::asker(&shared, asker) else { return Vec::new() };
        let internal =
            |place: &Placed| shared.networks.by_id(&place.network).is_none_or(|net| net.config.internal);
        if places.iter().all(internal) && pod.lock().endpoint.is_none() {
            return Vec::new();
        }
        let given = shared.registry.in_pod(&pod.id).into_iter().find_map(|container| {
            let servers = container.lock().options.names.servers.clone();
            (!servers.is_empty()).then_some(servers)
        });
        match given {
            Some(servers) => servers.iter().filter_map(|server| server.parse().ok()).collect(),
            None => hyper_network::host_names(&shared.config.network)
                .map(|conf| conf.nameservers)
                .unwrap_or_default(),
        }
    }
}
