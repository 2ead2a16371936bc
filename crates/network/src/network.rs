//! The default bridge network of one instance.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::Mutex;

use crate::allocate::{self, Allocator};
use crate::config::NetworkConfig;
use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::firewall;
use crate::forwarder::Forwarder;
use crate::instance::Instance;
use crate::links::{Kind, Link, Links, Route};
use crate::mac::MacAddr;
use crate::resolv::{self, Plan, ResolvConf};
use crate::rules::{self, Senders};
use crate::sysctl;

/// Smallest MTU: what every IPv4 host must take (RFC 791, 3.1).
const MTU_MIN: u32 = 576;
/// Largest MTU: the largest IPv4 packet (RFC 791).
const MTU_MAX: u32 = 65_535;
/// Uid that may open taps: root.
const TAP_OWNER: u32 = 0;

/// The default bridge network of one instance. Clones share one state.
///
/// After a start of the daemon call [`reconcile`](Self::reconcile) with the
/// endpoints of the pods that live, before any [`attach`](Self::attach):
/// addresses of pods it does not know count as free.
#[derive(Clone, Debug)]
pub struct Network {
    fixed: Arc<Fixed>,
    state: Arc<Mutex<State>>,
    /// Held while the bridge is looked at and mended.
    mending: Arc<Mutex<()>>,
}

/// What never changes while the network is open.
#[derive(Debug)]
struct Fixed {
    instance: Instance,
    subnet: Ipv4Net,
    mtu: u32,
    config: Arc<NetworkConfig>,
    links: Links,
}

/// Who is attached. Not held while the kernel makes or removes a tap, which takes it tens of milliseconds: pods come and
/// go side by side, each with an address of its own.
#[derive(Debug)]
struct State {
    addresses: Allocator,
    endpoints: BTreeMap<String, Endpoint>,
    /// Addresses that are taken until their taps are gone.
    leaving: BTreeSet<Ipv4Addr>,
    forwarder: Option<Forwarder>,
}

impl Network {
    /// Opens the network of the instance `instance_id`; needs no privilege and
    /// changes nothing on the host. Must be called within a tokio runtime, in
    /// the network namespace that the bridge is to live in.
    ///
    /// # Errors
    /// Malformed id or configuration, no free subnet, no netlink.
    pub async fn open(
        instance_id: &str,
        is_default_root: bool,
        config: NetworkConfig,
    ) -> Result<Self, NetworkError> {
        let instance = Instance::new(instance_id, is_default_root)?;
        let links = Links::open()?;
        let subnet = match config.subnet {
            Some(subnet) => allocate::check_subnet(subnet)?,
            None => free_subnet(&links, &instance, &config).await?,
        };
        let mtu = match config.mtu {
            Some(mtu) if (MTU_MIN..=MTU_MAX).contains(&mtu) => mtu,
            Some(mtu) => {
                let text = format!("MTU {mtu} is not between {MTU_MIN} and {MTU_MAX}");
                return Err(NetworkError::Configuration(text));
            }
            None => uplink_mtu(&links).await?,
        };
        let config = Arc::new(config);
        Ok(Self {
            fixed: Arc::new(Fixed { instance, subnet, mtu, config, links }),
            state: Arc::new(Mutex::new(State {
                addresses: Allocator::new(subnet),
                endpoints: BTreeMap::new(),
                leaving: BTreeSet::new(),
                forwarder: None,
            })),
            mending: Arc::default(),
        })
    }

    /// The names of this instance.
    pub fn instance(&self) -> &Instance {
        &self.fixed.instance
    }

    /// The subnet in use, for the caller to persist.
    pub fn subnet(&self) -> Ipv4Net {
        self.fixed.subnet
    }

    /// The bridge's own address, the containers' default gateway.
    pub fn gateway(&self) -> Ipv4Net {
        allocate::gateway(self.fixed.subnet)
    }

    /// Brings everything up that pods need and restores what somebody removed:
    /// the bridge with its address, `net.ipv4.ip_forward`, the rules, the name
    /// forwarder where the host needs one.
    ///
    /// # Errors
    /// Missing privileges or programs, names taken by others; see
    /// [`NetworkError::hint`].
    pub async fn ensure(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        self.bridge().await?;
        let endpoints: Vec<Endpoint> = state.endpoints.values().cloned().collect();
        self.fixed.rules(&endpoints, Senders::Add).await?;
        self.serve_names(&mut state).await.map(drop)
    }

