//! A user-defined network: a bridge that is there while pods are on it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::Mutex;

use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::forwarder::Forwarder;
use crate::instance::{Instance, NUMBERS};
use crate::links::{Kind, Link, Links};
use crate::mac::MacAddr;
use crate::names::{self, Names};
use crate::network::whole;
use crate::pool::Pool;
use crate::rules;
use crate::sysctl;
use crate::user_rules::{self, Policy};

/// What the user decided about a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// Its number among those of the instance, below 4096.
    pub number: u16,
    /// Name of its bridge, at most 15 bytes.
    pub bridge: String,
    /// The subnet.
    pub subnet: Ipv4Net,
    /// The bridge's address in it.
    pub gateway: Ipv4Addr,
    /// The part of the subnet from which addresses are chosen.
    pub range: Option<Ipv4Net>,
    /// The IPv6 subnet, where there is one.
    pub subnet6: Option<Ipv6Net>,
    /// The bridge's address in it.
    pub gateway6: Option<Ipv6Addr>,
    /// The part of it from which addresses are chosen.
    pub range6: Option<Ipv6Net>,
    /// Addresses of either family that are not given to pods.
    pub reserved: Vec<IpAddr>,
    /// Bytes of the largest packet; `None` for that of the host's default route.
    pub mtu: Option<u32>,
    /// No way out of the network.
    pub internal: bool,
    /// Pods reach each other.
    pub icc: bool,
    /// What leaves the host has the host's address.
    pub masquerade: bool,
}

/// What an endpoint is to have; what is `None` is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
}

/// One user-defined network. Clones share one state.
#[derive(Clone)]
pub struct UserNetwork {
    fixed: Arc<Fixed>,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for UserNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserNetwork").field("config", &self.fixed.config).finish_non_exhaustive()
    }
}

struct Fixed {
    instance: Instance,
    config: UserConfig,
    mtu: u32,
    links: Links,
    names: Arc<dyn Names>,
}

/// Who is on the network. Held while the host is changed.
struct State {
    addresses: Pool,
    addresses6: Option<Pool>,
    endpoints: BTreeMap<String, Endpoint>,
    resolver: Option<Forwarder>,
}

impl State {
    fn new(config: &UserConfig) -> Self {
        let taken = |gateway: Option<IpAddr>| config.reserved.iter().copied().chain(gateway);
        let pool6 = |net: Ipv6Net| {
            let gateway = config.gateway6.map(IpAddr::V6);
            Pool::new(IpNet::V6(net), config.range6.map(IpNet::V6), taken(gateway))
        };
        Self {
            addresses: Pool::new(
                IpNet::V4(config.subnet),
                config.range.map(IpNet::V4),
                taken(Some(IpAddr::V4(config.gateway))),
            ),
            addresses6: config.subnet6.map(pool6),
            endpoints: BTreeMap::new(),
            resolver: None,
        }
    }

    fn release(&mut self, endpoint: &Endpoint) {
        self.addresses.release(endpoint.address.addr().into());
        if let (Some(pool), Some(address)) = (&mut self.addresses6, endpoint.address6) {
            pool.release(address.addr().into());
        }
    }
}

