//! What every command works with.

use std::path::PathBuf;
use std::sync::Arc;

use crate::client::Client;
use crate::timeline::Timeline;

/// The client and the settings of this invocation.
pub struct App {
    /// The daemon.
    pub client: Arc<Client>,
    /// Where the time goes.
    pub timeline: Arc<Timeline>,
    /// `--config`: where registry logins are read from.
    pub config_dir: Option<PathBuf>,
}