    /// Gives `pod` an address and a tap that a VM can already be started with,
    /// but that leads nowhere before [`attach`](Self::attach): most of an
    /// attachment's time need not be waited for. A pod that has an endpoint gets
    /// the same again.
    ///
    /// # Errors
    /// When the subnet is exhausted or no tap can be made; nothing is left then.
    pub async fn reserve(&self, pod: &str, mac: Option<MacAddr>) -> Result<Endpoint, NetworkError> {
        let mut state = self.state.lock().await;
        if let Some(endpoint) = state.endpoints.get(pod) {
            return Ok(endpoint.clone());
        }
        let mut endpoint = self.endpoint(pod, state.addresses.take()?);
        endpoint.mac = mac.unwrap_or(endpoint.mac);
        if let Err(source) = hyper_sys::tap::create(&endpoint.tap, TAP_OWNER) {
            state.addresses.release(endpoint.address.addr());
            return Err(NetworkError::Tap { tap: endpoint.tap, source });
        }
        state.endpoints.insert(pod.to_owned(), endpoint.clone());
        Ok(endpoint)
    }

    /// Gives `pod` an address and a tap on the bridge, and brings up or
    /// restores first whatever of [`ensure`](Self::ensure) is missing. A pod
    /// that is attached already gets the same endpoint again, its tap and rules
    /// restored; calls for one pod must not overlap. A failed call leaves nothing
    /// behind of the new endpoint.
    ///
    /// # Errors
    /// As `ensure`, and when the subnet is exhausted.
    pub async fn attach(&self, pod: &str) -> Result<Endpoint, NetworkError> {
        let (network, pod) = (self.clone(), pod.to_owned());
        whole(async move { network.attach_whole(pod).await }).await
    }

    async fn attach_whole(&self, pod: String) -> Result<Endpoint, NetworkError> {
        let (endpoint, new) = {
            let mut state = self.state.lock().await;
            match state.endpoints.get(&pod).cloned() {
                Some(endpoint) => (endpoint, false),
                None => {
                    let endpoint = self.endpoint(&pod, state.addresses.take()?);
                    state.endpoints.insert(pod.clone(), endpoint.clone());
                    (endpoint, true)
                }
            }
        };
        match self.place(&endpoint).await {
            Ok(()) => {
                tracing::debug!(pod, tap = endpoint.tap, address = %endpoint.address, "attached");
                Ok(endpoint)
            }
            Err(error) if !new => Err(error),
            Err(error) => {
                if let Err(cleanup) = self.withdraw(&endpoint).await {
                    tracing::warn!(tap = endpoint.tap, %cleanup, "a tap of a failed attachment stays");
                }
                let mut state = self.state.lock().await;
                state.endpoints.remove(&pod);
                state.addresses.release(endpoint.address.addr());
                Err(error)
            }
        }
    }

    /// Removes the tap, even one that a dying VM still holds open, and frees
    /// the address; repeating it is no error, even before the first call is done.
    ///
    /// # Errors
    /// When the kernel or nft refuses; the address then stays taken.
    pub async fn detach(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let (network, endpoint) = (self.clone(), endpoint.clone());
        whole(async move { network.detach_whole(endpoint).await }).await
    }

    async fn detach_whole(&self, endpoint: Endpoint) -> Result<(), NetworkError> {
        let address = endpoint.address.addr();
        {
            let mut state = self.state.lock().await;
            self.check(&endpoint)?;
            // An address may long belong to another pod when a detach is repeated.
            let mut others = state.endpoints.values().filter(|other| other.pod != endpoint.pod);
            if others.any(|other| other.address.addr() == address) || !state.leaving.insert(address) {
                return Ok(());
            }
            state.endpoints.remove(&endpoint.pod);
            // Not given to anybody else meanwhile, also when it counted as free.
            let _ = state.addresses.reserve(address);
        }
        let withdrawn = self.withdraw(&endpoint).await;
        let mut state = self.state.lock().await;
        state.leaving.remove(&address);
        match withdrawn {
            Ok(()) => state.addresses.release(address),
            Err(_) => drop(state.endpoints.insert(endpoint.pod.clone(), endpoint)),
        }
        withdrawn
    }