impl UserNetwork {
    /// Opens a network; changes nothing on the host. As [`Network::open`](crate::Network::open).
    ///
    /// # Errors
    /// Malformed id, no netlink.
    pub async fn open(
        instance_id: &str,
        is_default_root: bool,
        config: UserConfig,
        names: Arc<dyn Names>,
    ) -> Result<Self, NetworkError> {
        let instance = Instance::new(instance_id, is_default_root)?.network(config.number, &config.bridge);
        let links = Links::open()?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => crate::network::uplink_mtu(&links).await?,
        };
        let state = State::new(&config);
        let fixed = Fixed { instance, config, mtu, links, names };
        Ok(Self { fixed: Arc::new(fixed), state: Arc::new(Mutex::new(state)) })
    }

    /// What the user decided.
    pub fn config(&self) -> &UserConfig {
        &self.fixed.config
    }

    /// Gives `pod` addresses and a tap on the bridge, which is made for the first. A pod that is attached already gets the
    /// same endpoint again. A failed call leaves nothing behind of a new endpoint.
    ///
    /// # Errors
    /// An address that is taken or not of the subnet, none left, missing privileges or programs.
    pub async fn attach(&self, pod: &str, wanted: Wanted) -> Result<Endpoint, NetworkError> {
        let (network, pod) = (self.clone(), pod.to_owned());
        whole(async move { network.attach_whole(pod, wanted).await }).await
    }

    async fn attach_whole(&self, pod: String, wanted: Wanted) -> Result<Endpoint, NetworkError> {
        let mut state = self.state.lock().await;
        if let Some(endpoint) = state.endpoints.get(&pod).cloned() {
            self.place(&mut state, std::slice::from_ref(&endpoint)).await?;
            return Ok(endpoint);
        }
        let endpoint = self.endpoint(&mut state, &pod, &wanted)?;
        state.endpoints.insert(pod.clone(), endpoint.clone());
        if let Err(error) = self.place(&mut state, std::slice::from_ref(&endpoint)).await {
            state.endpoints.remove(&pod);
            state.release(&endpoint);
            if let Err(cleanup) = self.withdraw(&mut state, &endpoint).await {
                tracing::warn!(tap = endpoint.tap, %cleanup, "a tap of a failed attachment stays");
            }
            return Err(error);
        }
        Ok(endpoint)
    }

    /// Removes the tap and frees the addresses, and removes the bridge with the last; repeating it is no error.
    ///
    /// # Errors
    /// When the kernel or nft refuses; the addresses then stay taken.
    pub async fn detach(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let (network, endpoint) = (self.clone(), endpoint.clone());
        whole(async move {
            let mut state = network.state.lock().await;
            if state.endpoints.get(&endpoint.pod) != Some(&endpoint) {
                return Ok(());
            }
            state.endpoints.remove(&endpoint.pod);
            let withdrawn = network.withdraw(&mut state, &endpoint).await;
            match withdrawn {
                Ok(()) => state.release(&endpoint),
                Err(_) => drop(state.endpoints.insert(endpoint.pod.clone(), endpoint)),
            }
            withdrawn
        })
        .await
    }

    /// After a restart: takes `keep` for the endpoints there are, restores what they need, and removes every other tap of
    /// this network.
    ///
    /// # Errors
    /// As `attach`.
    pub async fn reconcile(&self, keep: &[Endpoint]) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        *state = State { resolver: state.resolver.take(), ..State::new(&self.fixed.config) };
        for endpoint in keep {
            state.addresses.reserve(endpoint.address.addr().into());
            if let (Some(pool), Some(address)) = (&mut state.addresses6, endpoint.address6) {
                pool.reserve(address.addr().into());
            }
            state.endpoints.insert(endpoint.pod.clone(), endpoint.clone());
        }
        let links = self.fixed.links.all().await?;
        for link in links.iter().filter(|link| self.fixed.instance.owns_tap(&link.name)) {
            if !keep.iter().any(|endpoint| endpoint.tap == link.name) {
                tracing::info!(tap = link.name, "removing a tap that no pod uses");
                self.fixed.links.delete(link).await?;
            }
        }
        if keep.is_empty() {
            return self.clear(&mut state).await;
        }
        self.place(&mut state, keep).await
    }

    /// How many pods are on it.
    pub async fn pods(&self) -> usize {
        self.state.lock().await.endpoints.len()
    }

    fn endpoint(&self, state: &mut State, pod: &str, wanted: &Wanted) -> Result<Endpoint, NetworkError> {
        let config = &self.fixed.config;
        let used: Vec<&str> = state.endpoints.values().map(|endpoint| endpoint.tap.as_str()).collect();
        let tap = (0..u32::from(NUMBERS)).map(|number| self.fixed.instance.tap(number));
        let tap = tap.into_iter().find(|tap| !used.contains(&tap.as_str()));
        let tap = tap.ok_or(NetworkError::Exhausted(config.subnet))?;
        let take = |pool: &mut Pool, wanted: Option<IpAddr>| match wanted {
            Some(address) if pool.reserve(address) => Ok(address),
            Some(address) => Err(NetworkError::NotFree(address)),
            None => pool.take().ok_or(NetworkError::Exhausted(config.subnet)),
        };
        let IpAddr::V4(v4) = take(&mut state.addresses, wanted.address.map(IpAddr::V4))? else {
            unreachable!("the pool is of an IPv4 subnet")
        };
        let address =
            Ipv4Net::new(v4, config.subnet.prefix_len()).expect("the subnet has this prefix length");
        let address6 = match (&mut state.addresses6, config.subnet6) {
            (Some(pool), Some(net)) => match take(pool, wanted.address6.map(IpAddr::V6)) {
                Ok(IpAddr::V6(v6)) => Ipv6Net::new(v6, net.prefix_len()).ok(),
                Ok(IpAddr::V4(_)) => None,
                Err(error) => {
                    state.addresses.release(v4.into());
                    return Err(error);
                }
            },
            _ => None,
        };
        Ok(Endpoint {
            pod: pod.to_owned(),
            tap,
            mac: wanted.mac.unwrap_or_else(|| MacAddr::for_address(v4)),
            address,
            gateway: config.gateway,
            mtu: self.fixed.mtu,
            address6,
            gateway6: config.gateway6.filter(|_| address6.is_some()),
        })
    }

    /// Brings up all that endpoints need on the host.
    async fn place(&self, state: &mut State, endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        let fixed = &self.fixed;
        let bridge = fixed.bridge().await?;
        for endpoint in endpoints {
            crate::network::place_tap(&fixed.links, &endpoint.tap, endpoint.mtu, &bridge).await?;
        }
        let all: Vec<&Endpoint> = state.endpoints.values().collect();
        let script = user_rules::script(&fixed.instance, &fixed.policy(), &all);
        rules::apply("set the firewall rules of a network", &script).await?;
        if state.resolver.is_none() {
            state.resolver = Some(names::serve(fixed.config.gateway, Arc::clone(&fixed.names)).await?);
        }
        Ok(())
    }

    /// Removes what `place` made for this endpoint alone, and the rest when it was the last.
    async fn withdraw(&self, state: &mut State, endpoint: &Endpoint) -> Result<(), NetworkError> {
        if let Some(link) = self.fixed.links.find(&endpoint.tap).await? {
            self.fixed.links.delete(&link).await?;
        }
        if state.endpoints.is_empty() {
            return self.clear(state).await;
        }
        let all: Vec<&Endpoint> = state.endpoints.values().collect();
        let script = user_rules::script(&self.fixed.instance, &self.fixed.policy(), &all);
        rules::apply("set the firewall rules of a network", &script).await
    }

    /// Removes bridge and tables.
    async fn clear(&self, state: &mut State) -> Result<(), NetworkError> {
        state.resolver = None;
        let fixed = &self.fixed;
        let bridge = fixed.links.find(&fixed.config.bridge).await?.filter(|link| link.kind == Kind::Bridge);
        if let Some(bridge) = bridge {
            fixed.links.delete(&bridge).await?;
        }
        rules::apply("remove the firewall rules of a network", &user_rules::removal(&fixed.instance)).await
    }
}

