//! The default bridge network of one instance.

use ipnet::Ipv4Net;

use crate::config::NetworkConfig;
use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::instance::Instance;
use crate::resolv::ResolvConf;

/// The default bridge network of one instance. Clones share one state.
#[derive(Clone, Debug)]
pub struct Network {
    instance: std::sync::Arc<Instance>,
    subnet: Ipv4Net,
}

impl Network {
    /// Opens the network of the instance `instance_id`; needs no privilege and
    /// changes nothing on the host.
    ///
    /// # Errors
    /// Malformed id or configuration, no free subnet, no netlink.
    pub async fn open(
        instance_id: &str,
        is_default_root: bool,
        config: NetworkConfig,
    ) -> Result<Self, NetworkError> {
        let instance = Instance::new(instance_id, is_default_root)?;
        let subnet = config.subnet.ok_or(NetworkError::NoFreeSubnet)?;
        Ok(Self { instance: std::sync::Arc::new(instance), subnet })
    }

    /// The names of this instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The subnet in use, for the caller to persist.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The bridge's own address, the containers' default gateway.
    pub fn gateway(&self) -> Ipv4Net {
        self.subnet
    }

    /// Brings bridge, forwarding and rules up; restores what is missing.
    ///
    /// # Errors
    /// Missing privileges or programs, names taken by others.
    pub async fn ensure(&self) -> Result<(), NetworkError> {
        Err(NetworkError::NoFreeSubnet)
    }

    /// Gives `pod` an address and a tap on the bridge, calling
    /// [`ensure`](Self::ensure) where something is missing. A pod that is
    /// attached already gets the same endpoint again.
    ///
    /// # Errors
    /// As `ensure`, and when the subnet is exhausted.
    pub async fn attach(&self, pod: &str) -> Result<Endpoint, NetworkError> {
        let _ = pod;
        Err(NetworkError::NoFreeSubnet)
    }

    /// Removes the tap and frees the address; repeating it is no error.
    ///
    /// # Errors
    /// When the kernel or nft refuses.
    pub async fn detach(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let _ = endpoint;
        Err(NetworkError::NoFreeSubnet)
    }

    /// After a restart: reserves the addresses of `keep`, removes every other
    /// tap of this instance, and restores taps and rules of `keep`.
    ///
    /// # Errors
    /// As `ensure`; endpoints that are not of this network.
    pub async fn reconcile(&self, keep: &[Endpoint]) -> Result<(), NetworkError> {
        let _ = keep;
        Err(NetworkError::NoFreeSubnet)
    }

    /// Removes bridge, taps and tables of this instance; the global
    /// `net.ipv4.ip_forward` stays on, others may rely on it by now.
    ///
    /// # Errors
    /// When the kernel or nft refuses.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        Err(NetworkError::NoFreeSubnet)
    }

    /// Names as the host resolves them, in a form that works in containers.
    ///
    /// # Errors
    /// When the host's configuration cannot be read or the forwarder cannot listen.
    pub async fn resolvers(&self) -> Result<ResolvConf, NetworkError> {
        Ok(ResolvConf::default())
    }

    /// What on this host would keep containers from the network, one sentence
    /// each with what to do about it; for `hyper doctor`.
    pub async fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
