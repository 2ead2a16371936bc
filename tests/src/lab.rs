//! The two namespaces and the registry of one engine.

use std::fs;
use std::path::Path;

use crate::images;
use crate::namespace::Namespace;
use crate::registry::Registry;
use crate::world;

/// Namespace of an engine, namespace of the world, registry at
/// `localhost:5000` of the engine's.
#[derive(Debug)]
pub struct Lab {
    // Before the namespaces, so that it is stopped first.
    _registry: Registry,
    /// Where hyperd and the command lines run.
    pub engine: Namespace,
    /// The outside.
    pub world: Namespace,
}

impl Lab {
    /// Makes them; files go into `directory`. With `engine` the engine's side
    /// is the network namespace of that process.
    pub fn new(directory: &Path, engine: Option<u32>) -> Self {
        let storage = images::registry_storage();
        let resolv = directory.join("resolv.conf");
        fs::write(&resolv, format!("nameserver {}\n", world::WORLD)).unwrap();
        let engine = engine.map_or_else(|| Namespace::new(&resolv), Namespace::of_process);
        let world = Namespace::new(&resolv);
        world::join(&engine, &world);
        let registry = Registry::start(&engine, &storage, directory, 5000, None, true);
        Self { _registry: registry, engine, world }
    }
}
