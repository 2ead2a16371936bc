//! `hyper port`

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;

use super::App;
use crate::client::path;
use crate::error::{Failure, Outcome};
use crate::output;

/// Words of `port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// One of its ports
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    host_port: String,
}

/// Shows where a container's ports are published.
pub async fn port(app: &App, args: PortArgs) -> Outcome {
    let container: Container = app.client.json(&path("containers", &args.container, "/json")?, &[]).await?;
    let ports = container.network_settings.ports.unwrap_or_default();
    let Some(wanted) = &args.port else {
        let lines = ports.iter().flat_map(|(port, bindings)| {
            bindings.iter().flatten().map(move |binding| format!("{port} -> {}\n", address(binding)))
        });
        output::write(&lines.collect::<String>())?;
        return Ok(0);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    if number.parse::<u16>().is_err() {
        return Err(Failure::new(format!("invalid port '{wanted}'")));
    }
    let bindings = ports.get(&format!("{number}/{}", protocol.to_lowercase())).and_then(Option::as_ref);
    match bindings {
        Some(bindings) if !bindings.is_empty() => {
            output::write(&bindings.iter().map(|binding| address(binding) + "\n").collect::<String>())?;
            Ok(0)
        }
        _ => Err(Failure::new(format!("No public port '{wanted}' published for {}", args.container))),
    }
}

fn address(binding: &Binding) -> String {
    if binding.host_ip.contains(':') {
        return format!("[{}]:{}", binding.host_ip, binding.host_port);
    }
    format!("{}:{}", binding.host_ip, binding.host_port)
}
