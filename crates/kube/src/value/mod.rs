//! Values that Kubernetes has types or rules of its own for.

mod cron;
mod names;
mod port;
mod quantity;

pub use cron::{NoSchedule, Schedule, Times};
pub(crate) use names::{
    config_key, dns_1035_label, dns_label, dns_subdomain, env_name, header_name, label_value, port_name,
    qualified_name,
};
pub use port::IntOrString;
pub use quantity::{NoQuantity, Quantity};
