//! User-defined networks, and endpoints on them.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper_engine::{EndpointOptions, Filters, Ipam, NetworkRecord, NetworkRequest};
use serde_json::{Map, Value, json};

use super::to_the_end;
use crate::fields::Fields;
use crate::http::{ApiError, Result, blamed_if, empty, json as json_reply, ok, read_json};
use crate::route::Call;

/// Filters of `prune`.
const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// A network as `inspect` shows it.
pub(super) fn value(call: &Call, record: &NetworkRecord) -> Value {
    let mut containers = Map::new();
    for (container, endpoint) in call.app.engine.on_network(&record.id) {
        if !container.state.is_running() {
            continue;
        }
        let address6 = endpoint.address6.map(|address| address.to_string()).unwrap_or_default();
        containers.insert(
            container.id.clone(),
            json!({
                "Name": container.name,
                "EndpointID": super::inspect::endpoint_id(&endpoint),
                "MacAddress": endpoint.mac.to_string(),
                "IPv4Address": endpoint.address.to_string(),
                "IPv6Address": address6,
            }),
        );
    }
    let request = &record.request;
    let options = if request.ipam_options { json!({}) } else { Value::Null };
    let ipam: Vec<Value> = request.ipam.iter().map(|ipam| ipam_value(ipam, record)).collect();
    json!({
        "Name": request.name,
        "Id": record.id,
        "Created": record.created.to_string(),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": request.ipv6,
        "IPAM": {"Driver": "default", "Options": options, "Config": ipam},
        "Internal": request.internal,
        "Attachable": request.attachable,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": containers,
        "Options": request.options,
        "Labels": request.labels,
    })
}

fn ipam_value(ipam: &Ipam, record: &NetworkRecord) -> Value {
    let mut value = json!({"Subnet": ipam.subnet, "Gateway": record.gateway_of(ipam)});
    if !ipam.range.is_empty() {
        value["IPRange"] = json!(ipam.range);
    }
    if !ipam.reserved.is_empty() {
        value["AuxiliaryAddresses"] = json!(ipam.reserved);
    }
    value
}

pub(crate) async fn create(call: Call) -> Result {
    let engine = call.app.engine.clone();
    let request = read(read_json(call.request).await?)?;
    let id = to_the_end(async move { engine.create_network(request).await }).await?;
    Ok(json_reply(StatusCode::CREATED, &json!({"Id": id, "Warning": ""})))
}

fn read(body: Value) -> Result<NetworkRequest> {
    let mut fields = Fields::of(body, "")?;
    let driver = fields.string("Driver")?;
    check_driver(&driver)?;
    match fields.string("Scope")?.as_str() {
        "" | "local" => {}
        "swarm" => return Err(forbidden("cannot create a swarm scoped network when swarm is not active")),
        scope => {
            return Err(ApiError::unsupported(format!("Scope {scope} is not supported: there is local")));
        }
    }
    if fields.bool("Ingress")? {
        return Err(forbidden("Ingress network can only be global scope network"));
    }
    fields.refuse("ConfigOnly", &[], "there is no swarm")?;
    fields.refuse("ConfigFrom", &[json!({"Network": ""})], "there is no swarm")?;
    fields.refuse("EnableIPv4", &[json!(true)], "networks always have IPv4")?;
    // Names are unique in any case.
    fields.bool("CheckDuplicate")?;
    let mut request = NetworkRequest {
        name: fields.string("Name")?,
        ipv6: fields.bool("EnableIPv6")?,
        internal: fields.bool("Internal")?,
        attachable: fields.bool("Attachable")?,
        labels: fields.string_map("Labels")?,
        options: fields.string_map("Options")?,
        ..NetworkRequest::default()
    };
    let mut ipam = fields.object("IPAM")?;
    let driver = ipam.string("Driver")?;
    if !matches!(driver.as_str(), "" | "default") {
        return Err(no_plugin(&driver));
    }
    match ipam.take("Options") {
        Value::Null => {}
        Value::Object(options) if options.is_empty() => request.ipam_options = true,
        _ => {
            return Err(ApiError::unsupported(
                "IPAM.Options is not supported: the default IPAM driver has none",
            ));
        }
    }
    let configs = match ipam.take("Config") {
        Value::Null => Vec::new(),
        Value::Array(configs) => configs,
        _ => return Err(ApiError::invalid("invalid JSON: IPAM.Config must be a list")),
    };
    ipam.finish()?;
    for config in configs {
        let mut config = Fields::of(config, "IPAM.Config")?;
        request.ipam.push(Ipam {
            subnet: config.string("Subnet")?,
            range: config.string("IPRange")?,
            gateway: config.string("Gateway")?,
            reserved: config.string_map("AuxiliaryAddresses")?,
        });
        config.finish()?;
    }
    fields.finish()?;
    if request.name.is_empty() {
        return Err(ApiError::invalid("invalid network name: name is empty"));
    }
    Ok(request)
}

