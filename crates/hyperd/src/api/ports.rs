//! Published ports in requests and answers.

use hyper_engine::{ContainerInfo, HostBinding, PortOptions};
use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::http::{ApiError, Result};

/// Takes `PortBindings` and `PublishAllPorts` out of a `HostConfig`.
pub(super) fn read(host: &mut Fields) -> Result<PortOptions> {
    let mut options = PortOptions { all: host.bool("PublishAllPorts")?, ..PortOptions::default() };
    let ports = match host.take("PortBindings") {
        Value::Null => Map::new(),
        Value::Object(ports) => ports,
        _ => return Err(ApiError::invalid("invalid JSON: HostConfig.PortBindings must be an object")),
    };
    for (port, places) in ports {
        let places = match places {
            Value::Null => Vec::new(),
            Value::Array(places) => places,
            _ => return Err(ApiError::invalid("invalid JSON: HostConfig.PortBindings must have lists")),
        };
        let mut bindings = Vec::new();
        for place in places {
            let mut place = Fields::of(place, "HostConfig.PortBindings")?;
            bindings.push(HostBinding { ip: place.string("HostIp")?, port: place.string("HostPort")? });
            place.finish()?;
        }
        options.bindings.insert(port, bindings);
    }
    Ok(options)
}

/// `HostConfig.PortBindings` as it was asked for.
pub(super) fn asked(options: &PortOptions) -> Value {
    let list = |bindings: &Vec<HostBinding>| {
        bindings.iter().map(|place| json!({"HostIp": place.ip, "HostPort": place.port})).collect::<Vec<_>>()
    };
    options.bindings.iter().map(|(port, bindings)| (port.clone(), json!(list(bindings)))).collect()
}

/// `NetworkSettings.Ports` of a container.
pub(super) fn settings(info: &ContainerInfo) -> Value {
    let mut ports = Map::new();
    if !info.record.state.is_running() {
        return Value::Object(ports);
    }
    for port in &info.record.options.exposed_ports {
        ports.insert(port.clone(), Value::Null);
    }
    for port in &info.record.state.ports {
        let place = json!({"HostIp": port.host.to_string(), "HostPort": port.host_port.to_string()});
        let places = ports.entry(format!("{}/{}", port.port, port.transport.name())).or_insert(Value::Null);
        match places {
            Value::Array(places) => places.push(place),
            none => *none = json!([place]),
        }
    }
    Value::Object(ports)
}

/// `Ports` of a container in a list.
pub(super) fn summary(info: &ContainerInfo) -> Vec<Value> {
    let record = &info.record;
    if !record.state.is_running() {
        return Vec::new();
    }
    let mut ports: Vec<Value> = Vec::new();
    for exposed in &record.options.exposed_ports {
        let (number, kind) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
        let Ok(number) = number.parse::<u16>() else { continue };
        let published = record.state.ports.iter().any(|p| p.port == number && p.transport.name() == kind);
        if !published {
            ports.push(json!({"PrivatePort": number, "Type": kind}));
        }
    }
    ports.extend(record.state.ports.iter().map(|port| {
        json!({
            "IP": port.host.to_string(),
            "PrivatePort": port.port,
            "PublicPort": port.host_port,
            "Type": port.transport.name(),
        })
    }));
    ports
}
