//! ConfigMaps, Secrets and claims.

use crate::fault::Report;
use crate::model::{ConfigMap, PersistentVolumeAccessMode, PersistentVolumeClaimSpec, Secret};
use crate::place::At;
use crate::value::{Quantity, config_key, dns_subdomain};

/// Most bytes of a ConfigMap or Secret.
const MOST_BYTES: usize = 1 << 20;

/// A ConfigMap.
pub(super) fn config_map(map: &ConfigMap, at: &At, report: &mut Report) {
    let (data_at, binary_at) = (at.field("data"), at.field("binaryData"));
    for key in map.data.keys() {
        report.invalid_text(&data_at.key(key), key, config_key(key));
        if map.binary_data.contains_key(key) {
            report.invalid_text(&data_at.key(key), key, ["duplicate of key present in binaryData"]);
        }
    }
    for key in map.binary_data.keys() {
        report.invalid_text(&binary_at.key(key), key, config_key(key));
    }
    let texts: usize = map.data.values().map(String::len).sum();
    let bytes: usize = map.binary_data.values().map(|bytes| bytes.0.len()).sum();
    size(texts + bytes, &data_at, report);
}

/// A Secret.
pub(super) fn secret(secret: &Secret, at: &At, report: &mut Report) {
    let data_at = at.field("data");
    for key in secret.data.keys() {
        report.invalid_text(&data_at.key(key), key, config_key(key));
    }
    size(secret.data.values().map(|bytes| bytes.0.len()).sum(), &data_at, report);
    let required: &[&str] = match secret.purpose.as_str() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/basic-auth" => {
            let either = ["username", "password"].iter().any(|key| secret.data.contains_key(*key));
            if either { &[] } else { &["username", "password"] }
        }
        "kubernetes.io/service-account-token" => {
            report.refused(&at.field("type"), "there is no API server that an account could be for");
            &[]
        }
        _ => &[],
    };
    for key in required {
        let key_at = data_at.key(key);
        match secret.data.get(*key) {
            None => report.required(&key_at, ""),
            // The contents are secret: only the reason is told.
            Some(bytes) if key.starts_with(".docker") => {
                if serde_json::from_slice::<serde_json::Value>(&bytes.0).is_err() {
                    report.invalid_text(&key_at, "<secret contents redacted>", ["must be JSON"]);
                }
            }
            Some(_) => {}
        }
    }
}

fn size(bytes: usize, at: &At, report: &mut Report) {
    if bytes > MOST_BYTES {
        report.invalid(at, format!("{bytes} bytes"), format!("may not be more than {MOST_BYTES} bytes"));
    }
}

/// A claim.
pub(super) fn claim(spec: &PersistentVolumeClaimSpec, at: &At, report: &mut Report) {
    let modes_at = at.field("accessModes");
    if spec.access_modes.is_empty() {
        report.required(&modes_at, "at least 1 access mode is required");
    }
    if spec.access_modes.contains(&PersistentVolumeAccessMode::ReadWriteOncePod)
        && spec.access_modes.len() > 1
    {
        report.forbidden(&modes_at, "may not use ReadWriteOncePod with other access modes");
    }
    let at_storage = at.field("resources").field("requests").key("storage");
    match spec.resources.as_ref().and_then(|resources| resources.requests.get("storage")) {
        None => report.required(&at_storage, ""),
        Some(storage) if *storage <= Quantity::ZERO => {
            report.invalid_text(&at_storage, &storage.to_string(), ["must be greater than zero"]);
        }
        Some(storage) => {
            let limit = spec.resources.as_ref().and_then(|resources| resources.limits.get("storage"));
            if let Some(limit) = limit.filter(|limit| storage > *limit) {
                let why = format!("must be less than or equal to storage limit of {limit}");
                report.invalid_text(&at_storage, &storage.to_string(), [why]);
            }
        }
    }
    if let Some(name) = &spec.storage_class_name {
        report.invalid_text(&at.field("storageClassName"), name, dns_subdomain(name));
    }
}