/// Drivers that cannot make a network here, in dockerd's words.
fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "" | "bridge" | "default" => Ok(()),
        "host" | "null" => Err(forbidden(format!("only one instance of \"{driver}\" network is allowed"))),
        "overlay" => Err(forbidden(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this \
             node to swarm and try again.",
        )),
        // dockerd has them.
        "macvlan" | "ipvlan" => {
            Err(ApiError::unsupported(format!("network driver {driver} is not supported: there is bridge")))
        }
        _ => Err(no_plugin(driver)),
    }
}

fn no_plugin(driver: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("plugin \"{driver}\" not found"))
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message)
}

pub(crate) async fn remove(call: Call, reference: &str) -> Result {
    let (engine, reference) = (call.app.engine.clone(), reference.to_owned());
    to_the_end(async move { engine.remove_network(&reference).await }).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn prune(call: Call) -> Result {
    let engine = call.app.engine.clone();
    let filters = Filters::parse(call.query.get("filters"), PRUNE_FILTERS)?;
    let removed = to_the_end(async move { engine.prune_networks(&filters).await }).await?;
    ok(&json!({"NetworksDeleted": if removed.is_empty() { Value::Null } else { json!(removed) }}))
}

pub(crate) async fn connect(call: Call, reference: &str) -> Result {
    let (engine, reference) = (call.app.engine.clone(), reference.to_owned());
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let container = fields.string("Container")?;
    let endpoint = endpoint(fields.take("EndpointConfig"))?;
    fields.finish()?;
    to_the_end(async move { engine.connect_network(&reference, &container, endpoint).await }).await?;
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn disconnect(call: Call, reference: &str) -> Result {
    let (engine, reference) = (call.app.engine.clone(), reference.to_owned());
    let mut fields = Fields::of(read_json(call.request).await?, "")?;
    let container = fields.string("Container")?;
    // There is nothing of a container that is not there.
    fields.bool("Force")?;
    fields.finish()?;
    to_the_end(async move { engine.disconnect_network(&reference, &container).await })
        .await
        .map_err(blamed_if(|error| error.message.contains("is not connected to network")))?;
    Ok(empty(StatusCode::OK))
}

/// The settings of an endpoint that a client asks for.
pub(super) fn endpoint(value: Value) -> Result<EndpointOptions> {
    let mut fields = Fields::of(value, "EndpointSettings")?;
    let mut options = EndpointOptions {
        aliases: fields.strings("Aliases")?,
        mac: Some(fields.string("MacAddress")?).filter(|mac| !mac.is_empty()),
        ..EndpointOptions::default()
    };
    fields.refuse("Links", &[], "links are not supported: use names and aliases")?;
    fields.refuse("DriverOpts", &[], "the bridge driver has none for endpoints")?;
    fields.refuse("GwPriority", &[], "the default route follows the networks' names")?;
    let mut ipam = fields.object("IPAMConfig")?;
    let bad =
        |text: &str| ApiError::invalid(format!("invalid endpoint settings:\ninvalid IP address: {text}"));
    let (four, six) = (ipam.string("IPv4Address")?, ipam.string("IPv6Address")?);
    if !four.is_empty() {
        options.address = Some(four.parse().map_err(|_| bad(&four))?);
    }
    if !six.is_empty() {
        options.address6 = Some(six.parse().map_err(|_| bad(&six))?);
    }
    ipam.refuse("LinkLocalIPs", &[], "link-local addresses are the kernel's")?;
    ipam.finish()?;
    // What clients send back of an `inspect`, and what only the daemon knows.
    for name in ["NetworkID", "EndpointID", "Gateway", "IPAddress", "IPv6Gateway", "GlobalIPv6Address"] {
        fields.string(name)?;
    }
    for name in ["IPPrefixLen", "GlobalIPv6PrefixLen"] {
        fields.int(name)?;
    }
    fields.strings("DNSNames")?;
    fields.finish()?;
    if let Some(mac) = &options.mac
        && mac.parse::<hyper_engine::MacAddr>().is_err()
    {
        return Err(ApiError::invalid(format!("invalid MAC address: {mac}")));
    }
    let bad = options.aliases.iter().find(|alias| alias.is_empty() || alias.contains(char::is_whitespace));
    if let Some(alias) = bad {
        return Err(ApiError::invalid(format!("invalid alias: {alias:?}")));
    }
    Ok(options)
}

/// The endpoints of a request for a container, by the names of their networks.
pub(super) fn endpoints(networking: Value) -> Result<BTreeMap<String, EndpointOptions>> {
    let mut fields = Fields::of(networking, "NetworkingConfig")?;
    let endpoints = fields.take("EndpointsConfig");
    fields.finish()?;
    match endpoints {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(endpoints) => endpoints
            .into_iter()
            .map(|(name, value)| endpoint(value).map(|endpoint| (name, endpoint)))
            .collect(),
        _ => Err(ApiError::invalid("invalid JSON: NetworkingConfig.EndpointsConfig must be an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_network_bodies() {
        let network = json!({
            "Name": "n", "Driver": "bridge", "Internal": true, "EnableIPv6": true, "Labels": {"a": "b"},
            "Options": {"com.docker.network.driver.mtu": "1400"}, "CheckDuplicate": true,
            "IPAM": {"Driver": "default", "Config": [{
                "Subnet": "10.1.0.0/16", "IPRange": "10.1.2.0/24", "Gateway": "10.1.0.1",
                "AuxiliaryAddresses": {"x": "10.1.0.2"},
            }]},
        });
        let place = json!({
            "Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.2", "IPv6Address": "fd00::2"},
            "MacAddress": "02:42:ac:11:00:02", "DriverOpts": {"a": "b"}, "Links": null,
        });
        hyper_fuzz::json(&[network, place], |body| {
            for error in [read(body.clone()).err(), endpoint(body.clone()).err()].into_iter().flatten() {
                assert!(!error.message.is_empty());
                assert_ne!(error.status, hyper::StatusCode::INTERNAL_SERVER_ERROR, "{}", error.message);
            }
        });
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (body, word) in [
            (json!({"Name": "n", "Driver": "overlay"}), "swarm manager"),
            (json!({"Name": "n", "Scope": "swarm"}), "swarm"),
            (json!({"Name": "n", "Ingress": true}), "Ingress"),
            (json!({"Name": "n", "ConfigOnly": true}), "ConfigOnly"),
            (json!({"Name": "n", "IPAM": {"Driver": "x"}}), "plugin \"x\" not found"),
            (json!({"Name": "n", "Tomorrow": 1}), "Tomorrow"),
            (json!({}), "name"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.message.contains(word), "{} lacks {word}", error.message);
        }
        for (settings, word) in [
            (json!({"Links": ["a:b"]}), "Links"),
            (json!({"IPAMConfig": {"IPv4Address": "x"}}), "invalid IP address"),
            (json!({"MacAddress": "x"}), "MAC"),
        ] {
            assert!(endpoint(settings).unwrap_err().message.contains(word), "{word}");
        }
    }

    #[test]
    fn endpoints_are_read() {
        let read = endpoints(json!({"EndpointsConfig": {"mine": {
            "Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.1.2.3"}, "MacAddress": "02:42:ac:11:00:02",
        }}}));
        let read = read.unwrap();
        assert_eq!(
            (read["mine"].aliases[0].as_str(), read["mine"].address),
            ("db", Some([10, 1, 2, 3].into()))
        );
    }
}
