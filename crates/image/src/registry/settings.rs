//! Which registries are reached how, and how long things may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::layer::Limits;

/// Settings of everything that talks to registries.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Mirrors tried before a registry itself, in order: registry (`docker.io`) to base URLs
    /// (`https://mirror.example`).
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries that may be spoken to in plain HTTP or with a certificate nobody vouches for:
    /// `host`, `host:port` or a CIDR of addresses. Loopback is always among them.
    pub insecure: Vec<String>,
    /// Directory with `HOST[:PORT]/*.crt` of additional roots, and `*.cert` with `*.key` to show the
    /// registry, as docker has it.
    pub certs_dir: PathBuf,
    /// Layers fetched at the same time, over all pulls. Docker's default is 3.
    pub parallel_layers: usize,
    /// Layers sent at the same time, over all pushes. Docker's default is 5.
    pub parallel_uploads: usize,
    /// A connection that gives no byte for so long is broken off.
    pub stall_timeout: Duration,
    /// Attempts in a row that bring no new byte before a download fails. Docker's default is 5.
    pub attempts: u32,
    /// How large layers may be.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            certs_dir: PathBuf::from("/etc/docker/certs.d"),
            parallel_layers: 3,
            parallel_uploads: 5,
            stall_timeout: Duration::from_secs(30),
            attempts: 5,
            limits: Limits::default(),
        }
    }
}