    /// After a restart: takes `keep` for the endpoints there are, restores
    /// their taps and rules, and removes every other tap of this instance. With
    /// nothing to keep and nothing left over it needs no privilege.
    ///
    /// # Errors
    /// As `ensure`; endpoints that are not of this network, or two with one
    /// address, before anything is changed.
    pub async fn reconcile(&self, keep: &[Endpoint]) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        let mut addresses = Allocator::new(self.fixed.subnet);
        for endpoint in keep {
            self.check(endpoint)?;
            addresses.reserve(endpoint.address.addr())?;
        }
        state.addresses = addresses;
        state.endpoints = keep.iter().map(|endpoint| (endpoint.pod.clone(), endpoint.clone())).collect();

        let links = self.fixed.links.all().await?;
        for link in links.iter().filter(|link| self.fixed.instance.owns_tap(&link.name)) {
            if !keep.iter().any(|endpoint| endpoint.tap == link.name) {
                tracing::info!(tap = link.name, "removing a tap that no pod uses");
                self.fixed.links.delete(link).await?;
            }
        }
        if keep.is_empty() && !links.iter().any(|link| link.name == self.fixed.instance.bridge()) {
            return Ok(());
        }
        let bridge = self.bridge().await?;
        for endpoint in keep {
            self.fixed.tap(endpoint, &bridge).await?;
        }
        self.fixed.rules(keep, Senders::Replace).await?;
        if keep.is_empty() { Ok(()) } else { self.serve_names(&mut state).await.map(drop) }
    }

    /// Removes taps, bridge and tables of this instance; repeating it is no
    /// error. `net.ipv4.ip_forward` stays on: others may rely on it by now.
    ///
    /// # Errors
    /// [`NetworkError::InUse`] while pods are attached; when the kernel or nft
    /// refuses.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        if !state.endpoints.is_empty() || !state.leaving.is_empty() {
            return Err(NetworkError::InUse(state.endpoints.len() + state.leaving.len()));
        }
        state.forwarder = None;
        let instance = &self.fixed.instance;
        let bridge = instance.bridge();
        for link in self.fixed.links.all().await? {
            let is_bridge = link.name == bridge && link.kind == Kind::Bridge;
            if is_bridge || instance.owns_tap(&link.name) {
                self.fixed.links.delete(&link).await?;
            }
        }
        rules::apply("remove the firewall rules", &rules::removal(instance)).await
    }

    /// Names as the host resolves them, in a form that works in containers.
    /// When the host's servers are out of their reach this is the gateway,
    /// where a forwarder of this process answers, for which the bridge is
    /// brought up; names are not answered while the process is down.
    ///
    /// # Errors
    /// When the host's configuration cannot be read, the bridge cannot be
    /// brought up or the forwarder cannot listen.
    pub async fn resolvers(&self) -> Result<ResolvConf, NetworkError> {
        if let Plan::Forward(_) = resolv::plan(&self.fixed.config)? {
            self.bridge().await?;
        }
        let mut state = self.state.lock().await;
        self.serve_names(&mut state).await
    }

    /// What on this host would keep containers from the network, one sentence
    /// each with what to do about it; for `hyper doctor`. Changes nothing.
    pub async fn warnings(&self) -> Vec<String> {
        let instance = &self.fixed.instance;
        let mut warnings = Vec::new();
        if !Path::new("/dev/net/tun").exists() {
            warnings.push("/dev/net/tun does not exist: load the module with: modprobe tun".to_owned());
        }
        warnings.extend(self.fixed.overlap().await);
        warnings.extend(firewall::warnings(&instance.table(), &instance.bridge()).await);
        match resolv::plan(&self.fixed.config) {
            Ok(Plan::Direct(conf)) if conf.nameservers.is_empty() => {
                let path = self.fixed.config.resolv_conf.display();
                warnings.push(format!("{path} names no name server: containers cannot resolve names"));
            }
            Ok(_) => {}
            Err(error) => warnings.push(format!("containers cannot resolve names: {error}")),
        }
        warnings
    }

    fn endpoint(&self, pod: &str, address: Ipv4Net) -> Endpoint {
        let host = allocate::host_number(self.fixed.subnet, address.addr());
        Endpoint {
            pod: pod.to_owned(),
            tap: self.fixed.instance.tap(host),
            mac: MacAddr::for_address(address.addr()),
            address,
            gateway: self.gateway().addr(),
            mtu: self.fixed.mtu,
            address6: None,
            gateway6: None,
        }
    }

    /// Refuses endpoints that this network would not have made.
    fn check(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let subnet = self.fixed.subnet;
        let expected = self.endpoint(&endpoint.pod, endpoint.address);
        let same = endpoint.address.trunc() == subnet
            && (&endpoint.tap, endpoint.gateway) == (&expected.tap, expected.gateway);
        if same {
            return Ok(());
        }
        Err(NetworkError::ForeignEndpoint { tap: endpoint.tap.clone(), address: endpoint.address, subnet })
    }

    /// Brings up all that `endpoint` needs on the host.
    async fn place(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let bridge = self.bridge().await?;
        let tap = self.fixed.tap(endpoint, &bridge);
        let rules = self.fixed.rules(std::slice::from_ref(endpoint), Senders::Add);
        tokio::try_join!(tap, rules)?;
        self.serve_names(&mut *self.state.lock().await).await.map(drop)
    }

    /// Makes sure of the bridge and of forwarding.
    async fn bridge(&self) -> Result<Link, NetworkError> {
        let _one_at_a_time = self.mending.lock().await;
        self.fixed.bridge().await
    }

    /// Removes what [`place`](Self::place) made for this endpoint alone.
    async fn withdraw(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        if let Some(link) = self.fixed.links.find(&endpoint.tap).await? {
            self.fixed.links.delete(&link).await?;
        }
        rules::forget(&self.fixed.instance, endpoint).await
    }

    /// The containers' resolver configuration; starts the forwarder if they need it.
    async fn serve_names(&self, state: &mut State) -> Result<ResolvConf, NetworkError> {
        match resolv::plan(&self.fixed.config)? {
            Plan::Direct(conf) => Ok(conf),
            Plan::Forward(conf) => {
                let gateway = self.gateway().addr();
                if state.forwarder.is_none() {
                    let config = Arc::clone(&self.fixed.config);
                    state.forwarder = Some(Forwarder::start(gateway, self.fixed.subnet, config).await?);
                }
                Ok(ResolvConf { nameservers: vec![IpAddr::V4(gateway)], ..conf })
            }
        }
    }
}

