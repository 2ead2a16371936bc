//! What containers use, and their processes.

use hyper_protocol::agent::{Process, Stats};

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::podsock;

impl Engine {
    /// What a container uses now; `None` if it does not run.
    ///
    /// # Errors
    /// The shim does not answer.
    pub async fn stats(&self, reference: &str) -> Result<Option<Stats>> {
        let container = self.shared.registry.find(reference)?;
        match self.running_shim(&container) {
            Ok(shim) => podsock::stats(shim.dir(), &container.id).await.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The processes of a container.
    ///
    /// # Errors
    /// Not running.
    pub async fn processes(&self, reference: &str) -> Result<Vec<Process>> {
        let container = self.shared.registry.find(reference)?;
        let shim = self
            .running_shim(&container)
            .map_err(|_| EngineError::conflict(format!("container {} is not running", container.id)))?;
        podsock::processes(shim.dir(), &container.id).await
    }
}