impl Fixed {
    fn policy(&self) -> Policy<'_> {
        Policy {
            subnet: self.config.subnet,
            subnet6: self.config.subnet6,
            gateway: self.config.gateway,
            internal: self.config.internal,
            icc: self.config.icc,
            masquerade: self.config.masquerade,
            bridge: &self.config.bridge,
        }
    }

    /// Makes sure of the bridge and of forwarding.
    async fn bridge(&self) -> Result<Link, NetworkError> {
        let name = &self.config.bridge;
        let taken = |reason: String| NetworkError::LinkTaken { link: name.clone(), reason };
        let bridge = match self.links.find(name).await? {
            Some(bridge) => bridge,
            None => {
                let mac = MacAddr::for_address(self.config.gateway);
                self.links.add_bridge(name, mac, self.mtu).await?;
                let found = self.links.find(name).await?;
                found.ok_or_else(|| taken("it vanished right after it was added".to_owned()))?
            }
        };
        if bridge.kind != Kind::Bridge {
            return Err(taken("it is no bridge".to_owned()));
        }
        let gateway = Ipv4Net::new(self.config.gateway, self.config.subnet.prefix_len())
            .expect("the subnet has this prefix length");
        let addresses = self.links.addresses().await?;
        let own: Vec<Ipv4Net> =
            addresses.into_iter().filter(|(index, _)| *index == bridge.index).map(|(_, net)| net).collect();
        if !own.contains(&gateway) {
            if let Some(other) = own.first() {
                return Err(taken(format!("it has the address {other}, not {gateway}")));
            }
            self.links.add_address(&bridge, gateway).await?;
        }
        match (self.config.subnet6, self.config.gateway6) {
            (Some(subnet), Some(gateway)) => {
                sysctl::prepare_ipv6(name)?;
                self.links.add_address6(&bridge, gateway, subnet.prefix_len()).await?;
            }
            _ => sysctl::disable_ipv6(name)?,
        }
        if !bridge.up {
            self.links.set_up(&bridge).await?;
        }
        sysctl::enable_forwarding()?;
        if self.config.subnet6.is_some() {
            sysctl::enable_forwarding6()?;
        }
        Ok(bridge)
    }
}

/// A subnet for a new network that meets none of `taken` and nothing of this host.
///
/// # Errors
/// No netlink; none is free.
pub async fn choose_user_subnet(taken: &[Ipv4Net]) -> Result<Ipv4Net, NetworkError> {
    let links = Links::open()?;
    let mut all = taken.to_vec();
    all.extend(links.addresses().await?.into_iter().map(|(_, address)| address.trunc()));
    all.extend(links.routes().await?.into_iter().map(|route| route.destination));
    crate::allocate::choose_subnet(&all).ok_or(NetworkError::NoFreeSubnet)
}