impl Fixed {
    /// Makes sure of the bridge and of forwarding.
    async fn bridge(&self) -> Result<Link, NetworkError> {
        let name = self.instance.bridge();
        let gateway = allocate::gateway(self.subnet);
        let bridge = match self.links.find(&name).await? {
            Some(bridge) => bridge,
            None => {
                self.links.add_bridge(&name, MacAddr::for_address(gateway.addr()), self.mtu).await?;
                tracing::info!(bridge = name, %gateway, "added the bridge");
                let missing = || NetworkError::LinkTaken {
                    link: name.clone(),
                    reason: "it vanished right after it was added".to_owned(),
                };
                self.links.find(&name).await?.ok_or_else(missing)?
            }
        };
        if bridge.kind != Kind::Bridge {
            return Err(NetworkError::LinkTaken { link: name, reason: "it is no bridge".to_owned() });
        }
        sysctl::disable_ipv6(&name)?;
        if bridge.mtu != self.mtu {
            self.links.set_mtu(&bridge, self.mtu).await?;
        }
        let addresses = self.links.addresses().await?;
        let own: Vec<Ipv4Net> = addresses
            .into_iter()
            .filter(|(index, _)| *index == bridge.index)
            .map(|(_, address)| address)
            .collect();
        if !own.contains(&gateway) {
            if let Some(other) = own.first() {
                let reason = format!("it has the address {other}, not {gateway}");
                return Err(NetworkError::LinkTaken { link: name, reason });
            }
            self.links.add_address(&bridge, gateway).await?;
        }
        if !bridge.up {
            self.links.set_up(&bridge).await?;
        }
        sysctl::enable_forwarding()?;
        Ok(bridge)
    }

    /// Makes sure of the endpoint's tap.
    async fn tap(&self, endpoint: &Endpoint, bridge: &Link) -> Result<(), NetworkError> {
        place_tap(&self.links, &endpoint.tap, endpoint.mtu, bridge).await
    }

