//! `hyper network …`

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::Args;
use http1::Method;
use serde_json::json;

use super::App;
use super::each::each;
use super::inspect::print_objects;
use super::listing;
use super::prune::confirmed;
use super::ps::{filters, short_id};
use crate::client::{ApiError, path};
use crate::container::{FlagError, labels, parse_pair};
use crate::error::{EXIT_DAEMON, Failure, Outcome};
use crate::format::{List, Row, Value};
use crate::output;

/// Flags of `network create`.
#[derive(Debug, Args)]
pub struct NetworkCreateArgs {
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// Driver to manage the Network
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "CIDR")]
    ip_range: Vec<String>,
    /// Enable IPv6 networking
    #[arg(long)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// The name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// Flags of `network ls`.
#[derive(Debug, Args)]
pub struct NetworkListArgs {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `network inspect`.
#[derive(Debug, Args)]
pub struct NetworkInspectArgs {
    /// Format output: 'json' or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(short, long)]
    verbose: bool,
    /// Names or IDs
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

/// Flags of `network rm`.
#[derive(Debug, Args)]
pub struct NetworkRemoveArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    force: bool,
    /// Names or IDs
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

/// Flags of `network prune`.
#[derive(Debug, Args)]
pub struct NetworkPruneArgs {
    #[arg(long, value_name = "KEY=VALUE", help = "Provide filter values (e.g. \"until=<timestamp>\")")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Flags of `network connect`.
#[derive(Debug, Args)]
pub struct NetworkConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Flags of `network disconnect`.
#[derive(Debug, Args)]
pub struct NetworkDisconnectArgs {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    force: bool,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Creates a network and prints its id.
pub async fn create(app: &App, args: NetworkCreateArgs) -> Outcome {
    let body = body(&args).map_err(|error| Failure::from_error(&error).with_code(EXIT_DAEMON))?;
    let answer = app.client.post_json("/networks/create", &body).await?;
    let created: serde_json::Value = serde_json::from_slice(&answer).map_err(|source| {
        Failure::from(ApiError::Answer { request: "POST /networks/create".to_owned(), source })
    })?;
    output::line(created["Id"].as_str().unwrap_or(&args.name))?;
    Ok(0)
}

fn body(args: &NetworkCreateArgs) -> Result<serde_json::Value, FlagError> {
    let options =
        args.opt.iter().map(|text| parse_pair("opt", text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(json!({
        "Name": args.name,
        "Driver": args.driver,
        "Attachable": args.attachable,
        "Internal": args.internal,
        "EnableIPv6": args.ipv6,
        "Labels": labels(&[], &args.label)?,
        "Options": options,
        "IPAM": {"Driver": "default", "Config": ipam(args)?},
    }))
}

/// Subnets with what belongs to each: a gateway, a range, addresses.
fn ipam(args: &NetworkCreateArgs) -> Result<Vec<serde_json::Value>, FlagError> {
    let mut configs: Vec<(Option<ipnet_text::Net>, serde_json::Value)> = Vec::new();
    for subnet in &args.subnet {
        let net = ipnet_text::Net::parse(subnet)
            .ok_or_else(|| FlagError::new("subnet", subnet, "invalid CIDR address"))?;
        configs.push((Some(net), json!({"Subnet": subnet})));
    }
    if configs.is_empty()
        && !(args.gateway.is_empty() && args.ip_range.is_empty() && args.aux_address.is_empty())
    {
        let flag = if args.gateway.is_empty() { "ip-range" } else { "gateway" };
        return Err(FlagError::new(
            flag,
            "",
            "every ip-range, gateway or aux-address must have a corresponding subnet",
        ));
    }
    let mut put = |flag: &str, text: &str, address: &str, key: &str, name: Option<&str>| {
        let address: std::net::IpAddr =
            address.parse().map_err(|_| FlagError::new(flag, text, "invalid IP address"))?;
        let config =
            configs.iter_mut().find(|(net, _)| net.as_ref().is_some_and(|net| net.contains(address)));
        let (_, config) = config.ok_or_else(|| FlagError::new(flag, text, "no matching subnet"))?;
        match name {
            Some(name) => config[key][name] = json!(address.to_string()),
            None => config[key] = json!(text),
        }
        Ok::<_, FlagError>(())
    };
    for text in &args.gateway {
        put("gateway", text, text, "Gateway", None)?;
    }
    for text in &args.ip_range {
        put("ip-range", text, text.split('/').next().unwrap_or_default(), "IPRange", None)?;
    }
    for text in &args.aux_address {
        let (name, address) = parse_pair("aux-address", text)?;
        put("aux-address", text, &address, "AuxiliaryAddresses", Some(&name))?;
    }
    Ok(configs.into_iter().map(|(_, config)| config).collect())
}

/// Prefixes, as far as matching needs them.
mod ipnet_text {
    use std::net::IpAddr;

    /// A prefix.
    pub struct Net(IpAddr, u32);

    impl Net {
        pub fn parse(text: &str) -> Option<Self> {
            let (address, length) = text.split_once('/')?;
            let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse().ok()?);
            (length <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self(address, length))
        }

        pub fn contains(&self, address: IpAddr) -> bool {
            match (self.0, address) {
                (IpAddr::V4(net), IpAddr::V4(address)) => {
                    (net.to_bits() ^ address.to_bits()).leading_zeros() >= self.1
                }
                (IpAddr::V6(net), IpAddr::V6(address)) => {
                    (net.to_bits() ^ address.to_bits()).leading_zeros() >= self.1
                }
                _ => false,
            }
        }
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

/// Lists networks.
pub async fn list(app: &App, args: NetworkListArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    let text = if filters.is_empty() { String::new() } else { json!(filters).to_string() };
    let query: &[(&str, &str)] = if text.is_empty() { &[] } else { &[("filters", &text)] };
    let mut networks: Vec<serde_json::Value> = app.client.json("/networks", query).await?;
    networks.sort_by_key(|network| network["Name"].as_str().unwrap_or_default().to_owned());
    let list = List {
        headings: HEADINGS,
        table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        rows: networks.iter().map(|network| row(network, args.no_trunc)).collect(),
    };
    listing::print(list, args.format.as_deref(), args.quiet)
}

fn row(network: &serde_json::Value, no_trunc: bool) -> Row {
    let text = |name: &str| network[name].as_str().unwrap_or_default().to_owned();
    let switch = |name: &str| Value::text(network[name].as_bool().unwrap_or_default().to_string());
    let labels: Vec<(String, String)> = network["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let shown = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let id = text("Id");
    vec![
        ("ID", Value::text(if no_trunc { id } else { short_id(&id) })),
        ("Name", Value::text(text("Name"))),
        ("Driver", Value::text(text("Driver"))),
        ("Scope", Value::text(text("Scope"))),
        ("IPv6", switch("EnableIPv6")),
        ("Internal", switch("Internal")),
        ("Labels", Value::text(shown)),
        ("CreatedAt", Value::text(text("Created"))),
        ("Label", Value::Lookup(labels)),
    ]
}

/// A network, as the daemon describes it.
pub(super) async fn fetch(app: &App, name: &str) -> Result<Bytes, ApiError> {
    app.client.bytes(&path("networks", name, "")?, &[]).await
}

/// Shows networks as the daemon describes them.
pub async fn inspect(app: &App, args: NetworkInspectArgs) -> Outcome {
    let (mut networks, mut failures): (Vec<Bytes>, Vec<Failure>) = (Vec::new(), Vec::new());
    for name in &args.names {
        match fetch(app, name).await {
            Ok(network) => networks.push(network),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    print_objects(&networks, args.format.as_deref(), failures)
}

/// Removes networks and prints their names.
pub async fn remove(app: &App, args: NetworkRemoveArgs) -> Outcome {
    let force = args.force;
    each(&args.names, |name| async move {
        match app.client.send(Method::DELETE, &path("networks", name, "")?, &[]).await {
            Err(error) if force && error.is_not_found() => {}
            other => drop(other?),
        }
        Ok(name.to_owned())
    })
    .await
}

/// Removes unused networks.
pub async fn prune(app: &App, args: NetworkPruneArgs) -> Outcome {
    let filters = filters(&args.filter)?;
    let warning = "This will remove all custom networks not used by at least one container.";
    if !args.force && !confirmed(warning)? {
        return Ok(0);
    }
    let text = json!(filters).to_string();
    let query: &[(&str, &str)] = if filters.is_empty() { &[] } else { &[("filters", &text)] };
    let answer = app.client.send(Method::POST, "/networks/prune", query).await?;
    let answer = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .map_err(|error| Failure::new(format!("cannot read the daemon's answer: {error}")))?
        .to_bytes();
    let pruned: serde_json::Value = serde_json::from_slice(&answer).map_err(|source| {
        Failure::from(ApiError::Answer { request: "POST /networks/prune".to_owned(), source })
    })?;
    let names: Vec<&str> =
        pruned["NetworksDeleted"].as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
    if !names.is_empty() {
        output::write(&format!("Deleted Networks:\n{}\n\n", names.join("\n")))?;
    }
    Ok(0)
}

/// Connects a container to a network.
pub async fn connect(app: &App, args: NetworkConnectArgs) -> Outcome {
    let body = json!({
        "Container": args.container,
        "EndpointConfig": {
            "Aliases": args.alias,
            "IPAMConfig": {"IPv4Address": args.ip.unwrap_or_default(), "IPv6Address": args.ip6.unwrap_or_default()},
        },
    });
    app.client.post_json(&path("networks", &args.network, "/connect")?, &body).await?;
    Ok(0)
}

/// Disconnects a container from a network.
pub async fn disconnect(app: &App, args: NetworkDisconnectArgs) -> Outcome {
    let body = json!({"Container": args.container, "Force": args.force});
    app.client.post_json(&path("networks", &args.network, "/disconnect")?, &body).await?;
    Ok(0)
}
