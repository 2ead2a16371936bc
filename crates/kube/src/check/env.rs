//! Environment variables, and what is told to containers about their pod.

use crate::fault::Report;
use crate::model::{EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector};
use crate::place::At;
use crate::value::{config_key, dns_subdomain, env_name, qualified_name};

/// Fields of a pod that a variable can have.
const IN_VARIABLES: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a pod that a file can have.
pub(super) const IN_FILES: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Resources of a container that can be told.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// What bytes are counted in.
const UNITS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Variables.
pub(super) fn variables(variables: &[EnvVar], at: &At, report: &mut Report) {
    for (index, variable) in variables.iter().enumerate() {
        let at = at.index(index);
        report.invalid_text(&at.field("name"), &variable.name, env_name(&variable.name));
        if let Some(from) = &variable.value_from {
            source(from, !variable.value.is_empty(), &at.field("valueFrom"), report);
        }
    }
}

fn source(from: &EnvVarSource, has_value: bool, at: &At, report: &mut Report) {
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        field_of_pod(field, &IN_VARIABLES, &at.field("fieldRef"), report);
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        resource_of_container(resource, false, &at.field("resourceFieldRef"), report);
    }
    if let Some(key) = &from.config_map_key_ref {
        sources += 1;
        key_of(&key.name, &key.key, &at.field("configMapKeyRef"), report);
    }
    if let Some(key) = &from.secret_key_ref {
        sources += 1;
        key_of(&key.name, &key.key, &at.field("secretKeyRef"), report);
    }
    let why = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    report.invalid_text(at, "", [why]);
}

fn key_of(name: &str, key: &str, at: &At, report: &mut Report) {
    report.invalid_text(&at.field("name"), name, dns_subdomain(name));
    report.invalid_text(&at.field("key"), key, config_key(key));
}

/// Where many variables come from.
pub(super) fn sources(sources: &[EnvFromSource], at: &At, report: &mut Report) {
    for (index, source) in sources.iter().enumerate() {
        let at = at.index(index);
        if let Some(prefix) = &source.prefix {
            report.invalid_text(&at.field("prefix"), prefix, env_name(prefix));
        }
        let (map, secret) = (&source.config_map_ref, &source.secret_ref);
        for (field, name) in [
            ("configMapRef", map.as_ref().map(|source| &source.name)),
            ("secretRef", secret.as_ref().map(|source| &source.name)),
        ] {
            if let Some(name) = name {
                report.invalid_text(&at.field(field).field("name"), name, dns_subdomain(name));
            }
        }
        let why = match (map, secret) {
            (None, None) => "must specify one of: `configMapRef` or `secretRef`",
            (Some(_), Some(_)) => "may not have more than one field specified at a time",
            _ => continue,
        };
        report.invalid_text(&at, "", [why]);
    }
}

/// A field of the pod, one of those given or a label or annotation.
pub(super) fn field_of_pod(field: &ObjectFieldSelector, known: &[&str], at: &At, report: &mut Report) {
    if field.api_version != "v1" {
        report.unsupported(&at.field("apiVersion"), &field.api_version, &["v1"]);
    }
    let (path, at) = (field.field_path.as_str(), at.field("fieldPath"));
    let subscript = path.strip_suffix("']").and_then(|path| path.split_once("['"));
    match subscript {
        Some(("metadata.labels", key)) => report.invalid_text(&at, key, qualified_name(key)),
        Some(("metadata.annotations", key)) => {
            report.invalid_text(&at, key, qualified_name(&key.to_lowercase()));
        }
        Some((path, _)) => report.invalid_text(&at, path, ["does not support subscript"]),
        None if known.contains(&path) => {}
        None => report.unsupported(&at, path, known),
    }
}

/// A resource of a container; files have to say of which.
pub(super) fn resource_of_container(
    resource: &ResourceFieldSelector,
    in_file: bool,
    at: &At,
    report: &mut Report,
) {
    if in_file && resource.container_name.is_none() {
        report.required(&at.field("containerName"), "");
    }
    let name = resource.resource.as_str();
    if !RESOURCES.contains(&name) {
        report.unsupported(&at.field("resource"), name, &RESOURCES);
    }
    let Some(divisor) = resource.divisor.filter(|divisor| *divisor != crate::Quantity::ZERO) else { return };
    let (units, what) = match name.ends_with(".cpu") {
        true => (&["1m", "1"][..], "cpu"),
        false if name.ends_with(".memory") => (&UNITS[..], "memory"),
        false => (&UNITS[..], "local ephemeral storage"),
    };
    if !units.contains(&divisor.to_string().as_str()) {
        let why =
            format!("only divisor's values {} are supported with the {what} resource", units.join(", "));
        report.invalid(&at.field("divisor"), divisor, why);
    }
}