    async fn rules(&self, endpoints: &[Endpoint], senders: Senders) -> Result<(), NetworkError> {
        let script = rules::script(&self.instance, self.subnet, endpoints, senders);
        rules::apply("set the firewall rules", &script).await
    }

    /// Sentences on routes of the host that lead elsewhere for our subnet.
    async fn overlap(&self) -> Vec<String> {
        let (routes, links) = match (self.links.routes().await, self.links.all().await) {
            (Ok(routes), Ok(links)) => (routes, links),
            (Err(error), _) | (_, Err(error)) => {
                return vec![format!("the host's routes cannot be read: {error}")];
            }
        };
        let own = links.iter().find(|link| link.name == self.instance.bridge()).map(|link| link.index);
        let overlaps = |route: &&Route| {
            let net = route.destination;
            let meets = net.contains(&self.subnet) || self.subnet.contains(&net);
            net.prefix_len() > 0 && meets && (own.is_none() || route.link != own)
        };
        let sentence = |route: &Route| {
            format!(
                "the host's route to {} overlaps the containers' subnet {}: choose another subnet",
                route.destination, self.subnet
            )
        };
        routes.iter().filter(overlaps).map(sentence).collect()
    }
}

/// Makes sure of a tap on a bridge.
pub(crate) async fn place_tap(
    links: &Links,
    name: &str,
    mtu: u32,
    bridge: &Link,
) -> Result<(), NetworkError> {
    let taken = |reason: &str| NetworkError::LinkTaken { link: name.to_owned(), reason: reason.to_owned() };
    let tap = match links.find(name).await? {
        Some(tap) => tap,
        None => {
            hyper_sys::tap::create(name, TAP_OWNER)
                .map_err(|source| NetworkError::Tap { tap: name.to_owned(), source })?;
            links.find(name).await?.ok_or_else(|| taken("it vanished right after it was added"))?
        }
    };
    if tap.kind != Kind::Tun {
        return Err(taken("it is no tap"));
    }
    sysctl::disable_ipv6(name)?;
    if tap.controller == Some(bridge.index) && tap.up && tap.mtu == mtu {
        return Ok(());
    }
    links.join(&tap, bridge, mtu).await
}

/// Runs something to its end even if the caller is dropped half-way.
pub(crate) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, NetworkError>> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime is shutting down, and the caller with it.
        Err(_) => std::future::pending().await,
    }
}

/// The subnet of our bridge when it exists, else the first free candidate.
async fn free_subnet(
    links: &Links,
    instance: &Instance,
    config: &NetworkConfig,
) -> Result<Ipv4Net, NetworkError> {
    let addresses = links.addresses().await?;
    if let Some(bridge) = links.find(&instance.bridge()).await?.filter(|link| link.kind == Kind::Bridge) {
        let of_bridge =
            |(index, address): &(u32, Ipv4Net)| (*index == bridge.index).then_some(address.trunc());
        let known =
            addresses.iter().find_map(of_bridge).and_then(|subnet| allocate::check_subnet(subnet).ok());
        if let Some(subnet) = known {
            return Ok(subnet);
        }
    }
    let mut taken: Vec<Ipv4Net> = addresses.into_iter().map(|(_, address)| address.trunc()).collect();
    taken.extend(links.routes().await?.into_iter().map(|route| route.destination));
    // Name servers are often reached by the default route alone.
    if let Plan::Direct(conf) = resolv::plan(config)? {
        taken.extend(conf.nameservers.into_iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(Ipv4Net::from(address)),
            IpAddr::V6(_) => None,
        }));
    }
    allocate::choose_subnet(&taken).ok_or(NetworkError::NoFreeSubnet)
}

/// MTU of the link of the default route, bytes.
pub(crate) async fn uplink_mtu(links: &Links) -> Result<u32, NetworkError> {
    let default = links.routes().await?.into_iter().find(|route| route.destination.prefix_len() == 0);
    let Some(index) = default.and_then(|route| route.link) else {
        return Ok(NetworkConfig::FALLBACK_MTU);
    };
    let mtu = links.all().await?.into_iter().find(|link| link.index == index).map(|link| link.mtu);
    Ok(mtu.unwrap_or(NetworkConfig::FALLBACK_MTU).clamp(MTU_MIN, MTU_MAX))
}
